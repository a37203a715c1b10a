/** NUL: content like any other, and never the end of a name. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { perTransport, rejects } from "./lib.mjs";

perTransport("NUL", (make) => {
  it("is content, and refused in names", async () => {
    const sandbox = make();
    for (const content of ["\0", "a\0b", "\0\0\0end", "\\u0000", "\\\0", '"\0"']) {
      await sandbox.writeFile("/tmp/nul", content);
      const read = await sandbox.readFile("/tmp/nul", { encoding: "utf-8" });
      assert.equal(read.content, content, JSON.stringify(content));
      assert.equal(read.size, content.length);
    }
    const stream = await sandbox.file.readFileStream("/tmp/nul");
    assert.equal(Buffer.from(stream.content).toString(), '"\0"');
    assert.deepEqual((await sandbox.exec("printf 'a\\0b'")).stdout, "a\0b");
    await sandbox.writeFile("/tmp/a", "there");
    const path = "/tmp/a\0b";
    const calls = [
      sandbox.readFile(path),
      sandbox.writeFile(path, "x"),
      sandbox.exists(path),
      sandbox.listFiles(path),
      sandbox.mkdir(path),
      sandbox.deleteFile(path),
      sandbox.renameFile(path, "/tmp/c"),
      sandbox.moveFile("/tmp/a", path),
    ];
    await Promise.all(calls.map((call) => rejects(call, { code: "VALIDATION_FAILED" })));
    await rejects(sandbox.file.readFileStream(path), {});
    await rejects(sandbox.exec("echo a\0b"), {});
    await rejects(sandbox.exec("true", { env: { A: "a\0b" } }), {});
    await rejects(sandbox.exec("true", { cwd: "/tmp\0/x" }), {});
    await rejects(sandbox.createSession({ id: "a\0b" }), {});
    await rejects(sandbox.startProcess("true", { processId: "a\0b" }), {});
    assert.equal((await sandbox.readFile("/tmp/a")).content, "there");
  });
});
