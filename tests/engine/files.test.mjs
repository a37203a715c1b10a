/** Files: what /api/write does with the old content, with content of any size and kind, and what listings say. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import http from "node:http";
import net from "node:net";
import { after, before, describe, test } from "node:test";
import { NO_SESSION, openEvents, sleep, startEngine } from "./harness.mjs";

let engine;
let box;
before(async () => {
  engine = await startEngine();
  box = await engine.sandbox("files");
});
after(() => engine.stop());

const post = (path, body) => box.call("POST", path, { sessionId: NO_SESSION, ...body });
const sha = (data) => createHash("sha256").update(data).digest("hex");
const rss = async () => Number((await box.exec("grep VmRSS /proc/1/status")).stdout.match(/\d+/)[0]);
/** Names in a directory, hidden ones too. */
const names = async (dir) => (await box.exec(`ls -A ${dir}`)).stdout;

/** Sends a request whose body is written piece by piece; resolves to {status, json}. */
function send(path, write) {
  return new Promise((done, fail) => {
    const options = { host: "127.0.0.1", port: box.port, method: "POST", path, headers: box.headers, agent: false };
    const req = http.request(options, (res) => {
      let text = "";
      res.on("data", (d) => {
        text += d;
      });
      res.on("end", () => done({ status: res.statusCode, json: JSON.parse(text) }));
    });
    req.on("error", fail);
    const put = (s) => new Promise((r) => (req.write(s) ? r() : req.once("drain", r)));
    write(put).then(() => req.end(), fail);
  });
}

describe("writing", () => {
  test("every character of JSON, NUL too, in both forms and in any order of the members", async () => {
    const text = 'nul \0, quote ", back \\, é, €, 😀, \u2028, half \ud83d.';
    const want = `${text.slice(0, -2)}\ufffd.`;
    const bodies = [
      { path: "/workspace/c", content: text, sessionId: NO_SESSION },
      { content: text, sessionId: NO_SESSION, path: "/workspace/c", encoding: "utf-8" },
      { encoding: "utf8", sessionId: NO_SESSION, content: text, path: "c" },
      { path: "/workspace/c", content: Buffer.from(want).toString("base64"), encoding: "base64" },
      { encoding: "base64", content: Buffer.from(want).toString("base64"), path: "/workspace/c" },
      { extra: { content: ["x"], path: null }, path: "/workspace/c", n: 1.5, content: text },
    ];
    for (const body of bodies) {
      await box.exec("rm -f /workspace/c");
      const res = await box.call("POST", "/api/write", body);
      assert.deepEqual([res.status, res.json.path], [200, "/workspace/c"], res.text);
      const back = (await post("/api/read", { path: "/workspace/c", encoding: "utf-8" })).json;
      assert.equal(back.content, want);
      assert.equal(back.size, Buffer.from(want).length);
    }
  });
  test("text that could be base64 stays text, of every length around a group", async () => {
    for (const content of [
      "",
      "a",
      "ab",
      "abc",
      "abcd",
      "abcde",
      "ab==",
      "abc=",
      "YW==",
      "a=",
      "=",
      "ab=c",
      "abcd=",
      "abcdef== ",
    ]) {
      await post("/api/write", { path: "t", content });
      assert.equal((await post("/api/read", { path: "t", encoding: "utf-8" })).json.content, content);
    }
    for (const tail of ["", "x", "xy", "xyz", " ", "=", "\n"]) {
      const content = "A".repeat(1_000_000) + tail;
      assert.equal((await post("/api/write", { path: "big", content })).status, 200);
      assert.equal(
        (await box.exec("sha256sum < /workspace/big")).stdout.slice(0, 64),
        sha(content),
        JSON.stringify(tail),
      );
    }
  });
  test("base64: padding or none, and what is none is refused without touching the file", async () => {
    for (const [content, want] of [
      ["", ""],
      ["YQ==", "a"],
      ["YQ", "a"],
      ["YWI=", "ab"],
      ["YWI", "ab"],
      ["YWJj", "abc"],
    ]) {
      await post("/api/write", { path: "b", content, encoding: "base64" });
      assert.equal((await post("/api/read", { path: "b", encoding: "utf-8" })).json.content, want);
    }
    await post("/api/write", { path: "b", content: "kept" });
    for (const content of ["Y", "Y===", "YW=j", "YWJj\n", "YW-_", "YQ==YQ==", `${"QUJD".repeat(200_000)}!`]) {
      const res = await post("/api/write", { path: "b", content, encoding: "base64" });
      assert.deepEqual([res.status, res.json.code], [400, "VALIDATION_FAILED"], content.slice(0, 20));
      assert.match(res.json.message, /base64/);
    }
    assert.equal((await box.exec("cat /workspace/b")).stdout, "kept");
    assert.ok(!(await names("/workspace")).includes(".caisson"));
  });
  test("mode, links and special files are kept", async () => {
    await box.exec(
      "mkdir -p /workspace/k; cd /workspace/k; echo old > file; chmod 750 file; ln -s file soft; ln -s missing/x dangling; echo old > one; ln one two; ln -s loop loop; echo ro > ro; chmod 400 ro",
    );
    await post("/api/write", { path: "k/soft", content: "new" });
    assert.equal(
      (await box.exec("cd /workspace/k; stat -c '%F %a' soft file; cat file")).stdout,
      "symbolic link 777\nregular file 750\nnew",
    );
    await post("/api/write", { path: "k/dangling", content: "there" });
    assert.equal((await box.exec("cat /workspace/k/missing/x")).stdout, "there");
    await post("/api/write", { path: "k/two", content: "both" });
    assert.equal((await box.exec("cd /workspace/k; cat one; stat -c ' %h' one")).stdout, "both 2\n");
    assert.equal((await post("/api/write", { path: "/dev/null", content: "x".repeat(300_000) })).status, 200);
    assert.equal((await post("/api/write", { path: "k/loop", content: "x" })).status, 500);
    const dir = await post("/api/write", { path: "k", content: "x" });
    assert.deepEqual([dir.status, dir.json.code], [400, "IS_DIRECTORY"]);
    const under = await post("/api/write", { path: "k/file/below", content: "x" });
    assert.deepEqual([under.status, under.json.code], [400, "NOT_DIRECTORY"]);
    await box.exec("mkfifo /workspace/k/fifo");
    assert.equal((await post("/api/write", { path: "k/fifo", content: "x" })).status, 500, "nobody reads it");
    await post("/api/write", { path: "k/new/deep/file", content: "x" });
    assert.equal((await box.exec("cd /workspace/k/new; stat -c %a . deep deep/file")).stdout, "755\n755\n644\n");
    assert.ok(!(await names("/workspace/k")).includes(".caisson"));
  });
  test("a reader sees the old content or the new, never a part", async () => {
    const a = "a".repeat(3_000_000);
    const b = "b".repeat(3_000_000);
    await post("/api/write", { path: "/workspace/whole", content: a });
    const seen = box.exec(
      "for i in $(seq 60); do head -c 1 /workspace/whole; stat -c ' %s' /workspace/whole; done | sort | uniq -c",
    );
    for (let i = 0; i < 6; i += 1) await post("/api/write", { path: "/workspace/whole", content: i % 2 ? a : b });
    for (const line of (await seen).stdout.trim().split("\n")) assert.match(line, /^\s*\d+ [ab] 3000000$/);
  });
  test("a client that goes away in the middle leaves the old file, and nothing else", async () => {
    await box.exec("mkdir -p /workspace/gone; echo old > /workspace/gone/file");
    const socket = net.connect(box.port, "127.0.0.1");
    socket.on("error", () => {});
    socket.write(
      `POST /api/write HTTP/1.1\r\nHost: x\r\nX-Caisson-Port-Token: ${box.token}\r\nContent-Length: 9000000\r\n\r\n` +
        `{"path":"/workspace/gone/file","content":"${"x".repeat(2_000_000)}`,
    );
    const until = async (wanted) => {
      for (let i = 0; i < 200 && !wanted.test(await names("/workspace/gone")); i += 1) await sleep(50);
      return names("/workspace/gone");
    };
    assert.match(await until(/caisson/), /^\.caisson-\w+\nfile\n$/, "it is on its way");
    socket.destroy();
    assert.equal(await until(/^file\n$/), "file\n");
    assert.equal((await box.exec("cat /workspace/gone/file")).stdout, "old\n");
  });
  test("a full disk costs nothing that was there", async () => {
    await box.exec("echo old > /tmp/precious");
    const size = Number((await box.exec("df --output=avail -B1 /tmp | tail -n 1")).stdout);
    if (size > 3e9) return; // no limit to run into
    const res = await send("/api/write", async (put) => {
      await put('{"path":"/tmp/precious","content":"');
      const piece = "x ".repeat(500_000);
      for (let sent = 0; sent < size + 50e6; sent += piece.length) await put(piece);
      await put('"}');
    });
    assert.deepEqual([res.status, res.json.code], [500, "NO_SPACE"]);
    assert.equal((await box.exec("cat /tmp/precious; ls -A /tmp | grep -c caisson-")).stdout, "old\n0\n");
  });
  test("a gigabyte each way, in bounded memory", { timeout: 120_000 }, async () => {
    const size = 342 * 3_145_728; // a little more than a GiB
    const room = Number((await box.exec("df --output=avail -B1 /workspace | tail -n 1")).stdout);
    const bytes = Math.min(size, Math.floor((room * 0.8) / 3_145_728) * 3_145_728);
    const piece = randomBytes(3_145_728);
    const coded = piece.toString("base64");
    const hash = createHash("sha256");
    let peak = 0;
    const res = await send("/api/write", async (put) => {
      await put('{"path":"/workspace/huge","content":"');
      for (let sent = 0; sent < bytes; sent += piece.length) {
        hash.update(piece);
        await put(coded);
        if (sent % (piece.length * 64) === 0) peak = Math.max(peak, await rss());
      }
      await put('","sessionId":"x","encoding":"base64"}');
    });
    assert.equal(res.status, 200, JSON.stringify(res.json));
    const digest = hash.digest("hex");
    const got = createHash("sha256");
    const s = await openEvents(box, "/api/read/stream", { path: "/workspace/huge" });
    let last;
    for (let n = 0; ; n += 1) {
      const e = await s.next();
      if (e === null) break;
      if (e.type === "chunk") got.update(Buffer.from(e.data, "base64"));
      if (n % 4000 === 0) peak = Math.max(peak, await rss());
      last = e;
    }
    assert.deepEqual(last, { type: "complete", bytesRead: bytes });
    assert.equal(got.digest("hex"), digest);
    assert.ok(peak < 16_384, `${peak} kB`);
    await box.exec("rm /workspace/huge");
  });
  test("a listing goes as deep as a path is long, and says so when it leaves something out", async () => {
    const list = async (path, options = {}) =>
      (await box.call("POST", "/api/list-files", { path, sessionId: NO_SESSION, options })).json;
    const deep = "d/".repeat(400);
    assert.equal((await box.exec(`mkdir -p /tmp/deep/${deep} && touch /tmp/deep/${deep}leaf`)).exitCode, 0);
    const all = await list("/tmp/deep", { recursive: true });
    assert.deepEqual([all.count, all.truncated], [401, undefined]);
    assert.equal(all.files.at(-1).name, "leaf");
    // Longer than any path can be: mkdir goes there step by step.
    const script =
      "import os\nos.makedirs('/tmp/far')\nos.chdir('/tmp/far')\nfor _ in range(30):\n os.mkdir('x'*200)\n os.chdir('x'*200)";
    assert.equal((await box.exec(`python3 - <<'E'\n${script}\nE`)).exitCode, 0);
    const far = await list("/tmp/far", { recursive: true });
    assert.equal(far.truncated, true);
    assert.ok(far.count >= 19 && far.count <= 30, String(far.count));
    const many =
      "import os\nos.makedirs('/tmp/many/sub')\nfor i in range(200005): os.close(os.open(f'/tmp/many/{i}', os.O_CREAT))";
    assert.equal((await box.exec(`python3 - <<'E'\n${many}\nE`, { timeoutMs: 60_000 })).exitCode, 0);
    const some = await list("/tmp/many", { recursive: true });
    assert.deepEqual([some.count, some.files.length, some.truncated], [200_000, 200_000, true]);
    await box.exec("rm -rf /tmp/deep /tmp/far /tmp/many");
  });

  test("bodies that are wrong", async () => {
    const cases = [
      ["", 500, /parse/],
      ["[]", 500, /parse/],
      ['{"path":"/workspace/x","content":"x"', 500, /parse/],
      ['{"path":"/workspace/x","content":"\\q"}', 500, /parse/],
      ["{}", 400, /path: is required/],
      ['{"path":null,"content":"x"}', 400, /path/],
      ['{"path":5,"content":"x"}', 400, /path: must be a string/],
      ['{"path":"","content":"x"}', 400, /path: must not be empty/],
      ['{"path":"/workspace/a\\u0000b","content":"x"}', 400, /U\+0000/],
      [`{"path":"/${"x".repeat(5000)}","content":"x"}`, 400, /path: is too long/],
      ['{"path":"/workspace/x"}', 400, /content: is required/],
      ['{"path":"/workspace/x","content":5}', 400, /content: must be a string/],
      ['{"path":"/workspace/x","content":"a","content":"b"}', 400, /twice/],
      ['{"path":"/workspace/x","path":"/etc/passwd","content":"b"}', 400, /twice/],
      ['{"path":"/workspace/x","content":"b","encoding":"latin1"}', 400, /encoding/],
    ];
    for (const [body, status, message] of cases) {
      const res = await send("/api/write", (put) => put(body || " "));
      assert.equal(res.status, status, body.slice(0, 80));
      assert.match(res.json.message, message);
    }
    const nul = await send("/api/execute", (put) => put('{"command":"echo a\\u0000b","sessionId":"s"}'));
    assert.deepEqual([nul.status, nul.json.code], [400, "VALIDATION_FAILED"]);
    const backslash = await box.exec("printf '%s' 'a\\u0000b'");
    assert.equal(backslash.stdout, "a\\u0000b", "an escaped backslash is no escape");
    assert.equal((await box.exec("test -e /workspace/x")).exitCode, 1);
  });
  test("a watch tells of a write as what it is", async () => {
    await box.exec("mkdir -p /workspace/seen");
    const s = await openEvents(box, "/api/watch", { path: "seen" });
    await s.next();
    await post("/api/write", { path: "seen/f", content: "1" });
    await post("/api/write", { path: "seen/f", content: "2" });
    await post("/api/write", { path: "seen/end", content: "" });
    const got = [];
    while (!got.includes("modify end")) {
      const e = await s.next();
      got.push(`${e.eventType} ${e.path.slice(16)}`);
    }
    assert.deepEqual(got, ["create f", "modify f", "modify f", "create end", "modify end"]);
    s.close();
  });
});
