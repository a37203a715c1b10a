#!/usr/bin/env node
/**
 * A scripted model: the Anthropic Messages API on loopback, for demonstrations and tests without a key.
 *
 * Which answer comes next is a function of the request alone, so agents can retry, resume and run side by
 * side: the script is named by `[script:NAME]` in the newest user text that has one (else the default), and
 * the turn is the number of assistant messages since that text.
 *
 * A script is JSON: {"turns":[TURN…]}. TURN has any of
 *   thinking, text   strings, streamed in small deltas
 *   tools            [{name, input}], sent as tool_use blocks
 *   usage            {input_tokens, output_tokens, cache_read_input_tokens}; else counted from the lengths
 *   delay_ms         wait before the answer
 *   error            {status, type, message, times?}: an API error; with `times` only for so many requests of this turn
 *   hang             true: headers and message_start, then silence
 * After the last turn the last one is given again without its tools.
 */
import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

const SCRIPT_TAG = /\[script:([a-z0-9-]+)\]/g;

/** Reads every NAME.json of a directory. */
export function loadScripts(dir) {
  const scripts = new Map();
  for (const file of readdirSync(dir)) {
    if (file.endsWith(".json")) scripts.set(file.slice(0, -5), JSON.parse(readFileSync(join(dir, file), "utf8")));
  }
  return scripts;
}

function textsOf(message) {
  if (typeof message.content === "string") return [message.content];
  return message.content.filter((b) => b.type === "text").map((b) => b.text);
}

/** Script name and turn number for a request's messages. */
export function place(messages, fallback) {
  let name = fallback;
  let turn = 0;
  for (const message of messages) {
    if (message.role === "assistant") {
      turn += 1;
      continue;
    }
    const tags = [...textsOf(message).join("\n").matchAll(SCRIPT_TAG)];
    const isPrompt = typeof message.content === "string" || message.content.some((b) => b.type === "text");
    const isToolResult = typeof message.content !== "string" && message.content.some((b) => b.type === "tool_result");
    if (tags.length > 0) name = tags.at(-1)[1];
    if (isPrompt && !isToolResult) turn = 0;
  }
  return { name, turn };
}

function blocksOf(turn, seed) {
  const blocks = [];
  if (turn.thinking) blocks.push({ type: "thinking", thinking: turn.thinking, signature: "c2NyaXB0ZWQ=" });
  if (turn.text) blocks.push({ type: "text", text: turn.text });
  for (const [i, tool] of (turn.tools ?? []).entries())
    blocks.push({ type: "tool_use", id: `toolu_${seed}_${i}`, name: tool.name, input: tool.input });
  if (blocks.length === 0) blocks.push({ type: "text", text: "Done." });
  return blocks;
}

function usageOf(turn, body, blocks) {
  return {
    input_tokens: turn.usage?.input_tokens ?? Math.ceil(JSON.stringify(body.messages).length / 4),
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: turn.usage?.cache_read_input_tokens ?? 0,
    output_tokens: turn.usage?.output_tokens ?? Math.ceil(JSON.stringify(blocks).length / 4),
  };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function stream(res, message, blocks, usage, turn, paceMs) {
  const send = (type, fields) => res.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`);
  res.writeHead(200, {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "request-id": `req_${message.id}`,
  });
  send("message_start", {
    message: { ...message, content: [], stop_reason: null, usage: { ...usage, output_tokens: 1 } },
  });
  if (turn.hang) return;
  for (const [index, block] of blocks.entries()) {
    const deltas = [];
    let start = block;
    if (block.type === "text") {
      start = { type: "text", text: "" };
      for (const piece of block.text.match(/[\s\S]{1,24}/g) ?? []) deltas.push({ type: "text_delta", text: piece });
    } else if (block.type === "thinking") {
      start = { type: "thinking", thinking: "", signature: "" };
      for (const piece of block.thinking.match(/[\s\S]{1,24}/g) ?? [])
        deltas.push({ type: "thinking_delta", thinking: piece });
      deltas.push({ type: "signature_delta", signature: block.signature });
    } else {
      start = { ...block, input: {} };
      deltas.push({ type: "input_json_delta", partial_json: JSON.stringify(block.input) });
    }
    send("content_block_start", { index, content_block: start });
    for (const delta of deltas) {
      send("content_block_delta", { index, delta });
      if (paceMs > 0) await pause(paceMs);
    }
    send("content_block_stop", { index });
  }
  send("message_delta", {
    delta: { stop_reason: turn.tools?.length ? "tool_use" : "end_turn", stop_sequence: null },
    usage: { output_tokens: usage.output_tokens },
  });
  send("message_stop", {});
  res.end();
}

/**
 * Starts the server. `key`: the only x-api-key that is let in (any, when absent). `log(entry)` is called for each
 * request. Resolves with {port, close()}.
 */
export function startModel({ scripts, fallback = "demo", key, port = 0, paceMs = 0, log = () => {} }) {
  const refused = new Map();
  let count = 0;
  const server = createServer(async (req, res) => {
    const answerError = (status, type, message, headers = {}) => {
      res.writeHead(status, { "content-type": "application/json", ...headers });
      res.end(JSON.stringify({ type: "error", error: { type, message }, request_id: `req_${count}` }));
    };
    try {
      count += 1;
      const chunks = [];
      for await (const chunk of req) chunks.push(chunk);
      const path = new URL(req.url, "http://model").pathname;
      const given = req.headers["x-api-key"] ?? req.headers.authorization?.replace(/^Bearer /, "");
      const entry = { time_ms: Date.now(), method: req.method, path, key_ok: key === undefined || given === key };
      if (!entry.key_ok) {
        log({ ...entry, status: 401, key_seen: given ?? null });
        return answerError(401, "authentication_error", "invalid x-api-key");
      }
      if (req.method !== "POST" || !path.startsWith("/v1/messages")) {
        log({ ...entry, status: 404 });
        return answerError(404, "not_found_error", "no such endpoint");
      }
      const body = JSON.parse(Buffer.concat(chunks).toString("utf8"));
      if (path === "/v1/messages/count_tokens") {
        log({ ...entry, status: 200 });
        res.writeHead(200, { "content-type": "application/json" });
        return res.end(JSON.stringify({ input_tokens: Math.ceil(JSON.stringify(body.messages).length / 4) }));
      }
      const { name, turn: index } = place(body.messages, fallback);
      const script = scripts.get(name);
      if (script === undefined) {
        log({ ...entry, status: 400, script: name });
        return answerError(400, "invalid_request_error", `no script named ${name}`);
      }
      const last = script.turns.length - 1;
      const turn = index <= last ? script.turns[index] : { ...script.turns[last], tools: undefined };
      if (turn.delay_ms) await pause(turn.delay_ms);
      if (turn.error) {
        const place = `${name}/${index}`;
        const times = (refused.get(place) ?? 0) + 1;
        refused.set(place, times);
        if (turn.error.times === undefined || times <= turn.error.times) {
          log({ ...entry, status: turn.error.status, script: name, turn: index });
          return answerError(turn.error.status, turn.error.type, turn.error.message);
        }
      }
      log({ ...entry, status: 200, script: name, turn: index });
      const blocks = blocksOf(turn, `${name}_${index}_${count}`.replace(/[^a-zA-Z0-9_]/g, "_"));
      const usage = usageOf(turn, body, blocks);
      const message = {
        id: `msg_${name}_${count}`.replace(/-/g, "_"),
        type: "message",
        role: "assistant",
        model: body.model,
        stop_sequence: null,
      };
      if (body.stream) return await stream(res, message, blocks, usage, turn, paceMs);
      res.writeHead(200, { "content-type": "application/json" });
      res.end(
        JSON.stringify({
          ...message,
          content: blocks,
          stop_reason: turn.tools?.length ? "tool_use" : "end_turn",
          usage,
        }),
      );
    } catch (error) {
      if (!res.headersSent) answerError(400, "invalid_request_error", String(error));
      else res.destroy();
    }
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      resolve({
        port: server.address().port,
        close: () =>
          new Promise((done) => {
            server.close(done);
            server.closeAllConnections();
          }),
      });
    });
  });
}

if (process.argv[1] === import.meta.filename) {
  const { parseArgs } = await import("node:util");
  const { values } = parseArgs({
    options: {
      port: { type: "string", default: "0" },
      scripts: { type: "string", default: join(import.meta.dirname, "../../tests/fixtures/model-scripts") },
      script: { type: "string", default: "demo" },
      key: { type: "string" },
      "pace-ms": { type: "string", default: "0" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log("usage: server.mjs [--port N] [--scripts DIR] [--script NAME] [--key KEY] [--pace-ms N]");
    process.exit(0);
  }
  const model = await startModel({
    scripts: loadScripts(values.scripts),
    fallback: values.script,
    key: values.key,
    port: Number(values.port),
    paceMs: Number(values["pace-ms"]),
    log: (entry) => console.error(JSON.stringify(entry)),
  });
  console.log(JSON.stringify({ ready: true, port: model.port }));
}
