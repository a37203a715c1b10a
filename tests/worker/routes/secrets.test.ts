/** Commands beside the agent, errors and the Worker's log: placeholders go in, secrets do not come out. */
import { runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import { env } from "../env.js";
import { created, eventually, value } from "../session-fixture.js";
import { type ProblemBody, rig } from "./fakes.js";

const SECRET = "worker-secret-41d8cd98f00b204e";
const OPERATOR = "operator-model-key-9e107d9d372bb6";
const SHAPE = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
const hidden = (text: string): string => "*".repeat(text.length);
const SSE = { headers: { accept: "text/event-stream" } };

afterEach(() => vi.restoreAllMocks());

/** Everything that is said in the log meanwhile. */
function log(): string[] {
  const said: string[] = [];
  for (const level of ["error", "warn", "log", "info"] as const)
    vi.spyOn(console, level).mockImplementation((...parts: unknown[]) => {
      said.push(
        parts.map((part) => (part instanceof Error ? `${part.message} ${part.stack}` : String(part))).join(" "),
      );
    });
  return said;
}

describe("a command", () => {
  it("has the placeholders of the session's secrets in its environment, and what it prints has no secret", async () => {
    const r = rig({ ANTHROPIC_API_KEY: OPERATOR });
    const { id, fake, sandbox } = await r.session();
    fake.secrets["API_TOKEN"] = SECRET;
    sandbox().script = async function* () {
      yield { type: "stdout", data: `a ${SECRET.slice(0, 9)}` };
      yield { type: "stdout", data: `${SECRET.slice(9)} b ${Buffer.from(SECRET).toString("hex")}\n` };
      yield { type: "stderr", data: `${OPERATOR} ${SHAPE}` };
      yield { type: "complete", exitCode: 0 };
    };
    const body = { command: "x", env: { OWN: "1" } };
    const answer = await r.call("POST", `/v1/sessions/${id}/exec`, body);
    expect(await answer.json()).toMatchObject({
      stdout: `a ${hidden(SECRET)} b ${hidden(SECRET + SECRET)}\n`,
      stderr: `${hidden(OPERATOR)} ${SHAPE}`,
    });
    const command = sandbox().commands.at(-1);
    expect(command?.env).toEqual({ API_TOKEN: "api_token", OWN: "1" });
    expect(JSON.stringify(command)).not.toContain(SECRET);
    const streamed = await (await r.call("POST", `/v1/sessions/${id}/exec`, body, SSE)).text();
    expect(streamed).toContain(hidden(SECRET));
    expect(streamed).not.toMatch(new RegExp(`${SECRET}|${SECRET.slice(0, 9)}|${OPERATOR}`));

    // The redactor of the next command, of a session without secrets, knows nothing of them.
    const other = await r.session();
    other.sandbox().script = async function* () {
      yield { type: "stdout", data: SECRET };
      yield { type: "complete", exitCode: 0 };
    };
    const plain = await r.call("POST", `/v1/sessions/${other.id}/exec`, { command: "x" });
    expect(await plain.json()).toMatchObject({ stdout: SECRET });
    await r.settle();
  });

  it("gives an environment of its own precedence", async () => {
    const r = rig();
    const { id, fake, sandbox } = await r.session();
    fake.secrets["API_TOKEN"] = SECRET;
    await r.call("POST", `/v1/sessions/${id}/exec`, { command: "x", env: { API_TOKEN: "mine" } });
    expect(sandbox().commands.at(-1)?.env).toEqual({ API_TOKEN: "mine" });
    await r.settle();
  });

  it("is not run where a secret cannot be opened", async () => {
    const { session } = await created({ secrets: { API_TOKEN: SECRET } });
    const access = value(await session.commands());
    expect(access.secrets).toEqual([SECRET]);
    expect(access.env["API_TOKEN"]).toMatch(/^caisson-secret-[0-9a-f]{32}$/);
    expect(await session.masked(`<${SECRET} ${SHAPE}>`)).toBe(`<${hidden(SECRET)} ${hidden(SHAPE)}>`);
    await runInDurableObject(session, (_object, state) =>
      state.storage.sql.exec("UPDATE secrets SET sealed = ?", new Uint8Array(64).buffer),
    );
    expect(await session.commands()).toMatchObject({ ok: false, status: 409, code: "no_seal_key" });
    value(await session.end());
  });
});

describe("what went wrong", () => {
  it("is told and logged without secrets, whoever's words it is", async () => {
    const said = log();
    const r = rig({ ANTHROPIC_API_KEY: OPERATOR });
    const { id, fake, sandbox } = await r.session();
    fake.secrets["API_TOKEN"] = SECRET;
    // As the real one does, whose redactor knows both.
    fake.masked = async (text) => text.replaceAll(SECRET, hidden(SECRET)).replaceAll(OPERATOR, hidden(OPERATOR));
    const words = `it broke: ${SECRET} ${OPERATOR}`;
    const broken = async (): Promise<never> => {
      throw new Error(words);
    };
    const answers: Response[] = [];
    sandbox().script = async function* () {
      yield { type: "error", error: words };
    };
    answers.push(await r.call("POST", `/v1/sessions/${id}/exec`, { command: "x" }));
    answers.push(await r.call("POST", `/v1/sessions/${id}/exec`, { command: "x" }, SSE));
    Object.assign(sandbox(), { execStreamWithSessionToken: broken, writeFile: broken, listFiles: broken });
    answers.push(await r.call("POST", `/v1/sessions/${id}/exec`, { command: "x" }));
    answers.push(await r.call("POST", `/v1/sessions/${id}/exec`, { command: "x", stdin: "y" }));
    answers.push(await r.call("PUT", `/v1/sessions/${id}/files/a`, new Uint8Array(1)));
    answers.push(await r.call("GET", `/v1/sessions/${id}/files`));
    Object.assign(sandbox(), { execWithSessionToken: async () => ({ exitCode: 1, stdout: "", stderr: words }) });
    answers.push(await r.call("DELETE", `/v1/sessions/${id}/files/a?recursive=true`));
    answers.push(await r.call("POST", `/v1/sessions/${id}/files/a?op=rename&to=b`));
    fake.artifacts = broken;
    answers.push(await r.call("GET", `/v1/sessions/${id}/artifacts`));
    r.prepare = (made) => Object.assign(made, { writeFile: broken, destroy: broken });
    const code = { language: "bash", code: "true" };
    answers.push(await r.call("POST", "/v1/execute", code));
    const texts = await Promise.all(answers.map((answer) => answer.text()));
    await r.settle();
    for (const text of texts.slice(0, -1)) expect(text).not.toMatch(new RegExp(`${SECRET}|${OPERATOR}`));
    expect(texts.at(-1)).not.toContain(OPERATOR);
    expect(texts.filter((text) => text.includes(`it broke: ${hidden(SECRET)} ${hidden(OPERATOR)}`)).length).toBe(8);
    expect(answers.map(({ status }) => status)).toEqual([502, 200, 502, 502, 502, 502, 403, 502, 500, 502]);
    // What no session is asked about in the end (a one-shot, a route that failed) is the operator's alone.
    expect(said.length).toBeGreaterThanOrEqual(8);
    expect(said.join("\n")).not.toContain(OPERATOR);
    expect(
      said.filter((line) => line.includes("it broke") && !/artifacts|one-|the files/.test(line)).join("\n"),
    ).not.toContain(SECRET);
  });

  it("in a session is logged without its secrets", async () => {
    const said = log();
    const { session } = await created({ secrets: { API_TOKEN: SECRET } });
    const put = vi.spyOn(env.INDEX, "prepare").mockImplementation(() => {
      throw new Error(`the database says ${SECRET}`, { cause: new Error(`because of ${SECRET} and ${SHAPE}`) });
    });
    value(await session.end());
    await eventually(async () => expect(said.join("\n")).toContain("the database says"));
    put.mockRestore();
    expect(said.join("\n")).toContain(`caused by Error: because of ${hidden(SECRET)} and ${hidden(SHAPE)}`);
    expect(said.join("\n")).not.toContain(SECRET);
  });

  it("is logged in one place, which masks", () => {
    // @ts-expect-error: Vite's, of which the Worker's types know nothing.
    const sources = import.meta.glob(["../../../worker/src/**/*.ts", "../../../sandbox-sdk-shim/src/**/*.ts"], {
      query: "?raw",
      import: "default",
      eager: true,
    }) as Record<string, string>;
    expect(Object.keys(sources).length).toBeGreaterThan(60);
    const own = Object.entries(sources)
      .filter(([, text]) => /\bconsole\s*(\.|\[)(?!log\(\)")/.test(text))
      .map(([path]) => path.replace(/^.*\/src\//, ""));
    // The redactor's own names an error of ours, of which there is no text to mask.
    expect(own.sort()).toEqual(["effects/redactor.ts", "effects/report.ts"]);
  });
});

describe("a problem", () => {
  it("has the shape that it had", async () => {
    const r = rig();
    const { id, sandbox } = await r.session();
    Object.assign(sandbox(), {
      listFiles: async () => {
        throw Object.assign(new Error("x"), { errorResponse: { code: "FILE_NOT_FOUND", message: "x" } });
      },
    });
    const answer = (await (await r.call("GET", `/v1/sessions/${id}/files`)).json()) as ProblemBody;
    expect(answer).toMatchObject({ status: 404, code: "file_not_found", field: "path", detail: "/workspace: x" });
  });
});
