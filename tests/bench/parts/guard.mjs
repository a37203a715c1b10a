/** The guard: what a policy question, a compile, a token and a sealed secret cost, over guard.wasm as the Worker calls it. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../../../scripts/local.mjs";
import { importBundled } from "../../bundle.mjs";
import { build } from "../measure.mjs";

/** Nanoseconds of one call: the best of five rounds, so that another process's turn does not count. */
function cost(n, work) {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 5; round++) {
    const begun = process.hrtime.bigint();
    for (let i = 0; i < n; i++) work(i);
    best = Math.min(best, Number(process.hrtime.bigint() - begun) / n);
  }
  return best;
}

export default async function guard(put) {
  const { Guard } = await importBundled(join(ROOT, "worker/src/core/guard.ts"), build("bench/guard.mjs"));
  const g = new Guard(new WebAssembly.Module(readFileSync(build("guard.wasm"))));
  // 200 rules of every kind.
  const allow = Array.from({ length: 120 }, (_, i) => `h${i}.example.com:443`)
    .concat(Array.from({ length: 40 }, (_, i) => `*.w${i}.example.org`))
    .concat(Array.from({ length: 40 }, (_, i) => `${20 + i}.1.0.0/16`));
  const policy = JSON.stringify({ network: { allow, deny: ["*.evil.example"] } });
  put("policy_compile_us", cost(200, () => g.setPolicy(policy)) / 1e3);
  // Through the wire and JSON.parse, as the Worker asks, and alone, as the engine asks.
  put("policy_ask_us", cost(20000, (i) => g.net(`a.b.w${i % 40}.example.org`, 443)) / 1e3);
  const native = JSON.parse(execFileSync(build("policy_bench"), { input: policy }).toString());
  put("policy_check_ns", native.check_ns);
  const key = Buffer.alloc(32, 7).toString("base64url");
  g.setKeys(JSON.stringify({ issuer: "caisson", audience: "caisson", keys: [{ kid: "k", secret: key }] }));
  const now = Date.now();
  const token = g.mintToken({ sub: "a", tenant: "b", scopes: ["execute", "sessions:write"], expires_in_s: 60 }, now);
  put("jwt_verify_us", cost(5000, () => g.verifyToken(token, now)) / 1e3);
  g.setSealKeys([{ version: 1, key: new Uint8Array(32).fill(3) }]);
  const secret = new Uint8Array(100).fill(65);
  const sealed = g.seal("s", "n", secret);
  put("seal_us", cost(5000, () => g.seal("s", "n", secret)) / 1e3);
  put("unseal_us", cost(5000, () => g.unseal("s", "n", sealed)) / 1e3);
  const lines = new TextEncoder().encode(`${"x".repeat(499)}\n`.repeat(300));
  const state = g.auditBegin("s");
  put("audit_mb_s", (lines.byteLength * 1e3) / cost(50, () => g.auditPush(state, lines)));
}
