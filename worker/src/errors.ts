/**
 * Problem documents (RFC 9457): the only form in which the HTTP API reports that something did not work.
 *
 * A handler throws `Problem`; `problemResponse` is the only place that writes one. `code` is stable and is what programs
 * test; `detail` is for people and may change.
 */
import type { z } from "@hono/zod-openapi";
import type { Failure } from "./session/api.js";

/**
 * Titles and statuses. Codes of Session failures pass through with the status that they come with; those without an entry
 * here have their own words as title.
 */
export const PROBLEMS = {
  malformed_json: { status: 400, title: "The body is not JSON" },
  unknown_field: { status: 400, title: "The request has a field that is not known" },
  missing_field: { status: 400, title: "A field is missing" },
  conflicting_fields: { status: 400, title: "Fields exclude each other" },
  invalid_type: { status: 400, title: "A field has the wrong type" },
  invalid_value: { status: 400, title: "A field has a value that is not allowed" },
  out_of_range: { status: 400, title: "A number is out of range" },
  too_long: { status: 400, title: "A field is too long" },
  unknown_agent: { status: 400, title: "There is no such agent" },
  unknown_language: { status: 400, title: "There is no such language" },
  unknown_template: { status: 400, title: "There is no such template" },
  template_unsupported: { status: 400, title: "Templates are not to be had here" },
  empty_prompt: { status: 400, title: "The prompt is empty" },
  empty_command: { status: 400, title: "The command is empty" },
  empty_code: { status: 400, title: "The code is empty" },
  empty_question: { status: 400, title: "The question is empty" },
  invalid_path: { status: 400, title: "The path is not one" },
  invalid_cwd: { status: 400, title: "The working directory does not exist" },
  path_outside_workspace: { status: 400, title: "The path is outside the workspace" },
  is_directory: { status: 400, title: "The path is a directory" },
  not_a_directory: { status: 400, title: "The path is not a directory" },
  invalid_cursor: { status: 400, title: "The cursor is not one of ours" },
  unauthorized: { status: 401, title: "The key or token is missing or wrong" },
  insufficient_scope: { status: 403, title: "The token does not allow that" },
  origin_not_allowed: { status: 403, title: "Pages of this origin may not connect" },
  share_revoked: { status: 401, title: "The share link is revoked or has expired" },
  approval_not_found: { status: 404, title: "There is no such approval" },
  approval_resolved: { status: 409, title: "The approval is decided already" },
  too_many_approvals: { status: 409, title: "Too many pushes wait for an approval" },
  link_not_found: { status: 404, title: "There is no such link" },
  share_not_found: { status: 404, title: "There is no such share link" },
  too_many_shares: { status: 409, title: "The session has too many share links" },
  quota_exceeded: { status: 429, title: "A quota is used up" },
  invalid_policy: { status: 400, title: "The policy is refused" },
  no_seal_key: { status: 409, title: "No key to seal secrets with is configured" },
  bad_keys: { status: 500, title: "The operator's configuration cannot be read" },
  no_signing_key: { status: 409, title: "No signing key is configured" },
  permission_denied: { status: 403, title: "The sandbox's user may not do that" },
  no_api_key_configured: { status: 403, title: "No API key is configured" },
  session_not_found: { status: 404, title: "There is no such session" },
  run_not_found: { status: 404, title: "There is no such run" },
  file_not_found: { status: 404, title: "There is no such file" },
  artifact_not_found: { status: 404, title: "There is no such artifact" },
  not_found: { status: 404, title: "There is nothing at this address" },
  method_not_allowed: { status: 405, title: "The method is not allowed here" },
  idempotency_mismatch: { status: 409, title: "The Idempotency-Key was used with another body" },
  session_ended: { status: 409, title: "The session has ended" },
  run_over: { status: 409, title: "The run has ended" },
  runs_exhausted: { status: 409, title: "The session has had its last run" },
  over_budget: { status: 409, title: "The session has reached one of its limits" },
  queue_full: { status: 429, title: "Too many runs are waiting" },
  still_ending: { status: 504, title: "The session is still being ended" },
  file_exists: { status: 412, title: "The file exists" },
  body_too_large: { status: 413, title: "The body is too large" },
  file_too_large: { status: 413, title: "The file is too large" },
  port_not_found: { status: 404, title: "There is no such port" },
  preview_not_found: { status: 404, title: "There is no such preview" },
  preview_over: { status: 410, title: "The preview is over" },
  port_not_listening: { status: 502, title: "Nothing listens on the port" },
  too_many_ports: { status: 409, title: "The session has too many ports open" },
  no_preview_host: { status: 409, title: "No host for previews is configured" },
  upgrade_required: { status: 426, title: "This address speaks WebSocket" },
  too_many_terminals: { status: 409, title: "The session has too many terminal connections" },
  unsupported_media_type: { status: 415, title: "The content type is not supported" },
  internal: { status: 500, title: "Something went wrong on our side" },
  bad_prices: { status: 500, title: "The operator's prices cannot be read" },
  model_error: { status: 500, title: "The model did not give code" },
  no_model_key: { status: 500, title: "No model key is configured" },
  sandbox_error: { status: 502, title: "The sandbox did not answer as it should" },
  engine_unavailable: { status: 503, title: "The sandbox engine is not running" },
} as const satisfies Record<string, { status: number; title: string }>;
export type ProblemCode = keyof typeof PROBLEMS;

export interface ProblemOptions {
  /** JSON pointer into the body, or the name of a parameter. */
  readonly field?: string;
  readonly headers?: Record<string, string>;
  /** Members added to the document. */
  readonly extra?: Record<string, unknown>;
}

export class Problem extends Error {
  override readonly name = "Problem";
  readonly status: number;
  readonly code: string;
  readonly options: ProblemOptions;

  constructor(status: number, code: string, detail: string, options: ProblemOptions = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.options = options;
  }
}

/** A problem of our own table. */
export function problem(code: ProblemCode, detail: string, options: ProblemOptions = {}): Problem {
  return new Problem(PROBLEMS[code].status, code, detail, options);
}

/** What to do when the engine is away, in words that fit where the Worker runs. */
export function engineUnavailable(why: string): Problem {
  const detail = `${why} Start it with \`make dev\` in the repository (or \`make demo\`), then try again.`;
  return problem("engine_unavailable", detail, { headers: { "retry-after": "2" } });
}

/** Turns a Session's Failure into the problem to throw. */
export function failureProblem(failure: Failure): Problem {
  if (failure.code === "engine_unavailable") {
    return new Problem(503, failure.code, failure.detail, { headers: { "retry-after": "2" } });
  }
  return new Problem(
    failure.status,
    failure.code,
    failure.detail,
    failure.field === undefined ? {} : { field: failure.field },
  );
}

/** Answers the document. `instance` is the request's id, which is also in x-request-id. */
export function problemResponse(error: Problem, requestId: string): Response {
  const known: { title: string } | undefined = Object.hasOwn(PROBLEMS, error.code)
    ? PROBLEMS[error.code as ProblemCode]
    : undefined;
  const document = {
    type: `urn:caisson:problem:${error.code}`,
    title: known?.title ?? error.code.replaceAll("_", " "),
    status: error.status,
    code: error.code,
    detail: error.message,
    ...(error.options.field === undefined ? {} : { field: error.options.field }),
    instance: `urn:caisson:request:${requestId}`,
    ...error.options.extra,
  };
  return new Response(JSON.stringify(document), {
    status: error.status,
    headers: { "content-type": "application/problem+json", ...error.options.headers },
  });
}

/* --- zod issues ------------------------------------------------------------------------------------------------------ */

type Issue = z.core.$ZodIssue;
type Where = "body" | "query";

/** The problem for input that a schema refused: the first issue leads, all of them are in `errors` when there are more. */
export function validationProblem(issues: readonly Issue[], input: unknown, where: Where): Problem {
  const all = issues.flatMap((issue) => describeIssue(issue, input, where));
  const first = all[0] ?? { code: "invalid_value" as const, field: "", detail: "The request is not valid." };
  return problem(first.code, first.detail, {
    ...(first.field === "" ? {} : { field: first.field }),
    ...(all.length > 1 ? { extra: { errors: all } } : {}),
  });
}

interface Described {
  readonly code: ProblemCode;
  readonly field: string;
  readonly detail: string;
}

function describeIssue(issue: Issue, input: unknown, where: Where): Described[] {
  const field = pointer(issue.path, where);
  const name = field === "" ? "The body" : `"${field}"`;
  switch (issue.code) {
    case "unrecognized_keys":
      return issue.keys.map((key) => {
        const at = pointer([...issue.path, key], where);
        return {
          code: "unknown_field",
          field: at,
          detail: `"${at}" is not a ${where === "body" ? "field" : "parameter"} known here.`,
        };
      });
    case "invalid_type":
      if (valueAt(input, issue.path) === undefined)
        return [{ code: "missing_field", field, detail: `${name} is required.` }];
      return [{ code: "invalid_type", field, detail: `${name} must be ${typeName(issue.expected)}.` }];
    case "invalid_value": {
      const value = valueAt(input, issue.path);
      const allowed = issue.values.map((option) => String(option)).join(", ");
      if (value === undefined)
        return [{ code: "missing_field", field, detail: `${name} is required: one of ${allowed}.` }];
      if (typeof value !== "string")
        return [{ code: "invalid_type", field, detail: `${name} must be a string: one of ${allowed}.` }];
      const code = field === "/agent" ? "unknown_agent" : field === "/language" ? "unknown_language" : "invalid_value";
      return [{ code, field, detail: `${name} must be one of ${allowed}; got "${value.slice(0, 64)}".` }];
    }
    case "too_big":
    case "too_small": {
      const bound = issue.code === "too_big" ? `at most ${issue.maximum}` : `at least ${issue.minimum}`;
      if (["number", "int", "bigint"].includes(issue.origin)) {
        return [{ code: "out_of_range", field, detail: `${name} must be ${bound}.` }];
      }
      const unit = issue.origin === "string" ? "characters" : "items";
      const code = issue.code === "too_big" ? "too_long" : "invalid_value";
      return [{ code, field, detail: `${name} must have ${bound} ${unit}.` }];
    }
    case "custom": {
      const code: unknown = Reflect.get(issue.params ?? {}, "code");
      const known = typeof code === "string" && Object.hasOwn(PROBLEMS, code) ? (code as ProblemCode) : "invalid_value";
      return [{ code: known, field, detail: `${name} ${issue.message}.` }];
    }
    default:
      return [{ code: "invalid_value", field, detail: `${name} is not valid: ${issue.message}.` }];
  }
}

/** RFC 6901 for bodies, the parameter's plain name for queries. */
function pointer(path: readonly PropertyKey[], where: Where): string {
  if (where === "query") return path.map(String).join(".");
  return path.map((step) => `/${String(step).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  let value = input;
  for (const step of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, step)) return undefined;
    value = Reflect.get(value, step);
  }
  return value;
}

function typeName(expected: string): string {
  const names: Record<string, string> = {
    int: "a whole number",
    number: "a number",
    string: "a string",
    boolean: "true or false",
    array: "an array",
    object: "an object",
    record: "an object",
  };
  return names[expected] ?? expected;
}
