/** The session's policy and the log of what its sandbox asked of the network. */
import { z } from "@hono/zod-openapi";
import { operatorMask, report } from "../effects/report.js";
import { LIMITS } from "../limits.js";
import { archivedFirst, archivePrefix } from "../session/egress-archive.js";
import { type App, endpoint, intParam } from "./endpoint.js";
import { json } from "./json.js";
import { EgressEntrySchema, PolicySchema } from "./schemas.js";
import { sessionObject, unwrap } from "./session-object.js";

const ReportSchema = z.object({
  dialect: z.string().openapi({ description: "What the document was read as" }),
  unmapped: z
    .array(z.object({ pointer: z.string(), why: z.string() }))
    .openapi({ description: "Settings that have no equal here" }),
});

export function registerPolicy(app: App): void {
  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/policy",
    tag: "Policy",
    summary: "The session's policy",
    answers: {
      200: {
        description: "The document as it was given, and the table as a document of our own",
        content: { "application/json": z.object({ policy: PolicySchema, compiled: PolicySchema }) },
      },
    },
    async handler({ env, session }) {
      return json(unwrap(await sessionObject(env, session).policy()));
    },
  });

  endpoint(app, {
    method: "put",
    path: "/v1/sessions/{id}/policy",
    tag: "Policy",
    summary: "Replace the session's policy",
    description:
      "Holds from the next connection on. Settings of Claude Code, E2B, Docker sandboxes and sandbox-runtime are accepted as they are.",
    body: PolicySchema,
    bodyMax: LIMITS.POLICY_MAX,
    answers: { 200: { description: "How it was read", content: { "application/json": ReportSchema } } },
    problems: [409],
    async handler({ env, session, body }) {
      return json(unwrap(await sessionObject(env, session).setPolicy(body)));
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/egress",
    tag: "Policy",
    summary: "What the sandbox asked of the network",
    description:
      "Oldest first. With `Accept: application/x-ndjson` one entry a line. Live as `egress.allowed` and `egress.denied` events.",
    query: z.strictObject({
      after: intParam(0, Number.MAX_SAFE_INTEGER).optional().openapi({ description: "`id` after which to go on" }),
      limit: intParam(1, LIMITS.EGRESS_PAGE_MAX).optional(),
    }),
    headers: { Accept: "`application/x-ndjson` for lines" },
    answers: {
      200: {
        description: "A page",
        content: {
          "application/json": z.object({ egress: z.array(EgressEntrySchema), next_after: z.number() }),
          "application/x-ndjson": null,
        },
      },
    },
    async handler({ env, session, request, query }) {
      const after = query.after ?? 0;
      const entries = unwrap(await sessionObject(env, session).egressLog(after, query.limit ?? LIMITS.EGRESS_PAGE_MAX));
      if (/\bapplication\/x-ndjson\b/i.test(request.headers.get("accept") ?? "")) {
        const lines = entries.map((entry) => `${JSON.stringify(entry)}\n`).join("");
        return new Response(lines, { headers: { "content-type": "application/x-ndjson" } });
      }
      return json({ egress: entries, next_after: entries.at(-1)?.id ?? after });
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/egress/archive",
    tag: "Policy",
    summary: "The whole egress log",
    description: "One entry a line, oldest first: what is archived in R2, and what came after it.",
    answers: { 200: { description: "The log", content: { "application/x-ndjson": null } } },
    async handler({ env, session }) {
      const object = sessionObject(env, session);
      const archived = unwrap(await object.egressArchived());
      const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
      const write = async (): Promise<void> => {
        let cursor: string | undefined;
        do {
          const prefix = archivePrefix(session.id);
          const listed = await env.ARTIFACTS.list(cursor === undefined ? { prefix } : { prefix, cursor });
          for (const { key } of listed.objects) {
            // A portion that was written since is in the object's own log still: it comes once.
            if (archivedFirst(key) > archived) continue;
            const stored = await env.ARTIFACTS.get(key);
            await stored?.body.pipeTo(writable, { preventClose: true });
          }
          cursor = listed.truncated ? listed.cursor : undefined;
        } while (cursor !== undefined);
        for (let after = archived; ; ) {
          const entries = unwrap(await object.egressLog(after, LIMITS.EGRESS_PAGE_MAX));
          const last = entries.at(-1);
          if (last === undefined) break;
          const bytes = new TextEncoder().encode(entries.map((entry) => `${JSON.stringify(entry)}\n`).join(""));
          const writer = writable.getWriter();
          await writer.write(bytes).finally(() => writer.releaseLock());
          after = last.id;
        }
        await writable.close();
      };
      write().catch(async (error: unknown) => {
        report(operatorMask(env), "error", `session ${session.id}: egress archive`, error);
        await writable.abort(error).catch(() => {});
      });
      return new Response(readable, { headers: { "content-type": "application/x-ndjson" } });
    },
  });
}
