/**
 * Model requests on their way out of a sandbox. The sandbox holds a placeholder; the key is added here.
 */
import { operatorMask, report } from "../../worker/src/effects/report.js";
import type { Env } from "../../worker/src/env.js";

/** A vendor of models: which hosts stand for it, and what of it a sandbox may ask. */
interface Provider {
  readonly name: string;
  /**
   * The vendor's own host, and one of ours that an agent gets as its base URL. An agent does not take the latter for the
   * vendor's own service: Claude Code asks that for managed settings and policy limits first.
   */
  readonly hosts: readonly string[];
  /** The interface's paths that leave. The rest of it (files, batches, keys of an organization) is the operator's account. */
  readonly paths: RegExp;
  readonly upstream: string;
  readonly keyName: "ANTHROPIC_API_KEY" | "OPENAI_API_KEY" | "GEMINI_API_KEY";
  readonly upstreamName: "ANTHROPIC_UPSTREAM" | "OPENAI_UPSTREAM" | "GEMINI_UPSTREAM";
  /** The headers that carry a key. */
  readonly auth: (key: string) => readonly [string, string];
  /** An error in the interface's own shape, so that its clients report it in words. */
  readonly error: (status: number, type: string, message: string) => unknown;
}

const PROVIDERS: readonly Provider[] = [
  {
    name: "Anthropic",
    hosts: ["api.anthropic.com", "model.caisson.internal"],
    paths: /^\/v1\/(messages(\/count_tokens)?|models(\/[^/]+)?)$/,
    upstream: "https://api.anthropic.com",
    keyName: "ANTHROPIC_API_KEY",
    upstreamName: "ANTHROPIC_UPSTREAM",
    auth: (key) => ["x-api-key", key],
    error: (_status, type, message) => ({ type: "error", error: { type, message } }),
  },
  {
    name: "OpenAI",
    hosts: ["api.openai.com", "openai.model.caisson.internal"],
    paths: /^\/v1\/(responses(\/compact)?|chat\/completions|models(\/[^/]+)?)$/,
    upstream: "https://api.openai.com",
    keyName: "OPENAI_API_KEY",
    upstreamName: "OPENAI_UPSTREAM",
    auth: (key) => ["authorization", `Bearer ${key}`],
    error: (_status, type, message) => ({ error: { message, type, param: null, code: null } }),
  },
  {
    name: "Gemini",
    hosts: ["generativelanguage.googleapis.com", "gemini.model.caisson.internal"],
    paths:
      /^\/v1(beta)?\/models(\/[^/:]+(:(streamGenerateContent|generateContent|countTokens|embedContent|batchEmbedContents))?)?$/,
    upstream: "https://generativelanguage.googleapis.com",
    keyName: "GEMINI_API_KEY",
    upstreamName: "GEMINI_UPSTREAM",
    auth: (key) => ["x-goog-api-key", key],
    error: (code, type, message) => ({ error: { code, message, status: type.toUpperCase() } }),
  },
];

/** A host that stands for a model's interface. */
export interface ModelHost {
  /** The vendor's own first. */
  readonly hosts: readonly string[];
  /** An error in the interface's own shape, so that its clients report it in words. */
  readonly refuse: (status: number, type: string, message: string) => Response;
}

/** The model's interface that the name stands for, or null. */
export function modelHost(hostname: string): ModelHost | null {
  const provider = PROVIDERS.find(({ hosts }) => hosts.includes(hostname));
  if (provider === undefined) return null;
  const refuse: ModelHost["refuse"] = (status, type, message) =>
    Response.json(provider.error(status, type, message), { status });
  return { hosts: provider.hosts, refuse };
}

/** Headers that the sandbox may not choose, or that belong to the connection it used. */
const DROPPED = [
  "x-api-key",
  "x-goog-api-key",
  "authorization",
  "proxy-authorization",
  "openai-organization",
  "openai-project",
  "x-goog-user-project",
  "host",
  "connection",
  "accept-encoding",
  "cf-connecting-ip",
];

/** Forwards a request for a model's host, streaming both ways. Only the paths of model calls leave. */
export async function modelEgress(request: Request, env: Env): Promise<Response> {
  const url = new URL(request.url);
  const provider = PROVIDERS.find(({ hosts }) => hosts.includes(url.hostname));
  if (provider === undefined) return Response.json({ error: "not a model's host" }, { status: 403 });
  const refuse = (status: number, type: string, message: string): Response =>
    Response.json(provider.error(status, type, message), { status });
  if (!provider.paths.test(url.pathname))
    return refuse(403, "permission_error", `${url.pathname} of this host is not reachable from a sandbox`);
  // An empty variable is an absent one: an empty header would only hide what is missing.
  const key = env[provider.keyName] || undefined;
  const base = env[provider.upstreamName] || undefined;
  if (key === undefined && base === undefined)
    return refuse(
      401,
      "authentication_error",
      `this Worker has no key for ${provider.name}'s models: set ${provider.keyName}`,
    );
  const headers = new Headers();
  for (const [name, value] of request.headers) {
    if (!DROPPED.includes(name) && !name.startsWith("x-caisson-")) headers.append(name, value);
  }
  if (key !== undefined) headers.set(...provider.auth(key));
  const upstream = new URL(base ?? provider.upstream);
  upstream.pathname = upstream.pathname.replace(/\/$/, "") + url.pathname;
  upstream.search = url.search;
  // A key in the query would go before the one in the header.
  if (upstream.searchParams.has("key")) upstream.searchParams.delete("key");
  try {
    return await fetch(upstream, {
      method: request.method,
      headers,
      body: request.body,
      redirect: "manual",
      signal: request.signal,
    });
  } catch (error) {
    report(operatorMask(env), "error", "model egress", error);
    return refuse(502, "api_error", `the model endpoint ${upstream.origin} does not answer`);
  }
}
