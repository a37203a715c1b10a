/** One normalized event as one readable line. */

const on = process.stdout.isTTY && !process.env.NO_COLOR;
const paint = (code) => (text) => (on ? `\x1b[${code}m${text}\x1b[0m` : text);
export const bold = paint(1);
export const dim = paint(2);
const red = paint(31);
const green = paint(32);
const yellow = paint(33);
const cyan = paint(36);

const WIDTH = Math.max(60, (process.stdout.columns ?? 120) - 42);

/** Printable text of one line: what an agent or a program printed must not steer the terminal. */
export function oneLine(text, width = WIDTH) {
  const flat = String(text ?? "")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
    .replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "")
    .replace(/\s+/g, " ")
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
    .replace(/[\x00-\x1f\x7f-\x9f]/g, "?")
    .trim();
  return flat.length > width ? `${flat.slice(0, width - 1)}…` : flat;
}

export const money = (usd) => `$${Number(usd ?? 0).toFixed(4)}`;

function toolSubject(event) {
  const input = event.input ?? {};
  return (
    event.command ??
    event.file ??
    input.command ??
    input.file_path ??
    input.pattern ??
    input.url ??
    JSON.stringify(input)
  );
}

function subject(event) {
  switch (event.type) {
    case "agent.init":
      return `${event.model}, ${event.tools?.length ?? 0} tools, Claude Code ${event.version}`;
    case "agent.text":
    case "agent.text_delta":
    case "output.stdout":
    case "output.stderr":
      return event.text;
    case "agent.thinking":
      return dim(oneLine(event.text));
    case "agent.tool_call":
      return `${bold(event.tool)}  ${oneLine(toolSubject(event))}`;
    case "agent.tool_result":
      return event.is_error ? red(oneLine(event.text)) : dim(oneLine(event.text));
    case "agent.retry":
      return `attempt ${event.attempt}/${event.max_retries}, status ${event.status}, again in ${event.delay_ms} ms`;
    case "agent.usage":
      return `${event.input_tokens} tokens in, ${event.output_tokens} out, ${money(event.cost_usd)}`;
    case "agent.result":
      return `${event.num_turns} turns, ${event.terminal_reason ?? event.subtype}`;
    case "file.changed":
      return `${event.status}  ${event.path}`;
    case "artifact.stored":
      return `${event.path}  ${event.size} bytes  sha256:${String(event.sha256).slice(0, 12)}`;
    case "session.ended":
      return event.reason;
    case "raw":
      return `${event.agent_type ?? event.reason ?? ""} ${event.text ?? ""}`;
    default:
      if (event.type.startsWith("run.") && event.reason) return event.reason;
      return event.message ?? event.description ?? "";
  }
}

function colour(type) {
  if (type === "run.succeeded") return green;
  if (/^run\.(failed|interrupted|timed_out|cancelled|over_budget|policy_violation)$/.test(type)) return red;
  if (type.startsWith("agent.tool")) return cyan;
  if (type === "agent.retry" || type === "limit.warning" || type === "secret.masked" || type.endsWith("denied"))
    return yellow;
  return (text) => text;
}

export function renderEvent(event, startMs) {
  const elapsed = `${((event.time_ms - startMs) / 1000).toFixed(2)}s`.padStart(8);
  const text = subject(event);
  return `${dim(elapsed)}  ${colour(event.type)(event.type.padEnd(20))}  ${on && String(text).includes("\x1b[") ? text : oneLine(text)}`.trimEnd();
}
