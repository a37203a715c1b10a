/**
 * One endpoint = one declaration: its place in the OpenAPI document, the validation of its input and its handler.
 *
 * Validation is done here and not by the OpenAPI middleware, because every refusal must be a problem document with a code
 * of ours and bodies must be counted while they arrive.
 */
import { type OpenAPIHono, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { Guard } from "../core/guard.js";
import type { Env } from "../env.js";
import { problem, validationProblem } from "../errors.js";
import { type Caller, LINK_PATH, requireScope, type Scope, SHARE_PREFIX } from "../identity/caller.js";
import { countRequest } from "../identity/quotas.js";
import { LIMITS } from "../limits.js";
import { readJSON } from "./body.js";
import { isSessionId } from "./ids.js";
import { ProblemSchema } from "./schemas.js";
import { type SessionRef, sessionObject, sessionRef, unwrap } from "./session-object.js";

export interface AppEnv {
  Bindings: Env;
  Variables: { requestId: string; caller: Caller; guard: Guard };
}
export type App = OpenAPIHono<AppEnv>;
export type AppContext = Context<AppEnv>;

type Method = "get" | "post" | "put" | "patch" | "delete";

export interface AnswerSpec {
  readonly description: string;
  /** Media type → schema, or null for bytes and text that have none. */
  readonly content?: Record<string, z.ZodType | null>;
  readonly headers?: Record<string, string>;
}

export interface EndpointSpec<Q extends z.ZodType, B extends z.ZodType> {
  readonly method: Method;
  /** OpenAPI form; `{path}` takes the rest of the address, slashes and all. */
  readonly path: string;
  readonly tag: string;
  readonly summary: string;
  readonly description?: string;
  /** What the caller's token must allow; by the method when absent: reading or writing sessions. */
  readonly scope?: Scope | null;
  readonly query?: Q;
  /** Validated body. */
  readonly body?: B;
  /** Bytes, JSON_BODY_MAX when absent. */
  readonly bodyMax?: number;
  /** Media types of a body that the handler reads itself. */
  readonly rawBody?: readonly string[];
  /** Request headers that mean something here: name → what. */
  readonly headers?: Record<string, string>;
  readonly answers: Record<number, AnswerSpec>;
  /** Statuses of problem documents beyond those that every endpoint of its kind has. */
  readonly problems?: readonly number[];
  readonly handler: (call: Call<z.output<Q>, z.output<B>>) => Promise<Response> | Response;
}

export interface Call<Q, B> {
  readonly c: AppContext;
  readonly env: Env;
  readonly request: Request;
  readonly caller: Caller;
  readonly params: PathParams;
  /** The session that the address names, of the caller's tenant. */
  readonly session: SessionRef;
  readonly query: Q;
  readonly body: B;
}

/** Percent-decoded exactly once; "" where the path has no such parameter. */
export interface PathParams {
  readonly id: string;
  readonly run: string;
  readonly share: string;
  readonly link: string;
  readonly approval: string;
  readonly port: string;
  readonly path: string;
}

/** What a link to a session opens of it. Its files, policy, egress log and approvals are not part of what was shared. */
const SHARED_TAGS: ReadonlySet<string> = new Set(["Sessions", "Runs", "Events", "Results"]);

interface Registered {
  readonly method: string;
  readonly pattern: RegExp;
}
const registry = new WeakMap<App, Registered[]>();

/** Declares an endpoint: adds it to the OpenAPI document, routes to it, validates for it. */
export function endpoint<Q extends z.ZodType, B extends z.ZodType>(app: App, spec: EndpointSpec<Q, B>): void {
  document(app, spec);
  const known = registry.get(app) ?? [];
  registry.set(app, known);
  known.push({ method: spec.method.toUpperCase(), pattern: pathPattern(spec.path) });
  // Not `.+`: a file's name may have a line break in it.
  const route = spec.path.replace("{path}", ":path{[\\s\\S]+}").replace(/\{(\w+)\}/g, ":$1");
  app.on(spec.method.toUpperCase(), [route], async (c) => {
    const params = pathParams(spec.path, new URL(c.req.url).pathname);
    const { id } = params;
    if (spec.path.startsWith("/v1/sessions/{id}") && !isSessionId(id)) {
      throw problem("session_not_found", `There is no session "${id.slice(0, 64)}".`);
    }
    const caller = c.get("caller");
    const session = sessionRef(caller.tenant, id);
    const scope = scopeOf(spec);
    if (scope !== null) {
      requireScope(c.get("guard"), caller, scope, id);
      await countRequest(c.env, caller);
    }
    if (caller.tokenId.startsWith(SHARE_PREFIX)) {
      if (!SHARED_TAGS.has(spec.tag))
        throw problem("insufficient_scope", "A share link opens the session's events, runs, diff and artifacts alone.");
      unwrap(await sessionObject(c.env, session).checkShare(caller.tokenId));
    }
    const search = new URL(c.req.url).searchParams;
    if (caller.tokenId !== "" || caller.scopes !== "admin") search.delete("share");
    const query = parseQuery(spec.query, search);
    const body = spec.body === undefined ? undefined : await parseBody(spec.body, c.req.raw, spec.bodyMax);
    return spec.handler({
      c,
      env: c.env,
      request: c.req.raw,
      caller,
      params,
      session,
      query,
      body: body as z.output<B>,
    });
  });
}

/** Methods that some endpoint has at this address; empty when there is none. */
export function allowedMethods(app: App, pathname: string): string[] {
  const methods = (registry.get(app) ?? [])
    .filter((known) => known.pattern.test(pathname))
    .map((known) => known.method);
  return [...new Set(methods.flatMap((method) => (method === "GET" ? ["GET", "HEAD"] : [method])))];
}

function scopeOf(spec: { method: Method; path: string; scope?: Scope | null }): Scope | null {
  if (spec.scope !== undefined) return spec.scope;
  return spec.method === "get" ? "sessions:read" : "sessions:write";
}

function pathPattern(path: string): RegExp {
  const source = path
    .replaceAll(".", "\\.")
    .replace("{path}", "(?<path>.+)")
    .replace(/\{(\w+)\}/g, "(?<$1>[^/]+)");
  return new RegExp(`^${source}$`);
}

function pathParams(path: string, pathname: string): PathParams {
  const groups = pathPattern(path).exec(pathname)?.groups ?? {};
  const decode = (name: keyof PathParams): string => {
    try {
      return decodeURIComponent(groups[name] ?? "");
    } catch {
      throw problem("invalid_path", "The address has a percent sign that encodes nothing.", { field: name });
    }
  };
  return {
    id: decode("id"),
    run: decode("run"),
    share: decode("share"),
    link: decode("link"),
    approval: decode("approval"),
    port: decode("port"),
    path: decode("path"),
  };
}

function parseQuery<Q extends z.ZodType>(schema: Q | undefined, search: URLSearchParams): z.output<Q> {
  const input = Object.fromEntries(search);
  const result = (schema ?? z.strictObject({})).safeParse(input);
  if (!result.success) throw validationProblem(result.error.issues, input, "query");
  return result.data as z.output<Q>;
}

async function parseBody<B extends z.ZodType>(
  schema: B,
  request: Request,
  max: number = LIMITS.JSON_BODY_MAX,
): Promise<z.output<B>> {
  const input = await readJSON(request, max);
  const result = schema.safeParse(input);
  if (!result.success) throw validationProblem(result.error.issues, input, "body");
  const path = illFormed(result.data);
  if (path !== null) {
    const message = "has half of a surrogate pair, which no text in UTF-8 has";
    throw validationProblem([{ code: "custom", path, message, input: undefined }], input, "body");
  }
  return result.data;
}

/**
 * Where a string is that JSON can escape and UTF-8 cannot hold, so that no file, argument or variable can be it; null when
 * there is none. The schema has bounded the depth of `value`.
 */
function illFormed(value: unknown): PropertyKey[] | null {
  if (typeof value === "string") return value.isWellFormed() ? null : [];
  if (typeof value !== "object" || value === null) return null;
  for (const [key, member] of Object.entries(value)) {
    const inside = key.isWellFormed() ? illFormed(member) : [];
    if (inside !== null) return [key, ...inside];
  }
  return null;
}

/** A whole number in a query: decimal digits only, so that every reader of the same parameter takes it for the same number. */
export function intParam(
  min: number,
  max: number,
): z.ZodPipe<z.ZodPipe<z.ZodString, z.ZodTransform<number, string>>, z.ZodInt> {
  return z
    .string()
    .refine((text) => /^\d{1,15}$/.test(text), { message: "is not a whole number", params: { code: "invalid_type" } })
    .transform(Number)
    .pipe(z.int().min(min).max(max))
    .openapi({ type: "integer", minimum: min, maximum: max });
}

/** `true` or `false` in a query, as a boolean. */
export const boolParam = z.enum(["true", "false", "1", "0"]).transform((text) => text === "true" || text === "1");

const PROBLEM_TEXT: Record<number, string> = {
  400: "The request is not valid; `code` and `field` say where",
  401: "The key or token is missing or wrong",
  403: "Not allowed",
  404: "There is no such thing",
  409: "It does not fit the present state",
  412: "The precondition does not hold",
  413: "The body is too large",
  415: "The content type is not supported",
  426: "The address speaks WebSocket",
  429: "Too much at once",
  500: "Something went wrong on our side",
  502: "The sandbox did not answer as it should",
  503: "The sandbox engine is not running; Retry-After says when to try again",
  504: "It takes longer than it should; ask again",
};

function document<Q extends z.ZodType, B extends z.ZodType>(app: App, spec: EndpointSpec<Q, B>): void {
  const names = [...spec.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? "");
  const hasBody = spec.body !== undefined || spec.rawBody !== undefined;
  const open = ["/", "/health", "/openapi.json"].includes(spec.path) || spec.path.startsWith(LINK_PATH);
  // 400: unknown parameters are refused everywhere. 403: without an API key nothing is served from afar.
  const problems = new Set<number>([400, 403, 500, ...(spec.problems ?? [])]);
  if (!open) problems.add(401);
  if (scopeOf(spec) !== null) problems.add(429);
  if (names.length > 0) problems.add(404);
  if (hasBody) for (const status of [413, 415]) problems.add(status);
  if (spec.rawBody?.includes("application/octet-stream")) problems.delete(415);

  const responses: Record<number, object> = {};
  for (const [status, answer] of Object.entries(spec.answers)) responses[Number(status)] = answerDocument(answer);
  for (const status of [...problems].sort((a, b) => a - b)) {
    if (responses[status] !== undefined) continue;
    responses[status] = {
      description: PROBLEM_TEXT[status] ?? "A problem",
      content: { "application/problem+json": { schema: ProblemSchema } },
    };
  }
  const content = hasBody ? bodyContent(spec.body, spec.rawBody) : undefined;
  app.openAPIRegistry.registerPath({
    method: spec.method,
    path: spec.path,
    tags: [spec.tag],
    summary: spec.summary,
    operationId: operationId(spec.method, spec.path),
    ...(spec.description === undefined ? {} : { description: spec.description }),
    ...(open ? { security: [] } : {}),
    request: {
      ...(names.length === 0
        ? {}
        : { params: z.object(Object.fromEntries(names.map((name) => [name, paramSchema(name)]))) }),
      ...(spec.query instanceof z.ZodObject ? { query: spec.query } : {}),
      ...(spec.headers === undefined ? {} : { headers: headerSchema(spec.headers) }),
      ...(content === undefined ? {} : { body: { required: true, content } }),
    },
    responses: responses as Parameters<App["openAPIRegistry"]["registerPath"]>[0]["responses"],
  });
}

function paramSchema(name: string): z.ZodString {
  const descriptions: Record<string, string> = {
    id: "Session id",
    run: "Run id, as `run_1`",
    approval: "Approval id",
    link: "Token of an artifact link",
    port: "Port in the sandbox",
    path: "The rest of the address, slashes and all. Relative to /workspace; a second slash makes it absolute",
  };
  return z.string().openapi({ description: descriptions[name] ?? name });
}

function headerSchema(headers: Record<string, string>): z.ZodObject {
  const shape = Object.entries(headers).map(([name, description]) => [
    name,
    z.string().optional().openapi({ description }),
  ]);
  return z.object(Object.fromEntries(shape));
}

function answerDocument(answer: AnswerSpec): object {
  const content = Object.entries(answer.content ?? {}).map(([type, schema]) => [
    type,
    { schema: schema ?? { type: "string", ...(type.startsWith("text/") ? {} : { format: "binary" }) } },
  ]);
  const headers = Object.entries(answer.headers ?? {}).map(([name, description]) => [
    name,
    { description, schema: { type: "string" } },
  ]);
  return {
    description: answer.description,
    ...(content.length === 0 ? {} : { content: Object.fromEntries(content) }),
    ...(headers.length === 0 ? {} : { headers: Object.fromEntries(headers) }),
  };
}

type BodyContent = Record<string, { schema: z.ZodType | { type: "string"; format: "binary" } }>;

function bodyContent(schema: z.ZodType | undefined, raw: readonly string[] | undefined): BodyContent {
  if (schema !== undefined) return { "application/json": { schema } };
  return Object.fromEntries((raw ?? []).map((type) => [type, { schema: { type: "string", format: "binary" } }]));
}

/** A stable name for code generators: `post_v1_sessions_id_runs`. */
function operationId(method: string, path: string): string {
  const words = path
    .replace(/[{}]/g, "")
    .split(/[^A-Za-z0-9]+/)
    .filter(Boolean);
  return [method, ...words].join("_");
}
