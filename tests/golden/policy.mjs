/**
 * Runs the tables of docs/POLICY.md: each ```policy block is compiled, each row of the table after it is asked. Prints TAP.
 * usage: node tests/golden/policy.mjs CAISSON_POLICY
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { done, ok } from "../tap.mjs";

const tool = process.argv[2];
const text = readFileSync(new URL("../../docs/POLICY.md", import.meta.url), "utf8");
function run(command, policy, questions = []) {
  const r = spawnSync(tool, [command, ...(command === "check" ? ["--json"] : []), "-", ...questions], {
    input: policy,
  });
  return { status: r.status, out: r.stdout.toString(), err: r.stderr.toString() };
}

const blocks = [...text.matchAll(/```policy\n([\s\S]*?)\n```\n([\s\S]*?)(?=\n```policy|\n## |$)/g)];
ok(blocks.length >= 10, `docs/POLICY.md has ${blocks.length} examples`);
for (const [, policy, rest] of blocks) {
  const rows = [...rest.matchAll(/^\| (`+)(.+?)\1 \| (allow|deny|ask) \| (\S+) \|$/gm)].map((m) => m.slice(2));
  ok(rows.length > 0, "the example has a table");
  const { out, err } = run(
    "check",
    policy,
    rows.map((r) => r[0]),
  );
  const answers = out
    .trim()
    .split("\n")
    .map((line) => (line === "" ? {} : JSON.parse(line)));
  rows.forEach(([question, verdict, rule], i) => {
    const a = answers[i] ?? {};
    ok(
      a.verdict === verdict && a.rule === rule,
      `${question}: ${verdict} by ${rule}${a.verdict === verdict && a.rule === rule ? "" : ` (got ${a.verdict} by ${a.rule} ${err})`}`,
    );
  });
  // Compile, print, compile: the second print is the first one.
  const once = JSON.parse(run("explain", policy).out).policy;
  const twice = JSON.parse(run("explain", JSON.stringify(once)).out).policy;
  ok(JSON.stringify(once) === JSON.stringify(twice), "compiled, printed and compiled again it is the same");
}

const BAD = [
  ["", "document"],
  ["[]", "not an object"],
  ['{"network":{"allow":["a.b","a.b"]}}', "/network/allow/1"],
  ['{"network":{"allow":["A.b","a.b."]}}', "/network/allow/1"],
  ['{"network":{"allow":["0.0.0.0/0"]}}', "/network/allow/0"],
  ['{"network":{"allow":["10.1.2.3/8"]}}', "/network/allow/0"],
  ['{"network":{"allow":["bücher.example"]}}', "/network/allow/0"],
  ['{"network":{"allow":["*.*.example"]}}', "/network/allow/0"],
  ['{"network":{"allow":["a.example:0"]}}', "/network/allow/0"],
  ['{"network":{"allow":["http://a.example"]}}', "/network/allow/0"],
  ['{"network":{"allow":[1]}}', "/network/allow/0"],
  ['{"network":{"allow":"a.b"}}', "/network/allow"],
  ['{"network":{"default":"yes"}}', "/network/default"],
  ['{"network":{"nope":1}}', "/network/nope"],
  ['{"nope":1}', "/nope"],
  ['{"preset":"everything"}', "/preset"],
  ['{"network":{"inject":[{"host":"*","secret":"X"}]}}', "/network/inject/0/host"],
  ['{"network":{"inject":[{"host":"a.b"}]}}', "/network/inject/0/secret"],
  ['{"network":{"inject":[{"host":"a.b","secret":"X","header":"a: b\\r\\nc"}]}}', "/network/inject/0/header"],
  ['{"network":{"inject":[{"host":"a.b","secret":"X","header":"h","format":"no hole"}]}}', "/network/inject/0/format"],
  ['{"tools":{"allow":["Bash("]}}', "/tools/allow/0"],
  ['{"tools":{"allow":["Bash()"]}}', "/tools/allow/0"],
  ['{"tools":{"allow":["Ba*"]}}', "/tools/allow/0"],
  ['{"artifacts":{"include":["/etc/**"]}}', "/artifacts/include/0"],
  ['{"limits":{"turns":0}}', "/limits/turns"],
  ['{"limits":{"cost_usd":-1}}', "/limits/cost_usd"],
  ['{"limits":{"cpus":"2"}}', "/limits/cpus"],
  ['{"limits":{"cpus":0.009}}', "/limits/cpus"],
  ['{"limits":{"tokens":2000000001}}', "/limits/tokens"],
  ['{"limits":{"processes":7}}', "/limits/processes"],
  ['{"limits":{"memory_mb":15}}', "/limits/memory_mb"],
  ['{"limits":{"open_files":100}}', "/limits/open_files"],
  ['{"network":{},"network":{}}', "/network"],
  ['{"docker":["--allow-host"]}', "/docker/0"],
  ['{"docker":["--what","x"]}', "/docker/0"],
];
for (const [doc, where] of BAD) {
  const { status, err } = run("explain", doc);
  ok(
    status === 65 && (!where.startsWith("/") || err.includes(`"${where}"`)),
    `refused at ${where}: ${doc} ${status !== 65 ? err : ""}`,
  );
}

const report = JSON.parse(
  run("explain", '{"sandbox":{"enabled":true,"network":{"allowUnixSockets":["/x"]}},"model":"m"}').out,
);
ok(
  report.dialect === "claude-code" &&
    JSON.stringify(report.unmapped.map((u) => u.pointer)) ===
      '["/sandbox/enabled","/sandbox/network/allowUnixSockets","/model"]',
  "what has no equal is listed with its pointer",
);
done();
