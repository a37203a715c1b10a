/** mountBucket with a local bucket: the directory and the bucket become the same, both ways. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { client, freshId, perTransport, rejects, until } from "./lib.mjs";

const object = (key) => `${client.url}/bucket?${new URLSearchParams({ key })}`;
const put = async (key, body) => assert.equal((await fetch(object(key), { method: "PUT", body })).status, 200);
const get = async (key) => {
  const response = await fetch(object(key));
  return response.status === 200 ? Buffer.from(await response.arrayBuffer()) : null;
};

perTransport("a mounted bucket", (make) => {
  it("has what the bucket has, and the bucket what is written there", async () => {
    const sandbox = make();
    const prefix = `${freshId("bucket")}/`;
    const bytes = Buffer.from(Array.from({ length: 70_000 }, (_, i) => i % 256));
    await put(`${prefix}old/bytes`, bytes);
    await sandbox.mountBucket("FILES", "/workspace/mnt", { localBucket: true, prefix: `/${prefix}` });
    const sum = (await sandbox.exec("od -An -v -tu1 -w1 /workspace/mnt/old/bytes | tr -d ' ' | cksum")).stdout;
    const same = (await sandbox.exec("for i in $(seq 0 69999); do echo $((i % 256)); done | cksum")).stdout;
    assert.equal(sum, same);
    // The watch is there a moment after mountBucket() has returned.
    await until(async () => {
      await sandbox.exec("mkdir -p /workspace/mnt/new/deep && printf 'a\\0b' >/workspace/mnt/new/deep/f");
      return (await get(`${prefix}new/deep/f`))?.toString() === "a\0b";
    }, "the file is in the bucket");
    await sandbox.exec("rm /workspace/mnt/old/bytes");
    await until(async () => (await get(`${prefix}old/bytes`)) === null, "the object is deleted");
    await put(`${prefix}later`, "by the bucket");
    await until(async () => (await sandbox.exists("/workspace/mnt/later")).exists, "the object is a file");
    assert.equal((await sandbox.readFile("/workspace/mnt/later")).content, "by the bucket");
    await fetch(object(`${prefix}later`), { method: "DELETE" });
    await until(async () => !(await sandbox.exists("/workspace/mnt/later")).exists, "the file is deleted");
    await rejects(sandbox.mountBucket("FILES", "/workspace/mnt", { localBucket: true }), { message: /already in use/ });
    await sandbox.unmountBucket("/workspace/mnt");
    await rejects(sandbox.unmountBucket("/workspace/mnt"), {});
  });

  it("that is read-only takes nothing from the directory", async () => {
    const sandbox = make();
    const prefix = `${freshId("bucket")}/`;
    await put(`${prefix}f`, "1");
    await sandbox.mountBucket("FILES", "/workspace/ro", { localBucket: true, readOnly: true, prefix: `/${prefix}` });
    await sandbox.exec("echo mine >/workspace/ro/mine");
    await put(`${prefix}g`, "2");
    await until(async () => (await sandbox.exists("/workspace/ro/g")).exists, "the object is a file");
    assert.equal(await get(`${prefix}mine`), null);
  });

  it("that is none is refused", async () => {
    const sandbox = make();
    await rejects(sandbox.mountBucket("NO_SUCH_BINDING", "/workspace/none", { localBucket: true }), {
      message: /NO_SUCH_BINDING/,
    });
    await rejects(sandbox.mountBucket("FILES", "relative", { localBucket: true }), { message: /absolute/i });
    await rejects(sandbox.mountBucket("FILES", "/workspace/p", { localBucket: true, prefix: "no-slash" }), {});
  });
});
