#!/usr/bin/env node
/** `make dev`: the local stack on http://localhost:8787 until Ctrl-C. CAISSON_DIR: where its state is, else build/local. */
import { join } from "node:path";
import { LocalError, ROOT, startLocal } from "./local.mjs";
import { bold, dim } from "./render.mjs";

if (process.argv.includes("--help")) {
  console.log(
    "usage: make dev [PORT=8787]\n\nANTHROPIC_API_KEY set: the real API. Not set: a scripted model server on loopback.",
  );
  process.exit(0);
}

let local;
let ending = false;
const end = async (status) => {
  if (ending) return;
  ending = true;
  await local?.stop();
  process.exit(status);
};
process.on("SIGINT", () => end(0));
process.on("SIGTERM", () => end(0));

try {
  const dir = process.env.CAISSON_DIR || join(ROOT, "build/local");
  local = await startLocal({ dir, port: Number(process.env.PORT || 8787), onStep: (text) => console.log(dim(text)) });
  const { url } = local;
  console.log(`
${bold(`Caisson is ready on ${url}`)}  (model: ${local.modelKind === "real" ? "the real Anthropic API" : "scripted, on loopback; set ANTHROPIC_API_KEY for the real one"})

Run code in a sandbox of its own:
  curl -s ${url}/v1/execute -H 'content-type: application/json' -d '{"language":"python","code":"print(6*7)"}'

Create a session with an agent, and keep its id:
  ID=$(curl -s ${url}/v1/sessions -H 'content-type: application/json' -d '{"agent":"claude-code"}' | grep -o 'ses_[a-z0-9]*' | head -1)

Give it work and watch every event:
  curl -s ${url}/v1/sessions/$ID/runs -H 'content-type: application/json' -d '{"prompt":"[script:hello] Write hello.txt"}'; curl -sN "${url}/v1/sessions/$ID/events?run=run_1" -H 'accept: text/event-stream'

Logs: build/local/wrangler.log, build/local/engine.log. API: ${url}/openapi.json. Ctrl-C stops everything.`);
  local.worker.once("exit", () => {
    if (!ending) console.error("dev: wrangler dev ended; see build/local/wrangler.log");
    end(1);
  });
  local.engine.child.once("exit", () => {
    if (!ending) console.error("dev: the engine ended; see build/local/engine.log");
    end(1);
  });
} catch (error) {
  if (!(error instanceof LocalError)) throw error;
  console.error(`dev: ${error.message}`);
  await end(1);
}
