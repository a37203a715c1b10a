/** createBackup and restoreBackup over a local R2 bucket. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { perTransport, rejects } from "./lib.mjs";

perTransport("backups", (make) => {
  it("bring a directory back as it was", async () => {
    const sandbox = make();
    const made = await sandbox.exec(
      "mkdir -p /workspace/project/deep/er && cd /workspace/project && echo text >deep/f && head -c 3000000 /dev/urandom >deep/er/bin" +
        " && ln -s deep/f link && touch 'odd name é' && chmod 750 deep && printf x >run.sh && chmod 755 run.sh" +
        " && find . -type f -exec sha256sum {} + | sort >/tmp/sums",
    );
    assert.equal(made.exitCode, 0, made.stderr);
    const backup = await sandbox.createBackup({ dir: "/workspace/project", name: "first", localBucket: true });
    assert.match(backup.id, /^[0-9a-f-]{36}$/);
    assert.equal(backup.dir, "/workspace/project");

    await sandbox.exec(
      "rm -rf /workspace/project/deep /workspace/project/link; echo changed >/workspace/project/run.sh",
    );
    const restored = await sandbox.restoreBackup(backup);
    assert.deepEqual([restored.success, restored.dir, restored.id], [true, "/workspace/project", backup.id]);
    const check = await sandbox.exec(
      "cd /workspace/project && sha256sum -c --quiet /tmp/sums && readlink link && stat -c %a deep run.sh",
    );
    assert.deepEqual([check.exitCode, check.stdout], [0, "deep/f\n750\n755"], check.stderr);

    // Another sandbox, and the same one after its end.
    const other = make();
    await other.restoreBackup(backup);
    assert.equal((await other.readFile("/workspace/project/deep/f")).content, "text\n");
    await sandbox.destroy();
    await sandbox.restoreBackup(backup);
    assert.equal((await sandbox.readFile("/workspace/project/deep/f")).content, "text\n");
    assert.equal((await sandbox.exec("ls -A /var/backups 2>/dev/null | wc -l")).stdout.trim(), "0");
  });

  it("leave out what is excluded, and what git ignores", async () => {
    const sandbox = make();
    await sandbox.exec(
      "mkdir -p /workspace/p/node_modules/x /workspace/p/src && cd /workspace/p && git init -q && echo 1 >node_modules/x/f && echo 1 >src/a.log" +
        " && echo 1 >src/keep && echo ignored.txt >.gitignore && echo 1 >ignored.txt",
    );
    const excluded = await sandbox.createBackup({
      dir: "/workspace/p",
      excludes: ["node_modules", "*.log"],
      localBucket: true,
    });
    await sandbox.exec("rm -rf /workspace/p");
    await sandbox.restoreBackup(excluded);
    const found = (await sandbox.exec("cd /workspace/p && find . -path ./.git -prune -o -type f -print | sort")).stdout;
    assert.deepEqual(found.split("\n"), ["./.gitignore", "./ignored.txt", "./src/keep"]);
    const ignoring = await sandbox.createBackup({ dir: "/workspace/p", gitignore: true, localBucket: true });
    await sandbox.exec("rm -rf /workspace/p");
    await sandbox.restoreBackup(ignoring);
    assert.equal((await sandbox.exists("/workspace/p/ignored.txt")).exists, false);
    assert.equal((await sandbox.exists("/workspace/p/src/keep")).exists, true);
  });

  it("take every compression, an empty directory and 20 MB", async () => {
    const sandbox = make();
    await sandbox.exec(
      "mkdir -p /workspace/empty /workspace/large && head -c 20000000 /dev/urandom >/workspace/large/f",
    );
    const empty = await sandbox.createBackup({ dir: "/workspace/empty", localBucket: true });
    assert.equal((await sandbox.restoreBackup(empty)).success, true);
    const sum = (await sandbox.exec("sha256sum </workspace/large/f")).stdout;
    for (const format of ["lz4", "gzip", "zstd"]) {
      if (format !== "lz4") await sandbox.exec("truncate -s 1000000 /workspace/large/f");
      const before = format === "lz4" ? sum : (await sandbox.exec("sha256sum </workspace/large/f")).stdout;
      const backup = await sandbox.createBackup({
        dir: "/workspace/large",
        compression: { format },
        localBucket: true,
      });
      await sandbox.exec("rm /workspace/large/f");
      await sandbox.restoreBackup(backup);
      assert.equal((await sandbox.exec("sha256sum </workspace/large/f")).stdout, before, format);
    }
  });

  it("refuse what is no directory of theirs", async () => {
    const sandbox = make();
    for (const dir of ["", "relative", "/etc", "/workspace/../etc", "/"])
      await rejects(sandbox.createBackup({ dir, localBucket: true }), { code: "INVALID_BACKUP_CONFIG" });
    await rejects(sandbox.createBackup({ dir: "/workspace/missing", localBucket: true }), {
      code: "BACKUP_CREATE_FAILED",
    });
    await rejects(sandbox.createBackup({ dir: "/workspace", ttl: -1, localBucket: true }), {
      code: "INVALID_BACKUP_CONFIG",
    });
    const unknown = { id: "00000000-0000-4000-8000-000000000000", dir: "/workspace", localBucket: true };
    await rejects(sandbox.restoreBackup(unknown), { code: "BACKUP_NOT_FOUND" });
    await rejects(sandbox.restoreBackup({ ...unknown, id: "../x" }), { code: "INVALID_BACKUP_CONFIG" });
    await sandbox.exec("mkdir -p /workspace/short");
    const expired = await sandbox.createBackup({ dir: "/workspace/short", ttl: 1, localBucket: true });
    await rejects(sandbox.restoreBackup(expired), { code: "BACKUP_EXPIRED" });
  });
});
