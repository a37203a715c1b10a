/**
 * Terminals: what is typed goes to the sandbox as it is, what is printed comes back redacted. Each client has a connection of
 * its own to the sandbox's terminal, which outlives it: another one may take the same terminal up again.
 *
 * Nothing that is typed or printed is stored. That somebody had a terminal is an administrative act, in the tenant's audit log.
 */
import type { RedactStream } from "../core/redact.js";
import { openTerminal, type TerminalShape } from "../effects/terminal.js";
import { Problem } from "../errors.js";
import { LIMITS } from "../limits.js";
import type { CommandAccess, Failure, Result } from "./api.js";
import { fail } from "./failures.js";
import type { Mask } from "./mask.js";
import type { OwnSandbox } from "./own-sandbox.js";

/** WebSocket close codes: RFC 6455, and from 4000 on our own. */
export const CLOSE = {
  DONE: 1000,
  GOING_AWAY: 1001,
  POLICY: 1008,
  TOO_BIG: 1009,
  FAILED: 1011,
  IDLE: 4408,
  UNREAD: 4429,
} as const;

/** milliseconds: what may be the beginning of a key waits so long for what follows it; an echo may not wait longer. */
const HOLD_MS = 50;
/** bytes of a registered secret after which what is printed is taken for the secret rather than for a word that begins like it. */
const BEGUN = 4;
/** milliseconds that those and what extends them wait, each time anew. */
const HOLD_BEGUN_MS = 1_000;
/** milliseconds between two notes of the same terminal that the session is not idle. */
const TOUCH_MS = 10_000;
/** milliseconds: a client that says nothing of what it has read is shown more after so long. */
const SKIP_MS = 1_000;
/** bytes kept of what is skipped: some screens full. */
const TAIL_BYTES = 64 * 1024;
/** bytes: what a terminal printed before and the sandbox shows again may be cut at its beginning when it is so long. */
const REPLAY_CUT = 16 * 1024;
/** bytes of it that are waited for; the local server keeps 256 KiB. */
const REPLAY_MAX = 1_048_576;
/** milliseconds that it is waited for where nothing says that it is all there. */
const REPLAY_MS = 2_000;
/** Terminal control: full reset (RIS), screen and what was scrolled out of it. */
const RESET = new TextEncoder().encode("\x1bc");
/** milliseconds: the longest time that a timer takes. */
const TIMER_MS_MAX = 2_147_483_647;

export interface TerminalRequest extends TerminalShape {
  /** Name of the terminal in its session. */
  readonly terminal: string;
  readonly idle_s: number;
  /** Subject of the token, for the audit log. */
  readonly by: string;
  /** Unix milliseconds: when the token ends, and the connection with it; null: it does not. */
  readonly until: number | null;
}

/** What the route asks of the object, as the one header of its request. */
const REQUEST_HEADER = "x-caisson-terminal";

export function askTerminal(asked: TerminalRequest): Request {
  const headers = {
    upgrade: "websocket",
    connection: "Upgrade",
    [REQUEST_HEADER]: encodeURIComponent(JSON.stringify(asked)),
  };
  return new Request("http://session/terminal", { headers });
}

export function terminalRequest(request: Request): TerminalRequest {
  return JSON.parse(decodeURIComponent(request.headers.get(REQUEST_HEADER) ?? "")) as TerminalRequest;
}

const ENDED = "the session has ended";

/** The placeholders of the session's secrets, as commands get them. */
type CommandEnv = () => Result<Pick<CommandAccess, "env">>;
type Act = (fields: Record<string, unknown>) => Promise<void>;

export class Terminals {
  readonly #sandbox: OwnSandbox;
  readonly #mask: Mask;
  readonly #report: Report;
  readonly #env: CommandEnv;
  readonly #act: Act;
  readonly #open = new Set<Relay>();
  #opening = 0;
  /** closeAll was called: one that is being opened must not open any more. */
  #over = false;

  constructor(sandbox: OwnSandbox, mask: Mask, env: CommandEnv, act: Act, report: Report) {
    this.#report = report;
    this.#sandbox = sandbox;
    this.#mask = mask;
    this.#env = env;
    this.#act = act;
  }

  /** Answers the upgrade, or why there is none. */
  async attach(asked: TerminalRequest): Promise<Response | Failure> {
    if (this.#open.size + this.#opening >= LIMITS.TERMINALS_MAX)
      return fail(
        409,
        "too_many_terminals",
        `a session has at most ${LIMITS.TERMINALS_MAX} terminal connections at once`,
      );
    this.#opening += 1;
    try {
      const usable = await this.#sandbox.usable();
      if (!usable.ok) return usable;
      const secrets = this.#env();
      if (!secrets.ok) return secrets;
      // Throws when a stored secret cannot be opened: then nothing is shown.
      const redactor = this.#mask.forTerminals();
      const { terminal, by } = asked;
      await this.#act({ act: "terminal.opened", by, terminal });
      const closed = async (code: number, reason: string): Promise<void> =>
        await this.#act({ act: "terminal.closed", by, terminal, code, reason });
      let shell: WebSocket;
      try {
        shell = await openTerminal(usable.value, terminal, asked, secrets.value.env);
      } catch (error) {
        await closed(CLOSE.FAILED, "there was no terminal");
        if (this.#over) return fail(409, "session_ended", ENDED);
        if (error instanceof Problem) return fail(error.status, error.code, redactor.text(error.message));
        throw error;
      }
      if (this.#over) {
        shell.close(CLOSE.GOING_AWAY, ENDED);
        await closed(CLOSE.GOING_AWAY, ENDED);
        return fail(409, "session_ended", ENDED);
      }
      const { 0: client, 1: server } = new WebSocketPair();
      server.binaryType = "arraybuffer";
      server.accept();
      const relay = new Relay(server, shell, asked, {
        redacted: () => redactor.open(),
        text: (text) => redactor.text(text),
        typed: () => this.#sandbox.touch(),
        report: this.#report,
        closed: (end) => {
          this.#open.delete(relay);
          this.#act({ act: "terminal.closed", by, terminal, ...end }).catch((error: unknown) =>
            this.#report("terminal.closed is not in the audit log", error),
          );
        },
      });
      this.#open.add(relay);
      return new Response(null, { status: 101, webSocket: client });
    } finally {
      this.#opening -= 1;
    }
  }

  /** The session ends: nobody may go on typing. */
  closeAll(): void {
    this.#over = true;
    for (const relay of [...this.#open]) relay.close(CLOSE.GOING_AWAY, ENDED);
  }
}

interface RelayEnd {
  readonly code: number;
  readonly reason: string;
  readonly bytes_typed: number;
  readonly bytes_printed: number;
  readonly duration_ms: number;
}

/** Says in the Worker's log what nobody waits for. */
type Report = (what: string, error: unknown) => void;

interface RelayHooks {
  readonly redacted: () => RedactStream;
  readonly text: (text: string) => string;
  readonly typed: () => void;
  readonly report: Report;
  readonly closed: (end: RelayEnd) => void;
}

/** Why the connection ends. */
class Refused extends Error {
  readonly code: number;

  constructor(code: number, reason: string) {
    super(reason);
    this.code = code;
  }
}

type Timer = ReturnType<typeof setTimeout>;

/** One client at one terminal. */
class Relay {
  readonly #client: WebSocket;
  readonly #shell: WebSocket;
  readonly #hooks: RelayHooks;
  readonly #idleMs: number;
  readonly #begun = Date.now();
  readonly #expiry: Timer | undefined;
  readonly #stream: RedactStream;
  /** bytes that the redactor keeps back. */
  #held = 0;
  #holding: Timer | undefined;
  #idle: Timer;
  #lastUse = Date.now();
  #lastTouch = Date.now();
  #typed = 0;
  #printed = 0;
  /** bytes sent, and of them those that the client has: a WebSocket here tells nobody how far behind its other end is. */
  #sent = 0;
  #read = 0;
  /** `#sent` when sending was last taken up without a word of the client. */
  #resumed = 0;
  /** bytes typed since the shell last printed something. */
  #untaken = 0;
  /** What is not sent because the client is behind; null when it is not. */
  #skipped: Tail | null = null;
  #skipping: Timer | undefined;
  /** What was printed before, until all of it is there; null after that. */
  #replay: Uint8Array[] | null = [];
  readonly #replaying: Timer;
  #over = false;

  constructor(client: WebSocket, shell: WebSocket, { idle_s, until }: TerminalRequest, hooks: RelayHooks) {
    this.#client = client;
    this.#shell = shell;
    this.#hooks = hooks;
    this.#idleMs = idle_s * 1_000;
    this.#stream = hooks.redacted();
    this.#idle = setTimeout(() => this.#look(), this.#idleMs);
    this.#replaying = setTimeout(() => this.#guarded(() => this.#printReplay()), REPLAY_MS);
    if (until !== null) {
      const left = Math.min(TIMER_MS_MAX, Math.max(0, until - Date.now()));
      this.#expiry = setTimeout(() => this.close(CLOSE.POLICY, "the token has expired"), left);
    }
    shell.addEventListener("message", ({ data }) => this.#guarded(() => this.#fromShell(data as string | ArrayBuffer)));
    shell.addEventListener("close", ({ code, reason }) => {
      if (usable(code)) this.close(code, hooks.text(reason));
      else this.close(CLOSE.GOING_AWAY, "the sandbox has stopped");
    });
    shell.addEventListener("error", () => this.close(CLOSE.GOING_AWAY, "the sandbox has stopped"));
    client.addEventListener("message", ({ data }) =>
      this.#guarded(() => this.#fromClient(data as string | ArrayBuffer)),
    );
    client.addEventListener("close", ({ code }) => this.close(usable(code) ? code : CLOSE.DONE, "the client has left"));
    client.addEventListener("error", () => this.close(CLOSE.DONE, "the client has left"));
  }

  close(code: number, reason: string): void {
    if (this.#over) return;
    this.#over = true;
    for (const timer of [this.#idle, this.#holding, this.#expiry, this.#skipping, this.#replaying]) clearTimeout(timer);
    try {
      this.#release();
    } catch (error) {
      this.#hooks.report("terminal: what was kept back is lost", error);
    }
    this.#stream.close();
    for (const socket of [this.#client, this.#shell]) {
      try {
        socket.close(code, short(reason));
      } catch {
        // closed already
      }
    }
    this.#hooks.closed({
      code,
      reason,
      bytes_typed: this.#typed,
      bytes_printed: this.#printed,
      duration_ms: Date.now() - this.#begun,
    });
  }

  /** A redactor that traps shows nothing more. */
  #guarded(fn: () => void): void {
    if (this.#over) return;
    try {
      fn();
    } catch (error) {
      if (error instanceof Refused) {
        this.close(error.code, error.message);
        return;
      }
      this.#hooks.report("terminal", error);
      this.close(CLOSE.FAILED, "the terminal's output cannot be shown");
    }
  }

  #fromShell(data: string | ArrayBuffer): void {
    this.#lastUse = Date.now();
    this.#untaken = 0;
    if (typeof data === "string") {
      this.#printReplay();
      // "ready" comes after what was printed before and says nothing about what follows; the others end something.
      if (!data.includes('"ready"')) {
        this.#release();
        this.#catchUp();
      }
      this.#client.send(this.#hooks.text(data));
      return;
    }
    const bytes = new Uint8Array(data);
    if (this.#replay === null) {
      this.#print(bytes);
      return;
    }
    this.#replay.push(bytes);
    if (this.#replay.reduce((sum, part) => sum + part.byteLength, 0) > REPLAY_MAX) this.#printReplay();
  }

  /** Without its first line when it is long: of a secret in it the beginning may be cut off, and the rest would not be known for one. */
  #printReplay(): void {
    if (this.#replay === null) return;
    clearTimeout(this.#replaying);
    const bytes = new Uint8Array(Buffer.concat(this.#replay));
    this.#replay = null;
    this.#print(bytes.byteLength < REPLAY_CUT ? bytes : bytes.subarray(bytes.indexOf(10) + 1));
  }

  #print(bytes: Uint8Array): void {
    this.#printed += bytes.byteLength;
    this.#held += bytes.byteLength;
    this.#show(this.#stream.push(bytes));
    clearTimeout(this.#holding);
    if (this.#held === 0) return;
    const ms = this.#stream.begun() >= BEGUN ? HOLD_BEGUN_MS : HOLD_MS;
    this.#holding = setTimeout(() => this.#guarded(() => this.#release()), ms);
  }

  /** What is kept back is the end of something, or nothing follows it for now. */
  #release(): void {
    if (this.#held > 0) this.#show(this.#stream.release());
  }

  /** Takes what the redactor lets go: skipped is only what is clean, so that no cut leaves the half of a secret. */
  #show(bytes: Uint8Array): void {
    this.#held -= bytes.byteLength;
    if (this.#skipped !== null) {
      this.#skipped.push(bytes);
      return;
    }
    this.#send(bytes);
    if (this.#sent - this.#read > LIMITS.TERMINAL_AHEAD_MAX)
      throw new Refused(CLOSE.UNREAD, 'too much output without a sign of the client: type, or send {"type":"ack"}');
    if (this.#sent - Math.max(this.#read, this.#resumed) < LIMITS.TERMINAL_SKIP_AT) return;
    this.#skipped = new Tail();
    this.#skipping = setTimeout(() => {
      this.#resumed = this.#sent;
      this.#guarded(() => this.#catchUp());
    }, SKIP_MS);
  }

  #send(bytes: Uint8Array): void {
    if (bytes.byteLength === 0) return;
    this.#sent += bytes.byteLength;
    this.#client.send(bytes);
  }

  /** Sends what is left of the skipped; a reset before it where some is missing, so that it is not read as what follows. */
  #catchUp(): void {
    if (this.#skipped === null) return;
    clearTimeout(this.#skipping);
    const { bytes, dropped } = this.#skipped.take();
    this.#skipped = null;
    if (dropped > 0) {
      this.#client.send(JSON.stringify({ type: "skipped", bytes: dropped }));
      this.#send(RESET);
    }
    this.#send(bytes);
  }

  #fromClient(data: string | ArrayBuffer): void {
    this.#lastUse = Date.now();
    const size = typeof data === "string" ? data.length : data.byteLength;
    if (size > (typeof data === "string" ? LIMITS.TERMINAL_CONTROL_MAX : LIMITS.TERMINAL_MESSAGE_MAX))
      throw new Refused(CLOSE.TOO_BIG, `a frame of typed text has at most ${LIMITS.TERMINAL_MESSAGE_MAX} bytes`);
    const ack = typeof data === "string" ? ackOf(data) : null;
    // Who types has the output before the eyes.
    this.#read = Math.min(this.#sent, Math.max(this.#read, ack ?? this.#sent));
    if (this.#sent - this.#read < LIMITS.TERMINAL_SKIP_AT / 2) this.#catchUp();
    if (ack !== null) return;
    this.#typed += size;
    this.#untaken += size;
    if (this.#untaken > LIMITS.TERMINAL_AHEAD_MAX)
      throw new Refused(CLOSE.UNREAD, "too much is typed that the terminal has not taken");
    this.#shell.send(data);
    if (this.#lastUse - this.#lastTouch < TOUCH_MS) return;
    this.#lastTouch = this.#lastUse;
    this.#hooks.typed();
  }

  #look(): void {
    const left = this.#lastUse + this.#idleMs - Date.now();
    if (left > 0) this.#idle = setTimeout(() => this.#look(), left);
    else this.close(CLOSE.IDLE, `nothing was typed or printed for ${this.#idleMs / 1_000} s`);
  }
}

/** The last TAIL_BYTES of what is pushed. */
class Tail {
  #parts: Uint8Array[] = [];
  #length = 0;
  #dropped = 0;

  push(bytes: Uint8Array): void {
    this.#parts.push(bytes);
    this.#length += bytes.byteLength;
    if (this.#length > 2 * TAIL_BYTES) this.#cut();
  }

  take(): { bytes: Uint8Array; dropped: number } {
    this.#cut();
    return { bytes: this.#parts[0] ?? new Uint8Array(), dropped: this.#dropped };
  }

  #cut(): void {
    const all = Buffer.concat(this.#parts);
    let from = Math.max(0, all.byteLength - TAIL_BYTES);
    // Not in the middle of a character.
    while (from > 0 && from < all.byteLength && ((all[from] ?? 0) & 0xc0) === 0x80) from += 1;
    this.#dropped += from;
    this.#parts = [new Uint8Array(all.subarray(from))];
    this.#length = all.byteLength - from;
  }
}

/** Of an `ack` the bytes of output that it says have come, all when it says no number; null for another message. */
function ackOf(text: string): number | null {
  try {
    const message = JSON.parse(text) as { type?: unknown; bytes?: unknown } | null;
    if (message?.type !== "ack") return null;
    return typeof message.bytes === "number" ? message.bytes : Number.POSITIVE_INFINITY;
  } catch {
    return null;
  }
}

/** Whether a close code may be sent on: 1005, 1006 and 1015 only stand for what happened. */
function usable(code: number): boolean {
  return (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999);
}

/** A close frame has room for 123 bytes. */
function short(reason: string): string {
  const bytes = new TextEncoder().encode(reason);
  return bytes.byteLength <= 123 ? reason : new TextDecoder().decode(bytes.subarray(0, 120)).replace(/\ufffd$/, "");
}
