/** Templates: made of directories and tarballs, hostile ones too; sandboxes on them; a real package manager inside. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { scratch } from "../scratch.mjs";
import { BUILD, isRoot, sleep, startEngine } from "./harness.mjs";
import { startWorker, TOKEN } from "./outside.mjs";
import { makeRoot, oddTar, template, toolFor, versions, which } from "./rootfs.mjs";

const NOBODY = 65534;

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`templates as ${user}`, () => suite(user));
}

function suite(user) {
  const uid = user === "nobody" ? NOBODY : undefined;
  let dir;
  let home;
  let engine;
  const make = (...args) => template(home, args, { uid });
  before(async () => {
    dir = scratch("template");
    chmodSync(dir, 0o755);
    home = join(dir, "templates");
    mkdirSync(home);
    if (uid !== undefined) chownSync(home, uid, uid);
    makeRoot(join(dir, "one"), "one");
    engine = await startEngine({ user, args: ["--templates", home], probe: true });
  });
  after(async () => {
    await engine.stop();
    const r = spawnSync("chmod", ["-R", "u+rwx", dir]);
    assert.equal(r.status, 0);
    rmSync(dir, { recursive: true, force: true });
  });

  test("none has been made: nothing is listed, a sandbox is refused with what to do", async () => {
    const list = make("list");
    assert.equal(list.status, 0, list.text);
    assert.match(list.text, /none has been made/);
    const r = await engine.api("PUT", "/v1/sandboxes/x", { template: "debian" });
    assert.equal(r.status, 400);
    assert.match(r.text, /there is no template debian.*make template NAME=debian/);
    assert.equal((await engine.api("PUT", "/v1/sandboxes/x", { template: "../state" })).status, 400);
    assert.equal((await engine.api("PUT", "/v1/sandboxes/x", { template: 7 })).status, 400);
    assert.deepEqual((await engine.api("GET", "/v1/templates")).json, { templates: [] });
  });

  test("a tarball and a directory give the same root, writable throughout, each sandbox its own", async () => {
    const tar = join(dir, "one.tar.gz");
    assert.equal(spawnSync("tar", ["-czf", tar, "-C", join(dir, "one"), "."]).status, 0);
    const packed = make("add", "packed", tar);
    assert.equal(packed.status, 0, packed.text);
    assert.equal(make("add", "plain", join(dir, "one")).status, 0);
    assert.deepEqual((await engine.api("GET", "/v1/templates")).json, { templates: ["packed", "plain"] });
    for (const name of ["packed", "plain"]) {
      const a = await engine.sandbox(`${name}-a`, { template: name });
      const b = await engine.sandbox(`${name}-b`, { template: name });
      assert.equal((await engine.api("GET", `/v1/sandboxes/${name}-a`)).json.template, name);
      const r = await a.exec(
        "cat /etc/marker; id -u; echo $HOME; touch /bin/new /usr/new /lib/new /new && mkdir /opt/mine && ls /usr/bin && : >/tmp/t && chown 33:44 /new && echo done",
      );
      assert.deepEqual([r.exitCode, r.stdout], [0, "one0\n/root\ndone\n"], r.stderr);
      assert.equal((await b.exec("ls /bin/new /new /opt/mine 2>/dev/null")).stdout, "");
      const owner = (await a.exec("stat -c %u:%g /new")).stdout;
      assert.equal(owner, user === "root" ? "33:44\n" : "0:0\n");
      const caps = /CapBnd:\s*(\w+)/.exec((await a.exec("cat /proc/self/status")).stdout)[1];
      assert.equal(Number.parseInt(caps, 16) & 0x7ffffe04, 0, `no capability over more than files and ids: ${caps}`);
    }
    assert.deepEqual(
      readdirSync(join(home, "packed")).filter((name) => name === "new" || name === "opt"),
      [],
    );
    const usual = await engine.sandbox("usual");
    assert.equal((await usual.exec("id -u; test -e /etc/marker || echo none")).stdout, "1000\nnone\n");
  });

  test("what tries to get out of a sandbox does not get out as root of a template", async () => {
    const box = await engine.sandbox("probe", { template: "plain" });
    const secret = join(dir, "secret");
    writeFileSync(secret, "HOST-SECRET");
    for (const [group, env] of [
      ["syscalls", ""],
      ["processes", `PROBE_PIDS=${process.pid},${engine.child.pid}`],
      [
        "files",
        `PROBE_SECRETS=${secret},${join(engine.home, "token")},${home},/boot/. PROBE_READONLY=/etc/hosts,/opt/probe`,
      ],
    ]) {
      const r = await box.exec(`${env} /opt/probe ${group}`, { timeoutMs: 50_000 });
      const lines = r.stdout.trim().split("\n");
      assert.equal(lines.pop(), "end", r.stderr);
      assert.ok(lines.length > 10);
      assert.deepEqual(
        lines.filter((line) => line.startsWith("OPEN")),
        [],
        group,
      );
    }
  });

  test("a replaced template: who stands on the old one stays, it goes with its last sandbox", async () => {
    assert.equal(make("add", "moving", join(dir, "one")).status, 0);
    const old = await engine.sandbox("old", { template: "moving" });
    makeRoot(join(dir, "two"), "two");
    assert.equal(make("add", "moving", join(dir, "two")).status, 0);
    assert.equal((await old.exec("cat /etc/marker; ls /bin | cat")).stdout.slice(0, 3), "one");
    const fresh = await engine.sandbox("fresh", { template: "moving" });
    assert.equal((await fresh.exec("cat /etc/marker")).stdout, "two");
    assert.equal(versions(home).filter((name) => name.startsWith("moving.")).length, 2);
    await engine.api("DELETE", "/v1/sandboxes/old");
    assert.equal(make("list").status, 0);
    assert.equal(versions(home).filter((name) => name.startsWith("moving.")).length, 1);
    assert.equal(make("remove", "moving").status, 0);
    assert.equal((await fresh.exec("cat /etc/marker")).stdout, "two");
    assert.equal((await engine.api("PUT", "/v1/sandboxes/x", { template: "moving" })).status, 400);
    await engine.api("DELETE", "/v1/sandboxes/fresh");
    make("list");
    assert.deepEqual(
      versions(home).filter((name) => name.startsWith("moving.")),
      [],
    );
    assert.match(make("remove", "moving").text, /there is none; there are: packed, plain/);
  });

  test("half a template is never one: its maker killed, or its source broken off", async () => {
    const fifo = join(dir, "slow.tar");
    assert.equal(spawnSync("mkfifo", ["-m", "666", fifo]).status, 0);
    const ids = uid === undefined ? {} : { uid, gid: uid };
    const env = { ...process.env, CAISSON_TEMPLATES: home };
    const maker = spawn("python3", [toolFor(home), "add", "half", fifo], { env, cwd: "/", stdio: "ignore", ...ids });
    for (let i = 0; i < 100 && !versions(home).some((name) => name.startsWith("half.")); i += 1) await sleep(50);
    assert.equal(versions(home).filter((name) => name.startsWith("half.")).length, 1);
    assert.doesNotMatch(make("list").text, /half/);
    assert.equal(versions(home).filter((name) => name.startsWith("half.")).length, 1, "not taken from its maker");
    maker.kill("SIGKILL");
    await new Promise((done) => maker.once("exit", done));
    make("list");
    assert.deepEqual(
      versions(home).filter((name) => name.startsWith("half.")),
      [],
    );
    const whole = join(dir, "whole.tar");
    assert.equal(spawnSync("tar", ["-cf", whole, "-C", join(dir, "one"), "."]).status, 0);
    writeFileSync(join(dir, "broken.tar"), readFileSync(whole).subarray(0, 700_000));
    const r = make("add", "half", join(dir, "broken.tar"));
    assert.equal(r.status, 1, r.text);
    assert.match(r.text, /cannot be unpacked/);
    assert.deepEqual(
      versions(home).filter((name) => name.startsWith("half.")),
      [],
    );
  });

  test("archives that want out, and what is no archive, are refused with what is wrong", () => {
    const outside = join(dir, "outside");
    mkdirSync(outside);
    chmodSync(outside, 0o777);
    writeFileSync(join(outside, "kept"), "kept");
    chmodSync(join(outside, "kept"), 0o666);
    const up = "../".repeat(12);
    const cases = [
      ["an absolute name", `add("${outside}/evil", b"x")`, /absolute name/],
      ["a name that climbs", `add("a/${up}${outside.slice(1)}/evil", b"x")`, /a name with \.\./],
      [
        "a way through a link",
        `add("d", type=SYM, linkname="${outside}"); add("d/evil", b"x")`,
        /a link or no directory/,
      ],
      [
        "a way through a climbing link",
        `add("d", type=SYM, linkname="${up}${outside.slice(1)}"); add("d/evil", b"x")`,
        /a link/,
      ],
      [
        "a directory over a link",
        `add("d", type=SYM, linkname="${outside}"); add("d", type=DIR, mode=0o700)`,
        /place of something else/,
      ],
      [
        "a hard link outside",
        `add("k", type=LNK, linkname="${outside}/kept"); add("k", b"overwritten")`,
        /absolute name/,
      ],
      ["a hard link that climbs", `add("k", type=LNK, linkname="${up}${outside.slice(1)}/kept")`, /\.\./],
      [
        "a hard link through a link",
        `add("d", type=SYM, linkname="${outside}"); add("k", type=LNK, linkname="d/kept")`,
        /a link/,
      ],
      [
        "a hard link to a link",
        `add("s", type=SYM, linkname="${outside}/kept"); add("k", type=LNK, linkname="s")`,
        /no file/,
      ],
      ["a device", `add("null", type=CHR, devmajor=1, devminor=3)`, /a device/],
      ["a disk", `add("disk", type=BLK, devmajor=8, devminor=0)`, /a device/],
      ["a pipe", `add("pipe", type=FIFO)`, /pipe/],
      ["a file over a directory", `add("bin", b"x")`, /place of a directory/],
      ["an image of layers", `add("manifest.json", b"[]")`, /docker export/],
      ["a mount point that is a link", `add("tmp", type=SYM, linkname="${outside}")`, /\/tmp is/],
      ["etc that is a link out", `add("etc", type=SYM, linkname="/nowhere")`, /\/etc is no directory/],
      ["a long name", `add("${"n".repeat(300)}", b"x")`, /not a file name/],
    ];
    for (const [what, statements, reason] of cases) {
      const path = join(dir, "odd.tar");
      oddTar(path, statements);
      const r = make("add", "odd", path);
      assert.equal(r.status, 1, `${what}: ${r.text}`);
      assert.match(r.text, reason, what);
    }
    assert.deepEqual(readdirSync(outside), ["kept"]);
    assert.equal(readFileSync(join(outside, "kept"), "utf8"), "kept");
    writeFileSync(join(dir, "text"), "no archive".repeat(1000));
    for (const [args, reason] of [
      [["add", "odd", join(dir, "text")], /not a tarball/],
      [["add", "odd", join(dir, "missing")], /no such file/],
      [["add", "odd", outside], /has no \/bin\/sh/],
      [["add", "../odd", outside], /a name is/],
      [["add", "-odd", outside], /a name is/],
      [["add", "x".repeat(65), outside], /a name is/],
      [["remove", "odd"], /there is none/],
    ]) {
      const r = make(...args);
      assert.equal(r.status, 1, r.text);
      assert.match(r.text, reason);
    }
    assert.equal(make("add").status, 2);
    assert.deepEqual(
      versions(home).filter((name) => name.startsWith("odd")),
      [],
    );
    assert.deepEqual(
      readdirSync(home).filter((name) => name.startsWith("odd") || name.startsWith(".odd")),
      [],
    );
  });

  test("devices of its own /dev are left out; set-user-id has no effect", async () => {
    const path = join(dir, "dev.tar");
    assert.equal(spawnSync("tar", ["-cf", path, "-C", join(dir, "one"), "."]).status, 0);
    const script = `
import tarfile, sys, io
t = tarfile.open(sys.argv[1], "a")
e = tarfile.TarInfo("./dev/null"); e.type = tarfile.CHRTYPE; e.devmajor, e.devminor = 1, 3; t.addfile(e)
e = tarfile.TarInfo("./bin/suid"); e.mode = 0o6755; e.uid = 0; e.size = 1; t.addfile(e, io.BytesIO(b"x"))
t.close()`;
    assert.equal(spawnSync("python3", ["-c", script, path]).status, 0);
    const r = make("add", "dev", path);
    assert.equal(r.status, 0, r.text);
    assert.ok(!existsSync(join(home, "dev/dev/null")));
    assert.equal(statSync(join(home, "dev/bin/suid")).mode & 0o7000, 0);
    const box = await engine.sandbox("dev", { template: "dev" });
    assert.equal((await box.exec("echo x >/dev/null && echo ok")).stdout, "ok\n");
  });

  test("links of a template lead inside it, never to the host's files", async () => {
    const outside = join(dir, "target");
    mkdirSync(outside);
    chmodSync(outside, 0o777);
    const hostile = makeRoot(join(dir, "hostile"), "hostile");
    const up = "../".repeat(12);
    mkdirSync(join(hostile, "etc/apt"));
    for (const [name, to] of [
      ["workspace", outside],
      ["opt", `${up}${outside.slice(1)}`],
      ["etc/resolv.conf", `${outside}/resolv`],
      ["etc/hosts", `${up}${outside.slice(1)}/hosts`],
      ["etc/apt/apt.conf.d", outside],
      ["var/tmp", outside],
    ])
      symlinkSync(to, join(hostile, name));
    const made = make("add", "hostile", hostile);
    // The host's directory is not in the template, so that the link leads nowhere.
    assert.equal(made.status, 1, made.text);
    assert.match(made.text, /\/workspace is no directory/);
    rmSync(join(hostile, "workspace"));
    assert.equal(make("add", "hostile", hostile).status, 0);
    const r = await engine.api("PUT", "/v1/sandboxes/hostile", { template: "hostile" });
    assert.ok(r.status === 200 || r.status >= 500, r.text);
    if (r.status !== 200) assert.match(r.text, /make [a-z/]+: File exists/);
    assert.deepEqual(readdirSync(outside), []);
  });

  test("apt-get installs a package, as root of the template", {
    skip: !which("mmdebstrap") && "no mmdebstrap",
  }, async (t) => {
    const tar = join(BUILD, "minbase.tar");
    if (!existsSync(tar)) {
      const mode = isRoot ? "root" : "unshare";
      const sources = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"].find(existsSync);
      const release = /VERSION_CODENAME=(\w+)/.exec(readFileSync("/etc/os-release", "utf8"))?.[1];
      const args = ["--variant=minbase", `--mode=${mode}`, release, `${tar}.part`, sources];
      const r = spawnSync("mmdebstrap", ["--format=tar", ...args], { encoding: "utf8", timeout: 240_000 });
      if (r.status !== 0) return t.skip(`mmdebstrap: ${r.stderr.slice(-300)}`);
      assert.equal(spawnSync("mv", [`${tar}.part`, tar]).status, 0);
    }
    // Where the other user can read it.
    const readable = join(dir, "minbase.tar");
    copyFileSync(tar, readable);
    const made = make("add", "debian", readable);
    assert.equal(made.status, 0, made.text);
    // A package of our own: its script runs as root, its files have another owner.
    const pkg = join(dir, "pkg");
    mkdirSync(join(pkg, "DEBIAN"), { recursive: true });
    mkdirSync(join(pkg, "usr/bin"), { recursive: true });
    chmodSync(join(pkg, "DEBIAN"), 0o755);
    writeFileSync(
      join(pkg, "DEBIAN/control"),
      "Package: caisson-test\nVersion: 1\nArchitecture: all\nMaintainer: T <t@example.com>\nDescription: test\n",
    );
    writeFileSync(
      join(pkg, "DEBIAN/postinst"),
      "#!/bin/sh\nset -e\ntouch /var/lib/mine\nchown www-data /var/lib/mine\n",
      { mode: 0o755 },
    );
    writeFileSync(join(pkg, "usr/bin/caisson-test"), "#!/bin/sh\necho installed\n", { mode: 0o755 });
    const repo = join(dir, "repo");
    mkdirSync(repo);
    assert.equal(spawnSync("dpkg-deb", ["--root-owner-group", "-b", pkg, join(repo, "t.deb")]).status, 0);
    const size = statSync(join(repo, "t.deb")).size;
    const sha = spawnSync("sha256sum", [join(repo, "t.deb")], { encoding: "utf8" }).stdout.slice(0, 64);
    const control = readFileSync(join(pkg, "DEBIAN/control"), "utf8");
    writeFileSync(join(repo, "Packages"), `${control}Filename: ./t.deb\nSize: ${size}\nSHA256: ${sha}\n`);
    const worker = await startWorker();
    worker.files["/repo"] = repo;
    try {
      const box = await engine.sandbox("debian", {
        template: "debian",
        egress: { url: worker.url, token: TOKEN, hosts: ["packages.example"], all: false },
      });
      const r = await box.exec(
        "echo 'deb [trusted=yes] http://packages.example/repo ./' >/etc/apt/sources.list; rm -f /etc/apt/sources.list.d/*; " +
          "apt-get update && apt-get install -y caisson-test && caisson-test && stat -c %U /var/lib/mine",
        { timeoutMs: 120_000 },
      );
      assert.equal(r.exitCode, 0, `${r.stdout}${r.stderr}`);
      assert.match(r.stdout, user === "root" ? /installed\nwww-data\n$/ : /installed\nroot\n$/);
      assert.doesNotMatch(r.stderr, /sandbox|_apt/);
    } finally {
      await worker.stop();
    }
  });
}
