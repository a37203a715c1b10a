import { describe, expect, it } from "vitest";
import module from "../../build/transcript.wasm";
import { CoreTrap } from "../../worker/src/core/core.js";
import { Transcript } from "../../worker/src/core/transcript.js";
import { created, ended, eventually, running, type Stub, value } from "./session-fixture.js";

const lines = [
  { type: "system", subtype: "init", session_id: "s", model: "m-1", tools: [], claude_code_version: "9" },
  {
    type: "assistant",
    message: {
      id: "a",
      model: "m-1",
      content: [
        { type: "text", text: "Reading ünïcode.\n```js\n1\n```" },
        {
          type: "tool_use",
          id: "t1",
          name: "Edit",
          input: { file_path: "/workspace/a.js", old_string: "1", new_string: "2" },
        },
      ],
    },
  },
  { type: "user", message: { content: [{ type: "tool_result", tool_use_id: "t1", content: "edited" }] } },
  { type: "result", subtype: "success", is_error: false, result: "All done.", num_turns: 1 },
];

async function get(session: Stub, id: string, run: string, accept: string): Promise<Response> {
  return session.fetch(`https://x/v1/sessions/${id}/runs/${run}/transcript`, { headers: { accept } });
}

describe("a run's transcript", () => {
  it("is JSON or Markdown, of a run under way and of one that is over", async () => {
    const { session, fake, id } = await running({ agent: "claude-code" }, { prompt: "go" });
    fake.output(
      1,
      `${lines
        .slice(0, 2)
        .map((line) => JSON.stringify(line))
        .join("\n")}\n`,
    );
    await eventually(async () => expect(value(await session.view()).usage.turns).toBe(1));
    const before = (await (await get(session, id, "run_1", "*/*")).json()) as Record<string, unknown>;
    expect(before).toMatchObject({
      format: "caisson.transcript/1",
      run: "run_1",
      state: null,
      agent: { model: "m-1" },
    });
    expect(before["turns"]).toMatchObject([{ items: [{ type: "text" }, { type: "tool_call", result: null }] }]);

    fake.changes = [{ path: "a.js", status: "M", content: new TextEncoder().encode("2") }];
    fake.output(
      1,
      `${lines
        .slice(2)
        .map((line) => JSON.stringify(line))
        .join("\n")}\n`,
    );
    fake.exit(1, { reason: "exited", exit_code: 0 });
    const run = await ended(session);
    expect(run.summary).toEqual({
      counts: {
        turns: 1,
        tool_calls: 1,
        tool_errors: 0,
        denials: 0,
        subagents: 0,
        retries: 0,
        errors: 0,
        unparsed: 0,
      },
      files: [{ path: "a.js", reads: 0, edits: 1, status: "modified" }],
      truncated: null,
    });
    expect(value(await session.run("run_1")).summary).toEqual(run.summary);
    expect(value(await session.runs())[0]?.summary).toBeUndefined();

    const json = await get(session, id, "run_1", "application/json");
    expect(json.headers.get("content-type")).toBe("application/json");
    expect(await json.json()).toMatchObject({
      state: "succeeded",
      result: "All done.",
      files: [{ path: "a.js", status: "modified" }],
      turns: [
        {
          turn: 1,
          items: [
            { type: "text", text: "Reading ünïcode.\n```js\n1\n```" },
            {
              tool: "Edit",
              diff: "--- /workspace/a.js\n+++ /workspace/a.js\n@@\n-1\n+2\n",
              result: { text: "edited", is_error: false },
            },
          ],
        },
      ],
    });
    const markdown = await get(session, id, "run_1", "text/markdown, */*;q=0.1");
    expect(markdown.headers.get("content-type")).toBe("text/markdown; charset=utf-8");
    const text = await markdown.text();
    expect(text).toContain("- Outcome: **succeeded** (completed)");
    expect(text).toContain("**Edit** `/workspace/a.js`\n\n```diff\n");
    expect(text).toContain("Reading ünïcode.");
  });

  it("is that of a command too, however long, and streams", async () => {
    const { session, fake, id } = await running();
    const line = `${"x".repeat(1_000)}\n`;
    fake.output(1, line.repeat(400));
    fake.output(1, "oops\n", "stderr");
    fake.exit(1, { reason: "exited", exit_code: 3 });
    await ended(session);
    const view = (await (await get(session, id, "run_1", "application/json")).json()) as {
      state: string;
      turns: { items: { type: string; stream: string; text: string; text_len?: number }[] }[];
    };
    const [out, err] = view.turns[0]?.items ?? [];
    expect(view.state).toBe("failed");
    // A newline counts as its escape, two bytes.
    expect(out).toMatchObject({ type: "output", stream: "stdout", text_len: 400 * 1_002 });
    expect(out?.text.length).toBeGreaterThan(60_000);
    expect(err).toMatchObject({ stream: "stderr", text: "oops\n" });
  });

  it("of a session holds those of its runs, also of one that never began", async () => {
    const { session, fake, id } = await running();
    const all = async (accept: string): Promise<string> => {
      const headers = { accept };
      return (await session.fetch(`https://x/v1/sessions/${id}/transcript`, { headers })).text();
    };
    value(await session.createRun({ command: "second" }));
    value(await session.createRun({ command: "third" }));
    value(await session.cancelRun("run_3"));
    fake.output(1, "first\n");
    fake.exit(1, { reason: "exited", exit_code: 0 });
    await ended(session);
    await eventually(async () => expect(value(await session.run("run_2")).state).toBe("running"));
    fake.output(2, "second\n");
    fake.exit(2, { reason: "exited", exit_code: 7 });
    await ended(session, "run_2");
    expect(JSON.parse(await all("application/json"))).toMatchObject({
      format: "caisson.session/1",
      session: id,
      agent: "shell",
      runs: [
        { run: "run_1", state: "succeeded", turns: [{ items: [{ text: "first\n" }] }] },
        { run: "run_2", state: "failed", exit_code: 7, turns: [{ items: [{ text: "second\n" }] }] },
        { run: "run_3", state: "cancelled", turns: [] },
      ],
    });
    const text = await all("text/markdown");
    expect(text.match(/^#+ (Session|Run) .*$/gm)).toEqual([`# Session ${id}`, "# Run 1", "# Run 2", "# Run 3"]);
    expect(text.startsWith(`# Session ${id}\n\n# Run 1\n\n`)).toBe(true);
    expect(JSON.parse(await all("*/*")).runs).toHaveLength(3);
  });

  it("of a session without runs is empty", async () => {
    const { session, id } = await created();
    const response = await session.fetch(`https://x/v1/sessions/${id}/transcript`);
    expect(await response.json()).toEqual({ format: "caisson.session/1", session: id, agent: "shell", runs: [] });
  });

  it("is refused for a run that is not there", async () => {
    const { session, id } = await created();
    const response = await get(session, id, "run_1", "*/*");
    expect(response.status).toBe(404);
    expect(await response.json()).toMatchObject({ code: "run_not_found" });
  });

  it("takes an instance of its own, and says what cannot be read", () => {
    const view = new Transcript(module, "json");
    view.event('{"seq":1,"type":"agent.text","text":"x"}');
    view.event(`{"seq":2,"text":"${"y".repeat(400_000)}"}`);
    const first = view.next(null);
    expect(first).toMatchObject({ want: 1, done: false });
    const rest = view.next(null);
    expect(rest.done).toBe(true);
    const text = new TextDecoder().decode(Buffer.concat([first.text, rest.text]));
    expect(JSON.parse(text)).toMatchObject({
      truncated: { items: 0, files: 0, events: 1 },
      turns: [{ turn: 1, items: [{ type: "text", seq: 1 }] }],
    });
    expect(() => view.event("{}")).toThrow(CoreTrap);
  });
});
