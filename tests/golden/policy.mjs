/**
 * Runs the tables of docs/POLICY.md: each ```policy block is compiled, each row of the table after it is asked. Prints TAP.
 * usage: node tests/golden/policy.mjs CAISSON_POLICY
 */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { scratch } from "../scratch.mjs";
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
  ['{"git":{"push":{"allow":["git.example/a","git.example/a.git"]}}}', "/git/push/allow/1"],
  ['{"git":{"push":{"deny":["git.example/a","git.example/A"]}}}', "/git/push/deny/1"],
  ['{"git":{"push":{"ask":["git.example//a"]}}}', "/git/push/ask/0"],
  ['{"git":{"push":{"ask":["git.example/"]}}}', "/git/push/ask/0"],
  ['{"git":{"push":{"ask":["git.example/a/../b"]}}}', "/git/push/ask/0"],
  ['{"git":{"push":{"ask":["git.example/%61"]}}}', "/git/push/ask/0"],
  ['{"git":{"push":{"ask":["https://git.example/a"]}}}', "/git/push/ask/0"],
  ['{"git":{"push":{"ask":["/a"]}}}', "/git/push/ask/0"],
  ['{"git":{"push":{"hold":[]}}}', "/git/push/hold"],
  ['{"git":{"push":[]}}', "/git/push"],
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
/* The operator's presets, all in one file as the Worker has them. */
const dir = scratch("policy");
const file = (name, value) => {
  writeFileSync(join(dir, name), typeof value === "string" ? value : JSON.stringify(value));
  return join(dir, name);
};
const presets = file("presets.json", {
  house: {
    network: { allow: ["*.house.example", "both.example"] },
    tools: { deny: ["WebFetch"] },
    limits: { cost_usd: 5, turns: 9 },
  },
  settings: { permissions: { allow: ["Read"], deny: ["Bash(rm:*)"] } },
  offline: { network: { allow: ["mine.example"] } },
});
function over(command, policy, ...rest) {
  const r = spawnSync(tool, [
    command,
    "--presets",
    presets,
    ...rest.filter((x) => x.startsWith("--")),
    file("policy.json", policy),
    ...rest.filter((x) => !x.startsWith("--")),
  ]);
  return { status: r.status, out: r.stdout.toString(), err: r.stderr.toString() };
}
const own = { preset: "house", network: { deny: ["both.example"], allow: ["own.example:443"] }, limits: { turns: 3 } };
const hosts = ["a.house.example:443", "both.example:443", "own.example:443", "own.example:80", "WebFetch(https://a/)"];
const verdicts = over("check", own, "--json", ...hosts);
ok(
  verdicts.status === 1 &&
    verdicts.out
      .trim()
      .split("\n")
      .map((l) => JSON.parse(l).verdict)
      .join() === "allow,deny,allow,deny,deny",
  `a policy lies over the operator's preset that it names: ${verdicts.err.trim()}`,
);
const table = JSON.parse(over("explain", own).out).policy;
ok(table.limits.turns === 3 && table.limits.cost_usd === 5, "lists add up, single values replace");
const bare = { ...own };
delete bare.preset;
const house = file("house.json", JSON.parse(readFileSync(presets, "utf8")).house);
const below = spawnSync(tool, ["explain", "--below", house, file("bare.json", bare)]).stdout.toString();
ok(below === over("explain", own).out, "as over that document alone");
ok(
  over("check", { preset: "settings" }, "Bash(rm x)").status === 1 &&
    over("check", { preset: "settings" }, "Read(x)").status === 0,
  "a preset may be of another dialect",
);
ok(
  over("check", { preset: "offline" }, "mine.example:443").status === 0,
  "a name of the operator's goes before a built-in one",
);
ok(
  over("check", { preset: "open" }, "any.example:443").status === 0 &&
    over("check", {}, "any.example:443").status === 1,
  "a built-in one is there beside them, and none is none",
);
const nobody = over("check", { preset: "nobody's" }, "a.example:443");
ok(
  nobody.status === 65 && nobody.err.includes('"/preset"'),
  `one that nobody has defined is refused: ${nobody.err.trim()}`,
);
for (const [text, said] of [
  ["[]", "JSON object"],
  ["{", "JSON"],
  ['{"a":{},"a":{}}', "same name"],
  ['{"good":{},"bad":{"network":{"allow":[1]}}}', '"/bad/network/allow/0"'],
  ['{"a":{"preset":"b"},"b":{}}', '"/a/preset"'],
  ['{"a":[]}', '"/a"'],
]) {
  const r = spawnSync(tool, ["check", "--presets", file("bad.json", text), file("policy.json", {}), "a.example:443"]);
  ok(
    r.status === 65 && r.stderr.toString().includes(said),
    `presets ${text} are refused: ${r.stderr.toString().trim()}`,
  );
}
const many = Object.fromEntries(
  Array.from({ length: 300 }, (_, i) => [
    `p${i}`,
    { network: { allow: Array.from({ length: 100 }, (_, n) => `h${n}.p${i}.example`) } },
  ]),
);
const large = spawnSync(tool, [
  "check",
  "--presets",
  file("many.json", many),
  file("policy.json", { preset: "p299" }),
  "h99.p299.example:443",
]);
ok(large.status === 0, `a file of ${JSON.stringify(many).length} bytes is read whole: ${large.stderr}`);
const both = spawnSync(tool, [
  "check",
  "--presets",
  presets,
  "--below",
  house,
  file("policy.json", {}),
  "a.example:443",
]);
ok(both.status === 64, "not together with --below");

done();
