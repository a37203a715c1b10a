#!/usr/bin/env node
/**
 * A scripted model on loopback, for demonstrations and tests without a key. It speaks the Anthropic Messages API, the
 * OpenAI Responses and Chat Completions APIs and the Gemini API; the path of a request says which.
 *
 * Which answer comes next is a function of the request alone, so agents can retry, resume and run side by
 * side: the script is named by `[script:NAME]` in the newest user text that has one (else the default), and
 * the turn is the number of assistant messages since that text.
 *
 * A script is JSON: {"turns":[TURN…]}. TURN has any of
 *   thinking, text   strings, streamed in small deltas
 *   tools            [{name, input}], sent as calls of these tools
 *   usage            {input_tokens, output_tokens, cache_read_input_tokens, reasoning_tokens}; else counted from the lengths
 *   delay_ms         wait before the answer
 *   error            {status, type, message, times?}: an API error; with `times` only for so many requests of this turn
 *   hang             true: headers and the beginning of an answer, then silence
 *   finish_reason    why the answer ends, in the API's own words (Chat Completions and Gemini)
 *   items            more output items as they are (Responses)
 *   failed           {code, message}: the answer fails when it is complete (Responses)
 * After the last turn the last one is given again without its tools.
 */
import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import * as anthropic from "./anthropic.mjs";
import * as gemini from "./gemini.mjs";
import * as openaiChat from "./openai-chat.mjs";
import * as openaiResponses from "./openai-responses.mjs";
import { pause, place } from "./place.mjs";

const APIS = { anthropic, "openai-responses": openaiResponses, "openai-chat": openaiChat, gemini };

/** Reads every NAME.json of a directory. */
export function loadScripts(dir) {
  const scripts = new Map();
  for (const file of readdirSync(dir)) {
    if (file.endsWith(".json")) scripts.set(file.slice(0, -5), JSON.parse(readFileSync(join(dir, file), "utf8")));
  }
  return scripts;
}

/** The key of a request, wherever its API wants it. */
function keyOf(req) {
  const { headers } = req;
  return headers["x-api-key"] ?? headers["x-goog-api-key"] ?? headers.authorization?.replace(/^Bearer /, "");
}

/**
 * Starts the server. `key`: the only key that is let in (any, when absent). `log(entry)` is called for each request.
 * Resolves with {port, close()}.
 */
export function startModel({ scripts, fallback = "demo", key, port = 0, paceMs = 0, log = () => {} }) {
  const refused = new Map();
  let count = 0;
  const server = createServer(async (req, res) => {
    count += 1;
    const { pathname: path } = new URL(req.url, "http://model");
    const kind = Object.keys(APIS).find((name) => APIS[name].matches(path));
    const api = APIS[kind] ?? anthropic;
    const refuse = (status, type, message) => {
      res.writeHead(status, { "content-type": "application/json" });
      res.end(JSON.stringify(api.refuse(status, type, message, count)));
    };
    try {
      const chunks = [];
      for await (const chunk of req) chunks.push(chunk);
      const given = keyOf(req);
      const entry = {
        time_ms: Date.now(),
        method: req.method,
        path,
        api: kind,
        key_ok: key === undefined || given === key,
      };
      if (!entry.key_ok) {
        log({ ...entry, status: 401, key_seen: given ?? null });
        return refuse(401, "authentication_error", "invalid x-api-key");
      }
      if (req.method !== "POST" || kind === undefined) {
        log({ ...entry, status: 404 });
        return refuse(404, "not_found_error", "no such endpoint");
      }
      const body = JSON.parse(Buffer.concat(chunks).toString("utf8"));
      const aside = api.aside?.(body);
      const { name, turn: index } = place(api.entriesOf(body), fallback);
      const script = scripts.get(name);
      if (script === undefined) {
        log({ ...entry, status: 400, script: name });
        return refuse(400, "invalid_request_error", `no script named ${name}`);
      }
      const last = script.turns.length - 1;
      const turn = aside ?? (index <= last ? script.turns[index] : { ...script.turns[last], tools: undefined });
      if (turn.delay_ms) await pause(turn.delay_ms);
      if (turn.error) {
        const where = `${name}/${index}`;
        const times = (refused.get(where) ?? 0) + 1;
        refused.set(where, times);
        if (turn.error.times === undefined || times <= turn.error.times) {
          log({ ...entry, status: turn.error.status, script: name, turn: index });
          return refuse(turn.error.status, turn.error.type, turn.error.message);
        }
      }
      log({ ...entry, status: 200, script: name, turn: index, ...(aside === undefined ? {} : { aside: true }) });
      const seed = `${name}_${index}_${count}`.replace(/[^a-zA-Z0-9_]/g, "_");
      await api.answer(res, { path, body, turn, seed, paceMs });
    } catch (error) {
      if (!res.headersSent) refuse(400, "invalid_request_error", String(error));
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
