/** /api/backup and the SDK's own flow around it: what is archived, left out, restored and refused. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { NO_SESSION, parseEvents, startEngine } from "./harness.mjs";

const missing = ["/usr/bin/mksquashfs", "/usr/bin/unsquashfs"].filter((p) => !existsSync(p));
const skip = missing.length > 0 ? `not installed: ${missing.join(", ")}` : false;
const openssl = spawnSync("openssl", ["version"]).status === 0;

describe("backup", { skip }, () => {
  let engine;
  let box;
  const create = (body) => box.call("POST", "/api/backup/create", body);
  const restore = (dir, archivePath) => box.call("POST", "/api/backup/restore", { dir, archivePath });
  const sh = async (command, more) => {
    const r = await box.exec(command, more);
    assert.equal(r.exitCode, 0, `${command}: ${r.stderr}`);
    return r.stdout.trim();
  };
  const contents = async (archive) =>
    (await sh(`unsquashfs -l ${archive}`))
      .split("\n")
      .filter((l) => l.startsWith("squashfs-root/"))
      .map((l) => l.slice("squashfs-root/".length));

  before(async () => {
    engine = await startEngine();
    box = await engine.sandbox("backup");
  });
  after(() => engine.stop());

  test("the SDK's flow with localBucket: session, archive, stream out, write in, unsquashfs", async () => {
    const session = "__sandbox_backup_1";
    await box.call("POST", "/api/session/create", { id: session, cwd: "/" });
    await sh(
      "mkdir -p /workspace/app/sub; cd /workspace/app; head -c 3000000 /dev/urandom > 'big file'; echo hé > ü; ln -s ü link;" +
        " chmod 750 sub; echo '#!/bin/sh' > sub/run; chmod 755 sub/run; : > sub/empty; touch -d 2001-02-03 sub/run",
    );
    const sum = await sh(
      "cd /workspace/app; find . -type f -exec sha256sum {} + | sort; stat -c '%a %n %Y' sub/run sub",
    );
    const archivePath = "/var/backups/0b0d3a52-5a0e-4d6e-9a0c-1f3c2d4b5a6e.sqsh";
    const made = await create({
      dir: "/workspace/app",
      archivePath,
      gitignore: false,
      excludes: [],
      compression: { format: "lz4", threads: 8 },
      sessionId: session,
    });
    assert.equal(made.status, 200, made.text);
    assert.deepEqual([made.json.success, made.json.archivePath], [true, archivePath]);
    const stream = await box.call("POST", "/api/read/stream", { path: archivePath, sessionId: session });
    const events = parseEvents(stream.text);
    assert.equal(events[0].encoding, "base64");
    const bytes = Buffer.concat(events.filter((e) => e.type === "chunk").map((e) => Buffer.from(e.data, "base64")));
    assert.equal(bytes.length, made.json.sizeBytes);
    const inSession = (command) =>
      box.call("POST", "/api/execute", { command, sessionId: session, origin: "internal" });
    assert.equal((await inSession(`rm -f '${archivePath}'`)).json.exitCode, 0);
    await sh("rm -rf /workspace/app");

    assert.equal((await inSession("mkdir -p /var/backups")).json.exitCode, 0);
    const content = bytes.toString("base64");
    const wrote = await box.call("POST", "/api/write", {
      path: archivePath,
      content,
      encoding: "base64",
      sessionId: session,
    });
    assert.equal(wrote.status, 200);
    const unpacked = await inSession(`/usr/bin/unsquashfs -f -d '/workspace/app' '${archivePath}'`);
    assert.equal(unpacked.json.exitCode, 0, unpacked.text);
    assert.equal(
      await sh("cd /workspace/app; find . -type f -exec sha256sum {} + | sort; stat -c '%a %n %Y' sub/run sub"),
      sum,
    );
    assert.equal(await sh("readlink /workspace/app/link"), "ü");
    await inSession(`rm -f '${archivePath}'`);
    assert.equal((await box.call("POST", "/api/session/delete", { sessionId: session })).status, 200);
    await sh("rm -rf /workspace/app");
  });

  test("every compression; the archive overwrites an older one", async () => {
    await sh("mkdir -p /workspace/c; seq 100000 > /workspace/c/numbers");
    for (const format of ["gzip", "lz4", "zstd"]) {
      const r = await create({
        dir: "/workspace/c",
        archivePath: "/var/backups/c.sqsh",
        compression: { format, threads: 1 },
      });
      assert.equal(r.status, 200, r.text);
      assert.match(await sh("unsquashfs -s /var/backups/c.sqsh"), new RegExp(`Compression ${format}`));
    }
    await sh("rm -rf /workspace/c /var/backups/*");
  });

  test("excludes: at every depth without a slash, from the top with one", async () => {
    await sh(
      "mkdir -p /workspace/x/node_modules/a /workspace/x/p/node_modules/b /workspace/x/p/build/out /workspace/x/build; cd /workspace/x;" +
        " touch a.log p/b.log p/keep node_modules/a/f p/node_modules/b/f build/f p/build/f p/build/out/g '#hash' ' lead' 'we[1]rd' 'we1rd'",
    );
    const cases = [
      [
        ["node_modules", "*.log"],
        ["p/keep", "build/f", "p/build/f"],
        ["a.log", "p/b.log", "node_modules", "p/node_modules"],
      ],
      [["/build"], ["p/build/f"], ["build", "build/f"]],
      [["p/build"], ["build/f", "p/keep"], ["p/build", "p/build/f"]],
      [["**/build/**"], ["p/keep"], ["build", "p/build"]],
      [["p/**/f"], ["build/f", "p/keep"], []],
      [["#hash", " lead"], ["p/keep"], ["#hash", " lead"]],
      [["we\\[1\\]rd"], ["we1rd"], ["we[1]rd"]],
      [["**", "**/"], ["a.log", "p/keep"], []],
    ];
    for (const [excludes, kept, gone] of cases) {
      const r = await create({ dir: "/workspace/x", archivePath: "/var/backups/x.sqsh", excludes });
      assert.equal(r.status, 200, r.text);
      const list = await contents("/var/backups/x.sqsh");
      for (const name of kept) assert.ok(list.includes(name), `${JSON.stringify(excludes)} keeps ${name}: ${list}`);
      for (const name of gone) assert.ok(!list.includes(name), `${JSON.stringify(excludes)} drops ${name}: ${list}`);
    }
    await sh("rm -rf /workspace/x /var/backups/*");
  });

  test("gitignore: what git ignores is left out, also odd names; outside a repository nothing is", async () => {
    await sh(
      "mkdir -p /workspace/g/sub/dist /workspace/g/node_modules/m /workspace/plain; cd /workspace/g; git init -q;" +
        " printf 'node_modules/\\n*.tmp\\n/sub/dist\\n' > .gitignore; touch a.tmp sub/b.tmp sub/dist/f keep sub/keep node_modules/m/f" +
        " 'st*r.tmp' 'st-r.keep' ' sp .tmp' '#x.tmp'; git add keep; touch /workspace/plain/a.tmp; echo '*.tmp' > /workspace/plain/.gitignore",
    );
    const r = await create({
      dir: "/workspace/g",
      archivePath: "/var/backups/g.sqsh",
      gitignore: true,
      excludes: ["sub/keep"],
    });
    assert.equal(r.status, 200, r.text);
    const list = (await contents("/var/backups/g.sqsh")).filter((n) => !n.startsWith(".git/"));
    assert.deepEqual(list.sort(), [".git", ".gitignore", "keep", "st-r.keep", "sub"]);
    const sub = await create({ dir: "/workspace/g/sub", archivePath: "/var/backups/s.sqsh", gitignore: true });
    assert.equal(sub.status, 200, sub.text);
    assert.deepEqual(await contents("/var/backups/s.sqsh"), ["keep"]);
    const plain = await create({ dir: "/workspace/plain", archivePath: "/var/backups/p.sqsh", gitignore: true });
    assert.equal(plain.status, 200, plain.text);
    assert.deepEqual((await contents("/var/backups/p.sqsh")).sort(), [".gitignore", "a.tmp"]);
    await sh("rm -rf /workspace/g /workspace/plain /var/backups/*");
  });

  test("a backup that would lack a file is no backup; a socket is no loss", async () => {
    await sh("mkdir -p /workspace/u; echo s > /workspace/u/secret; chmod 000 /workspace/u/secret");
    const r = await create({ dir: "/workspace/u", archivePath: "/var/backups/u.sqsh" });
    assert.deepEqual([r.status, r.json.code], [500, "BACKUP_CREATE_FAILED"], r.text);
    assert.match(r.json.message, /secret/);
    assert.equal(await sh("ls /var/backups"), "", "no half archive");
    await sh("chmod 600 /workspace/u/secret; mkdir /workspace/u/dir; chmod 000 /workspace/u/dir");
    const dir = await create({ dir: "/workspace/u", archivePath: "/var/backups/u.sqsh" });
    assert.match(dir.json.message, /dir/);
    await sh(
      "rmdir /workspace/u/dir; cd /workspace/u; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'; mkfifo f",
    );
    assert.equal((await create({ dir: "/workspace/u", archivePath: "/var/backups/u.sqsh" })).status, 200);
    assert.deepEqual(await contents("/var/backups/u.sqsh"), ["f", "secret"]);
    await sh("rm -rf /workspace/u /var/backups/*");
  });

  test("restore: the directory holds what the archive holds, and a damaged archive changes nothing", async () => {
    await sh(
      "mkdir -p /workspace/r/locked/in /workspace/r/sub; cd /workspace/r; echo 1 > sub/one; ln -s /etc/passwd link; echo k > locked/in/k;" +
        " chmod 500 locked/in locked; chmod 750 .; touch .hidden; head -c 300000 /dev/urandom > random",
    );
    assert.equal((await create({ dir: "/workspace/r", archivePath: "/var/backups/r.sqsh" })).status, 200);
    const before = await sh("cd /workspace/r; ls -AlR --time-style=+; stat -c %a .; sha256sum random");
    await sh("cd /workspace/r; echo 2 > sub/one; echo new > sub/new; rm random; mkdir -p extra/deep; chmod 500 extra");
    await sh(
      "cp /var/backups/r.sqsh /var/backups/cut.sqsh; truncate -s 100000 /var/backups/cut.sqsh; echo junk > /var/backups/junk.sqsh",
    );
    const changed = await sh("cd /workspace/r; ls -AlR --time-style=+; cat sub/one");
    for (const name of ["cut", "junk", "missing"]) {
      const bad = await restore("/workspace/r", `/var/backups/${name}.sqsh`);
      assert.deepEqual([bad.status, bad.json.code], [500, "BACKUP_RESTORE_FAILED"], `${name}: ${bad.text}`);
      assert.equal(await sh("cd /workspace/r; ls -AlR --time-style=+; cat sub/one"), changed, `${name} left a trace`);
    }
    const good = await restore("/workspace/r", "/var/backups/r.sqsh");
    assert.deepEqual([good.status, good.json.success, good.json.dir], [200, true, "/workspace/r"], good.text);
    assert.equal(await sh("cd /workspace/r; ls -AlR --time-style=+; stat -c %a .; sha256sum random"), before);
    // Into a directory that is not there yet, and over itself.
    assert.equal((await restore("/workspace/new/place", "/var/backups/r.sqsh")).status, 200);
    assert.equal(await sh("cat /workspace/new/place/sub/one; readlink /workspace/new/place/link"), "1\n/etc/passwd");
    await sh("chmod -R u+w /workspace/r /workspace/new; rm -rf /workspace/r /workspace/new /var/backups/*");
  });

  test("bad requests", async () => {
    await sh("mkdir -p /workspace/ok; ln -s /etc /workspace/etc; echo f > /workspace/file");
    const good = { dir: "/workspace/ok", archivePath: "/var/backups/b.sqsh" };
    const bad = [
      { dir: undefined },
      { dir: "" },
      { dir: 5 },
      { dir: "workspace" },
      { dir: "/" },
      { dir: "/etc" },
      { dir: "/workspacex" },
      { dir: "/workspace/../etc" },
      { dir: "/workspace/.." },
      { dir: "/workspace/a\nb" },
      { dir: `/workspace/${"a".repeat(5000)}` },
      { archivePath: undefined },
      { archivePath: "/tmp/x.sqsh" },
      { archivePath: "/var/backups" },
      { archivePath: "/var/backups/" },
      { archivePath: "/var/backups/../x" },
      { archivePath: "/var/backups/a/" },
      { archivePath: "-comp" },
      { excludes: "x" },
      { excludes: [1] },
      { excludes: ["a\nb"] },
      { excludes: ["x".repeat(5000)] },
      { excludes: Array(10_001).fill("x") },
      { gitignore: "yes" },
      { compression: "lz4" },
      { compression: { format: "xz" } },
      { compression: { format: 1 } },
      { compression: { threads: 0 } },
      { compression: { threads: 1.5 } },
      { compression: { threads: "8" } },
    ];
    for (const more of bad) {
      const r = await create({ ...good, ...more });
      assert.deepEqual(
        [r.status, r.json.code],
        [400, "INVALID_BACKUP_CONFIG"],
        `${JSON.stringify(more).slice(0, 80)}: ${r.text}`,
      );
    }
    for (const [dir, archivePath] of [
      ["/etc", good.archivePath],
      [good.dir, "/etc/passwd"],
      [good.dir, ""],
    ]) {
      const r = await restore(dir, archivePath);
      assert.deepEqual([r.status, r.json.code], [400, "INVALID_BACKUP_CONFIG"]);
    }
    for (const dir of ["/workspace/none", "/workspace/file"]) {
      const r = await create({ ...good, dir });
      assert.deepEqual([r.status, r.json.code], [500, "BACKUP_CREATE_FAILED"], r.text);
    }
    const full = await create({ ...good, archivePath: "/var/backups/none/b.sqsh" });
    assert.deepEqual([full.status, full.json.code], [500, "BACKUP_CREATE_FAILED"], full.text);
    assert.equal(await sh("ls /var/backups"), "");
    await sh("rm -rf /workspace/*");
  });

  test("300 MB, archived, restored", { timeout: 120_000 }, async () => {
    await sh(
      "mkdir -p /workspace/large; cd /workspace/large; for i in 1 2 3; do head -c 100M /dev/zero | tr '\\0' $i > $i; done; head -c 30M /dev/urandom > r",
    );
    const sum = await sh("cd /workspace/large; sha256sum *");
    const r = await create({ dir: "/workspace/large", archivePath: "/var/backups/l.sqsh" });
    assert.equal(r.status, 200, r.text);
    assert.ok(r.json.sizeBytes > 30e6);
    await sh("rm -rf /workspace/large");
    assert.equal((await restore("/workspace/large", "/var/backups/l.sqsh")).status, 200);
    assert.equal(await sh("cd /workspace/large; sha256sum *"), sum);
    await sh("rm -rf /workspace/* /var/backups/*");
  });

  test("upload-parts: ranges by https PUT, the URLs in no process list", {
    skip: openssl ? false : "no openssl here",
  }, async () => {
    // An S3-like server with a certificate that only this sandbox trusts.
    const tls = await engine.sandbox("upload", { env: { CURL_CA_BUNDLE: "/tmp/cert.pem" } });
    const run = async (command) => {
      const r = await tls.exec(command);
      assert.equal(r.exitCode, 0, r.stderr);
      return r.stdout;
    };
    await run(
      "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /tmp/key.pem -out /tmp/cert.pem -days 2" +
        " -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>&1; head -c 3000000 /dev/urandom > /var/backups/up.sqsh; mkdir /tmp/got",
    );
    const server = `
import http.server, ssl, os, hashlib, time
seen = {}
class H(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.split("/")[1].split("?")[0]
        seen[name] = seen.get(name, 0) + 1
        open("/tmp/ps", "ab").write(b"".join(open("/proc/%s/cmdline" % p, "rb").read() for p in os.listdir("/proc") if p.isdigit() and p != str(os.getpid())))
        code = 403 if name == "denied" else 503 if name == "flaky" and seen[name] < 2 else 200
        self.send_response(code)
        if code == 200:
            open("/tmp/got/" + name, "wb").write(data)
            if name != "noetag":
                self.send_header("ETag", '"%s"' % hashlib.md5(data).hexdigest())
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), H)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain("/tmp/cert.pem", "/tmp/key.pem")
s.socket = c.wrap_socket(s.socket, server_side=True)
s.serve_forever()
`;
    await tls.call("POST", "/api/write", { path: "/tmp/s3.py", content: server });
    await tls.call("POST", "/api/process/start", { command: "python3 /tmp/s3.py", sessionId: NO_SESSION });
    await run(
      "for i in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/8443) 2>/dev/null && exit 0; sleep 0.1; done; exit 1",
    );
    const url = (name) => `https://localhost:8443/${name}?X-Amz-Signature=topsecret`;
    const parts = [
      { partNumber: 1, url: url("one"), offset: 0, size: 1_000_001 },
      { partNumber: 2, url: url("flaky"), offset: 1_000_001, size: 1_999_999 },
    ];
    const put = (more) =>
      tls.call("POST", "/api/backup/upload-parts", { archivePath: "/var/backups/up.sqsh", parts, ...more });
    const ok = await put();
    assert.equal(ok.status, 200, ok.text);
    const sums = (
      await run("cat /tmp/got/one /tmp/got/flaky | cmp - /var/backups/up.sqsh; cd /tmp/got; md5sum one flaky")
    ).split("\n");
    assert.deepEqual(ok.json.parts, [
      { partNumber: 1, etag: `"${sums[0].split(" ")[0]}"` },
      { partNumber: 2, etag: `"${sums[1].split(" ")[0]}"` },
    ]);
    assert.doesNotMatch(await run("tr '\\0' ' ' < /tmp/ps"), /topsecret/);
    assert.equal(await run("ls -A /var/backups"), "up.sqsh\n", "no part is left");
    for (const name of ["denied", "noetag"]) {
      const bad = await put({ parts: [{ ...parts[0], url: url(name) }] });
      assert.deepEqual([bad.status, bad.json.code], [500, "BACKUP_CREATE_FAILED"], bad.text);
      assert.doesNotMatch(bad.text, /topsecret/);
    }
    const refused = [
      { parts: [] },
      { parts: "x" },
      { parts: [1] },
      { parts: [{ ...parts[0], url: "http://localhost/" }] },
      { parts: [{ ...parts[0], url: 'https://localhost/" \noutput = "/workspace/pwned' }] },
      { parts: [{ ...parts[0], partNumber: 0 }] },
      { parts: [{ ...parts[0], offset: -1 }] },
      { parts: [{ ...parts[0], size: 0 }] },
      { parts: [{ ...parts[0], size: 4_000_000 }] },
      { archivePath: "/etc/passwd" },
    ];
    for (const more of refused) {
      const r = await put(more);
      assert.deepEqual([r.status, r.json.code], [400, "INVALID_BACKUP_CONFIG"], `${JSON.stringify(more)}: ${r.text}`);
    }
    assert.equal((await put({ archivePath: "/var/backups/none" })).json.code, "BACKUP_CREATE_FAILED");
  });
});
