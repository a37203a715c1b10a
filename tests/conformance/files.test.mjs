/** Files: every route, every kind of content, every error by its code. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { before, it } from "node:test";
import { perTransport, rejects } from "./lib.mjs";
import { stream } from "./sdk.mjs";

const sha256 = (data) => createHash("sha256").update(data).digest("hex");
/** A 1x1 PNG. */
const PNG = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
  "base64",
);

perTransport("files", (make, transport) => {
  let sandbox;
  let dir;
  let serial = 0;
  before(async () => {
    sandbox = make();
    await sandbox.exec("true");
    dir = () => `/workspace/d${serial++}`;
  });

  it("are written and read", async () => {
    const path = `${dir()}/some/deep/file.txt`;
    const content = "line\nzwei\t\u{1f680} é \"'`$HOME\\n\r\nend";
    const written = await sandbox.writeFile(path, content);
    assert.deepEqual([written.success, written.path], [true, path]);
    const read = await sandbox.readFile(path);
    assert.equal(read.content, content);
    assert.deepEqual(
      [read.success, read.path, read.encoding, read.isBinary, read.mimeType, read.size],
      [true, path, "utf-8", false, "text/plain", Buffer.byteLength(content)],
    );
    assert.equal((await sandbox.exec(`cat ${path}`)).stdout, content);
  });

  it("are replaced, emptied and appended to by commands", async () => {
    const path = `${dir()}/f`;
    await sandbox.writeFile(path, "long content");
    await sandbox.writeFile(path, "x");
    assert.equal((await sandbox.readFile(path, { encoding: "utf-8" })).content, "x");
    await sandbox.writeFile(path, "");
    const empty = await sandbox.readFile(path, { encoding: "utf-8" });
    assert.deepEqual([empty.content, empty.size], ["", 0]);
    await sandbox.exec(`echo more >>${path}`);
    assert.equal((await sandbox.readFile(path, { encoding: "utf8" })).content, "more\n");
  });

  it("hold any bytes, as base64", async () => {
    const data = Buffer.concat([Buffer.from(Array.from({ length: 256 }, (_, i) => i)), randomBytes(100_000)]);
    const path = `${dir()}/data.bin`;
    await sandbox.writeFile(path, data.toString("base64"), { encoding: "base64" });
    const read = await sandbox.readFile(path, { encoding: "base64" });
    assert.deepEqual([read.encoding, read.isBinary, read.size], ["base64", true, data.length]);
    assert.ok(Buffer.from(read.content, "base64").equals(data));
    assert.equal((await sandbox.exec(`sha256sum <${path}`)).stdout.slice(0, 64), sha256(data));
    const guessed = await sandbox.readFile(path);
    assert.deepEqual([guessed.encoding, guessed.isBinary], ["base64", true]);
    await rejects(sandbox.writeFile(path, "not base64!", { encoding: "base64" }), { code: "VALIDATION_FAILED" });
    assert.ok(Buffer.from((await sandbox.readFile(path)).content, "base64").equals(data), "a refused write wrote");
  });

  it("have the type of their name and content", async () => {
    const at = dir();
    await sandbox.mkdir(at);
    await sandbox.writeFile(`${at}/i.png`, PNG.toString("base64"), { encoding: "base64" });
    await sandbox.writeFile(`${at}/no-extension`, PNG.toString("base64"), { encoding: "base64" });
    for (const [name, content, mime, isBinary] of [
      ["a.json", "{}", /json/, false],
      ["a.js", "1", /javascript/, false],
      ["a.ts", "let a: 1", /typescript|plain|text/, false],
      ["a.html", "<p>", /text\/html/, false],
      ["a.css", "a{}", /text\/css/, false],
      ["a.md", "#", /text\/markdown/, false],
      ["a.svg", "<svg/>", /svg/, false],
      ["a.xml", "<a/>", /xml/, false],
      ["a.py", "1", /python|plain/, false],
      ["Makefile", "a:\n", /text\//, false],
    ]) {
      await sandbox.writeFile(`${at}/${name}`, content);
      const read = await sandbox.readFile(`${at}/${name}`);
      assert.match(read.mimeType, mime, name);
      assert.deepEqual([read.isBinary, read.content], [isBinary, content], name);
    }
    for (const name of ["i.png", "no-extension"]) {
      const png = await sandbox.readFile(`${at}/${name}`);
      assert.deepEqual([png.mimeType, png.isBinary, png.content], ["image/png", true, PNG.toString("base64")], name);
    }
  });

  it("have relative paths from the session's directory", async () => {
    const at = dir();
    const session = await sandbox.createSession({ id: `rel-${transport}`, cwd: "/tmp" });
    await session.exec(`mkdir -p ${at} && cd ${at}`);
    await session.writeFile("here.txt", "relative");
    assert.equal((await sandbox.readFile(`${at}/here.txt`)).content, "relative");
    assert.equal((await session.readFile(`./../${at.split("/").at(-1)}/here.txt`)).content, "relative");
    assert.equal((await session.exists("here.txt")).exists, true);
    assert.equal((await sandbox.exists("here.txt")).exists, false);
    const bare = make({ enableDefaultSession: false });
    await bare.writeFile("bare.txt", "x");
    assert.equal((await bare.readFile("/workspace/bare.txt")).content, "x");
  });

  it("are listed with all that is known of them", async () => {
    const at = dir();
    await sandbox.exec(
      `mkdir -p ${at}/sub/deeper && cd ${at} && printf 12345 >five && chmod 750 five && touch .hidden sub/inner sub/deeper/leaf` +
        ` && ln -s five link && ln -s /nowhere dangling && mkfifo pipe && touch 'with space' $'new\\nline' -- -dash`,
    );
    const list = await sandbox.listFiles(at);
    assert.deepEqual([list.success, list.path, list.count], [true, at, list.files.length]);
    const names = list.files.map((file) => file.name).toSorted();
    assert.deepEqual(names, ["-dash", "dangling", "five", "link", "new\nline", "pipe", "sub", "with space"].toSorted());
    const by = Object.fromEntries(list.files.map((file) => [file.name, file]));
    assert.deepEqual(
      [by.five.type, by.five.size, by.five.mode, by.five.absolutePath, by.five.relativePath],
      ["file", 5, "rwxr-x---", `${at}/five`, "five"],
    );
    assert.deepEqual(by.five.permissions, { readable: true, writable: true, executable: true });
    assert.ok(!Number.isNaN(Date.parse(by.five.modifiedAt)), by.five.modifiedAt);
    assert.deepEqual(
      [by.sub.type, by.link.type, by.dangling.type, by.pipe.type],
      ["directory", "symlink", "symlink", "other"],
    );

    const hidden = await sandbox.listFiles(at, { includeHidden: true });
    assert.ok(hidden.files.some((file) => file.name === ".hidden"));
    const deep = await sandbox.listFiles(at, { recursive: true });
    assert.ok(
      deep.files.some(
        (file) => file.relativePath === "sub/deeper/leaf" && file.absolutePath === `${at}/sub/deeper/leaf`,
      ),
    );
    assert.equal((await sandbox.listFiles(`${at}/sub/deeper`)).count, 1);
  });

  it("are listed by the ten thousand", async () => {
    const at = dir();
    await sandbox.exec(`mkdir ${at} && cd ${at} && seq 1 10000 | xargs touch`);
    assert.equal((await sandbox.listFiles(at)).count, 10_000);
  });

  it("are made, moved, renamed and deleted", async () => {
    const at = dir();
    assert.deepEqual((await sandbox.mkdir(`${at}/a/b`, { recursive: true })).recursive, true);
    await sandbox.mkdir(`${at}/a/b`, { recursive: true });
    await rejects(sandbox.mkdir(`${at}/x/y`), { code: "FILESYSTEM_ERROR" });
    await rejects(sandbox.mkdir(`${at}/a`), {});
    await sandbox.writeFile(`${at}/f`, "1");
    const renamed = await sandbox.renameFile(`${at}/f`, `${at}/g`);
    assert.deepEqual([renamed.path, renamed.newPath], [`${at}/f`, `${at}/g`]);
    const moved = await sandbox.moveFile(`${at}/g`, `${at}/a/b/h`);
    assert.deepEqual([moved.success, moved.newPath], [true, `${at}/a/b/h`]);
    assert.equal((await sandbox.readFile(`${at}/a/b/h`)).content, "1");
    // /tmp is another file system.
    await sandbox.moveFile(`${at}/a/b/h`, "/tmp/moved");
    assert.equal((await sandbox.readFile("/tmp/moved")).content, "1");
    assert.equal((await sandbox.exists(`${at}/a/b/h`)).exists, false);
    await sandbox.moveFile(`${at}/a`, `${at}/moved-directory`);
    assert.equal((await sandbox.exists(`${at}/moved-directory/b`)).exists, true);
    assert.equal((await sandbox.deleteFile("/tmp/moved")).success, true);
    await rejects(sandbox.deleteFile("/tmp/moved"), { code: "FILE_NOT_FOUND" });
    await rejects(sandbox.deleteFile(`${at}/moved-directory`), { code: "IS_DIRECTORY" });
  });

  it("exist or not, of any kind", async () => {
    const at = dir();
    await sandbox.exec(`mkdir -p ${at} && cd ${at} && touch f && mkdir d && ln -s f l && ln -s /nowhere broken`);
    for (const [name, exists] of [
      ["f", true],
      ["d", true],
      ["l", true],
      ["none", false],
      ["f/below", false],
    ])
      assert.equal((await sandbox.exists(`${at}/${name}`)).exists, exists, name);
  });

  it("are reached through symbolic links, which deleting removes alone", async () => {
    const at = dir();
    await sandbox.exec(
      `mkdir -p ${at}/real && cd ${at} && echo content >real/f && ln -s real/f file-link && ln -s real dir-link`,
    );
    assert.equal((await sandbox.readFile(`${at}/file-link`)).content, "content\n");
    assert.equal((await sandbox.listFiles(`${at}/dir-link`)).count, 1);
    await sandbox.writeFile(`${at}/file-link`, "through");
    assert.equal((await sandbox.readFile(`${at}/real/f`)).content, "through");
    await sandbox.deleteFile(`${at}/file-link`);
    await sandbox.deleteFile(`${at}/dir-link`);
    assert.equal((await sandbox.readFile(`${at}/real/f`)).content, "through");
  });

  it("that are not there or not right are errors with their code", async () => {
    const at = dir();
    await sandbox.exec(`mkdir -p ${at}/d && touch ${at}/f`);
    const missing = await rejects(sandbox.readFile(`${at}/no`), { name: "FileNotFoundError", code: "FILE_NOT_FOUND" });
    assert.equal(missing.context.path, `${at}/no`);
    assert.equal(missing.httpStatus, 404);
    await rejects(sandbox.readFile(`${at}/d`), { code: "FILE_NOT_FOUND" });
    await rejects(sandbox.readFile(`${at}/f/below`), {});
    await rejects(sandbox.writeFile(`${at}/d`, "x"), {});
    await rejects(sandbox.writeFile(`${at}/f/below`, "x"), {});
    await rejects(sandbox.listFiles(`${at}/no`), { code: "FILE_NOT_FOUND" });
    await rejects(sandbox.listFiles(`${at}/f`), { code: "NOT_DIRECTORY" });
    await rejects(sandbox.renameFile(`${at}/no`, `${at}/x`), { code: "FILE_NOT_FOUND" });
    await rejects(sandbox.moveFile(`${at}/no`, `${at}/x`), { code: "FILE_NOT_FOUND" });
    await rejects(sandbox.writeFile("/proc/version", "x"), {});
    await rejects(sandbox.writeFile("/proc/x", "x"), {});
    await rejects(sandbox.writeFile(`${at}/${"n".repeat(300)}`, "x"), { code: "NAME_TOO_LONG" });
    for (const path of ["", "x".repeat(5000)]) {
      await rejects(sandbox.readFile(path), { code: "VALIDATION_FAILED" });
      await rejects(sandbox.writeFile(path, ""), { code: "VALIDATION_FAILED" });
      await rejects(sandbox.exists(path), { code: "VALIDATION_FAILED" });
      await rejects(sandbox.listFiles(path), { code: "VALIDATION_FAILED" });
      await rejects(sandbox.mkdir(path), { code: "VALIDATION_FAILED" });
      await rejects(sandbox.deleteFile(path), { code: "VALIDATION_FAILED" });
    }
  });

  it("with odd names are files like others", async () => {
    const at = dir();
    for (const name of [
      "a b",
      "é\u{1f680}",
      "'quote'",
      '"',
      "$(id)",
      "`id`",
      ";ls",
      "*",
      "-rf",
      "new\nline",
      "\\",
      "%2e%2e",
    ]) {
      const path = `${at}/${name}`;
      await sandbox.writeFile(path, name);
      assert.equal((await sandbox.readFile(path, { encoding: "utf-8" })).content, name, name);
      await sandbox.renameFile(path, `${path}2`);
      await sandbox.deleteFile(`${path}2`);
    }
    assert.equal((await sandbox.listFiles(at, { includeHidden: true })).count, 0);
  });

  it("that block or do not end do not stop the server", async () => {
    const at = dir();
    await sandbox.exec(`mkdir -p ${at} && mkfifo ${at}/pipe`);
    await rejects(sandbox.readFile(`${at}/pipe`), {});
    await rejects(sandbox.writeFile(`${at}/pipe`, "x"), {});
    await rejects(sandbox.readFile("/dev/zero"), {});
    assert.equal((await sandbox.exec("echo alive")).stdout, "alive");
  });

  it("of 10 MB go both ways in one piece", async () => {
    const data = randomBytes(10_000_000);
    const path = `${dir()}/ten.bin`;
    await sandbox.writeFile(path, data.toString("base64"), { encoding: "base64" });
    const read = await sandbox.readFile(path, { encoding: "base64" });
    assert.equal(sha256(Buffer.from(read.content, "base64")), sha256(data));
    const text = "0123456789abcde\n".repeat(600_000);
    await sandbox.writeFile(`${path}.txt`, text);
    assert.equal((await sandbox.readFile(`${path}.txt`)).content, text);
  });

  it("above 32 MiB are refused whole and streamed", async () => {
    const path = `${dir()}/large.bin`;
    await sandbox.exec(`mkdir -p $(dirname ${path}) && head -c 34000000 /dev/urandom >${path}`);
    await rejects(sandbox.readFile(path, { encoding: "base64" }), { code: "FILE_TOO_LARGE" });
    const sum = (await sandbox.exec(`sha256sum <${path}`)).stdout.slice(0, 64);
    const { bytes, sha256: seen } = await sandbox.digest.readFileStream(path);
    assert.deepEqual([bytes, seen], [34_000_000, sum]);
  });

  it("stream in pieces: text as text, the rest as base64", async () => {
    const at = dir();
    // Characters of 1 to 4 bytes, so that some lie across the pieces' ends.
    const text = "aé€\u{1f680}".repeat(60_000);
    await sandbox.writeFile(`${at}/t.txt`, text);
    const events = await (await sandbox.stream.readFileStream(`${at}/t.txt`)).all();
    assert.deepEqual(
      { ...events[0] },
      { type: "metadata", mimeType: "text/plain", size: Buffer.byteLength(text), isBinary: false, encoding: "utf-8" },
    );
    const chunks = events.filter((event) => event.type === "chunk").map((event) => event.data);
    assert.ok(chunks.length > 5);
    assert.equal(chunks.join(""), text);
    assert.deepEqual(events.at(-1), { type: "complete", bytesRead: Buffer.byteLength(text) });

    const data = randomBytes(300_000);
    await sandbox.writeFile(`${at}/b.bin`, data.toString("base64"), { encoding: "base64" });
    const { content, metadata } = await sandbox.file.readFileStream(`${at}/b.bin`);
    assert.ok(Buffer.from(content).equals(data));
    assert.deepEqual([metadata.isBinary, metadata.size, metadata.encoding], [true, 300_000, "base64"]);

    await sandbox.writeFile(`${at}/empty`, "");
    const empty = await sandbox.file.readFileStream(`${at}/empty`);
    assert.deepEqual([empty.content.length, empty.metadata.size], [0, 0]);
  });

  it("that cannot be streamed say so", async () => {
    await rejects(sandbox.file.readFileStream("/nope"), { message: /not found/i });
    await rejects(sandbox.file.readFileStream("/tmp"), {});
  });

  it("streamed to a reader that goes away cost the next one nothing", async () => {
    const path = `${dir()}/big`;
    await sandbox.exec(`mkdir -p $(dirname ${path}) && head -c 60000000 /dev/zero >${path}`);
    for (let i = 0; i < 3; i++) {
      const events = await sandbox.stream.readFileStream(path);
      const reader = events.body.getReader();
      await reader.read();
      events.cancel();
      await reader.read().catch(() => {});
    }
    assert.equal((await sandbox.digest.readFileStream(path)).bytes, 60_000_000);
  });

  // bytes; CONFORMANCE_LARGE=1000000000 is a whole gigabyte, which takes a minute or two
  const large = Number(process.env.CONFORMANCE_LARGE ?? 200_000_000);
  it(`of ${large / 1e6} MB stream through, every byte`, async () => {
    const path = `${dir()}/huge.bin`;
    const made = await sandbox.exec(
      `mkdir -p $(dirname ${path}) && head -c ${large} /dev/urandom | tee ${path} | sha256sum`,
    );
    const { bytes, sha256: seen } = await sandbox.digest.readFileStream(path);
    assert.deepEqual([bytes, seen], [large, made.stdout.slice(0, 64)]);
    await sandbox.deleteFile(path);
  });

  it("take a stream only over rpc", async () => {
    const path = `${dir()}/streamed`;
    const piece = randomBytes(100_000);
    const content = stream([piece], 20);
    if (transport !== "rpc") {
      await rejects(sandbox.writeFile(path, content), {});
      await rejects(sandbox.readFile("/etc/passwd", { encoding: "none" }), {});
      return;
    }
    const written = await sandbox.writeFile(path, content);
    assert.equal(written.bytesWritten, 2_000_000);
    assert.equal(
      (await sandbox.exec(`sha256sum <${path}`)).stdout.slice(0, 64),
      sha256(Buffer.alloc(2_000_000, piece)),
    );
  });
});
