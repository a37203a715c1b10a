/** The routes over the real Session object, real R2 and D1; only the sandbox is scripted. */
import { runInDurableObject } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import { newSessionId } from "../../../worker/src/routes/ids.js";
import { env } from "../env.js";
import { type ProblemBody, type Rig, rig } from "./fakes.js";

interface View {
  id: string;
  state: string;
  code: string;
  runs: number;
  result: string | null;
}

const real = (): Rig => rig({ SESSION: env.SESSION, SANDBOX: env.SANDBOX });

async function view(response: Response): Promise<View> {
  return (await response.json()) as View;
}

describe("a session from its creation to its end", () => {
  it("is created once, listed, run, read and ended", async () => {
    const rigged = real();
    const key = { headers: { "idempotency-key": crypto.randomUUID() } };
    const request = { agent: "shell", metadata: { n: "1" }, timeout_s: 600 };
    const first = await rigged.call("POST", "/v1/sessions", request, key);
    expect(first.status).toBe(201);
    const { id } = await view(first);
    const path = `/v1/sessions/${id}`;
    // The order of fields does not make another body.
    const again = await rigged.call(
      "POST",
      "/v1/sessions",
      { timeout_s: 600, metadata: { n: "1" }, agent: "shell" },
      key,
    );
    expect((await view(again)).id).toBe(id);
    const other = await rigged.call("POST", "/v1/sessions", { agent: "claude-code" }, key);
    expect([other.status, (await view(other)).code]).toEqual([409, "idempotency_mismatch"]);

    await vi.waitFor(async () => expect((await view(await rigged.call("GET", path))).state).toBe("idle"));
    await vi.waitFor(async () => {
      const { sessions } = (await (await rigged.call("GET", "/v1/sessions?state=idle")).json()) as { sessions: View[] };
      expect(sessions.find((one) => one.id === id)).toMatchObject({ metadata: { n: "1" }, runs: 0, timeout_s: 600 });
    });

    const run = await rigged.call("POST", `${path}/runs`, { command: "echo hi" });
    expect([run.status, run.headers.get("location")]).toEqual([202, `${path}/runs/run_1`]);
    const wrong = await rigged.call("POST", `${path}/runs`, { prompt: "hello" });
    const refusal = (await wrong.json()) as ProblemBody;
    expect([wrong.status, refusal.field]).toEqual([400, "/prompt"]);

    const page = (await (await rigged.call("GET", `${path}/events?limit=3`)).json()) as {
      events: { seq: number; type: string }[];
      next_after: number;
    };
    expect(page.events.map((event) => event.seq)).toEqual([1, 2, 3]);
    expect(page.events[0]?.type).toBe("session.created");
    expect(page.next_after).toBe(3);

    const stream = await rigged.call("GET", `${path}/events?after=1`, undefined, {
      headers: { accept: "text/event-stream" },
    });
    expect(stream.headers.get("content-type")).toContain("text/event-stream");
    const ended = await rigged.call("DELETE", path);
    expect([ended.status, (await view(ended)).state]).toEqual([200, "ended"]);
    const frames = (await stream.text()).split("\n\n").filter((frame) => frame.startsWith("id: "));
    expect(frames[0]).toMatch(/^id: 2\nevent: session\.started\ndata: \{"seq":2,/);
    expect(frames.at(-1)).toMatch(/\nevent: session\.ended\n/);

    expect((await view(await rigged.call("DELETE", path))).state).toBe("ended");
    const transcripts = await rigged.call("GET", `${path}/transcript`);
    expect(await transcripts.json()).toMatchObject({ session: id, runs: [{ run: "run_1", state: "cancelled" }] });
    const one = await rigged.call("GET", `${path}/runs/run_1/transcript`, undefined, {
      headers: { accept: "text/markdown" },
    });
    expect(one.headers.get("content-type")).toBe("text/markdown; charset=utf-8");
    expect(await one.text()).toMatch(/^# Run 1\n/);
    for (const [run, status] of [
      ["run_2", 404],
      ["nonsense", 404],
    ] as const) {
      const none = await rigged.call("GET", `${path}/runs/${run}/transcript`);
      expect([none.status, (await view(none)).code]).toEqual([status, "run_not_found"]);
    }
    const nobody = await rigged.call("GET", `/v1/sessions/${newSessionId()}/transcript`);
    expect([nobody.status, (await view(nobody)).code]).toEqual([404, "session_not_found"]);

    const late = await rigged.call("POST", `${path}/runs`, { command: "true" });
    expect([late.status, (await view(late)).code]).toEqual([409, "session_ended"]);
    const exec = await rigged.call("POST", `${path}/exec`, { command: "true" });
    expect([exec.status, exec.headers.get("content-type")]).toEqual([409, "application/problem+json"]);
    await exec.text();
  });

  it("refuses a stream that begins nowhere, as a problem document", async () => {
    const rigged = real();
    const { id } = await view(await rigged.call("POST", "/v1/sessions", { agent: "shell" }));
    const headers = { accept: "text/event-stream", "last-event-id": "x" };
    const answer = await rigged.call("GET", `/v1/sessions/${id}/events`, undefined, { headers });
    expect([answer.status, answer.headers.get("content-type")]).toEqual([400, "application/problem+json"]);
    expect((await view(answer)).code).toBe("invalid_value");
    await rigged.call("DELETE", `/v1/sessions/${id}`);
  });
});

describe("a session that never was", () => {
  it("stays without an object's storage, whatever is asked of it", async () => {
    const rigged = real();
    const id = newSessionId();
    const path = `/v1/sessions/${id}`;
    const sse = { headers: { accept: "text/event-stream" } };
    const answers = [
      await rigged.call("GET", path),
      await rigged.call("PATCH", path, { timeout_s: 5 }),
      await rigged.call("DELETE", path),
      await rigged.call("POST", `${path}/runs`, { command: "true" }),
      await rigged.call("GET", `${path}/runs`),
      await rigged.call("GET", `${path}/runs/run_1`),
      await rigged.call("POST", `${path}/runs/run_1/cancel`),
      await rigged.call("GET", `${path}/events`),
      await rigged.call("GET", `${path}/events`, undefined, sse),
      await rigged.call("POST", `${path}/exec`, { command: "true" }),
      await rigged.call("GET", `${path}/files`),
      await rigged.call("GET", `${path}/diff`),
      await rigged.call("GET", `${path}/artifacts`),
    ];
    for (const answer of answers)
      expect([answer.status, (await view(answer)).code], answer.url).toEqual([404, "session_not_found"]);
    const stub = env.SESSION.get(env.SESSION.idFromName(id));
    const tables = await runInDurableObject(stub, (_session, state) =>
      state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'").toArray(),
    );
    expect(tables).toEqual([]);
  });
});
