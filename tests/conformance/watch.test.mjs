/** watch and checkChanges: what changes below a directory is told, once it is watched. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { perTransport, rejects, sleep, until } from "./lib.mjs";

perTransport("watch", (make) => {
  let sandbox;
  let serial = 0;
  const dir = async () => {
    const path = `/workspace/w${serial++}`;
    await sandbox.mkdir(path);
    return path;
  };
  /** A watch whose events are kept: {events, find(check), end()}. */
  const open = async (path, options) => {
    const stream = await sandbox.stream.watch(path, options ?? {});
    const events = [];
    const reading = (async () => {
      for await (const event of stream) events.push(event);
    })().catch(() => {});
    return {
      events,
      find: (check, what) => until(() => events.find(check), `${what}; seen ${JSON.stringify(events).slice(-1500)}`),
      end: async () => {
        stream.cancel();
        await reading;
      },
    };
  };
  before(async () => {
    sandbox = make();
    await sandbox.exec("true");
  });

  it("tells of files that are made, changed, moved and deleted", async () => {
    const at = await dir();
    const watch = await open(at);
    const first = await watch.find((event) => event.type === "watching", "watching");
    assert.ok(first.path && first.watchId);
    await sandbox.exec(`cd ${at} && echo 1 >f && sleep 0.1 && echo 2 >>f && mv f g && chmod 600 g && rm g`);
    for (const [eventType, name] of [
      ["create", "f"],
      ["modify", "f"],
      ["move_from", "f"],
      ["move_to", "g"],
      ["attrib", "g"],
      ["delete", "g"],
    ]) {
      const event = await watch.find(
        (e) => e.eventType === eventType && e.path.endsWith(`/${name}`),
        `${eventType} ${name}`,
      );
      assert.deepEqual([event.type, event.isDirectory], ["event", false]);
      assert.ok(!Number.isNaN(Date.parse(event.timestamp)));
    }
    await watch.end();
  });

  it("follows directories that come later", async () => {
    const at = await dir();
    const watch = await open(at, { recursive: true });
    await sandbox.exec(`mkdir -p ${at}/a/b && sleep 0.2 && echo 1 >${at}/a/b/late`);
    await watch.find((e) => e.eventType === "create" && e.isDirectory && e.path.endsWith("/a"), "the directory");
    await watch.find((e) => e.path?.endsWith("/a/b/late"), "a file in it");
    // Made so fast that nobody watched yet when the file was there.
    await sandbox.exec(`mkdir -p ${at}/x/y/z && echo 1 >${at}/x/y/z/fast`);
    await watch.find((e) => e.path?.endsWith("/x/y/z/fast"), "a file made at once");
    await watch.end();
  });

  it("stays in one directory when told so", async () => {
    const at = await dir();
    await sandbox.mkdir(`${at}/sub`);
    const watch = await open(at, { recursive: false });
    await sandbox.exec(`echo 1 >${at}/sub/inner; echo 1 >${at}/outer`);
    await watch.find((e) => e.path?.endsWith("/outer"), "the outer file");
    assert.ok(!watch.events.some((e) => e.path?.endsWith("/inner")));
    await watch.end();
  });

  it("includes and excludes", async () => {
    const at = await dir();
    const included = await open(at, { include: ["*.ts"] });
    const excluded = await open(at, { exclude: ["node_modules", "*.log"] });
    const usual = await open(at);
    await sandbox.exec(
      `cd ${at} && mkdir node_modules .git && sleep 0.2 && touch a.ts a.js b.log node_modules/m .git/g && sleep 0.2 && touch last.ts last`,
    );
    await included.find((e) => e.path?.endsWith("/last.ts"), "last.ts");
    await excluded.find((e) => e.path?.endsWith("/last"), "last");
    await usual.find((e) => e.path?.endsWith("/last"), "last");
    const names = (watch) =>
      new Set(watch.events.filter((e) => e.type === "event").map((e) => e.path.split("/").at(-1)));
    assert.deepEqual(
      [...names(included)].filter((name) => !name.endsWith(".ts")),
      [],
    );
    assert.ok(names(excluded).has("a.js") && !names(excluded).has("b.log") && !names(excluded).has("m"));
    assert.ok(names(usual).has("b.log") && !names(usual).has("g") && !names(usual).has("m"));
    await Promise.all([included.end(), excluded.end(), usual.end()]);
  });

  it("refuses what it cannot watch", async () => {
    const at = await dir();
    await sandbox.writeFile(`${at}/f`, "");
    await rejects(sandbox.stream.watch(`${at}/missing`), {});
    await rejects(sandbox.stream.watch("/etc"), { code: "PERMISSION_DENIED" });
    await rejects(sandbox.stream.watch("../etc"), { code: "PERMISSION_DENIED" });
    await sandbox.exec(`ln -s /etc ${at}/out`);
    await rejects(sandbox.stream.watch(`${at}/out`), { code: "PERMISSION_DENIED" });
    await rejects(sandbox.stream.watch(at, { include: ["*.a"], exclude: ["*.b"] }), { code: "VALIDATION_FAILED" });
    for (const glob of ["[a]", "{a,b}", "a]"])
      await rejects(sandbox.stream.watch(at, { include: [glob] }), { code: "VALIDATION_FAILED" });
  });

  it("keeps up with many changes and many watchers", async () => {
    const at = await dir();
    const watches = await Promise.all([1, 2, 3].map(() => open(at)));
    await sandbox.exec(`cd ${at} && for i in $(seq 1 500); do : >f$i; done`);
    for (const watch of watches) {
      await watch.find((e) => e.path?.endsWith("/f500"), "the last");
      const made = new Set(watch.events.filter((e) => e.eventType === "create").map((e) => e.path));
      assert.equal(made.size, 500);
    }
    await Promise.all(watches.map((watch) => watch.end()));
  });

  it("checks what changed while nobody looked", async () => {
    const at = await dir();
    const first = await sandbox.checkChanges(at);
    assert.ok(["unchanged", "changed", "resync"].includes(first.status) && first.version);
    const same = await sandbox.checkChanges(at, { since: first.version });
    assert.equal(same.status, "unchanged");
    await sandbox.writeFile(`${at}/new`, "1");
    const changed = await until(async () => {
      const seen = await sandbox.checkChanges(at, { since: same.version });
      return seen.status === "changed" && seen;
    }, "a change");
    await sleep(100);
    assert.equal((await sandbox.checkChanges(at, { since: changed.version })).status, "unchanged");
    const unknown = await sandbox.checkChanges(at, { since: "watch-999-1:0" });
    assert.equal(unknown.status, "resync");
    assert.ok(["expired", "restarted"].includes(unknown.reason));
  });
});
