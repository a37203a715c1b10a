/** A terminal in a session's sandbox, over a WebSocket. */
import { z } from "@hono/zod-openapi";
import { problem } from "../errors.js";
import { LIMITS } from "../limits.js";
import { askTerminal } from "../session/terminals.js";
import { type App, endpoint, intParam } from "./endpoint.js";
import { live, sessionObject, unwrap } from "./session-object.js";

const NAME = /^[a-z0-9][a-z0-9_-]{0,31}$/;
const SHELL = /^[\w./+-]{1,255}$/;
const matching = (pattern: RegExp, what: string): z.ZodString =>
  z.string().refine((text) => pattern.test(text), { message: what, params: { code: "invalid_value" } }) as z.ZodString;

const DESCRIPTION = `With \`Upgrade: websocket\`. Frames are those of the Cloudflare Sandbox SDK, and so of its xterm addon: binary frames are what is
typed and printed; text frames are JSON with a \`type\`. From the server \`ready\` (after what was printed before), \`exit\` with \`code\` and \`signal\`,
\`error\` with \`message\`, \`skipped\` with \`bytes\`; from the client \`resize\` with \`cols\` and \`rows\`, and \`ack\` with \`bytes\`: how many of the output it
has, all when it names no number.

A terminal lives until its shell ends, not until a connection does: whoever asks for the same \`terminal\` again gets what was printed last (256 KiB)
and goes on with the same shell; several may be connected to one. What is printed goes through the session's redactor; nothing of it is stored. That a terminal was
opened and closed, and by whom, is in the audit log.

A WebSocket has no back pressure here: of a client that is ${LIMITS.TERMINAL_SKIP_AT / 1_048_576} MiB behind, by its acknowledgements, output is skipped up to the last screens full, which begin with a
reset; one that does not acknowledge is taken to have read what it got a second before, and to be there when it types.

Close codes: 1000 the shell has ended or the client has left, 1001 the session or its sandbox has ended, 1008 the token has expired, 1009 a frame is too long, 1011 the terminal
failed, 4408 nothing was typed or printed for \`idle_s\`, 4429 one end is ${LIMITS.TERMINAL_AHEAD_MAX / 1_048_576} MiB ahead of the other.

A browser's page connects when its origin is the API's own or listed in CAISSON_CORS_ORIGINS, with its token as a subprotocol: \`new WebSocket(url, ["caisson", "caisson.bearer.<token in base64url>"])\`.`;

export function registerTerminal(app: App): void {
  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/terminal",
    tag: "Sandbox",
    scope: "terminal",
    summary: "A terminal in the session's sandbox",
    description: DESCRIPTION.replaceAll(/(?<!\n)\n(?!\n)/g, " "),
    headers: { Upgrade: "`websocket`" },
    query: z.strictObject({
      terminal: matching(NAME, "is not the name of a terminal: a-z, 0-9, _ and -, at most 32")
        .optional()
        .openapi({ description: "Which one; `main` when absent", example: "main" }),
      cols: intParam(1, 65_535).optional().openapi({ description: "Columns; of a new one 80 when absent" }),
      rows: intParam(1, 65_535).optional().openapi({ description: "Rows; of a new one 24 when absent" }),
      shell: matching(SHELL, "is neither a path nor the name of a program")
        .optional()
        .openapi({ description: "Program of a new one; `bash` when absent" }),
      idle_s: intParam(1, LIMITS.TERMINAL_IDLE_S_MAX)
        .optional()
        .openapi({ description: `Seconds of silence; ${LIMITS.TERMINAL_IDLE_S_DEFAULT} when absent` }),
    }),
    answers: { 101: { description: "WebSocket" } },
    problems: [409, 426, 502, 503],
    async handler({ env, session, request, caller, query }) {
      if (request.headers.get("upgrade")?.toLowerCase() !== "websocket")
        throw problem("upgrade_required", "A terminal needs a WebSocket: send `Upgrade: websocket`.", {
          headers: { upgrade: "websocket", connection: "Upgrade" },
        });
      const object = sessionObject(env, session);
      // The id's check characters can be right by chance or by intent; asking first keeps such an object empty.
      unwrap(await object.view());
      const { terminal = "main", idle_s = LIMITS.TERMINAL_IDLE_S_DEFAULT, ...shape } = query;
      const until = caller.expires === null ? null : caller.expires * 1_000;
      return live(await object.fetch(askTerminal({ ...shape, terminal, idle_s, by: caller.subject, until })));
    },
  });
}
