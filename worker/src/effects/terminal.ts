/** Terminals of a sandbox: the SDK's PTY over a WebSocket. */
import { proxyTerminal } from "@cloudflare/sandbox";
import { problem } from "../errors.js";

/** What is used of a sandbox; getSandbox() gives it. */
export interface TerminalSandbox {
  createSession(options: { id: string; cwd: string; env: Record<string, string> }): Promise<unknown>;
  fetch(request: Request): Promise<Response>;
}

export interface TerminalShape {
  readonly cols?: number | undefined;
  readonly rows?: number | undefined;
  readonly shell?: string | undefined;
}

/**
 * The sandbox's end of the terminal `name`, accepted: one that somebody opened before, else a new one with a shell in /workspace and `env`.
 * It speaks as the SDK's xterm addon does: binary frames are what is typed and printed, text frames JSON with a `type`.
 */
export async function openTerminal(
  sandbox: TerminalSandbox,
  name: string,
  { cols, rows, shell }: TerminalShape,
  env: Record<string, string>,
): Promise<WebSocket> {
  const session = `terminal-${name}`;
  try {
    const made = await sandbox.createSession({ id: session, cwd: "/workspace", env });
    (made as Partial<Disposable>)[Symbol.dispose]?.();
  } catch (error) {
    // Somebody comes back to it.
    if (!/already exists/i.test(error instanceof Error ? error.message : "")) throw error;
  }
  // Nothing of the client's request goes on: it may carry a token.
  const request = new Request("http://sandbox/", { headers: { upgrade: "websocket", connection: "Upgrade" } });
  const size = { ...(cols === undefined ? {} : { cols }), ...(rows === undefined ? {} : { rows }) };
  const response = await proxyTerminal(sandbox, session, request, {
    ...size,
    ...(shell === undefined ? {} : { shell }),
  });
  const socket = response.webSocket;
  if (socket === null) {
    const why = (await response.text()).slice(0, 300);
    throw problem("sandbox_error", `The sandbox gave no terminal: ${response.status} ${why}`);
  }
  socket.binaryType = "arraybuffer";
  socket.accept();
  return socket;
}
