/** Walks one whole session through core.wasm. Prints TAP. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { done, ok } from "../tap.mjs";
import { Core } from "./core.mjs";

const [wasm = "build/core.wasm", fixture = "tests/fixtures/transcripts/claude-code/basic-stream.jsonl"] =
  process.argv.slice(2);
const kinds = (fx) => fx.map((f) => (f.kind === "event" ? f.event.type : f.kind)).join(" ");

const core = new Core(wasm);
let r = core.event("CREATE", {
  time: 1000,
  payload: '{"agent":"claude-code","timeout_s":600,"env":{"A":"b\\"c"},"system_prompt":"Be brief."}',
});
ok(r.rc === 0 && kinds(r.fx) === "session.created sandbox_start budget wake_at", `create: ${r.rc} ${kinds(r.fx)}`);
ok(r.fx[3].time === 601000, "wakes at the end of the session");
r = core.event("RUN", { time: 1001, payload: '{"prompt":"Create hello.txt"}' });
ok(r.rc === 0 && kinds(r.fx) === "run.queued", `run while starting: ${kinds(r.fx)}`);
r = core.event("SANDBOX_READY", { time: 1002 });
ok(kinds(r.fx) === "session.started run_load wake_at", `ready: ${kinds(r.fx)}`);
r = core.event("RUN_LOADED", { time: 1003, id: 1, payload: '{"prompt":"Create hello.txt"}' });
const spec = JSON.parse(r.fx[0].payload.toString());
ok(
  kinds(r.fx) === "run_start budget" && spec.argv[0] === "claude" && spec.stdin === "prompt",
  `loaded: ${kinds(r.fx)}`,
);
ok(
  spec.argv.join(" ").endsWith("--append-system-prompt Be brief.") && spec.env.A === 'b"c',
  "the spec has the system prompt and the environment",
);
ok(
  spec.env.ANTHROPIC_API_KEY === "caisson-placeholder" && spec.env.CLAUDE_CODE_MAX_RETRIES === "3",
  "the spec has a placeholder key",
);
r = core.event("RUN_STARTED", { time: 1004, id: 1 });
ok(kinds(r.fx) === "run.started", `started: ${kinds(r.fx)}`);
const bytes = readFileSync(fixture);
const fx = core.feed(1, 1, bytes, 1005);
const events = fx.filter((f) => f.kind === "event");
ok(
  kinds(events) ===
    "agent.init agent.turn agent.text agent.tool_call agent.tool_result agent.turn agent.tool_call agent.tool_result agent.turn agent.text agent.usage agent.result",
  kinds(events),
);
ok(
  events.every((e) => JSON.parse(bytes.subarray(e.line.off, e.line.off + e.line.len).toString()) !== null),
  "every event names its line",
);
ok(fx.at(-1).kind === "cursor" && fx.at(-1).offset === bytes.length, "the cursor is at the end");
r = core.event("RUN_EXIT", {
  time: 1006,
  id: 1,
  payload: '{"reason":"exited","exit_code":0,"signal":null,"started_ms":1004,"ended_ms":1240}',
});
ok(kinds(r.fx) === "collect", `exit: ${kinds(r.fx)}`);
r = core.event("DIGEST_BEGIN", { id: 7 });
core.feed(3, 7, Buffer.from("abc"));
r = core.event("DIGEST_END", { id: 7 });
ok(r.fx[0].payload.equals(createHash("sha256").update("abc").digest()), "SHA-256");
r = core.event("NOTE", { time: 1007, id: 1, code: 53, payload: '{"path":"hello.txt","size":6}' });
ok(
  r.rc === 0 &&
    r.fx[0].event.type === "artifact.stored" &&
    r.fx[0].event.path === "hello.txt" &&
    r.fx[0].event.run === "run_1",
  r.fx[0]?.json,
);
const snapshot = core.save();
const other = new Core(wasm);
ok(other.load(snapshot) === 0 && other.save().equals(snapshot), `snapshot of ${snapshot.length} bytes`);
r = core.event("COLLECTED", { time: 1008, id: 1 });
const again = other.event("COLLECTED", { time: 1008, id: 1 });
ok(r.raw.equals(again.raw), "a new instance goes on the same");
ok(kinds(r.fx) === "budget run.succeeded session.idle wake_at", `collected: ${kinds(r.fx)}`);
const budget = JSON.parse(r.fx[0].payload.toString());
ok(budget.run.id === "run_1" && budget.session.usage.turns === 3 && budget.may_call, r.fx[0].payload.toString());
const outcome = r.fx[1].event;
ok(
  outcome.result === "Done: hello.txt and notes.md exist." &&
    outcome.usage.cost_usd === 0.002524 &&
    outcome.usage.tool_calls === 2 &&
    outcome.duration_ms === 236,
  r.fx[1].json,
);
r = core.event("RUN", { time: 1009, payload: '{"prompt":"","x":1}' });
ok(
  r.rc === -303 && r.fx[0].kind === "bad_field" && r.fx[0].payload.toString() === "/prompt",
  `bad request: ${r.rc} ${r.fx[0]?.payload}`,
);
r = core.event("RUN", { time: 1010, payload: '{"prompt":"More"}' });
r = core.event("RUN_LOADED", { time: 1011, id: 2, payload: '{"prompt":"More"}' });
ok(
  JSON.parse(r.fx[0].payload.toString()).argv.includes("17763472-fcdf-4abf-a7cf-bfbcae714a45"),
  "a follow-up resumes the agent's session",
);
r = core.event("DELETE", { time: 1012 });
ok(kinds(r.fx) === "budget run.cancelled sandbox_destroy wake_at", `delete: ${kinds(r.fx)}`);
r = core.event("SANDBOX_GONE", { time: 1013 });
ok(kinds(r.fx) === "session.ended" && r.fx[0].event.reason === "deleted", `gone: ${kinds(r.fx)}`);
r = core.event("RUN", { time: 1014, payload: '{"prompt":"x"}' });
ok(r.rc === -204, "after the end everything is SESSION_OVER");
const deep = new Core(wasm).event("CREATE", { payload: `{"agent":"shell","x":${"[".repeat(127)}${"]".repeat(127)}}` });
ok(deep.rc === -301 && deep.fx[0].payload.toString() === "/x", `the deepest request there can be: ${deep.rc}`);
done();
