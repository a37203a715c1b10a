/** Every kind of bad input: a problem document with its code and field, and nothing started. */
import { describe, expect, it } from "vitest";
import { type ProblemBody, type Rig, rig } from "./fakes.js";

interface Case {
  readonly name: string;
  readonly method?: string;
  readonly path: string;
  readonly body?: unknown;
  readonly headers?: Record<string, string>;
  readonly status?: number;
  readonly code: string;
  readonly field?: string;
}

const JSON_TYPE = { "content-type": "application/json" };
const S = "/v1/sessions";

async function expectProblem(rigged: Rig, given: Case): Promise<ProblemBody> {
  const response = await rigged.call(given.method ?? "POST", given.path, given.body, { headers: given.headers ?? {} });
  const text = await response.text();
  expect(response.headers.get("content-type"), text).toBe("application/problem+json");
  const problem = JSON.parse(text) as ProblemBody;
  expect(problem, text).toMatchObject({
    code: given.code,
    status: given.status ?? 400,
    type: `urn:caisson:problem:${given.code}`,
  });
  expect(response.status).toBe(problem.status);
  expect(problem.field).toBe(given.field);
  expect(problem.title.length).toBeGreaterThan(5);
  expect(problem.detail.length).toBeGreaterThan(5);
  expect(problem.instance).toBe(`urn:caisson:request:${response.headers.get("x-request-id")}`);
  return problem;
}

describe("creating a session", () => {
  const cases: Case[] = [
    { name: "malformed JSON", path: S, body: '{"agent": "shell"', headers: JSON_TYPE, code: "malformed_json" },
    { name: "empty body", path: S, body: " ", headers: JSON_TYPE, code: "malformed_json" },
    {
      name: "bytes that are not UTF-8",
      path: S,
      body: new Uint8Array([0x22, 0xff, 0x22]),
      headers: JSON_TYPE,
      code: "malformed_json",
    },
    {
      name: "half of a surrogate pair",
      path: S,
      body: '{"agent":"shell","files":[{"path":"a","content":"\\ud800"}]}',
      headers: JSON_TYPE,
      code: "invalid_value",
      field: "/files/0/content",
    },
    {
      name: "half of a surrogate pair in a name",
      path: S,
      body: '{"agent":"shell","metadata":{"\\udfff":"x"}}',
      headers: JSON_TYPE,
      code: "invalid_value",
      field: "/metadata/\udfff",
    },
    { name: "an array", path: S, body: [], code: "invalid_type" },
    { name: "null", path: S, body: null, code: "invalid_type" },
    { name: "unknown field", path: S, body: { agent: "shell", agnt: 1 }, code: "unknown_field", field: "/agnt" },
    {
      name: "unknown nested field",
      path: S,
      body: { agent: "shell", files: [{ path: "a", content: "", "a/b~": 1 }] },
      code: "unknown_field",
      field: "/files/0/a~1b~0",
    },
    {
      name: "__proto__",
      path: S,
      body: '{"agent":"shell","__proto__":{"x":1}}',
      headers: JSON_TYPE,
      code: "unknown_field",
      field: "/__proto__",
    },
    { name: "no agent", path: S, body: {}, code: "missing_field", field: "/agent" },
    { name: "unknown agent", path: S, body: { agent: "hal" }, code: "unknown_agent", field: "/agent" },
    { name: "agent of the wrong type", path: S, body: { agent: 7 }, code: "invalid_type", field: "/agent" },
    {
      name: "timeout of the wrong type",
      path: S,
      body: { agent: "shell", timeout_s: "60" },
      code: "invalid_type",
      field: "/timeout_s",
    },
    { name: "timeout 0", path: S, body: { agent: "shell", timeout_s: 0 }, code: "out_of_range", field: "/timeout_s" },
    {
      name: "timeout over a day",
      path: S,
      body: { agent: "shell", timeout_s: 86_401 },
      code: "out_of_range",
      field: "/timeout_s",
    },
    {
      name: "timeout not whole",
      path: S,
      body: { agent: "shell", timeout_s: 1.5 },
      code: "invalid_type",
      field: "/timeout_s",
    },
    {
      name: "env value not a string",
      path: S,
      body: { agent: "shell", env: { A: 1 } },
      code: "invalid_type",
      field: "/env/A",
    },
    {
      name: "env name not a name",
      path: S,
      body: { agent: "shell", env: { "A=B": "1" } },
      code: "invalid_value",
      field: "/env/A=B",
    },
    {
      name: "env value with NUL",
      path: S,
      body: { agent: "shell", env: { A: "\0" } },
      code: "invalid_value",
      field: "/env/A",
    },
    {
      name: "too many variables",
      path: S,
      body: { agent: "shell", env: Object.fromEntries(Array.from({ length: 65 }, (_, n) => [`V${n}`, ""])) },
      code: "too_long",
      field: "/env",
    },
    {
      name: "too much environment",
      path: S,
      body: { agent: "shell", env: { A: "x".repeat(32_768) } },
      code: "too_long",
      field: "/env",
    },
    {
      name: "system prompt too long",
      path: S,
      body: { agent: "shell", system_prompt: "é".repeat(16_385) },
      code: "too_long",
      field: "/system_prompt",
    },
    { name: "empty model", path: S, body: { agent: "shell", model: "" }, code: "invalid_value", field: "/model" },
    {
      name: "metadata not strings",
      path: S,
      body: { agent: "shell", metadata: { a: true } },
      code: "invalid_type",
      field: "/metadata/a",
    },
    {
      name: "file outside the workspace",
      path: S,
      body: { agent: "shell", files: [{ path: "/etc/passwd", content: "" }] },
      code: "path_outside_workspace",
      field: "/files/0/path",
    },
    {
      name: "file climbing out",
      path: S,
      body: { agent: "shell", files: [{ path: "a/../../etc/x", content: "" }] },
      code: "path_outside_workspace",
      field: "/files/0/path",
    },
    {
      name: "file path with NUL",
      path: S,
      body: { agent: "shell", files: [{ path: "a\0", content: "" }] },
      code: "invalid_path",
      field: "/files/0/path",
    },
    {
      name: "file name too long",
      path: S,
      body: { agent: "shell", files: [{ path: `a/${"é".repeat(128)}/b`, content: "" }] },
      code: "invalid_path",
      field: "/files/0/path",
    },
    {
      name: "the same file twice",
      path: S,
      body: {
        agent: "shell",
        files: [
          { path: "a", content: "" },
          { path: "/workspace/./a", content: "" },
        ],
      },
      code: "invalid_value",
      field: "/files/1/path",
    },
    {
      name: "a file below a file",
      path: S,
      body: {
        agent: "shell",
        files: [
          { path: "a/b/c", content: "" },
          { path: "a", content: "" },
        ],
      },
      code: "invalid_value",
      field: "/files/0/path",
    },
    {
      name: "file path too long",
      path: S,
      body: { agent: "shell", files: [{ path: "a".repeat(4_097), content: "" }] },
      code: "too_long",
      field: "/files/0/path",
    },
    {
      name: "content not base64",
      path: S,
      body: { agent: "shell", files: [{ path: "a", content: "%", encoding: "base64" }] },
      code: "invalid_value",
      field: "/files/0/content",
    },
    {
      name: "mode not octal",
      path: S,
      body: { agent: "shell", files: [{ path: "a", content: "", mode: "0799" }] },
      code: "invalid_value",
      field: "/files/0/mode",
    },
    {
      name: "form data",
      path: S,
      body: "agent=shell",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      status: 415,
      code: "unsupported_media_type",
    },
    {
      name: "no content type",
      path: S,
      body: "{}",
      headers: { "content-type": "" },
      status: 415,
      code: "unsupported_media_type",
    },
    {
      name: "bad idempotency key",
      path: S,
      body: { agent: "shell" },
      headers: { "idempotency-key": "a b" },
      code: "invalid_value",
      field: "Idempotency-Key",
    },
  ];
  it.each(cases)("$name: $code", async (given) => {
    const rigged = rig();
    await expectProblem(rigged, given);
    expect(rigged.sessions.size).toBe(0);
    expect(rigged.sandboxes.size).toBe(0);
  });

  it("names every fault when there are more", async () => {
    const problem = await expectProblem(rig(), {
      name: "",
      path: S,
      body: { agent: "hal", timeout_s: 0, x: 1 },
      code: "unknown_agent",
      field: "/agent",
    });
    expect(problem.errors).toMatchObject([
      { code: "unknown_agent", field: "/agent" },
      { code: "out_of_range", field: "/timeout_s" },
      { code: "unknown_field", field: "/x" },
    ]);
  });

  it("counts the bytes of a body that does not say how long it is", async () => {
    const rigged = rig();
    let sent = 0;
    const endless = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 1 << 20;
        controller.enqueue(new Uint8Array(1 << 20).fill(0x20));
      },
    });
    await expectProblem(rigged, {
      name: "",
      path: S,
      body: endless,
      headers: JSON_TYPE,
      status: 413,
      code: "body_too_large",
    });
    expect(sent).toBeLessThan(20 << 20);
    expect(rigged.sessions.size).toBe(0);
  });
});

describe("a session that is there", () => {
  const cases: Case[] = [
    { name: "neither prompt nor command", path: "/runs", body: {}, code: "missing_field", field: "/prompt" },
    { name: "both", path: "/runs", body: { prompt: "a", command: "b" }, code: "conflicting_fields", field: "/command" },
    { name: "empty prompt", path: "/runs", body: { prompt: " \n" }, code: "empty_prompt", field: "/prompt" },
    { name: "empty command", path: "/runs", body: { command: "" }, code: "empty_command", field: "/command" },
    {
      name: "prompt too long",
      path: "/runs",
      body: { prompt: "x".repeat(262_145) },
      code: "too_long",
      field: "/prompt",
    },
    {
      name: "max_turns out of range",
      path: "/runs",
      body: { prompt: "a", max_turns: 1_001 },
      code: "out_of_range",
      field: "/max_turns",
    },
    {
      name: "unknown field of a run",
      path: "/runs",
      body: { prompt: "a", temprature: 1 },
      code: "unknown_field",
      field: "/temprature",
    },
    {
      name: "run body too long",
      path: "/runs",
      body: { prompt: "x".repeat(3 << 20) },
      status: 413,
      code: "body_too_large",
    },
    { name: "unknown run", method: "GET", path: "/runs/run_9", status: 404, code: "run_not_found" },
    { name: "run id of another shape", method: "GET", path: "/runs/9", status: 404, code: "run_not_found" },
    { name: "cancel of an unknown run", path: "/runs/run_9/cancel", status: 404, code: "run_not_found" },
    { name: "page size 0", method: "GET", path: "/events?limit=0", code: "out_of_range", field: "limit" },
    { name: "after that is no number", method: "GET", path: "/events?after=x", code: "invalid_type", field: "after" },
    { name: "after in hex", method: "GET", path: "/events?after=0x10", code: "invalid_type", field: "after" },
    { name: "after that is empty", method: "GET", path: "/events?after=", code: "invalid_type", field: "after" },
    { name: "limit with an exponent", method: "GET", path: "/events?limit=1e2", code: "invalid_type", field: "limit" },
    { name: "unknown parameter", method: "GET", path: "/events?aftr=1", code: "unknown_field", field: "aftr" },
    { name: "exec without command", path: "/exec", body: {}, code: "missing_field", field: "/command" },
    {
      name: "exec with both",
      path: "/exec",
      body: { command: "a", argv: ["a"] },
      code: "conflicting_fields",
      field: "/argv",
    },
    {
      name: "exec time-out",
      path: "/exec",
      body: { command: "a", timeout_s: 3_601 },
      code: "out_of_range",
      field: "/timeout_s",
    },
    {
      name: "exec argv too long",
      path: "/exec",
      body: { argv: ["a".repeat(60_000), "a".repeat(60_000), "a".repeat(60_000)] },
      code: "too_long",
      field: "/argv",
    },
    { name: "list outside", method: "GET", path: "/files?path=/etc", code: "path_outside_workspace", field: "path" },
    { name: "read outside", method: "GET", path: "/files//etc/passwd", code: "path_outside_workspace", field: "path" },
    {
      name: "read climbing out",
      method: "GET",
      path: "/files/..%2f..%2fetc%2fpasswd",
      code: "path_outside_workspace",
      field: "path",
    },
    { name: "read with NUL", method: "GET", path: "/files/a%00b", code: "invalid_path", field: "path" },
    { name: "bad percent", method: "GET", path: "/files/a%zz", code: "invalid_path", field: "path" },
    {
      name: "write outside",
      method: "PUT",
      path: "/files/%2e%2e%2fx",
      body: "x",
      code: "path_outside_workspace",
      field: "path",
    },
    {
      name: "decoded only once",
      method: "GET",
      path: "/files/%252e%252e%252fx",
      status: 404,
      code: "file_not_found",
      field: "path",
    },
    { name: "rename out", path: "/files/a?op=rename&to=/etc/a", code: "path_outside_workspace", field: "to" },
    { name: "rename without to", path: "/files/a?op=rename", code: "missing_field", field: "to" },
    { name: "no op", path: "/files/a", code: "missing_field", field: "op" },
    {
      name: "delete the workspace",
      method: "DELETE",
      path: "/files//workspace?recursive=true",
      code: "invalid_path",
      field: "path",
    },
    {
      name: "file that is not there",
      method: "GET",
      path: "/files/none.txt",
      status: 404,
      code: "file_not_found",
      field: "path",
    },
    {
      name: "delete of a file that is not there",
      method: "DELETE",
      path: "/files/none.txt",
      status: 404,
      code: "file_not_found",
      field: "path",
    },
    {
      name: "artifact that is not there",
      method: "GET",
      path: "/artifacts/none",
      status: 404,
      code: "artifact_not_found",
      field: "path",
    },
    {
      name: "artifacts of a run that is not there",
      method: "GET",
      path: "/artifacts?run=run_7",
      status: 404,
      code: "run_not_found",
    },
    { name: "patch without a body", method: "PATCH", path: "", body: {}, code: "missing_field", field: "/timeout_s" },
    { name: "wrong method", method: "PUT", path: "/runs", status: 405, code: "method_not_allowed" },
  ];
  it.each(cases)("$name: $code", async (given) => {
    const rigged = rig();
    const { id, fake, sandbox } = await rigged.session();
    await expectProblem(rigged, { ...given, path: `${S}/${id}${given.path}` });
    expect(fake.runList).toEqual([]);
    expect(sandbox().commands).toEqual([]);
    expect(sandbox().files.size).toBe(0);
  });
});

describe("a session that is not there", () => {
  const paths: [string, string, unknown?][] = [
    ["GET", ""],
    ["PATCH", "", { timeout_s: 60 }],
    ["DELETE", ""],
    ["POST", "/runs", { prompt: "a" }],
    ["GET", "/runs"],
    ["GET", "/events"],
    ["POST", "/exec", { command: "true" }],
    ["GET", "/files"],
    ["PUT", "/files/a", "x"],
    ["GET", "/diff"],
    ["GET", "/artifacts"],
    ["GET", "/artifacts.tar.gz"],
  ];
  it.each(paths)("%s %s wakes no object when the id cannot be one", async (method, path, body) => {
    for (const id of ["x", "ses_aaaaaaaaaaaaaaaaaaaa", "SES_AAAAAAAAAAAAAAAAAAAA"]) {
      const rigged = rig();
      await expectProblem(rigged, {
        name: "",
        method,
        path: `${S}/${id}${path}`,
        body,
        status: 404,
        code: "session_not_found",
      });
      expect(rigged.sessions.size).toBe(0);
    }
  });
  it.each(paths)("%s %s passes on the object's own answer", async (method, path, body) => {
    const other = await rig().session();
    const rigged = rig();
    await expectProblem(rigged, {
      name: "",
      method,
      path: `${S}/${other.id}${path}`,
      body,
      status: 404,
      code: "session_not_found",
    });
    expect(rigged.sandboxes.size).toBe(0);
  });
});

describe("one-shots", () => {
  const cases: Case[] = [
    {
      name: "unknown language",
      path: "/v1/execute",
      body: { language: "cobol", code: "x" },
      code: "unknown_language",
      field: "/language",
    },
    { name: "no language", path: "/v1/execute", body: { code: "x" }, code: "missing_field", field: "/language" },
    {
      name: "empty code",
      path: "/v1/execute",
      body: { language: "bash", code: "" },
      code: "empty_code",
      field: "/code",
    },
    {
      name: "time-out 0",
      path: "/v1/execute",
      body: { language: "bash", code: "x", timeout_s: 0 },
      code: "out_of_range",
      field: "/timeout_s",
    },
    {
      name: "time-out 301",
      path: "/v1/execute",
      body: { language: "bash", code: "x", timeout_s: 301 },
      code: "out_of_range",
      field: "/timeout_s",
    },
    {
      name: "unknown field",
      path: "/v1/execute",
      body: { language: "bash", code: "x", lang: "y" },
      code: "unknown_field",
      field: "/lang",
    },
    {
      name: "file outside",
      path: "/v1/execute",
      body: { language: "bash", code: "x", files: [{ path: "../x", content: "" }] },
      code: "path_outside_workspace",
      field: "/files/0/path",
    },
    {
      name: "body too long",
      path: "/v1/execute",
      body: { language: "bash", code: "x".repeat(17 << 20) },
      status: 413,
      code: "body_too_large",
    },
    { name: "malformed", path: "/v1/execute", body: "{", headers: JSON_TYPE, code: "malformed_json" },
    { name: "no question", path: "/execute", body: {}, code: "missing_field", field: "/question" },
    { name: "empty question", path: "/execute", body: { question: "" }, code: "empty_question", field: "/question" },
    {
      name: "unknown language of an answer",
      path: "/execute",
      body: { question: "q", language: "bash" },
      code: "unknown_language",
      field: "/language",
    },
    {
      name: "time-out out of range",
      path: "/execute",
      body: { question: "q", timeout: 300_001 },
      code: "out_of_range",
      field: "/timeout",
    },
    { name: "no model key", path: "/execute", body: { question: "q" }, status: 500, code: "no_model_key" },
  ];
  it.each(cases)("$name: $code", async (given) => {
    const rigged = rig();
    const problem = await expectProblem(rigged, given);
    if (given.path === "/execute") expect(problem.error).toBe(problem.detail);
    expect(rigged.sandboxes.size).toBe(0);
  });
});

describe("addresses", () => {
  it("answers 404 for what is not there and 405 with Allow for the wrong method", async () => {
    const rigged = rig();
    await expectProblem(rigged, { name: "", method: "GET", path: "/v2/nothing", status: 404, code: "not_found" });
    await expectProblem(rigged, {
      name: "",
      method: "DELETE",
      path: "/v1/sessions",
      status: 405,
      code: "method_not_allowed",
    });
    const response = await rigged.call("PUT", "/v1/sessions");
    expect(response.headers.get("allow")?.split(", ").sort()).toEqual(["GET", "HEAD", "POST"]);
  });
  it("refuses a cursor that is not ours", async () => {
    await expectProblem(rig(), {
      name: "",
      method: "GET",
      path: `${S}?cursor=abc`,
      code: "invalid_cursor",
      field: "cursor",
    });
  });
});
