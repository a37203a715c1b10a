/** Backups larger than what one message used to hold: the SDK sends an archive back as one write, in base64. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { perTransport } from "./lib.mjs";

perTransport("large", (make) => {
  it("a backup of 110 MB comes back", async () => {
    const sandbox = make();
    await sandbox.exec("mkdir -p /workspace/large && head -c 110000000 /dev/urandom >/workspace/large/f");
    const sum = (await sandbox.exec("sha256sum </workspace/large/f")).stdout;
    const backup = await sandbox.createBackup({ dir: "/workspace/large", localBucket: true });
    await sandbox.exec("rm /workspace/large/f");
    await sandbox.restoreBackup(backup);
    assert.equal((await sandbox.exec("sha256sum </workspace/large/f")).stdout, sum);
  });
});
