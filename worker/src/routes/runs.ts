/** Runs of a session, and its event log. */
import { z } from "@hono/zod-openapi";
import type { Env } from "../env.js";
import { problem } from "../errors.js";
import { type Caller, SHARE_PREFIX } from "../identity/caller.js";
import { LIMITS } from "../limits.js";
import type { RunState, RunView } from "../session/api.js";
import { READER_HEADER, type Reader } from "../transport/log.js";
import { type App, boolParam, endpoint, intParam } from "./endpoint.js";
import { idempotencyKey } from "./idempotency.js";
import { json, wantsSSE } from "./json.js";
import { CreateRunBodySchema, RunSchema, SessionTranscriptSchema, TranscriptSchema } from "./schemas.js";
import { live, type SessionRef, sessionObject, unwrap } from "./session-object.js";

const RUN_ID = /^run_[1-9][0-9]{0,8}$/;

const OPEN_STATES: ReadonlySet<RunState> = new Set(["queued", "running"]);

export function registerRuns(app: App): void {
  endpoint(app, {
    method: "post",
    path: "/v1/sessions/{id}/runs",
    tag: "Runs",
    summary: "Start a run",
    description:
      "Queues a prompt (agents) or a command (`shell`). Runs of a session follow each other; a follow-up prompt goes on with " +
      "the agent's conversation. With `Prefer: wait` or `wait=true` the answer comes when the run has ended (200), or after " +
      "the wait (202).",
    headers: {
      "Idempotency-Key": "The same key and body give the same run",
      Prefer: `\`wait\` or \`wait=<seconds>\`, at most ${LIMITS.WAIT_S_MAX}`,
    },
    query: z.strictObject({ wait: boolParam.optional() }),
    body: CreateRunBodySchema,
    answers: {
      202: {
        description: "The run is queued or under way",
        content: { "application/json": RunSchema },
        headers: { Location: "Address of the run" },
      },
      200: { description: "The run has ended (only when waited for)", content: { "application/json": RunSchema } },
    },
    problems: [409, 429, 503],
    async handler({ env, session, request, params, query, body }) {
      const id = params.id;
      const key = idempotencyKey(request);
      const wait = waitSeconds(request, query.wait);
      let run = unwrap(await sessionObject(env, session).createRun(body, key));
      if (wait > 0) run = await waitForRun(env, session, run, wait);
      const location = `/v1/sessions/${id}/runs/${run.id}`;
      const headers = { location, ...(wait > 0 ? { "preference-applied": "wait" } : {}) };
      return json(run, OPEN_STATES.has(run.state) ? 202 : wait > 0 ? 200 : 202, headers);
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/runs",
    tag: "Runs",
    summary: "List the runs of a session, oldest first",
    answers: {
      200: { description: "The runs", content: { "application/json": z.object({ runs: z.array(RunSchema) }) } },
    },
    async handler({ env, session }) {
      return json({ runs: unwrap(await sessionObject(env, session).runs()) });
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/runs/{run}",
    tag: "Runs",
    summary: "One run",
    answers: { 200: { description: "The run", content: { "application/json": RunSchema } } },
    async handler({ env, session, params }) {
      return json(unwrap(await sessionObject(env, session).run(runId(params.run))));
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/runs/{run}/transcript",
    tag: "Runs",
    summary: "What a run said and did, put together",
    description:
      "Turns, texts, tool calls with their results and diffs, subagents under the call that started them, files, retries, " +
      "errors, usage. As JSON, or as Markdown with `Accept: text/markdown`. What is cut or left out is said. Of a run that " +
      "is under way it is what there is so far.",
    headers: { Accept: "`text/markdown` for Markdown" },
    answers: {
      200: {
        description: "The transcript",
        content: { "application/json": TranscriptSchema, "text/markdown": null },
      },
    },
    async handler({ env, request, session, params }) {
      const object = sessionObject(env, session);
      runId(params.run);
      unwrap(await object.view());
      return live(await object.fetch(forwarded(request)));
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/transcript",
    tag: "Runs",
    summary: "What the runs of a session said and did, put together",
    description: "The transcripts of all runs, oldest first. As JSON, or as Markdown with `Accept: text/markdown`.",
    headers: { Accept: "`text/markdown` for Markdown" },
    answers: {
      200: {
        description: "The transcripts",
        content: { "application/json": SessionTranscriptSchema, "text/markdown": null },
      },
    },
    async handler({ env, request, session }) {
      const object = sessionObject(env, session);
      unwrap(await object.view());
      return live(await object.fetch(forwarded(request)));
    },
  });

  endpoint(app, {
    method: "post",
    path: "/v1/sessions/{id}/runs/{run}/cancel",
    tag: "Runs",
    summary: "Cancel a run",
    description:
      "A queued run never starts. A running one gets SIGTERM, then its whole process tree SIGKILL. 409 when it has ended.",
    answers: {
      200: { description: "The run; its end is in the event log", content: { "application/json": RunSchema } },
    },
    problems: [409],
    async handler({ env, session, params }) {
      return json(unwrap(await sessionObject(env, session).cancelRun(runId(params.run))));
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/events",
    tag: "Events",
    summary: "The event log: a page of JSON, Server-Sent Events, or a WebSocket",
    description:
      "Without more: one page. With `Accept: text/event-stream`: the log from `after` (or `Last-Event-ID`) on and then live; " +
      "`id:` is the event's seq, `event:` its type, `data:` the event. With `Upgrade: websocket`: one event a text frame. " +
      "Both live forms end after `session.ended`, and when the token or link that they were opened with ends (a WebSocket with 1008, " +
      "at the latest with the next event). `raw=false` leaves out the agent's own lines.",
    headers: { "Last-Event-ID": "seq of the last event seen; SSE only", Upgrade: "`websocket` for a WebSocket" },
    query: z.strictObject({
      after: intParam(0, 999_999_999_999_999)
        .optional()
        .openapi({ description: "seq after which to begin; 0 when absent" }),
      limit: intParam(1, LIMITS.EVENT_PAGE_MAX)
        .optional()
        .openapi({ description: `Events of a page; ${LIMITS.EVENT_PAGE_DEFAULT} when absent` }),
      raw: boolParam.optional(),
      run: z
        .string()
        .refine((run) => RUN_ID.test(run), { message: "is not a run id", params: { code: "invalid_value" } })
        .optional()
        .openapi({ description: "Only events of this run; the live forms end with its outcome", example: "run_1" }),
    }),
    answers: {
      101: { description: "WebSocket" },
      200: {
        description: "A page, or the stream",
        content: {
          "application/json": z.object({
            events: z.array(
              z.looseObject({ seq: z.number(), time_ms: z.number(), type: z.string(), run: z.string().optional() }),
            ),
            last_seq: z.number().openapi({ description: "Newest event of the log, of whichever run" }),
            next_after: z.number().openapi({ description: "What to give as `after` for the next page" }),
            ended: z.boolean().openapi({ description: "No further event will come" }),
          }),
          "text/event-stream": null,
        },
      },
    },
    async handler({ env, session, request, caller, query }) {
      const object = sessionObject(env, session);
      if (request.headers.get("upgrade")?.toLowerCase() === "websocket" || wantsSSE(request)) {
        // The id's check characters can be right by chance or by intent; asking first keeps such an object empty.
        unwrap(await object.view());
        return live(await object.fetch(reading(request, caller)));
      }
      const after = query.after ?? 0;
      const limit = query.limit ?? LIMITS.EVENT_PAGE_DEFAULT;
      const page = unwrap(await object.events(after, limit, query.raw ?? true, query.run));
      const nextAfter = page.events.at(-1)?.seq ?? after;
      const events = page.events.map((event) => event.json).join(",");
      return new Response(
        `{"events":[${events}],"last_seq":${page.last_seq},"next_after":${nextAfter},"ended":${page.ended}}`,
        {
          headers: { "content-type": "application/json" },
        },
      );
    },
  });
}

/** The request without the caller's key, which the object has no use for. */
function forwarded(request: Request): Request {
  const headers = new Headers(request.headers);
  headers.delete("authorization");
  return new Request(request.url, { method: "GET", headers });
}

/** The same of somebody who goes on reading: the object ends that with the token or link. */
function reading(request: Request, { tokenId, expires }: Caller): Request {
  const share = tokenId.startsWith(SHARE_PREFIX) ? tokenId : "";
  const reader: Reader = { share, untilMs: expires === null ? null : expires * 1_000 };
  const asked = forwarded(request);
  asked.headers.set(READER_HEADER, JSON.stringify(reader));
  return asked;
}

function runId(text: string): string {
  if (RUN_ID.test(text)) return text;
  throw problem("run_not_found", `There is no run "${text.slice(0, 64)}".`);
}

/** Seconds to wait for the run's end; 0 not to wait. */
function waitSeconds(request: Request, wait: boolean | undefined): number {
  const prefer = /(?:^|,)\s*wait(?:\s*=\s*"?(\d{1,6})"?)?\s*(?:,|;|$)/i.exec(request.headers.get("prefer") ?? "");
  if (prefer === null) return wait === true ? LIMITS.WAIT_S_MAX : 0;
  return Math.min(prefer[1] === undefined ? LIMITS.WAIT_S_MAX : Number(prefer[1]), LIMITS.WAIT_S_MAX);
}

async function waitForRun(env: Env, session: SessionRef, run: RunView, seconds: number): Promise<RunView> {
  const deadline = Date.now() + seconds * 1000;
  let current = run;
  let pauseMs = 50;
  while (OPEN_STATES.has(current.state) && Date.now() < deadline) {
    await scheduler.wait(Math.min(pauseMs, Math.max(1, deadline - Date.now())));
    pauseMs = Math.min(pauseMs * 1.5, 1_000);
    current = unwrap(await sessionObject(env, session).run(run.id));
  }
  return current;
}
