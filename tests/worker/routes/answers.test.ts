/** Good answers: their content, not only their status. */
import { env as bindings } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import type { Env } from "../../../worker/src/env.js";
import { type Rig, rig } from "./fakes.js";

const { INDEX, ARTIFACTS } = bindings as unknown as Pick<Env, "ARTIFACTS" | "INDEX">;

async function sseEvents(response: Response): Promise<{ event: string; data: Record<string, unknown> }[]> {
  expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
  const text = await response.text();
  return text
    .split("\n\n")
    .filter((frame) => frame.startsWith("event: "))
    .map((frame) => {
      const [event = "", data = ""] = frame.split("\n");
      return { event: event.slice(7), data: JSON.parse(data.slice(6)) as Record<string, unknown> };
    });
}

/** What the tests look at one by one. */
interface Answer {
  readonly id: string;
  readonly code: string;
  readonly state: string;
  readonly duration_ms: number;
  readonly stdout: string;
}

async function body(response: Response): Promise<Answer> {
  return (await response.json()) as Answer;
}

const SSE = { headers: { accept: "text/event-stream" } };

describe("sessions", () => {
  it("creates, shows, extends and ends one", async () => {
    const rigged = rig();
    const created = await rigged.call("POST", "/v1/sessions", {
      agent: "claude-code",
      files: [
        { path: "./a//b/../c.txt", content: "x" },
        { path: "/tmp/t", content: "eA==", encoding: "base64", mode: "0755" },
      ],
      metadata: { ticket: "42" },
    });
    expect(created.status).toBe(201);
    const session = await body(created);
    expect(session).toMatchObject({ agent: "claude-code", state: "idle", metadata: { ticket: "42" } });
    expect(session.id).toMatch(/^ses_[a-z2-7]{20}$/);
    expect(created.headers.get("location")).toBe(`/v1/sessions/${session.id}`);
    expect(created.headers.get("cache-control")).toBe("no-store");
    expect(created.headers.get("x-content-type-options")).toBe("nosniff");
    expect(created.headers.get("access-control-allow-origin")).toBeNull();
    const fake = rigged.sessions.get(session.id);
    expect(fake?.request?.files?.map((file) => file.path)).toEqual(["/workspace/a/c.txt", "/tmp/t"]);
    const path = `/v1/sessions/${session.id}`;
    expect(await body(await rigged.call("GET", path))).toMatchObject({ id: session.id });
    expect(await body(await rigged.call("PATCH", path, { timeout_s: 60 }))).toMatchObject({ timeout_s: 60 });
    expect(await body(await rigged.call("DELETE", path))).toMatchObject({ state: "ended" });
    const head = await rigged.call("HEAD", path);
    expect([head.status, await head.text()]).toEqual([200, ""]);
  });

  it("gives the same session for the same Idempotency-Key and body, 409 for another body", async () => {
    const rigged = rig();
    const init = { headers: { "idempotency-key": "order-7" } };
    const first = await body(await rigged.call("POST", "/v1/sessions", { agent: "shell" }, init));
    const again = await body(await rigged.call("POST", "/v1/sessions", { agent: "shell" }, init));
    expect(again.id).toBe(first.id);
    const other = await rigged.call("POST", "/v1/sessions", { agent: "claude-code" }, init);
    expect([other.status, (await body(other)).code]).toEqual([409, "idempotency_mismatch"]);
    const elsewhere = await body(await rigged.call("POST", "/v1/sessions", { agent: "shell" }));
    expect(elsewhere.id).not.toBe(first.id);
  });
});

describe("the list of sessions", () => {
  beforeAll(async () => {
    await INDEX.prepare("DELETE FROM sessions").run();
    const insert = INDEX.prepare(
      "INSERT INTO sessions VALUES (?, 'shell', ?, ?, NULL, NULL, NULL, 60, '{\"n\":\"1\"}', 0, 3, ?, '')",
    );
    const rows = Array.from({ length: 7 }, (_, n) => {
      // Rows 3 and 4 share their time: the id decides.
      const time = `2026-08-01T12:00:0${n === 4 ? 3 : n}.000Z`;
      return insert.bind(`ses_${n}`, n % 2 === 0 ? "idle" : "ended", time, time);
    });
    await INDEX.batch(rows);
  });

  async function pages(rigged: Rig, query: string): Promise<string[][]> {
    const found: string[][] = [];
    let cursor: string | null = "";
    while (cursor !== null) {
      const page = await rigged.call("GET", `/v1/sessions?${query}${cursor === "" ? "" : `&cursor=${cursor}`}`);
      expect(page.status).toBe(200);
      const value = (await page.json()) as { sessions: { id: string }[]; next_cursor: string | null };
      found.push(value.sessions.map((session) => session.id));
      cursor = value.next_cursor;
    }
    return found;
  }

  it("pages newest first, without a gap and without repeating", async () => {
    expect(await pages(rig(), "limit=3")).toEqual([
      ["ses_6", "ses_5", "ses_4"],
      ["ses_3", "ses_2", "ses_1"],
      ["ses_0"],
    ]);
    expect(await pages(rig(), "limit=7")).toEqual([["ses_6", "ses_5", "ses_4", "ses_3", "ses_2", "ses_1", "ses_0"]]);
    expect(await pages(rig(), "limit=2&state=ended")).toEqual([["ses_5", "ses_3"], ["ses_1"]]);
  });
  it("shows what the index knows", async () => {
    const { sessions } = (await (await rig().call("GET", "/v1/sessions?limit=1")).json()) as { sessions: unknown[] };
    expect(sessions[0]).toEqual({
      id: "ses_6",
      agent: "shell",
      state: "idle",
      created_at: "2026-08-01T12:00:06.000Z",
      expires_at: null,
      ended_at: null,
      ended_reason: null,
      timeout_s: 60,
      metadata: { n: "1" },
      runs: 0,
      last_seq: 3,
    });
  });
});

describe("runs", () => {
  it("queues, lists, shows and cancels", async () => {
    const rigged = rig();
    const { id } = await rigged.session();
    const path = `/v1/sessions/${id}/runs`;
    const queued = await rigged.call("POST", path, { prompt: "Do it", max_turns: 3 });
    expect(queued.status).toBe(202);
    expect(queued.headers.get("location")).toBe(`${path}/run_1`);
    expect(await body(queued)).toMatchObject({ id: "run_1", state: "queued", prompt: "Do it" });
    await rigged.call("POST", path, { command: "true" });
    const { runs } = (await (await rigged.call("GET", path)).json()) as { runs: { id: string }[] };
    expect(runs.map((run) => run.id)).toEqual(["run_1", "run_2"]);
    expect(await body(await rigged.call("GET", `${path}/run_2`))).toMatchObject({ command: "true" });
    expect(await body(await rigged.call("POST", `${path}/run_1/cancel`))).toMatchObject({ state: "cancelled" });
  });
  it("passes the Idempotency-Key on", async () => {
    const rigged = rig();
    const { id, fake } = await rigged.session();
    const init = { headers: { "idempotency-key": "k" } };
    for (let n = 0; n < 2; n += 1) await rigged.call("POST", `/v1/sessions/${id}/runs`, { command: "true" }, init);
    expect(fake.runList).toHaveLength(1);
  });
  it("waits for the end when asked to", async () => {
    const rigged = rig();
    const { id, fake } = await rigged.session();
    fake.pollsToEnd = 3;
    const waited = await rigged.call(
      "POST",
      `/v1/sessions/${id}/runs`,
      { command: "true" },
      { headers: { prefer: "wait=20" } },
    );
    expect([waited.status, (await body(waited)).state]).toEqual([200, "succeeded"]);
    expect(waited.headers.get("preference-applied")).toBe("wait");
    fake.pollsToEnd = Number.POSITIVE_INFINITY;
    const short = await rigged.call(
      "POST",
      `/v1/sessions/${id}/runs`,
      { command: "true" },
      { headers: { prefer: "respond-async, wait=1" } },
    );
    expect([short.status, (await body(short)).state]).toEqual([202, "queued"]);
  });
});

describe("events", () => {
  const line = (seq: number): string =>
    `{"seq":${seq},"time_ms":1,"type":"raw","n":1.0,"raw":{"b": 1e2,"a":"\\u00e9"}}`;
  it("pages without touching an event's text", async () => {
    const rigged = rig();
    const { id, fake } = await rigged.session();
    for (let seq = 1; seq <= 5; seq += 1) fake.log.push({ seq, type: "raw", json: line(seq) });
    const page = await (await rigged.call("GET", `/v1/sessions/${id}/events?after=1&limit=2`)).text();
    expect(page).toBe(`{"events":[${line(2)},${line(3)}],"last_seq":5,"next_after":3,"ended":false}`);
    const bare = (await (await rigged.call("GET", `/v1/sessions/${id}/events?raw=false`)).json()) as {
      events: object[];
    };
    expect(bare.events[0]).toEqual({ seq: 1, time_ms: 1, type: "raw", n: 1 });
    const none = await body(await rigged.call("GET", `/v1/sessions/${id}/events?after=5`));
    expect(none).toEqual({ events: [], last_seq: 5, next_after: 5, ended: false });
  });
  it("pages through one run", async () => {
    const rigged = rig();
    const { id, fake } = await rigged.session();
    for (const [seq, run] of [
      [1, "run_1"],
      [2, "run_2"],
      [3, "run_1"],
    ] as const)
      fake.log.push({ seq, type: "raw", json: `{"seq":${seq},"time_ms":1,"run":"${run}","type":"raw"}` });
    const page = await (await rigged.call("GET", `/v1/sessions/${id}/events?run=run_1`)).json();
    expect(page).toMatchObject({ events: [{ seq: 1 }, { seq: 3 }], last_seq: 3, next_after: 3 });
  });
  it("says that the log has ended only on its last page", async () => {
    const rigged = rig();
    const { id, fake } = await rigged.session();
    for (let seq = 1; seq <= 3; seq += 1) fake.log.push({ seq, type: "raw", json: line(seq) });
    await rigged.call("DELETE", `/v1/sessions/${id}`);
    expect(await body(await rigged.call("GET", `/v1/sessions/${id}/events?limit=2`))).toMatchObject({
      next_after: 2,
      ended: false,
    });
    expect(await body(await rigged.call("GET", `/v1/sessions/${id}/events?after=2`))).toMatchObject({
      next_after: 3,
      ended: true,
    });
  });
  it("hands SSE and WebSocket to the object, without the API key", async () => {
    const rigged = rig({ CAISSON_API_KEY: "k3y" });
    const auth = { authorization: "Bearer k3y" };
    const created = await body(await rigged.call("POST", "/v1/sessions", { agent: "shell" }, { headers: auth }));
    const path = `/v1/sessions/${created.id}/events?after=4`;
    const stream = await rigged.call("GET", path, undefined, {
      headers: { ...auth, accept: "text/event-stream", "last-event-id": "3" },
    });
    expect(await stream.text()).toBe('id: 1\nevent: session.created\ndata: {"seen":"3 null"}\n\n');
    const upgraded = await rigged.call("GET", path, undefined, { headers: { ...auth, upgrade: "websocket" } });
    expect(upgraded.status).toBe(101);
    const socket = upgraded.webSocket;
    const message = new Promise((resolve) => socket?.addEventListener("message", (event) => resolve(event.data)));
    socket?.accept();
    expect(await message).toBe("after 4");
    socket?.close();
  });
});

describe("exec", () => {
  it("gives exit code and both streams", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    sandbox().script = async function* () {
      yield { type: "start" };
      yield { type: "stdout", data: "a\n" };
      yield { type: "stderr", data: "oops" };
      yield { type: "stdout", data: "é" };
      yield { type: "complete", exitCode: 3 };
    };
    const answer = await rigged.call("POST", `/v1/sessions/${id}/exec`, {
      argv: ["echo", "it's", "$HOME"],
      cwd: "sub",
      env: { A: "1" },
    });
    const { duration_ms, ...rest } = await body(answer);
    expect(rest).toEqual({ exit_code: 3, stdout: "a\né", stderr: "oops", timed_out: false });
    expect(duration_ms).toBeGreaterThanOrEqual(0);
    const [command] = sandbox().commands;
    expect(command).toMatchObject({ cwd: "/workspace/sub", env: { A: "1" }, timeout: 120_000 });
    expect(command?.command).toMatch(/^'echo' 'it'\\''s' '\$HOME'\n# caisson-exec-[0-9a-f-]+$/);
  });
  it("feeds standard input from a file that is the command's own", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "cat", stdin: "'; rm -rf / #\0" });
    const [path, bytes] = [...sandbox().files][0] ?? [];
    expect(new TextDecoder().decode(bytes)).toBe("'; rm -rf / #\0");
    expect(sandbox().commands[0]?.command.startsWith(`exec <${path} && rm -f ${path}; cat\n# `)).toBe(true);
  });
  it("kills the process tree of a command that takes too long, and no other", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    const box = sandbox();
    box.processes.push({ id: "proc_other", command: "sleep 1000" });
    const killed = new Promise<void>((resolve) => {
      box.onKill = resolve;
    });
    box.script = async function* () {
      yield { type: "stdout", data: "before" };
      await killed;
      yield { type: "complete", exitCode: 137 };
    };
    const answer = await body(
      await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "sleep 1000", timeout_s: 1 }),
    );
    expect(answer).toMatchObject({ exit_code: 124, timed_out: true, stdout: "before" });
    expect(answer.duration_ms).toBeGreaterThanOrEqual(1_000);
    expect(box.killed).toEqual(["proc_1"]);
  });
  it("streams output as events", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    sandbox().script = async function* () {
      yield { type: "stdout", data: "one\ntwo\n" };
      yield { type: "stderr", data: "\r\n" };
      yield { type: "complete", exitCode: 0 };
    };
    const events = await sseEvents(await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "x" }, SSE));
    expect(events.slice(0, 2)).toEqual([
      { event: "stdout", data: { data: "one\ntwo\n" } },
      { event: "stderr", data: { data: "\r\n" } },
    ]);
    expect(events[2]).toMatchObject({ event: "exit", data: { exit_code: 0, timed_out: false } });
  });
  it("ends the command when the client leaves", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    sandbox().script = async function* () {
      for (;;) {
        yield { type: "stdout", data: "tick\n" };
        await scheduler.wait(5);
      }
    };
    const answer = await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "yes" }, SSE);
    const reader = answer.body?.getReader();
    await reader?.read();
    await reader?.cancel();
    await rigged.settle();
    expect(sandbox().killed).toEqual(["proc_1"]);
  });
  it("ends it also when the client waits for JSON", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    const box = sandbox();
    const leave = new AbortController();
    box.script = async function* () {
      leave.abort();
      yield await new Promise<object>(() => undefined);
    };
    await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "yes" }, { signal: leave.signal });
    expect(box.killed).toEqual(["proc_1"]);
  });
  it("bounds what it keeps and says so", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    sandbox().script = async function* () {
      for (let n = 0; n < 20; n += 1) yield { type: "stdout", data: "x".repeat(1 << 20) };
      yield { type: "complete", exitCode: 0 };
    };
    const answer = await body(await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "x" }));
    expect(answer.stdout.length).toBe(16 << 20);
    expect(answer).toMatchObject({ truncated: true, exit_code: 0 });
  });
  it("reports a lost sandbox as that", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    sandbox().script = async function* () {
      yield { type: "stdout", data: "a" };
    };
    const answer = await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "x" });
    expect([answer.status, (await body(answer)).code]).toEqual([502, "sandbox_error"]);
  });
  it("refuses in a session that has ended", async () => {
    const rigged = rig();
    const { id } = await rigged.session();
    await rigged.call("DELETE", `/v1/sessions/${id}`);
    const answer = await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "x" });
    expect([answer.status, (await body(answer)).code]).toEqual([410, "session_ended"]);
  });
});

describe("files", () => {
  const bytes = new Uint8Array(200_000).map((_, n) => (n * 31 + (n >> 8)) & 255);

  it("keeps every byte, in and out", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    const path = `/v1/sessions/${id}/files/a%20dir/b%2525.bin`;
    const put = await rigged.call("PUT", path, bytes);
    expect(put.status).toBe(201);
    expect(await body(put)).toEqual({ path: "/workspace/a dir/b%25.bin", size: bytes.byteLength });
    expect(put.headers.get("location")).toBe(path);
    expect(sandbox().files.get("/workspace/a dir/b%25.bin")).toEqual(bytes);
    const got = await rigged.call("GET", path);
    expect(got.headers.get("content-type")).toBe("application/octet-stream");
    expect(new Uint8Array(await got.arrayBuffer())).toEqual(bytes);
  });
  it("takes an empty file, a text file with a code point on every boundary, and /tmp", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    await rigged.call("PUT", `/v1/sessions/${id}/files/empty.txt`, new Uint8Array());
    const empty = await rigged.call("GET", `/v1/sessions/${id}/files/empty.txt`);
    expect([empty.status, empty.headers.get("content-type"), await empty.text()]).toEqual([
      200,
      "text/plain; charset=utf-8",
      "",
    ]);
    await rigged.call("PUT", `/v1/sessions/${id}/files//tmp/x.bin`, new Uint8Array([0, 255]));
    expect(sandbox().files.get("/tmp/x.bin")).toEqual(new Uint8Array([0, 255]));
  });
  it("takes a name with a line break", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    const put = await rigged.call("PUT", `/v1/sessions/${id}/files/a%0Ab`, new Uint8Array([1]));
    expect([put.status, put.headers.get("location")]).toEqual([201, `/v1/sessions/${id}/files/a%0Ab`]);
    expect([...sandbox().files.keys()]).toEqual(["/workspace/a\nb"]);
    expect((await rigged.call("GET", `/v1/sessions/${id}/files/a%0Ab`)).status).toBe(200);
  });
  it("puts a long file together from parts", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    const long = new Uint8Array((17 << 20) + 3).map((_, n) => (n * 7 + (n >> 16)) & 255);
    expect((await rigged.call("PUT", `/v1/sessions/${id}/files/it's.bin`, long)).status).toBe(201);
    expect(sandbox().writes).toHaveLength(3);
    expect([...sandbox().files.keys()].filter((name) => name.startsWith("/tmp/"))).toEqual([]);
  });
  it("refuses more than it takes, whatever the headers say", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    let left = 40;
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        left -= 1;
        if (left === 0) controller.close();
        else controller.enqueue(new Uint8Array(1 << 20));
      },
    });
    const answer = await rigged.call("PUT", `/v1/sessions/${id}/files/big`, stream);
    expect([answer.status, (await body(answer)).code]).toEqual([413, "body_too_large"]);
    expect(sandbox().files.size).toBe(0);
  });
  it("creates only where asked to", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    const init = { headers: { "if-none-match": "*" } };
    expect((await rigged.call("PUT", `/v1/sessions/${id}/files/a.txt`, "one", init)).status).toBe(201);
    const second = await rigged.call("PUT", `/v1/sessions/${id}/files/a.txt`, "two", init);
    expect([second.status, (await body(second)).code]).toEqual([412, "file_exists"]);
    expect(new TextDecoder().decode(sandbox().files.get("/workspace/a.txt"))).toBe("one");
  });
  it("does not let a browser run what a sandbox wrote", async () => {
    const rigged = rig();
    const { id } = await rigged.session();
    await rigged.call("PUT", `/v1/sessions/${id}/files/x%22.html`, "<script>alert(1)</script>");
    const page = await rigged.call("GET", `/v1/sessions/${id}/files/x%22.html`);
    expect(page.headers.get("content-disposition")).toBe("attachment; filename*=UTF-8''x%22.html");
    expect(page.headers.get("x-content-type-options")).toBe("nosniff");
    expect(page.headers.get("content-security-policy")).toContain("sandbox");
    expect(await page.text()).toBe("<script>alert(1)</script>");
  });
  it("lists, renames, makes directories, deletes", async () => {
    const rigged = rig();
    const { id, sandbox } = await rigged.session();
    const files = `/v1/sessions/${id}/files`;
    await rigged.call("PUT", `${files}/a.txt`, "abc");
    await rigged.call("PUT", `${files}/d/b.txt`, "x");
    const flat = (await (await rigged.call("GET", files)).json()) as { path: string; files: object[] };
    expect(flat).toEqual({
      path: "/workspace",
      files: [
        {
          name: "a.txt",
          path: "/workspace/a.txt",
          type: "file",
          size: 3,
          modified_at: "2026-08-01T12:00:00.123Z",
          mode: "rw-r--r--",
        },
      ],
    });
    const deep = (await (await rigged.call("GET", `${files}?recursive=true`)).json()) as { files: object[] };
    expect(deep.files).toHaveLength(2);
    expect(await body(await rigged.call("POST", `${files}/a.txt?op=rename&to=c.txt`))).toEqual({
      path: "/workspace/c.txt",
    });
    expect(sandbox().files.has("/workspace/c.txt")).toBe(true);
    expect((await rigged.call("POST", `${files}/n/m?op=mkdir`)).status).toBe(200);
    expect(sandbox().directories.has("/workspace/n/m")).toBe(true);
    const directory = await rigged.call("DELETE", `${files}/n/m`);
    expect([directory.status, (await body(directory)).code]).toEqual([400, "is_directory"]);
    expect((await rigged.call("DELETE", `${files}/n/m?recursive=true`)).status).toBe(204);
    expect((await rigged.call("DELETE", `${files}/c.txt`)).status).toBe(204);
    expect(sandbox().files.has("/workspace/c.txt")).toBe(false);
  });
});

describe("results", () => {
  async function sha256(text: string): Promise<string> {
    return Buffer.from(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))).toString("hex");
  }
  async function withArtifacts(): Promise<{ rigged: Rig; id: string }> {
    const rigged = rig();
    const { id, fake } = await rigged.session();
    const stored: [string, string, string, string][] = [
      ["run_1", "out/é.txt", "old", "0644"],
      ["run_1", "tool", "#!/bin/sh\n", "0755"],
      ["run_2", "out/é.txt", "newer", "0644"],
      ["run_2", `${"deep/".repeat(40)}f`, "far", "0644"],
    ];
    for (const [run, path, text, mode] of stored) {
      const key = `sessions/${id}/runs/${run}/${path}`;
      await ARTIFACTS.put(key, text);
      fake.artifactList.push({ run_id: run, path, size: text.length, sha256: await sha256(text), mode, key });
    }
    fake.runList.push({ id: "run_1" } as never, { id: "run_2" } as never, { id: "run_3" } as never);
    return { rigged, id };
  }

  it("gives the diff of a session or a run", async () => {
    const rigged = rig();
    const { id } = await rigged.session();
    const diff = await rigged.call("GET", `/v1/sessions/${id}/diff?run=run_2`);
    expect([diff.headers.get("content-type"), await diff.text()]).toEqual([
      "text/x-diff; charset=utf-8",
      "diff of run_2\n",
    ]);
    expect(await (await rigged.call("GET", `/v1/sessions/${id}/diff`)).text()).toBe("diff of all\n");
  });
  it("lists artifacts with addresses that work and without the bucket's keys", async () => {
    const { rigged, id } = await withArtifacts();
    const { artifacts } = (await (await rigged.call("GET", `/v1/sessions/${id}/artifacts`)).json()) as {
      artifacts: { url: string; path: string; key?: string; size: number }[];
    };
    expect(artifacts.map((one) => [one.path, one.size, one.key]).slice(0, 2)).toEqual([
      ["out/é.txt", 3, undefined],
      ["tool", 10, undefined],
    ]);
    const texts = await Promise.all(artifacts.map(async ({ url }) => (await rigged.call("GET", url)).text()));
    expect(texts).toEqual(["old", "#!/bin/sh\n", "newer", "far"]);
    const none = await body(await rigged.call("GET", `/v1/sessions/${id}/artifacts?run=run_3`));
    expect(none).toEqual({ artifacts: [] });
  });
  it("gives the newest version with its digest, and 304 to who has it", async () => {
    const { rigged, id } = await withArtifacts();
    const path = `/v1/sessions/${id}/artifacts/out/%C3%A9.txt`;
    const answer = await rigged.call("GET", path);
    const hex = await sha256("newer");
    expect(answer.headers.get("etag")).toBe(`"${hex}"`);
    expect(answer.headers.get("repr-digest")).toBe(`sha-256=:${Buffer.from(hex, "hex").toString("base64")}:`);
    expect(answer.headers.get("content-disposition")).toBe("attachment; filename*=UTF-8''%C3%A9.txt");
    expect(await answer.text()).toBe("newer");
    const again = await rigged.call("GET", path, undefined, { headers: { "if-none-match": `W/"x", "${hex}"` } });
    expect([again.status, await again.text()]).toEqual([304, ""]);
  });
  it("packs the newest of each path into a tar.gz", async () => {
    const { rigged, id } = await withArtifacts();
    const answer = await rigged.call("GET", `/v1/sessions/${id}/artifacts.tar.gz`);
    expect(answer.headers.get("content-type")).toBe("application/gzip");
    const { unpackTar } = await import("modern-tar");
    const entries = await unpackTar(
      (answer.body as ReadableStream<Uint8Array>).pipeThrough(new DecompressionStream("gzip")),
    );
    const shown = entries.map((entry) => [entry.header.name, entry.header.mode, new TextDecoder().decode(entry.data)]);
    expect(shown).toEqual([
      ["out/é.txt", 0o644, "newer"],
      ["tool", 0o755, "#!/bin/sh\n"],
      [`${"deep/".repeat(40)}f`, 0o644, "far"],
    ]);
    await rigged.settle();
  });
});

describe("one-shots", () => {
  it("lays out files, runs the code, destroys the sandbox", async () => {
    const rigged = rig();
    rigged.prepare = (sandbox) => {
      sandbox.script = async function* () {
        yield { type: "stdout", data: "42\n" };
        yield { type: "complete", exitCode: 0 };
      };
    };
    const answer = await body(
      await rigged.call("POST", "/v1/execute", {
        language: "python",
        code: "print(6*7)",
        files: [{ path: "main.py", content: "eA==", encoding: "base64", mode: "0755" }],
        env: { A: "b" },
        stdin: "in",
        timeout_s: 5,
      }),
    );
    const [name, sandbox] = [...rigged.sandboxes][0] ?? [];
    expect(answer).toMatchObject({
      exit_code: 0,
      stdout: "42\n",
      stderr: "",
      timed_out: false,
      language: "python",
      sandbox_id: name,
    });
    expect(name).toMatch(/^one-[a-z2-7]{16}$/);
    expect(new TextDecoder().decode(sandbox?.files.get("/workspace/main-1.py"))).toBe("print(6*7)");
    expect(new TextDecoder().decode(sandbox?.files.get("/workspace/main.py"))).toBe("x");
    const ran = sandbox?.commands.at(-1);
    expect(ran?.command).toContain("'python3' '/workspace/main-1.py'");
    expect(ran).toMatchObject({ env: { PYTHONUNBUFFERED: "1", A: "b" }, cwd: "/workspace", timeout: 5_000 });
    expect(sandbox?.commands[0]?.command).toBe("chmod 0755 -- '/workspace/main.py'");
    expect(sandbox?.destroyed).toBe(1);
  });
  it("destroys the sandbox after an error too", async () => {
    const rigged = rig();
    rigged.prepare = (sandbox) => {
      sandbox.script = async function* () {
        yield { type: "error", error: "no more processes" };
      };
    };
    const answer = await rigged.call("POST", "/v1/execute", { language: "bash", code: "true" });
    expect([answer.status, (await body(answer)).code]).toEqual([502, "sandbox_error"]);
    expect([...rigged.sandboxes.values()][0]?.destroyed).toBe(1);
  });
  it("streams when asked to", async () => {
    const rigged = rig();
    rigged.prepare = (sandbox) => {
      sandbox.script = async function* () {
        yield { type: "stdout", data: "a" };
        yield { type: "complete", exitCode: 7 };
      };
    };
    const events = await sseEvents(
      await rigged.call("POST", "/v1/execute", { language: "typescript", code: "let a: number" }, SSE),
    );
    expect(events[0]).toEqual({ event: "stdout", data: { data: "a" } });
    expect(events[1]).toMatchObject({
      event: "exit",
      data: { exit_code: 7, language: "typescript", sandbox_id: expect.stringMatching(/^one-/) },
    });
    await rigged.settle();
    expect([...rigged.sandboxes.values()][0]?.destroyed).toBe(1);
  });
});
