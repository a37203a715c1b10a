import { abortAllDurableObjects, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import { Core, CoreTrap } from "../../worker/src/core/core.js";
import * as index from "../../worker/src/effects/index-d1.js";
import type { CreateRunBody, CreateSessionBody } from "../../worker/src/routes/schemas.js";
import type { SessionView } from "../../worker/src/session/api.js";
import { env } from "./env.js";
import {
  created,
  ended,
  eventually,
  expectGapless,
  fresh,
  log,
  running,
  type Stub,
  stub,
  types,
  value,
} from "./session-fixture.js";

/** One character a byte, as the fake sandbox has it. */
async function diff(session: Stub, run?: string): Promise<string> {
  return Buffer.from(value(await session.diff(run))).toString("latin1");
}

describe("a session", () => {
  it("starts its sandbox, lays out its files and becomes idle", async () => {
    const files: CreateSessionBody["files"] = [
      { path: "/workspace/a.txt", content: "ä\n" },
      {
        path: "/workspace/bin/run",
        content: Buffer.from([0, 255]).toString("base64"),
        encoding: "base64",
        mode: "755",
      },
    ];
    const { session, fake, id } = await created({ files, metadata: { ticket: "42" }, timeout_s: 100 });
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    expect(fake.files.get("/workspace/a.txt")).toBe(Buffer.from("ä\n").toString("base64"));
    expect(fake.files.get("/workspace/bin/run")).toBe("AP8=");
    expect(fake.commands.some((command) => command.includes("chmod '755' '/workspace/bin/run'"))).toBe(true);
    const view = value(await session.view());
    expect(view).toMatchObject({
      id,
      agent: "shell",
      metadata: { ticket: "42" },
      timeout_s: 100,
      runs: 0,
      ended_at: null,
    });
    expect(Date.parse(view.expires_at ?? "") - Date.parse(view.created_at)).toBe(100_000);
    expect(types(await log(session))).toEqual(["session.created", "session.started", "session.idle"]);
    await eventually(async () => {
      const row = await env.INDEX.prepare("SELECT * FROM sessions WHERE id = ?").bind(id).first();
      expect(row).toMatchObject({ id, agent: "shell", state: "idle", metadata: '{"ticket":"42"}' });
    });
    expect(value(await session.sandboxId())).toBe(id.replace("_", "-"));
  });

  it("is created once: the same body again answers it, another is refused", async () => {
    const { session, id } = await created({ metadata: { a: "1" } });
    expect(value(await session.create(id, { agent: "shell", metadata: { a: "1" } })).id).toBe(id);
    expect(await session.create(id, { agent: "shell" })).toMatchObject({
      ok: false,
      status: 409,
      code: "idempotency_mismatch",
    });
  });

  it("is created once also when another body comes at the same moment", async () => {
    const { id, session } = fresh();
    const results = await Promise.all([
      session.create(id, { agent: "shell", timeout_s: 60 }),
      session.create(id, { agent: "shell", timeout_s: 61 }),
      session.create(id, { agent: "shell", timeout_s: 60 }),
    ]);
    const [first, second, third] = results.map((result) => (result.ok ? result.value.timeout_s : result.code));
    expect([first, second, third]).toEqual([60, "idempotency_mismatch", 60]);
  });

  it("leaves nothing behind when its request is refused", async () => {
    const { session, id, fake } = fresh();
    const bodies: [unknown, string, string][] = [
      [{ agent: "nobody" }, "unknown_agent", "/agent"],
      [{ agent: "shell", timeout_s: 0 }, "out_of_range", "/timeout_s"],
      [{ agent: "shell", files: [{ path: "/etc/passwd", content: "" }] }, "path_outside_workspace", "/files/0/path"],
      [
        { agent: "shell", files: [{ path: "/workspace/../etc/x", content: "" }] },
        "path_outside_workspace",
        "/files/0/path",
      ],
    ];
    for (const [body, code, field] of bodies) {
      expect(await session.create(id, body as CreateSessionBody)).toMatchObject({
        ok: false,
        status: 400,
        code,
        field,
      });
    }
    expect(await session.view()).toMatchObject({ ok: false, status: 404, code: "session_not_found" });
    expect((await session.fetch(new Request("http://session/events"))).status).toBe(404);
    expect(fake.commands).toEqual([]);
    const tables = await runInDurableObject(session, (_, state) => [
      ...state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'"),
    ]);
    expect(tables).toEqual([]);
    value(await session.create(id, { agent: "shell" }));
  });

  it("ends: the sandbox is destroyed, the log stays, nothing more is taken", async () => {
    const { session, fake, id } = await created();
    const view = value(await session.end());
    expect(view).toMatchObject({ state: "ended", ended_reason: "deleted" });
    expect(fake.running).toBe(false);
    expect(value(await session.end())).toEqual(view);
    expect(await session.createRun({ command: "x" })).toMatchObject({ ok: false, status: 409, code: "session_ended" });
    expect(await session.sandboxId()).toMatchObject({ ok: false, code: "session_ended" });
    const events = await log(session);
    expectGapless(events);
    expect(types(events).at(-1)).toBe("session.ended");
    await eventually(async () => {
      expect(await env.INDEX.prepare("SELECT state FROM sessions WHERE id = ?").bind(id).first("state")).toBe("ended");
    });
  });

  it("has its sandbox destroyed by the alarm when its object dies meanwhile", async () => {
    const { id, session, fake } = await created();
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    fake.stuck = true;
    const ending = session.end().catch(() => null);
    await eventually(async () => expect(value(await session.view()).state).toBe("ending"));
    const due = await runInDurableObject(session, (_, state) => state.storage.getAlarm());
    expect((due ?? Number.POSITIVE_INFINITY) - Date.now()).toBeLessThanOrEqual(15_000);
    await abortAllDurableObjects();
    fake.stuck = false;
    fake.wake();
    await ending;
    expect(await runDurableObjectAlarm(stub(id))).toBe(true);
    await eventually(async () => expect(fake.running).toBe(false));
    await eventually(async () => expect(value(await stub(id).view()).state).toBe("ended"));
  });

  it("ends by its time-out", async () => {
    const { session } = await created({ timeout_s: 1 });
    await eventually(async () => expect(value(await session.view()).state).toBe("ended"));
    expect(value(await session.view()).ended_reason).toBe("timeout");
  });

  it("is extended", async () => {
    const { session } = await created({ timeout_s: 50 });
    const view = value(await session.update({ timeout_s: 500 }));
    expect(view.timeout_s).toBe(500);
    expect(Date.parse(view.expires_at ?? "")).toBeGreaterThan(Date.now() + 400_000);
    expect(await session.update({ timeout_s: 0 })).toMatchObject({ ok: false, status: 400, code: "out_of_range" });
  });

  it("says why when its sandbox does not start", async () => {
    const fixture = fresh();
    fixture.fake.failing = { text: "mkdir -p /workspace", times: 3 };
    value(await fixture.session.create(fixture.id, { agent: "shell" }));
    value(await fixture.session.createRun({ command: "true" }));
    await eventually(async () => expect(value(await fixture.session.view()).state).toBe("ended"));
    const [ended, last] = (await log(fixture.session)).slice(-2);
    expect(ended).toMatchObject({ type: "run.cancelled", reason: "sandbox_failed" });
    expect(String((ended?.["error"] as { message?: string })?.message)).toContain("scripted failure");
    expect(last).toMatchObject({ type: "session.ended", reason: "sandbox_failed" });
    expect(String(last?.["message"])).toContain("scripted failure");
  });
});

describe("a run", () => {
  it("goes from queued to its outcome, with artifacts, diff and digests", async () => {
    const { session, fake, id } = await running();
    const big = new Uint8Array(300_000).map((_, i) => (i * 7) & 255);
    fake.changes = [
      { path: "src/new file.txt", status: "A", content: new TextEncoder().encode("new\n") },
      { path: "it's.bin", status: "M", content: big, mode: "100755" },
      { path: "gone.txt", status: "D", content: new Uint8Array() },
      { path: "link", status: "A", content: new TextEncoder().encode("/etc/passwd"), mode: "120000" },
      { path: "empty", status: "A", content: new Uint8Array() },
    ];
    // Not UTF-8: a diff is as much in no encoding as the files are.
    fake.diff = "diff --git a/x b/x\n+caf\xe9\n";
    fake.output(1, "hello\nworld\n");
    fake.output(1, "oops\n", "stderr");
    fake.exit(1, { reason: "exited", exit_code: 0 });
    const run = await ended(session);
    expect(run).toMatchObject({ id: "run_1", session_id: id, state: "succeeded", command: "work", exit_code: 0 });
    expect(run.usage).toMatchObject({ input_tokens: 0, cost_usd: 0 });
    const events = await log(session, true);
    expectGapless(events);
    const outcome = types(events).indexOf("run.succeeded");
    expect(outcome).toBe(types(events).lastIndexOf("artifact.stored") + 1);
    const text = (type: string): string =>
      events
        .filter((event) => event["type"] === type)
        .map((event) => event["text"])
        .join("");
    expect(text("output.stdout")).toBe("hello\nworld\n");
    expect(text("output.stderr")).toBe("oops\n");
    expect(
      events.filter(({ type }) => type === "file.changed").map(({ path, status, size }) => [path, status, size]),
    ).toEqual([
      ["src/new file.txt", "added", 4],
      ["it's.bin", "modified", 300_000],
      ["gone.txt", "deleted", undefined],
      ["link", "added", 11],
      ["empty", "added", 0],
    ]);
    const artifacts = value(await session.artifacts());
    expect(artifacts.map(({ path, size, mode }) => [path, size, mode])).toEqual([
      ["empty", 0, "0644"],
      ["it's.bin", 300_000, "0755"],
      ["src/new file.txt", 4, "0644"],
    ]);
    for (const artifact of artifacts) {
      const object = await env.ARTIFACTS.get(artifact.key);
      const bytes = new Uint8Array((await object?.arrayBuffer()) ?? new ArrayBuffer());
      expect(artifact.sha256).toBe(Buffer.from(await crypto.subtle.digest("SHA-256", bytes)).toString("hex"));
      expect(bytes.byteLength).toBe(artifact.size);
      expect(artifact.key).toBe(`sessions/${id}/runs/run_1/files/${artifact.path}`);
    }
    expect(await diff(session, "run_1")).toBe(fake.diff);
    expect(await diff(session)).toBe(fake.diff);
    expect(await (await env.ARTIFACTS.get(`sessions/${id}/runs/run_1/stdout.jsonl`))?.text()).toBe("hello\nworld\n");
    expect(await (await env.ARTIFACTS.get(`sessions/${id}/runs/run_1/stderr.txt`))?.text()).toBe("oops\n");
    expect(await (await env.ARTIFACTS.get(`sessions/${id}/runs/run_1/manifest.json`))?.json()).toMatchObject({
      run: "run_1",
    });
    value(await session.end());
    expect(await diff(session)).toBe(fake.diff);
  });

  it("carries the agent's own line once, byte for byte", async () => {
    const { session, fake } = await running({ agent: "claude-code" }, { prompt: "hi" });
    expect(fake.files.get("/var/lib/caisson/runs/run_1/prompt")).toBe("hi");
    const init =
      '{"subtype":"init","type":"system","session_id":"s-1","model":"m","tools":["Bash"],"cwd":"/workspace","n":1.50}';
    const result =
      '{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"s-1","num_turns":1,"total_cost_usd":0.25,"usage":{"input_tokens":3,"output_tokens":4}}';
    fake.output(1, `${init}\nnot json\n`);
    fake.output(1, result);
    fake.output(1, "\n");
    fake.exit(1, { reason: "exited", exit_code: 0 });
    expect(await ended(session)).toMatchObject({ state: "succeeded", result: "done", prompt: "hi" });
    const { events } = value(await session.events(0, 1_000, true));
    expect(events.find(({ type }) => type === "agent.init")?.json).toContain(`,"raw":${init}}`);
    expect(events.find(({ type }) => type === "raw")?.json).toContain(',"raw":"not json"}');
    expect(events.filter(({ json }) => json.includes(`"raw":${result}`))).toHaveLength(1);
    const plain = value(await session.events(0, 1_000, false)).events;
    expect(plain.some(({ json }) => json.includes('"raw":{'))).toBe(false);
  });

  it("waits for the one before it, in order", async () => {
    const { session, fake } = await running();
    value(await session.createRun({ command: "second" }));
    expect(value(await session.runs()).map(({ state }) => state)).toEqual(["running", "queued"]);
    fake.exit(1, { reason: "exited", exit_code: 3 });
    expect(await ended(session)).toMatchObject({ state: "failed", exit_code: 3 });
    await eventually(async () => expect(value(await session.run("run_2")).state).toBe("running"));
    fake.exit(2, { reason: "exited", exit_code: 0 });
    expect((await ended(session, "run_2")).state).toBe("succeeded");
    expectGapless(await log(session));
  });

  it("is cancelled", async () => {
    const { session, fake } = await running();
    fake.output(1, "partial");
    value(await session.cancelRun("run_1"));
    expect((await ended(session)).state).toBe("cancelled");
    expect(fake.run(1).killed).toBe("cancelled");
    expect(await session.cancelRun("run_1")).toMatchObject({ ok: false, status: 409, code: "run_over" });
    expect(await session.cancelRun("run_9")).toMatchObject({ ok: false, status: 404, code: "run_not_found" });
    expect(await session.run("nonsense")).toMatchObject({ ok: false, status: 404 });
  });

  it("takes an idempotency key", async () => {
    const { session } = await created();
    const first = value(await session.createRun({ command: "x" }, "key-1"));
    expect(value(await session.createRun({ command: "x" }, "key-1")).id).toBe(first.id);
    expect(await session.createRun({ command: "y" }, "key-1")).toMatchObject({
      ok: false,
      status: 409,
      code: "idempotency_mismatch",
    });
    expect(value(await session.runs())).toHaveLength(1);
  });

  it("is refused with its field, and no run is made", async () => {
    const { session } = await created();
    expect(await session.createRun({ prompt: "x" } as CreateRunBody)).toMatchObject({ ok: false, status: 400 });
    expect(await session.createRun({ command: "x", timeout_s: 0 })).toMatchObject({
      ok: false,
      code: "out_of_range",
      field: "/timeout_s",
    });
    expect(value(await session.runs())).toEqual([]);
  });

  it("loses nothing and repeats nothing when its stream breaks again and again", async () => {
    const { session, fake } = await running();
    fake.cutAfter = 700;
    const lines = Array.from({ length: 200 }, (_, i) => `line ${i} ${"x".repeat(i % 17)}\n`).join("");
    fake.output(1, lines);
    fake.exit(1, { reason: "exited", exit_code: 0 });
    expect((await ended(session)).state).toBe("succeeded");
    expect(fake.follows).toBeGreaterThan(3);
    const events = await log(session);
    expectGapless(events);
    expect(
      events
        .filter(({ type }) => type === "output.stdout")
        .map(({ text }) => text)
        .join(""),
    ).toBe(lines);
  });

  it("goes on after its object was evicted", async () => {
    const { session, fake, id } = await running();
    fake.output(1, "before\nhalf a ");
    await eventually(async () => expect(types(await log(session))).toContain("output.stdout"));
    const before = await log(session);
    await abortAllDurableObjects();
    fake.output(1, "line\nafter\n");
    fake.exit(1, { reason: "exited", exit_code: 0 });
    const again = stub(id);
    expect((await ended(again)).state).toBe("succeeded");
    const events = await log(again);
    expect(events.slice(0, before.length)).toEqual(before);
    expectGapless(events);
    expect(
      events
        .filter(({ type }) => type === "output.stdout")
        .map(({ text }) => text)
        .join(""),
    ).toBe("before\nhalf a line\nafter\n");
  });

  it("is taken up by the alarm, without any request", async () => {
    const { id, fake } = await running();
    await abortAllDurableObjects();
    fake.output(1, "alone\n");
    fake.exit(1, { reason: "exited", exit_code: 0 });
    expect(await runDurableObjectAlarm(stub(id))).toBe(true);
    expect((await ended(stub(id))).state).toBe("succeeded");
  });

  it("is never called a success when its sandbox dies", async () => {
    const { session, fake } = await running();
    fake.output(1, "so far\n");
    await eventually(async () => expect(types(await log(session))).toContain("output.stdout"));
    fake.die();
    expect((await ended(session)).state).toBe("interrupted");
    expect(value(await session.view())).toMatchObject({ state: "ended", ended_reason: "sandbox_lost" });
    expect((await log(session)).some(({ text }) => text === "so far\n")).toBe(true);
  });

  it("is not looked for in a fresh sandbox of the same name", async () => {
    const { session, fake } = await running();
    // The fake's fresh sandbox has a spool, as no real one has: it must not be there before the old one is followed.
    await eventually(async () => expect(fake.follows).toBe(1));
    fake.die();
    fake.start();
    fake.exit(1, { reason: "exited", exit_code: 0 });
    expect((await ended(session)).state).toBe("interrupted");
    await eventually(async () => expect(fake.running).toBe(false));
  });

  it("lists every artifact in its manifest, also those of an attempt that broke off", async () => {
    const { id, session, fake } = await running();
    fake.changes = ["a", "b", "c"].map((path) => ({ path, status: "A", content: Buffer.from(path) }));
    fake.cutFiles = 2;
    fake.exit(1, { reason: "exited", exit_code: 0 });
    expect((await ended(session)).state).toBe("succeeded");
    const manifest = await (await env.ARTIFACTS.get(`sessions/${id}/runs/run_1/manifest.json`))?.json();
    const paths = (manifest as { artifacts: { path: string }[] }).artifacts.map(({ path }) => path);
    expect(paths).toEqual(["a", "b", "c"]);
    expect(types(await log(session)).filter((type) => type === "artifact.stored")).toHaveLength(3);
  });

  it("shows its own events alone when asked to, and says where they end", async () => {
    const { session, fake } = await running();
    fake.exit(1, { reason: "exited", exit_code: 0 });
    await ended(session);
    const page = value(await session.events(0, 100, false, "run_1"));
    expect(page.ended).toBe(true);
    expect(page.events.map(({ type }) => type)).toEqual(["run.queued", "run.started", "run.succeeded"]);
    expect(value(await session.events(0, 2, false, "run_1")).ended).toBe(false);
  });

  it("keeps its outcome when collecting fails", async () => {
    const { session, fake } = await running();
    fake.failing = { text: "git diff-tree", times: 3 };
    fake.exit(1, { reason: "exited", exit_code: 0 });
    expect((await ended(session)).state).toBe("succeeded");
    const warning = (await log(session)).find(({ type }) => type === "limit.warning");
    expect(String(warning?.["detail"])).toContain("scripted failure");
  });

  it("says why it did not start, and the next one does", async () => {
    const { session, fake } = await created();
    fake.failing = { text: "caisson-run start", times: 3 };
    value(await session.createRun({ command: "x" }));
    expect(await ended(session)).toMatchObject({ state: "failed", reason: "start_failed" });
    value(await session.createRun({ command: "y" }));
    await eventually(async () => expect(value(await session.run("run_2")).state).toBe("running"));
    fake.exit(2, { reason: "exited", exit_code: 0 });
    expect((await ended(session, "run_2")).state).toBe("succeeded");
  });

  it("ends with what the runner may have meant when its exit record is damaged", async () => {
    const { session, fake } = await running();
    fake.run(1).exit = '{"reason":"sabotage"}';
    fake.wake();
    expect((await ended(session)).state).toBe("interrupted");
  });
});

describe("a core that traps", () => {
  it("is replaced from the last snapshot, and the output is fed to it again", async () => {
    const { session, fake } = await running();
    fake.output(1, "one\n");
    await eventually(async () => expect(types(await log(session))).toContain("output.stdout"));
    const feed = vi.spyOn(Core.prototype, "feed").mockImplementationOnce(() => {
      throw new CoreTrap("scripted trap");
    });
    fake.output(1, "two\n");
    fake.exit(1, { reason: "exited", exit_code: 0 });
    expect((await ended(session)).state).toBe("succeeded");
    feed.mockRestore();
    const events = await log(session);
    expectGapless(events);
    expect(events.filter(({ type }) => type === "output.stdout").map(({ text }) => text)).toEqual(["one\n", "two\n"]);
  });

  it("on the same output every time ends the run, never as a success, and the session goes on", async () => {
    const { session, fake } = await running();
    const feed = vi.spyOn(Core.prototype, "feed").mockImplementation(() => {
      throw new CoreTrap("scripted trap");
    });
    fake.output(1, "poison\n");
    const run = await ended(session);
    feed.mockRestore();
    expect(run).toMatchObject({ state: "interrupted", reason: "runner_lost" });
    expect(fake.run(1).killed).toBe("cancelled");
    value(await session.createRun({ command: "next" }));
    fake.output(2, "fine\n");
    fake.exit(2, { reason: "exited", exit_code: 0 });
    expect((await ended(session, "run_2")).state).toBe("succeeded");
    expectGapless(await log(session));
  });

  it("answers the caller with an error and takes the next call", async () => {
    const { session } = await created();
    const event = vi.spyOn(Core.prototype, "event").mockImplementationOnce(() => {
      throw new CoreTrap("scripted trap");
    });
    expect(await session.update({ timeout_s: 100 })).toMatchObject({ ok: false, status: 500, code: "core_trap" });
    event.mockRestore();
    expect(value(await session.update({ timeout_s: 100 })).timeout_s).toBe(100);
    expectGapless(await log(session));
  });

  it("loses nothing when storage refuses a step", async () => {
    const { session } = await created();
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    const save = vi.spyOn(Core.prototype, "save").mockImplementationOnce(() => {
      throw new Error("scripted: the disk is full");
    });
    expect(await session.createRun({ command: "x" })).toMatchObject({ ok: false, status: 500 });
    save.mockRestore();
    expect(value(await session.runs())).toEqual([]);
    expect(value(await session.createRun({ command: "x" })).id).toBe("run_1");
    expectGapless(await log(session));
  });
});

describe("the index", () => {
  it("has what changed while it was written", async () => {
    const { id, session } = await created();
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    const write = index.writeIndex;
    let open = false;
    vi.spyOn(index, "writeIndex").mockImplementationOnce(async (...row) => {
      while (!open) await new Promise((resolve) => setTimeout(resolve, 2));
      await write(...row);
    });
    value(await session.update({ timeout_s: 1_000 }));
    value(await session.update({ timeout_s: 2_000 }));
    open = true;
    await eventually(async () => {
      const row = await env.INDEX.prepare("SELECT timeout_s FROM sessions WHERE id = ?").bind(id).first();
      expect(row).toEqual({ timeout_s: 2_000 });
    });
  });

  it("is brought up to date by the alarm when D1 refused the row", async () => {
    const fixture = fresh();
    const indexing = vi.spyOn(index, "writeIndex").mockRejectedValue(new Error("scripted: D1 is away"));
    value(await fixture.session.create(fixture.id, { agent: "shell" }));
    await eventually(async () => expect(value(await fixture.session.view()).state).toBe("idle"));
    indexing.mockRestore();
    await runInDurableObject(fixture.session, (_, state) => state.storage.setAlarm(Date.now() + 60_000));
    await runDurableObjectAlarm(fixture.session);
    await eventually(async () => {
      expect(await env.INDEX.prepare("SELECT state FROM sessions WHERE id = ?").bind(fixture.id).first("state")).toBe(
        "idle",
      );
    });
  });
});

describe("the view", () => {
  it("adds up the usage of its runs", async () => {
    const { session, fake } = await running({ agent: "claude-code" }, { prompt: "hi" });
    fake.output(
      1,
      '{"type":"result","subtype":"success","is_error":false,"result":"ok","session_id":"s","num_turns":2,"total_cost_usd":0.5,"usage":{"input_tokens":10,"output_tokens":5}}\n',
    );
    fake.exit(1, { reason: "exited", exit_code: 0 });
    const run = await ended(session);
    const view: SessionView = value(await session.view());
    expect(view.usage).toEqual(run.usage);
    expect(view.usage.cost_usd).toBe(0.5);
    expect(view.runs).toBe(1);
  });
});
