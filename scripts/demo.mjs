#!/usr/bin/env node
/** `make demo`: the real Claude Code CLI mends a bug in the sample repository, in a sandbox, through the Worker. */
import { rmSync } from "node:fs";
import { join, relative } from "node:path";
import { filesOf, LocalError, ROOT, sse, startLocal } from "./local.mjs";
import { bold, dim, money, renderEvent } from "./render.mjs";

const PROMPT =
  "One test in this repository fails. Find out why, fix the code, run the tests again, and note the change in CHANGELOG.md.";

if (process.argv.includes("--help")) {
  console.log(
    "usage: make demo [PORT=8787] [PROMPT='…']\n\nANTHROPIC_API_KEY set: the real API. Not set: a scripted model server on loopback.",
  );
  process.exit(0);
}

const begun = Date.now();
const step = (text) => console.log(dim(`${((Date.now() - begun) / 1000).toFixed(2).padStart(7)}s  ${text}`));
const title = (text) => console.log(`\n${bold(text)}`);

async function call(url, init = {}) {
  const response = await fetch(url, { ...init, headers: { "content-type": "application/json", ...init.headers } });
  if (!response.ok) {
    const text = await response.text();
    throw new LocalError(`${init.method ?? "GET"} ${url} answered ${response.status}: ${text.slice(0, 2000)}`);
  }
  return response;
}

async function show(local) {
  const api = `${local.url}/v1/sessions`;
  const session = await (
    await call(api, {
      method: "POST",
      body: JSON.stringify({
        agent: "claude-code",
        files: filesOf(join(ROOT, "tests/fixtures/sample-repo")),
        timeout_s: 600,
      }),
    })
  ).json();
  step(`session ${session.id} created with the sample repository`);
  const run = await (
    await call(`${api}/${session.id}/runs`, {
      method: "POST",
      body: JSON.stringify({ prompt: process.env.PROMPT || PROMPT, timeout_s: 300 }),
    })
  ).json();

  title(`Events of ${run.id}, live`);
  let outcome;
  const start = Date.now();
  let tools = 0;
  const stream = await call(`${api}/${session.id}/events?run=${run.id}&raw=false`, {
    headers: { accept: "text/event-stream" },
  });
  for await (const message of sse(stream)) {
    const event = JSON.parse(message.data);
    if (event.type === "agent.tool_call") tools += 1;
    if (event.type !== "agent.text_delta" && !(event.type === "raw" && event.agent_type?.startsWith("system/thinking")))
      console.log(renderEvent(event, start));
    if (/^run\.(succeeded|failed|interrupted|cancelled|timed_out|over_budget|policy_violation)$/.test(event.type)) {
      outcome = event;
      break;
    }
  }
  if (!outcome) throw new LocalError("the event stream ended before the run did");

  title("Result");
  console.log(outcome.result ?? [outcome.reason, outcome.error?.message].filter(Boolean).join(": "));
  title("Diff");
  console.log((await (await call(`${api}/${session.id}/diff`)).text()).trimEnd());
  title("Artifacts");
  const artifacts = await (await call(`${api}/${session.id}/artifacts`)).json();
  for (const a of artifacts.artifacts ?? artifacts.data ?? artifacts.items)
    console.log(`${String(a.size).padStart(8)} bytes  sha256:${a.sha256}  ${a.path}`);
  title("Usage");
  const u = outcome.usage;
  console.log(
    `${u.input_tokens} tokens in, ${u.output_tokens} out, ${u.cache_read_tokens} from cache; ${u.turns} turns, ${tools} tool calls; ${money(u.cost_usd)} (the agent's own price list); ${(outcome.duration_ms / 1000).toFixed(2)} s`,
  );
  const deleted = await call(`${api}/${session.id}`, { method: "DELETE" });
  await deleted.body?.cancel();
  step("session deleted, sandbox destroyed; its log and artifacts stay");
  return outcome.type === "run.succeeded" ? 0 : 1;
}

const dir = join(ROOT, "build/local");
let local;
let interrupted = false;
const onSignal = async () => {
  if (interrupted) return;
  interrupted = true;
  console.error("\ndemo: stopping");
  await local?.stop();
  process.exit(130);
};
process.on("SIGINT", onSignal);
process.on("SIGTERM", onSignal);

let status = 1;
try {
  rmSync(join(dir, "wrangler.log"), { force: true });
  local = await startLocal({ dir, port: Number(process.env.PORT || 8787), model: { paceMs: 8 }, onStep: step });
  step(`ready on ${local.url}`);
  console.log(
    local.modelKind === "real"
      ? bold(
          `Model: the real ${process.env.ANTHROPIC_BASE_URL ? `API at ${process.env.ANTHROPIC_BASE_URL}` : "Anthropic API"} (ANTHROPIC_API_KEY is set).`,
        )
      : bold("Model: a scripted server on loopback (ANTHROPIC_API_KEY is not set). Everything else is real."),
  );
  status = await show(local);
} catch (error) {
  // A stream that breaks because we are stopping is no error; onSignal ends the process.
  if (interrupted) await new Promise(() => {});
  if (!(error instanceof LocalError)) throw error;
  console.error(`demo: ${error.message}`);
} finally {
  await local?.stop();
}
title("Where to look next");
const here = relative(process.cwd(), dir) || ".";
console.log(`make dev               the same, and the server stays on http://localhost:8787
${here}/wrangler.log   what the Worker said; ${here}/engine.log what the engine said
${here}/worker/        the session's SQLite log, the D1 index and the R2 artifacts
docs/DESIGN.md         how it works; docs/EVENTS.md the event vocabulary; /openapi.json the API`);
process.exit(status);
