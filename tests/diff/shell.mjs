/**
 * Which commands a line of the shell runs: the policy's reader of shell lines held against bash and dash.
 *
 * Property: a line that really runs `rm` is not allowed where `Bash(rm:*)` is denied, nor where only `Bash(echo:*)` is allowed; whatever
 * hides it, and when bytes that mean something to a shell are put anywhere in it. And what agents run every day stays allowed.
 * The `rm` here makes a file and nothing else; the directory and PATH have nothing that could do harm. Prints TAP.
 * usage: node tests/diff/shell.mjs CAISSON_POLICY
 */
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { scratch } from "../scratch.mjs";
import { done, ok } from "../tap.mjs";

const tool = process.argv[2] ?? "build/caisson-policy";
const dir = scratch("shell");
const bin = join(dir, "bin");
const work = join(dir, "work");
mkdirSync(bin);
mkdirSync(work);
writeFileSync(join(bin, "rm"), '#!/bin/sh\n: >"$MARK"\n');
chmodSync(join(bin, "rm"), 0o755);
const shells = ["bash", "dash"].filter((name) => existsSync(`/bin/${name}`));
for (const name of ["cat", "env", "find", "xargs", "timeout", "nice", ...shells])
  symlinkSync(`/usr/bin/${name}`, join(bin, name));
symlinkSync(`/usr/bin/${shells.at(-1)}`, join(bin, "sh"));

let seed = 20261121;
function random(n) {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * n);
}
const pick = (list) => list[random(list.length)];
const quoted = (s) => `'${s.replaceAll("'", "'\\''")}'`;
const doubled = (s) => `"${s.replace(/[\\"$`]/g, "\\$&")}"`;
const ticked = (s) => `\`${s.replace(/[\\`$]/g, "\\$&")}\``;

const SIMPLE = [
  "rm x",
  "rm",
  "\\rm x",
  '"rm" x',
  "r''m x",
  "'rm' x",
  "r\\\nm x",
  ">f rm x",
  "2>&1 rm x",
  "rm>f x",
  "A=1 rm x",
  "A='b c' rm x",
];
const RUNS = [
  "rm x",
  "rm",
  "timeout 5 rm x",
  "nice -n 5 rm x",
  "env A=1 rm x",
  "timeout .5 rm x",
  "env =1 rm x",
  "env 'a b=1' rm x",
  "env -S'rm x'",
  "env -Srm x",
  "env --split-string='rm x'",
  "sh -c 'rm x'",
  "bash -ec 'rm x'",
];
const WRAPS = [
  (s) => `(${s})`,
  (s) => `( (${s}); true )`,
  (s) => `{ ${s}\n}`,
  (s) => `! ${s}`,
  (s) => `if true; then ${s}\nfi`,
  (s) => `if ${s}\nthen :; else :; fi`,
  (s) => `if false; then :; else ${s}\nfi`,
  (s) => `while ${s}\ndo break; done`,
  (s) => `until ! ${s}\ndo break; done`,
  (s) => `for i in 1; do ${s}\ndone`,
  (s) => `case a in b) :;; a) ${s}\n;; esac`,
  (s) => `echo $(${s}\n)`,
  (s) => `echo "it's $(${s}\n)"`,
  (s) => `echo ${ticked(s)}`,
  (s) => `echo "a ${ticked(s)} b"`,
  (s) => `x=$(${s}\n)`,
  (s) => `echo $((0$(${s}\n)))`,
  (s) => `echo $((#0$(${s}\n)))`,
  (s) => `echo $(( #$(${s}\n)\n))`,
  (s) => `echo $((1) # $(${s}\n)\n))`,
  (s) => `echo \${x:-$(${s}\n)}`,
  (s) => `eval ${quoted(s)}`,
  (s) => `eval ${doubled(s)}`,
  (s) => `bash -c ${quoted(s)}`,
  (s) => `bash -lc ${doubled(s)}`,
  (s) => `sh -c ${quoted(s)} sh a`,
  (s) => `bash -o pipefail -c ${quoted(s)}`,
  (s) => `env A=b timeout 5 sh -ec ${doubled(s)}`,
  (s) => `find . -maxdepth 0 -exec sh -c ${quoted(s)} \\;`,
  (s) => `echo x | xargs -n 1 sh -c ${quoted(s)}`,
  (s) => `trap ${quoted(s)} EXIT`,
  (s) => `true && ${s}`,
  (s) => `false || ${s}`,
  (s) => `:;${s}`,
  (s) => `: | ${s}`,
  (s) => `: & ${s}`,
  (s) => `echo a # don't\n${s}`,
  (s) => `# don't\n${s}`,
  (s) => `cat <<EOF\nit's $(${s}\n)\nEOF`,
  (s) => `cat <<EOF\nit's ${ticked(s)}\nEOF`,
  (s) => `cat <<'EOF'\ndon't $(\nEOF\n${s}`,
  (s) => `cat <<-"E.F" >f\n\t"\n\tE.F\n${s}`,
  (s) => `cat <<A; ${s}\nbody\nA`,
  (s) => `echo 'a b' "c'd"; ${s}`,
  (s) => `echo \\'; ${s}`,
  (s) => `echo "\\""; ${s}`,
  (s) => `f() { ${s}\n}; f`,
  (s) => `echo $((1<<2))\n${s}\n2`,
  (s) => `echo \${x:-'}'}; ${s} # '`,
  (s) => `echo "\${x:-'}"; ${s}\necho "'}"`,
  (s) => `echo ${quoted(s)} | sh`,
  (s) => `bash <<'EOF'\n${s}\nEOF`,
];
// Only bash has these.
const BASH = [
  (s) => `cat <(${s}\n)`,
  (s) => `function f { ${s}\n}; f`,
  (s) => `a[1<<2]=3\n${s}\n2]=3`,
  (s) => `echo $'it\\'s'; ${s}`,
  (s) => `bash <<< ${quoted(s)}`,
  (s) => `bash <(echo ${quoted(s)})`,
  (s) => `source <(echo ${quoted(s)})`,
  (s) => `source /dev/stdin <<< ${quoted(s)}`,
  (s) => `echo \${x:-<(${s}\n)}`,
  (s) => `a[1 #$(${s}\n)\n]=3`,
  (s) => `a[b[1] #$(${s}\n)\n]=3`,
  (s) => `coproc { ${s}\n}; wait`,
  (s) => `[[ a == a ]] && ${s}`,
  (s) => `[[ "#a" =~ (#a) && -z $(${s}\n) ]]`,
  (s) => `[[ "a #b" =~ (a #b) && -z $(${s}\n) ]]`,
  (s) => `[[ "#a" == @(#a) && -z $(${s}\n) ]]`,
  (s) => `((x=1)); ${s}`,
  (s) => `time ${s}`,
];
const FILLED = [
  "X=rm; $X y",
  'X=rm; "$X" y',
  "$(echo rm) x",
  "`echo rm` x",
  "X=m; r$X y",
  "set -- rm; $1 x",
  'set -- rm x; "$@"',
  "X='rm x'; eval $X",
  `E=; \${E}rm x`,
  `x=rm; \${x:-a} b`,
  "X=';rm x'; sh -c \"echo $X\"",
  "X='a;rm x'; eval echo $X",
];
const BYTES = [
  "'",
  '"',
  "\\",
  "`",
  "$(",
  ")",
  "\n",
  "#",
  " ",
  "<<E\n",
  "\nE\n",
  "${",
  "}",
  "$((",
  "))",
  "[",
  "=",
  "&",
  ">",
  ";",
  "$",
  "{",
  "(",
  "|",
  "'\n",
  "\\\n",
  "<<'",
  "x",
];

function line(name) {
  const wraps = name === "bash" ? [...WRAPS, ...BASH] : WRAPS;
  let s = random(8) === 0 ? pick(FILLED) : pick(random(4) === 0 ? RUNS : SIMPLE);
  for (let depth = random(4); depth > 0; depth--) s = pick(wraps)(s);
  return s;
}
function changed(s) {
  for (let n = 1 + random(4); n > 0; n--) {
    const at = random(s.length + 1);
    s = s.slice(0, at) + pick(BYTES) + s.slice(at + (random(4) === 0 ? 1 : 0));
  }
  return s;
}
let count = 0;
/** Whether the line runs rm. What an earlier one left in the background makes another file. */
function runs(name, text) {
  const mark = join(dir, `ran-${count++}`);
  const env = { PATH: bin, MARK: mark };
  spawnSync(`/bin/${name}`, ["-c", text], { cwd: work, env, stdio: "ignore", timeout: 5000, killSignal: "SIGKILL" });
  return existsSync(mark);
}
function verdicts(policy, lines) {
  const file = join(dir, "policy.json");
  writeFileSync(file, JSON.stringify(policy));
  const answers = [];
  for (let at = 0; at < lines.length; at += 100) {
    const questions = lines.slice(at, at + 100).map((s) => `Bash(${s})`);
    const { stdout } = spawnSync(tool, ["check", "--json", file, ...questions], {
      encoding: "utf8",
      maxBuffer: 1 << 26,
    });
    answers.push(
      ...stdout
        .trim()
        .split("\n")
        .map((s) => JSON.parse(s).verdict),
    );
  }
  return answers;
}

for (const name of shells) {
  const whole = [
    ...(name === "bash" ? [...WRAPS, ...BASH] : WRAPS).map((wrap) => wrap("rm x")),
    ...Array.from({ length: 250 }, () => line(name)),
  ];
  const lines = [...whole, ...Array.from({ length: 350 }, () => changed(line(name)))]
    .map((s) => s.trim())
    .filter((s) => s !== "");
  const denied = verdicts({ tools: { deny: ["Bash(rm:*)"] } }, lines);
  const listed = verdicts({ tools: { allow: ["Bash(echo:*)"] } }, lines);
  let ran = 0;
  const wrong = [];
  lines.forEach((s, i) => {
    if (!runs(name, s)) return;
    ran++;
    if (denied[i] !== "deny") wrong.push(`rm is denied: ${JSON.stringify(s)}`);
    if (listed[i] !== "deny") wrong.push(`only echo is allowed: ${JSON.stringify(s)}`);
  });
  ok(
    denied.length === lines.length && wrong.length === 0,
    `${name}: no line that runs rm passes ${wrong.slice(0, 5).join("; ")}`,
  );
  ok(ran > 300, `${ran} of ${lines.length} lines run it`);
}

{
  const DAILY = [
    "echo $HOME",
    "git commit -m \"$(cat <<'EOF'\nSay what isn't (yet)\n\nrm is a command\nEOF\n)\"",
    "cat > a.sh <<'EOF'\n#!/bin/sh\nrm -rf x\nEOF\nchmod +x a.sh",
    'echo "rm x"; grep -rn "rm -rf" . # don\'t',
    "git rm x",
    "ls *.rm",
    'if [ -f x ]; then echo "$(date)"; fi',
    "npm test 2>&1 | tail -5",
    'FOO="a b" make -j4 && ./run.sh "$X"',
    'env A="b $C" make CFLAGS="-O2 -g"',
    'bash "$D/x.sh" $X && . "$D/bin/activate"',
    "x=$((1 + 2)) # it isn't\na[0]=1 # nor that\n(\n# this\nls\n)",
    'timeout 5 curl -H "a: $T" u',
    'bash -c "cd a && make"',
    "python3 - <<'EOF'\nprint(\"rm\")\nEOF",
    "bash script.sh",
    "x=$(( 1 + 2 )); echo $x",
    "[[ -f a && -d b ]] || exit 1",
    "find . -name '*.c' -exec sh -c 'mv \"$1\" x' sh {} \\;",
    '"$HOME/bin/tool" rm',
    "awk '{print $1}' f | sort | uniq -c",
    "git stash show stash@{0}",
    'for f in *.c; do echo "$f"; done',
    "cd a && { make; make install; }",
    "docker run -it a rm",
  ];
  const allowed = verdicts({ tools: { deny: ["Bash(rm:*)", "Bash(git push:*)"] } }, DAILY);
  const wrong = DAILY.filter((_, i) => allowed[i] !== "allow");
  ok(wrong.length === 0, `what runs no rm stays allowed ${JSON.stringify(wrong)}`);
}
done();
