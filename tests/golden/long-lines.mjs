/**
 * Lines of 100 MB, made here, for every dialect: a text of the model, a call's input, an event that is new, a line that is no JSON,
 * one that never closes what it opens, one that ends nowhere. Natively and in wasm, in pieces of different sizes; the events must be
 * the same, say how much was cut, and name the line's place in the stream, and the event behind the line must be there. Prints TAP.
 * usage: long-lines.mjs [caisson-events] [core.wasm]
 */
import { execFileSync } from "node:child_process";
import { Core, linesOf } from "../diff/core.mjs";
import { done, ok } from "../tap.mjs";

const [tool = "build/caisson-events", wasm = "build/core.wasm"] = process.argv.slice(2);
/** bytes; three and six, the lengths of what is repeated, divide it. */
const LONG = 100_000_002;
/** A prime: pieces end at ever other places of the line and of the SIMD blocks. */
const PIECE = 65_521;

/** What a dialect's text and tool call stand in; @ is where the 100 MB go. */
const AGENTS = {
  "claude-code": {
    text: '{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"@"}]}}',
    call: '{"type":"assistant","message":{"id":"m","content":[{"type":"tool_use","id":"t","name":"Write","input":{"content":"@"}}]}}',
    texts: "agent.text",
    next: '{"type":"result","is_error":false,"result":"end"}',
  },
  codex: {
    text: '{"type":"item.completed","item":{"id":"i","type":"agent_message","text":"@"}}',
    call: '{"type":"item.started","item":{"id":"i","type":"mcp_tool_call","server":"s","tool":"t","arguments":{"x":"@"}}}',
    texts: "agent.text",
    next: '{"type":"turn.completed","usage":{"input_tokens":1,"output_tokens":1}}',
  },
  gemini: {
    text: '{"type":"message","role":"assistant","content":"@","delta":true}',
    call: '{"type":"tool_use","tool_name":"write_file","tool_id":"t","parameters":{"content":"@"}}',
    texts: "agent.text_delta",
    next: '{"type":"result","status":"success","stats":{}}',
  },
  opencode: {
    text: '{"type":"text","sessionID":"s","part":{"messageID":"m","type":"text","text":"@"}}',
    call: '{"type":"tool_use","sessionID":"s","part":{"tool":"write","callID":"t","state":{"status":"completed","input":{"content":"@"}}}}',
    texts: "agent.text",
    next: '{"type":"step_finish","sessionID":"s","part":{"reason":"stop"}}',
  },
};

function native(agent, input, chunk) {
  const out = execFileSync(tool, ["--agent", agent, "--offsets", "--chunk", String(chunk)], {
    input,
    maxBuffer: 1 << 30,
  });
  return out.toString().trimEnd().split("\n");
}

function inWasm(agent, input, chunk) {
  const core = new Core(wasm);
  const lines = core.begin(agent).flatMap(({ fx }) => linesOf(fx));
  for (let at = 0; at < input.length; at += chunk)
    lines.push(...linesOf(core.feed(1, 1, input.subarray(at, at + chunk))));
  lines.push(...core.finish().flatMap(({ fx }) => linesOf(fx)));
  return lines;
}

const parse = (line) => {
  const [, off, len] = /^@(\d+)\+(\d+):/.exec(line);
  return { off: Number(off), len: Number(len), event: JSON.parse(line.slice(line.indexOf("{"))) };
};

/** The 100 MB of each, and what is to be said of them: type of the event, its fields. */
function cases(agent) {
  const { text, call, texts } = AGENTS[agent];
  const fill = (pattern, what) => {
    const [head, tail] = pattern.split("@");
    return Buffer.concat([Buffer.from(head), what, Buffer.from(tail)]);
  };
  const xs = Buffer.alloc(LONG, "x");
  return {
    text: [fill(text, xs), texts, (e) => e.text_len === LONG && e.text.length === 32_768],
    // Escapes count as they stand.
    "text of escapes": [
      fill(text, Buffer.alloc(LONG, "\\u00e9")),
      texts,
      (e) => e.text_len === LONG && e.text.length <= 32_768 / 6,
    ],
    call: [
      fill(call, xs),
      "agent.tool_call",
      (e) => e.input === undefined && e.input_len > LONG && e.input_head.length > 1000,
    ],
    "new event": [
      fill('{"type":"hologram","x":"@"}', xs),
      "raw",
      (e) => e.reason === "unmapped" && e.agent_type === "hologram",
    ],
    "plain text": [xs, "raw", (e) => e.reason === "not_json" && e.text.length === 2048 && e.text_len === LONG],
    "open brackets": [Buffer.alloc(LONG, "["), "raw", (e) => e.reason === "too_deep" && e.text_len === LONG],
    "a list of lists": [fill("[@[]]", Buffer.alloc(LONG, "[],")), "raw", (e) => e.reason === "unmapped"],
  };
}

const newline = Buffer.from("\n");
for (const agent of Object.keys(AGENTS)) {
  for (const [name, [line, type, says]] of Object.entries(cases(agent))) {
    const input = Buffer.concat([line, newline, Buffer.from(AGENTS[agent].next), newline]);
    const lines = native(agent, input, 65_536);
    const all = lines.map(parse);
    const told = all.find((one) => one.event.type === type);
    ok(
      told !== undefined && told.off === 0 && told.len === line.length && says(told.event),
      `${agent}: ${name} of 100 MB is ${type}, with its length and place`,
      told && JSON.stringify({ ...told, event: { ...told.event, text: told.event.text?.length } }),
    );
    ok(
      all.at(-1).event.type === "run.succeeded" && all.at(-1).event.usage.output_bytes === input.length,
      `${agent}: ${name}: what comes behind it is read`,
      lines.at(-1),
    );
    ok(
      inWasm(agent, input, PIECE).join("\n") === lines.join("\n"),
      `${agent}: ${name}: wasm says the same, in other pieces`,
    );
    if (name !== "text") continue;
    const half = parse(
      native(agent, line.subarray(0, LONG), 65_536).find((one) => one.includes('"raw"')) ?? "@0+0: {}",
    );
    ok(
      half.event.reason === "half_line" && half.len === LONG && half.event.text_len === LONG,
      `${agent}: ${name} that ends nowhere is a half line`,
      JSON.stringify(half),
    );
  }
}
const text = Buffer.alloc(LONG, "x");
const pieces = native("shell", text, 65_536).map(parse);
ok(
  pieces.slice(0, -1).every((one) => one.event.type === "output.stdout") &&
    pieces.slice(0, -1).reduce((n, one) => n + one.event.text.length, 0) === LONG,
  "shell: a line of 100 MB comes whole, in pieces",
);
done();
