/** Tokens, share links and the audit logs. */
import { z } from "@hono/zod-openapi";
import { CoreError } from "../core/core.js";
import type { Guard } from "../core/guard.js";
import { problem } from "../errors.js";
import { type AuditPage, auditFirst } from "../identity/audit.js";
import { ARTIFACT_LINK_PREFIX, ARTIFACT_SCOPE, type Caller, LINK_PATH, SHARE_PREFIX } from "../identity/caller.js";
import { tenantObject } from "../identity/quotas.js";
import { LIMITS } from "../limits.js";
import { type App, type AppContext, endpoint } from "./endpoint.js";
import { json } from "./json.js";
import { sessionObject, unwrap } from "./session-object.js";

const ScopeSchema = z
  .string()
  .regex(/^(admin|execute|(sessions:(read|write)|preview|terminal|approve)(:ses_[a-z2-7]{20})?)$/)
  .openapi({
    description:
      "`admin`, `execute`, or `sessions:read`, `sessions:write`, `preview`, `terminal`, `approve`, each also `:<session id>`",
  });
const NameSchema = z.string().min(1).max(128);

const MintBodySchema = z
  .strictObject({
    sub: NameSchema.optional(),
    tenant: NameSchema.regex(/^[\w.-]+$/).optional(),
    quota: NameSchema.optional(),
    scopes: z.array(ScopeSchema).min(1).max(32),
    expires_in_s: z.int().min(1).max(LIMITS.TOKEN_LIFE_S_MAX).optional(),
  })
  .openapi("CreateToken");
const TokenSchema = z.object({ token: z.string(), expires_at: z.string() }).openapi("Token");
const ShareBodySchema = z
  .strictObject({
    expires_in_s: z.int().min(60).max(LIMITS.SHARE_LIFE_S_MAX).optional(),
    artifact: z
      .strictObject({ path: z.string().min(1).max(LIMITS.PATH_MAX), run: z.string().max(64).optional() })
      .optional()
      .openapi({ description: "Only this artifact, and of its versions `run`'s or else the newest one there is now" }),
  })
  .openapi("CreateShare");
const ShareSchema = z
  .object({
    id: z.string(),
    artifact: z.object({ run_id: z.string(), path: z.string() }).nullable(),
    created_at: z.string(),
    expires_at: z.string(),
    revoked_at: z.string().nullable(),
  })
  .openapi("Share");

const TOKEN_LIFE_S = 3_600;
const SHARE_LIFE_S = 7 * 86_400;

export function registerIdentity(app: App): void {
  endpoint(app, {
    method: "post",
    path: "/v1/tokens",
    tag: "Identity",
    scope: "admin",
    summary: "Mint a token",
    description:
      "Signed with the first key of CAISSON_KEYS. Tokens are not stored; they end when they expire or their key is taken out. " +
      "A tenant's own `admin` mints for that tenant and with its own quota class; only the operator chooses them.",
    body: MintBodySchema,
    answers: { 201: { description: "The token", content: { "application/json": TokenSchema } } },
    problems: [409],
    async handler({ c, env, caller, body }) {
      const { expires_in_s = TOKEN_LIFE_S, ...asked } = body;
      const claims = { ...asked, ...ownerClaims(caller, asked) };
      const jti = `tok_${crypto.randomUUID()}`;
      const minted = mint(c, { ...claims, jti }, expires_in_s);
      await tenantObject(env, caller.tenant).act({
        act: "token.minted",
        by: caller.subject,
        jti,
        ...claims,
        expires_at: minted.expires_at,
      });
      return json(minted, 201);
    },
  });

  endpoint(app, {
    method: "post",
    path: "/v1/sessions/{id}/share",
    tag: "Identity",
    summary: "Make a link that lets others read the session or download one artifact",
    description:
      "Read only, for this session alone: events, runs, diff, artifacts, with `?share=` instead of a token. With `artifact` the " +
      "link downloads that artifact and opens nothing else.",
    body: ShareBodySchema,
    answers: {
      201: {
        description: "The link. Its token is in this answer and nowhere else",
        content: { "application/json": ShareSchema.extend({ token: z.string(), url: z.string() }) },
      },
    },
    problems: [404, 409],
    async handler({ c, env, request, caller, session, body }) {
      const lifeS = body.expires_in_s ?? SHARE_LIFE_S;
      const artifact =
        body.artifact === undefined
          ? undefined
          : { ...body.artifact, path: body.artifact.path.replace(/^\/workspace\//, "") };
      const id = `${artifact === undefined ? SHARE_PREFIX : ARTIFACT_LINK_PREFIX}${crypto.randomUUID()}`;
      unwrap(await sessionObject(env, session).view());
      const scope = artifact === undefined ? "sessions:read" : ARTIFACT_SCOPE;
      // Whoever follows the link uses up what its maker may.
      const claims = { ...ownClaims(caller), sub: "share", jti: id, scopes: [`${scope}:${session.id}`] };
      const { token, expires_at } = mint(c, claims, lifeS);
      const share = unwrap(await sessionObject(env, session).addShare(id, Date.parse(expires_at), artifact));
      await tenantObject(env, caller.tenant).act({
        act: "share.created",
        by: caller.subject,
        session: session.id,
        share: id,
        ...(share.artifact === null ? {} : { artifact: share.artifact }),
        expires_at,
      });
      const { origin } = new URL(request.url);
      const url =
        artifact === undefined
          ? `${origin}/v1/sessions/${session.id}/events?share=${token}`
          : `${origin}${LINK_PATH}${token}`;
      return json({ ...share, token, url }, 201);
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/shares",
    tag: "Identity",
    scope: "sessions:write",
    summary: "List the share links of a session",
    answers: {
      200: { description: "The links", content: { "application/json": z.object({ shares: z.array(ShareSchema) }) } },
    },
    async handler({ env, session }) {
      return json({ shares: unwrap(await sessionObject(env, session).shares()) });
    },
  });

  endpoint(app, {
    method: "delete",
    path: "/v1/sessions/{id}/shares/{share}",
    tag: "Identity",
    summary: "Revoke a share link",
    answers: { 200: { description: "The link as revoked", content: { "application/json": ShareSchema } } },
    async handler({ env, caller, session, params }) {
      const share = unwrap(await sessionObject(env, session).revokeShare(params.share));
      await tenantObject(env, caller.tenant).act({
        act: "share.revoked",
        by: caller.subject,
        session: session.id,
        share: share.id,
      });
      return json(share);
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/audit",
    tag: "Identity",
    summary: "The session's log with its audit chain",
    description: "NDJSON; `build/caisson-audit verify` checks it offline.",
    answers: { 200: { description: "Events, then the head", content: { "application/x-ndjson": null } } },
    async handler({ env, session }) {
      const object = sessionObject(env, session);
      return await auditAnswer(session.id, async (after) => unwrap(await object.audit(after)));
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/audit",
    tag: "Identity",
    scope: "admin",
    summary: "The log of administrative acts",
    description: "NDJSON, chained like a session's log.",
    answers: { 200: { description: "Acts, then the head", content: { "application/x-ndjson": null } } },
    async handler({ env, caller }) {
      const object = tenantObject(env, caller.tenant);
      return await auditAnswer(await object.auditId(), (after) => object.audit(after));
    },
  });
}

/** A log as `caisson-audit verify` reads it, page by page as the client takes it. */
async function auditAnswer(id: string, pageAfter: (after: number) => Promise<AuditPage>): Promise<Response> {
  let page: AuditPage | null = await pageAfter(0);
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(encoder.encode(`${auditFirst(id)}\n`)),
    async pull(controller) {
      if (page === null) return controller.close();
      const { lines, next, head } = page;
      controller.enqueue(encoder.encode([...lines, ...(head === null ? [] : [head]), ""].join("\n")));
      page = head === null ? await pageAfter(next) : null;
    },
  });
  return new Response(body, { headers: { "content-type": "application/x-ndjson" } });
}

function ownClaims({ tenant, quota }: Caller): { tenant?: string; quota?: string } {
  return { ...(tenant === "" ? {} : { tenant }), ...(quota === "" ? {} : { quota }) };
}

/** Whom a token is for: the operator says it, a tenant has no say over others and would else mint itself the operator's or a larger quota. */
function ownerClaims(caller: Caller, asked: { tenant?: string | undefined; quota?: string | undefined }): object {
  if (caller.tenant === "") return {};
  for (const field of ["tenant", "quota"] as const) {
    if (asked[field] === undefined || asked[field] === caller[field]) continue;
    const detail = `A token of the tenant ${caller.tenant} mints none with another ${field} than its own.`;
    throw problem("insufficient_scope", detail, { field: `/${field}` });
  }
  return ownClaims(caller);
}

/** Signs claims for `lifeS` seconds. */
function mint(
  c: AppContext,
  claims: Omit<Parameters<Guard["mintToken"]>[0], "expires_in_s">,
  lifeS: number,
): { token: string; expires_at: string } {
  const nowMs = Date.now();
  try {
    const token = c.get("guard").mintToken({ ...claims, expires_in_s: lifeS }, nowMs);
    return { token, expires_at: new Date((Math.floor(nowMs / 1_000) + lifeS) * 1_000).toISOString() };
  } catch (error) {
    if (error instanceof CoreError && error.errName === "UNKNOWN_KEY")
      throw problem(
        "no_signing_key",
        "Set CAISSON_KEYS to a document with a signing key: `build/caisson-token keygen` prints one.",
      );
    throw error;
  }
}
