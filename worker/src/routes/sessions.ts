/** Sessions: create, list, look at, extend, end. */
import { z } from "@hono/zod-openapi";
import { admit, released } from "../identity/quotas.js";
import { LIMITS } from "../limits.js";
import type { Result, SessionView } from "../session/api.js";
import { type App, endpoint, intParam } from "./endpoint.js";
import { idempotencyKey } from "./idempotency.js";
import { newSessionId, sessionIdForKey } from "./ids.js";
import { json } from "./json.js";
import {
  CreateSessionBodySchema,
  PatchSessionBodySchema,
  SessionSchema,
  SessionStateSchema,
  SessionSummarySchema,
} from "./schemas.js";
import { listSessions } from "./session-index.js";
import { sessionObject, sessionRef, unwrap } from "./session-object.js";

export function registerSessions(app: App): void {
  endpoint(app, {
    method: "post",
    path: "/v1/sessions",
    tag: "Sessions",
    summary: "Create a session",
    description:
      "Starts a sandbox and lays out the files. The answer comes at once; runs may be queued while it starts.",
    headers: { "Idempotency-Key": "The same key and body give the same session; another body is refused with 409" },
    body: CreateSessionBodySchema,
    bodyMax: LIMITS.JSON_FILES_BODY_MAX,
    answers: {
      201: {
        description: "The session",
        content: { "application/json": SessionSchema },
        headers: { Location: "Address of the session" },
      },
    },
    problems: [409, 429, 503],
    async handler({ env, request, caller, body }) {
      const key = idempotencyKey(request);
      const id = key === undefined ? newSessionId() : sessionIdForKey(key, caller.tenant);
      const counted = await admit(env, caller, id, LIMITS.SESSION_ALIVE_MS_MAX);
      const object = sessionObject(env, sessionRef(caller.tenant, id));
      let lives = false;
      try {
        const made = await object.create(id, body, caller.tenant, caller.quota);
        lives = made.ok && made.value.state !== "ended";
        return json(unwrap(made), 201, { location: `/v1/sessions/${id}` });
      } finally {
        // What was not created is not alive, nor what ended before; with another body under a known key it may be.
        if (counted && !lives && !isAlive(await object.view())) await released(env, caller, id);
      }
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions",
    tag: "Sessions",
    summary: "List sessions, newest first",
    query: z.strictObject({
      limit: intParam(1, LIMITS.SESSION_PAGE_MAX)
        .optional()
        .openapi({ description: `Sessions of a page; ${LIMITS.SESSION_PAGE_DEFAULT} when absent` }),
      cursor: z.string().max(512).optional().openapi({ description: "`next_cursor` of the page before" }),
      state: SessionStateSchema.optional(),
    }),
    answers: {
      200: {
        description: "A page",
        content: {
          "application/json": z.object({ sessions: z.array(SessionSummarySchema), next_cursor: z.string().nullable() }),
        },
      },
    },
    async handler({ env, caller, query }) {
      return json(
        await listSessions(env, caller.tenant, query.limit ?? LIMITS.SESSION_PAGE_DEFAULT, query.cursor, query.state),
      );
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}",
    tag: "Sessions",
    summary: "One session",
    answers: { 200: { description: "The session", content: { "application/json": SessionSchema } } },
    async handler({ env, session }) {
      return json(unwrap(await sessionObject(env, session).view()));
    },
  });

  endpoint(app, {
    method: "patch",
    path: "/v1/sessions/{id}",
    tag: "Sessions",
    summary: "Extend or shorten a session, change its limits",
    description:
      "Limits that are absent stay, one that is null is lifted. They hold for the running run as well: one that is below what is used stops it.",
    body: PatchSessionBodySchema,
    answers: { 200: { description: "The session", content: { "application/json": SessionSchema } } },
    problems: [409],
    async handler({ env, session, body }) {
      return json(unwrap(await sessionObject(env, session).update(body)));
    },
  });

  endpoint(app, {
    method: "delete",
    path: "/v1/sessions/{id}",
    tag: "Sessions",
    summary: "End a session",
    description:
      "Cancels its runs and destroys its sandbox. The event log, the runs and the artifacts stay. Ending twice is harmless.",
    answers: { 200: { description: "The session as it ended", content: { "application/json": SessionSchema } } },
    problems: [503, 504],
    async handler({ env, session }) {
      return json(unwrap(await sessionObject(env, session).end()));
    },
  });
}

function isAlive(session: Result<SessionView>): boolean {
  return session.ok && session.value.state !== "ended";
}
