/** The code interpreter: contexts that keep state, results, streaming, interrupts, and code that means harm. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { after, before, describe, test } from "node:test";
import { exchange, parseEvents, sleep, startEngine } from "./harness.mjs";

const arch = process.arch === "arm64" ? "arm64" : "x64";
const NODE = resolve(import.meta.dirname, `../../node_modules/node-linux-${arch}/bin/node`);
const binds = existsSync(NODE) ? [`${NODE}:/opt/caisson/bin/node`] : [];
const noNode = binds.length === 0 ? "no node_modules/node-linux-* here" : false;

let engine;
let box;
before(async () => {
  engine = await startEngine({ binds });
  box = await engine.sandbox("code");
});
after(() => engine.stop());

async function create(language, more = {}) {
  const r = await box.call("POST", "/api/contexts", { language, cwd: "/workspace", ...more });
  assert.equal(r.status, 200, r.text);
  return r.json.contextId;
}

/** Runs code to its end: what was printed, the results, and the last event. */
async function run(context_id, code, more = {}, options = {}) {
  const r = await box.call("POST", "/api/execute/code", { context_id, code, ...more }, options);
  assert.equal(r.status, 200, r.text);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII is what is asked for
  assert.match(r.text, /^[\x00-\x7f]*$/, "events are ASCII: the SDK decodes pieces one by one");
  const events = parseEvents(r.text);
  const text = (type) =>
    events
      .filter((e) => e.type === type)
      .map((e) => e.text)
      .join("");
  const results = events.filter((e) => e.type === "result");
  const end = events.at(-1);
  assert.ok(end.type === "execution_complete" || end.type === "error", JSON.stringify(end));
  return { stdout: text("stdout"), stderr: text("stderr"), results, result: results.at(-1), end, events };
}

/** A stream that is read as it comes: next() gives the next event. */
function open(context_id, code, more = {}) {
  let held = "";
  const queue = [];
  let wake = () => {};
  let request;
  const done = exchange(box.port, "POST", "/api/execute/code", {
    headers: box.headers,
    body: JSON.stringify({ context_id, code, ...more }),
    onData: (data, req) => {
      request = req;
      held += data;
      for (let end = held.indexOf("\n\n"); end >= 0; end = held.indexOf("\n\n")) {
        queue.push(...parseEvents(held.slice(0, end + 2)));
        held = held.slice(end + 2);
      }
      wake();
    },
  }).catch(() => {});
  const next = async () => {
    while (queue.length === 0) await new Promise((r) => (wake = r));
    return queue.shift();
  };
  return { next, done, close: () => request.destroy() };
}

describe("contexts", () => {
  test("create, list, delete; aliases", async () => {
    const ids = [];
    for (const [name, language] of [
      [undefined, "python"],
      ["Python3", "python"],
      ...(noNode
        ? []
        : [
            ["js", "javascript"],
            ["node", "javascript"],
            ["ts", "typescript"],
          ]),
    ]) {
      const r = await box.call("POST", "/api/contexts", { language: name, cwd: "/tmp" });
      assert.deepEqual([r.status, r.json.success, r.json.language, r.json.cwd], [200, true, language, "/tmp"], r.text);
      assert.match(r.json.contextId, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      ids.push(r.json.contextId);
    }
    const list = await box.call("GET", "/api/contexts");
    assert.deepEqual(list.json.contexts.map((c) => c.id).sort(), [...ids].sort());
    assert.deepEqual(Object.keys(list.json.contexts[0]), ["id", "language", "cwd"]);
    for (const id of ids) {
      const r = await box.call("DELETE", `/api/contexts/${id}`);
      assert.deepEqual([r.status, r.json.success, r.json.contextId], [200, true, id]);
      assert.equal((await box.call("DELETE", `/api/contexts/${id}`)).status, 404);
    }
    assert.deepEqual((await box.call("GET", "/api/contexts")).json.contexts, []);
    assert.equal((await box.exec("ps -eo args | grep -c '[c]aisson-interpreter'")).stdout, "0\n");
  });

  test("bad requests", async () => {
    const cases = [
      ["/api/contexts", { language: "ruby" }],
      ["/api/contexts", { language: 5 }],
      ["/api/contexts", { cwd: "/nope" }],
      ["/api/contexts", { cwd: "relative" }],
      ["/api/contexts", { cwd: "/etc/passwd" }],
      ["/api/contexts", { env_vars: "x" }],
      ["/api/contexts", { env_vars: { "A-B": "1" } }],
      ["/api/contexts", { env_vars: { A: 1 } }],
      ["/api/execute/code", { code: "1" }],
      ["/api/execute/code", { context_id: "x" }],
      ["/api/execute/code", { context_id: "x", code: 1 }],
      ["/api/execute/code", { context_id: "x", code: "1", timeout_ms: -1 }],
      ["/api/execute/code", { context_id: "x", code: "1", timeout_ms: "5" }],
    ];
    for (const [path, body] of cases) {
      const r = await box.call("POST", path, body);
      assert.deepEqual(
        [r.status, r.json.code],
        [400, "VALIDATION_FAILED"],
        `${path} ${JSON.stringify(body)}: ${r.text}`,
      );
    }
    const id = "6b9d8a1e-0000-4000-8000-000000000000";
    const missing = await box.call("POST", "/api/execute/code", { context_id: id, code: "1" });
    assert.deepEqual(
      [missing.status, missing.json.code, missing.json.error, missing.json.details.contextId],
      [404, "CONTEXT_NOT_FOUND", `Context ${id} not found`, id],
    );
    const context = await create("python");
    const other = await box.call("POST", "/api/execute/code", { context_id: context, code: "1", language: "js" });
    assert.deepEqual([other.status, other.json.code], [400, "VALIDATION_FAILED"]);
    assert.equal((await run(context, "1", { language: "python3" })).result.text, "1");
    await box.call("DELETE", `/api/contexts/${context}`);
  });

  test("their number is bounded", async () => {
    const made = await Promise.all(
      Array.from({ length: 66 }, () => box.call("POST", "/api/contexts", { language: "python" })),
    );
    const good = made.filter((r) => r.status === 200);
    assert.equal(good.length, 64);
    for (const r of made) if (r.status !== 200) assert.deepEqual([r.status, r.json.code], [409, "RESOURCE_BUSY"]);
    const gone = await Promise.all(good.map((r) => box.call("DELETE", `/api/contexts/${r.json.contextId}`)));
    assert.ok(gone.every((r) => r.status === 200));
  });

  test("health; and a clear answer where a language is missing", async () => {
    const health = await box.call("GET", "/api/interpreter/health");
    assert.deepEqual([health.status, health.json.status], [200, "healthy"]);
    for (const [language, code] of [
      ["python", "PYTHON_NOT_AVAILABLE"],
      ["javascript", "JAVASCRIPT_NOT_AVAILABLE"],
      ["ts", "JAVASCRIPT_NOT_AVAILABLE"],
    ]) {
      const r = await box.call("POST", "/api/contexts", { language, env_vars: { PATH: "/nowhere" } });
      assert.deepEqual([r.status, r.json.code], [501, code], r.text);
      assert.match(r.json.message, /is not in this sandbox's root/);
    }
    await box.exec(
      "mkdir -p /tmp/old; printf '#!/bin/sh\\necho broken >&2; exit 3\\n' > /tmp/old/python3; chmod +x /tmp/old/python3",
    );
    const broken = await box.call("POST", "/api/contexts", { language: "python", env_vars: { PATH: "/tmp/old" } });
    assert.deepEqual(
      [broken.status, broken.json.code, broken.json.context.stderr],
      [500, "INTERNAL_ERROR", "broken\n"],
    );
    assert.match(broken.json.message, /exited with code 3/);
    if (existsSync("/usr/bin/node") && /v(1\d|20|21)\./.test((await box.exec("/usr/bin/node --version")).stdout)) {
      const old = await box.call("POST", "/api/contexts", { language: "ts", env_vars: { PATH: "/usr/bin" } });
      assert.deepEqual([old.status, old.json.code], [501, "JAVASCRIPT_NOT_AVAILABLE"], old.text);
      assert.match(old.json.message, /TypeScript needs Node 22/);
    }
    assert.deepEqual((await box.call("GET", "/api/contexts")).json.contexts, []);
  });
});

describe("python", () => {
  let py;
  before(async () => {
    py = await create("python");
  });
  after(() => box.call("DELETE", `/api/contexts/${py}`));

  test("state, last value, both streams, count", async () => {
    const first = await run(py, "x = 20\ndef f(n):\n    return n * 2 + 2\n");
    assert.deepEqual([first.results, first.end.type, first.end.execution_count], [[], "execution_complete", 1]);
    const second = await run(py, "import sys\nprint('out ü'); print('err', file=sys.stderr)\nf(x)");
    assert.deepEqual([second.stdout, second.stderr, second.result.text], ["out ü\n", "err\n", "42"]);
    assert.deepEqual([second.end.execution_count, second.result.metadata], [2, {}]);
    assert.equal((await run(py, "_ + 1")).result.text, "43");
    assert.deepEqual((await run(py, "x;")).results, []);
    assert.deepEqual((await run(py, "None")).results, []);
    assert.deepEqual((await run(py, "")).end.type, "execution_complete");
  });

  test("contexts do not share state; cwd and variables", async () => {
    const other = await create("python", { cwd: "/tmp", env_vars: { GREETING: "hé" } });
    assert.equal(
      (await run(other, "import os\n(os.getcwd(), os.environ['GREETING'], 'x' in globals())")).result.text,
      "('/tmp', 'hé', False)",
    );
    assert.equal((await run(py, "import os; os.getcwd()")).result.text, "'/workspace'");
    await box.call("DELETE", `/api/contexts/${other}`);
  });

  test("rich results", async () => {
    const data = await run(py, "{'a': [1, 2.5, None, 'ü'], 'b': {'c': True}}");
    assert.deepEqual(data.result.json, { a: [1, 2.5, null, "ü"], b: { c: true } });
    assert.match(data.result.text, /'a'/);
    const rich = await run(
      py,
      "class R:\n    def _repr_html_(self): return '<b>é</b>'\n    def _repr_png_(self): return b'\\x89PNG'\n    def _repr_svg_(self): return '<svg/>'\n" +
        "    def _repr_latex_(self): return '$x$'\n    def _repr_markdown_(self): return '# m'\n    def _repr_json_(self): return {'k': 1}, {'m': 1}\n" +
        "    def _repr_javascript_(self): return 'alert(1)'\n    def _repr_jpeg_(self): raise ValueError\n    def __repr__(self): return 'R'\nR()",
    );
    assert.deepEqual(
      { ...rich.result, type: undefined },
      {
        html: "<b>é</b>",
        png: Buffer.from("\x89PNG", "latin1").toString("base64"),
        svg: "<svg/>",
        latex: "$x$",
        markdown: "# m",
        json: { k: 1 },
        javascript: "alert(1)",
        text: "R",
        metadata: {},
        type: undefined,
      },
    );
    const many = await run(py, "print('a'); display(1); print('b'); display({'text/html': '<i>'}, raw=True); 2");
    assert.deepEqual(
      many.events.map((e) => (e.type === "stdout" ? e.text : e.type === "result" ? (e.html ?? e.text) : e.type)),
      ["a\n", "1", "b\n", "<i>", "2", "execution_complete"],
    );
    const bundle = await run(
      py,
      "class B:\n    def _repr_mimebundle_(self, include=None, exclude=None): return {'text/plain': 't', 'image/png': 'QUJD\\n'}\nB()",
    );
    assert.deepEqual([bundle.result.text, bundle.result.png], ["t", "QUJD"]);
    assert.deepEqual(
      [(await run(py, "[float('nan')]")).result.json, (await run(py, "float('inf')")).result.text],
      [undefined, "inf"],
    );
    assert.equal((await run(py, "'\\ud800 \\0'")).end.type, "execution_complete");
    assert.deepEqual((await run(py, "{'s': '\\ud800', 'n': 'a\\0b'}")).result.json, { s: "?", n: "a\0b" });
    assert.equal(
      (
        await run(
          py,
          "class T:\n    def __init__(self): self.type = 1\n    def _repr_json_(self): return {'type': 'stdout'}\nT()",
        )
      ).result.type,
      "result",
    );
  });

  test("errors: name, message, the caller's frames only", async () => {
    const r = await run(py, "def boom(n):\n    return 1 / n\n\nprint('before')\nboom(0)");
    assert.equal(r.stdout, "before\n");
    assert.deepEqual([r.end.type, r.end.ename, r.end.evalue], ["error", "ZeroDivisionError", "division by zero"]);
    const text = r.end.traceback.join("\n");
    assert.match(
      text,
      /^Traceback \(most recent call last\):\n {2}File "<cell \d+>", line 5, in <module>\n {4}boom\(0\)\n/,
    );
    assert.match(text, /line 2, in boom\n {4}return 1 \/ n\n/);
    assert.doesNotMatch(text, /stdin|caisson/);
    const syntax = await run(py, "x = = 1");
    assert.deepEqual([syntax.end.ename, syntax.end.traceback.length > 2], ["SyntaxError", true]);
    const chained = await run(py, "try:\n    {}['k']\nexcept KeyError as e:\n    raise ValueError('v') from e");
    assert.match(chained.end.traceback.join("\n"), /KeyError: 'k'[\s\S]*direct cause[\s\S]*ValueError: v$/);
    const exit = await run(py, "exit(3)");
    assert.deepEqual([exit.end.ename, exit.end.evalue], ["SystemExit", "3"]);
    const odd = await run(py, "class E(Exception):\n    def __str__(self): raise ValueError\nraise E()");
    assert.equal(odd.end.ename, "E");
    assert.equal((await run(py, "raise BaseException('b')")).end.ename, "BaseException");
    assert.equal((await run(py, "x")).result.text, "20", "state survives errors");
  });

  test("top-level await, and what notebooks have: !command, %magic, %%bash", async () => {
    assert.equal(
      (await run(py, "import asyncio\nasync def g():\n    await asyncio.sleep(0.01)\n    return 5\nawait g()")).result
        .text,
      "5",
    );
    const shell = await run(py, "!echo from shell; exit 3\nprint(_exit_code)");
    assert.equal(shell.stdout, "from shell\n3\n");
    assert.deepEqual((await run(py, "files = !printf 'a\\nb\\n'\nfiles")).result.json, ["a", "b"]);
    assert.equal((await run(py, "%%bash\necho $((6 * 7))")).stdout, "42\n");
    assert.equal((await run(py, "%cd /tmp\n%pwd")).result.text, "'/tmp'");
    await run(py, "%cd /workspace");
    assert.match((await run(py, "%nosuch")).end.evalue, /`%nosuch` not found/);
    assert.equal((await run(py, "s = '''\n!x\n%y\n'''\ns")).result.text, "'\\n!x\\n%y\\n'", "text is left alone");
  });

  test("children's output; a fork does not answer twice", async () => {
    const r = await run(py, "import subprocess\nprint('a')\nsubprocess.run(['echo', 'child'])\nprint('b')");
    assert.equal(r.stdout, "a\nchild\nb\n");
    const fork = await run(
      py,
      "import os\nprint('once')\npid = os.fork()\nif pid == 0:\n    print('child')\nelse:\n    os.waitpid(pid, 0)\n'end'",
    );
    assert.deepEqual([fork.stdout, fork.results.map((x) => x.text)], ["once\nchild\n", ["'end'"]]);
    const pool = await run(
      py,
      "import multiprocessing as m\ndef sq(n): return n * n\nwith m.get_context('fork').Pool(2) as p: r = p.map(sq, range(4))\nr",
    );
    assert.deepEqual(pool.result?.json, [0, 1, 4, 9], JSON.stringify(pool.end));
  });

  test("matplotlib figures", async (t) => {
    if ((await box.exec("python3 -c 'import matplotlib'")).exitCode !== 0)
      return t.skip("no matplotlib in the sandbox");
    const r = await run(
      py,
      "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nprint('after')\nplt.figure(); plt.plot([3]);",
    );
    const seen = r.events.filter((e) => e.type !== "stderr"); // the first import says what it prepares
    const kinds = seen.map((e) => (e.png === undefined ? e.type : "png"));
    assert.deepEqual(kinds, ["png", "stdout", "png", "execution_complete"]);
    for (const e of r.results) assert.equal(Buffer.from(e.png, "base64").subarray(1, 4).toString(), "PNG");
  });
});

describe("javascript and typescript", { skip: noNode }, () => {
  let js;
  before(async () => {
    js = await create("javascript");
  });
  after(() => box.call("DELETE", `/api/contexts/${js}`));

  test("state, redeclaration, last value, both streams", async () => {
    assert.equal(
      (await run(js, "const x = 20; let y = 1; function f(n) { return n * 2 + 2 } class A {}")).end.type,
      "execution_complete",
    );
    const r = await run(
      js,
      "const x = 21 - 1; let y = 2; class A {}\nconsole.log('out ü'); console.error('err'); f(x)",
    );
    assert.deepEqual([r.stdout, r.stderr, r.result.text, r.end.execution_count], ["out ü\n", "err\n", "42", 2]);
    assert.deepEqual((await run(js, "undefined")).results, []);
    assert.deepEqual((await run(js, "{ a: [1, { b: 'ü' }] }")).result.json, { a: [1, { b: "ü" }] });
    assert.equal((await run(js, "new Map([[1, 2]])")).result.text, "Map(1) { 1 => 2 }");
    assert.equal((await run(js, "const c = {}; c.c = c; c")).result.json, undefined);
  });

  test("top-level await, promises, require and import", async () => {
    assert.equal((await run(js, "await new Promise((r) => setTimeout(() => r(7), 20))")).result.text, "7");
    assert.equal((await run(js, "Promise.resolve(8)")).result.text, "8");
    assert.equal((await run(js, "require('node:path').join('a', 'b')")).result.text, "'a/b'");
    assert.equal(
      (
        await run(
          js,
          "import fs, { readFileSync as r } from 'node:fs';\nimport * as os from \"os\"\ntypeof fs.readFileSync + typeof r + typeof os.EOL",
        )
      ).result.text,
      "'functionfunctionstring'",
    );
    await box.call("POST", "/api/write", { path: "/workspace/lib.mjs", content: "export const q = 5" });
    assert.equal((await run(js, "const { q } = await import('./lib.mjs'); q")).result.text, "5");
    assert.equal(
      (await run(js, `\`import x from 'y'; \${'import(1)'}\` + /import('a')/.source // import(2)`)).result.text,
      "\"import x from 'y'; import(1)import('a')\"",
    );
  });

  test("errors: name, message, the caller's frames only", async () => {
    const r = await run(js, "function boom() { throw new RangeError('bad') }\n\nboom()");
    assert.deepEqual([r.end.ename, r.end.evalue], ["RangeError", "bad"]);
    assert.match(r.end.traceback.join("\n"), /^RangeError: bad\n {4}at boom \(cell-\d+:1:\d+\)\n {4}at cell-\d+:3:1$/);
    const syntax = await run(js, "let a = ;");
    assert.match(syntax.end.traceback.join("\n"), /^SyntaxError: .*\n {4}let a = ;\n {12}\^\n/);
    assert.match((await run(js, "throw 5")).end.evalue, /5/);
    assert.equal((await run(js, "await Promise.reject(new TypeError('t'))")).end.ename, "TypeError");
    const late = await run(
      js,
      "setTimeout(() => { throw new Error('late') }, 5); await new Promise((r) => setTimeout(r, 40)); 1",
    );
    assert.deepEqual([late.result.text, /Uncaught Error: late/.test(late.stderr)], ["1", true]);
    assert.equal((await run(js, "x")).result.text, "20");
  });

  test("display and rich results", async () => {
    const r = await run(
      js,
      "await display({ a: 1 }); ({ [Symbol.for('Jupyter.display')]: () => ({ 'text/html': '<b>', 'image/png': new Uint8Array([1]) }) })",
    );
    assert.deepEqual([r.results[0].json, r.results[1].html, r.results[1].png], [{ a: 1 }, "<b>", "AQ=="]);
    const late = await run(js, "setTimeout(() => display('late'), 50); 1");
    assert.equal(late.result.text, "1");
    await sleep(150);
    assert.deepEqual(
      (await run(js, "2")).results.map((x) => x.text),
      ["2"],
      "what comes after the end is nobody's",
    );
  });

  test("typescript", async () => {
    const ts = await create("typescript");
    assert.equal(
      (
        await run(
          ts,
          "interface P { n: number }\nconst p: P = { n: 41 };\nfunction inc<T extends P>(x: T): number { return x.n + 1 }\ninc(p) as number",
        )
      ).result.text,
      "42",
    );
    assert.equal((await run(ts, "enum E { A = 3 }\nconst p: string = 'again'; E.A")).result.text, "3");
    assert.equal(
      (
        await run(
          ts,
          "import type { X } from 'nowhere'\nimport * as path from 'path'\nconst n: number = await Promise.resolve(4); path.sep + n",
        )
      ).result.text,
      "'/4'",
    );
    const bad = await run(ts, "let z: = 3");
    assert.deepEqual([bad.end.type, bad.end.ename], ["error", "SyntaxError"]);
    const thrown = await run(ts, "const a: number = 1;\n\nthrow new Error(`l3` + (a as number))");
    assert.match(thrown.end.traceback.join("\n"), /cell-\d+:3:/, "types are blanked, positions stay");
    await box.call("DELETE", `/api/contexts/${ts}`);
  });
});

describe("time and interrupts", () => {
  test("output comes as it is printed, also without a line feed", async () => {
    const py = await create("python");
    const s = open(py, "import time\nprint('one')\ntime.sleep(0.4)\nprint('two', end='')\ntime.sleep(0.4)\n3");
    const begun = Date.now();
    assert.equal((await s.next()).text, "one\n");
    const first = Date.now() - begun;
    assert.equal((await s.next()).text, "two");
    const second = Date.now() - begun;
    assert.equal((await s.next()).text, "3");
    const third = Date.now() - begun;
    assert.ok(second - first > 200 && third - second > 200, `${first} ${second} ${third}`);
    assert.equal((await s.next()).type, "execution_complete");
    await s.done;
    await box.call("DELETE", `/api/contexts/${py}`);
  });

  const loops = [
    [
      "python",
      "x = 1",
      "x",
      {
        sleep: "import time\ntime.sleep(60)",
        loop: "while True: pass",
        system: "import os\nos.system('sleep 60')",
        wait: "import asyncio\nawait asyncio.sleep(60)",
        swallowed: "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: pass\ntime.sleep(60)",
      },
    ],
    ...(noNode
      ? []
      : [
          [
            "javascript",
            "var x = 1",
            "x",
            {
              loop: "while (true) {}",
              wait: "await new Promise(() => {})",
              system: "require('child_process').execSync('sleep 60')",
              timer: "await null; setTimeout(() => {}, 1e6); await new Promise(() => {})",
            },
          ],
        ]),
  ];
  for (const [language, set, get, codes] of loops) {
    test(`${language}: timeout_ms interrupts, and the variables stay`, async () => {
      const id = await create(language);
      await run(id, set);
      for (const [name, code] of Object.entries(codes)) {
        const begun = Date.now();
        const r = await run(id, code, { timeout_ms: 300 });
        assert.deepEqual(
          [r.end.type, r.end.ename, r.end.evalue],
          ["error", "TimeoutError", "Execution timed out after 300 ms"],
          `${name}: ${JSON.stringify(r.end)}`,
        );
        assert.ok(Date.now() - begun < 5000, name);
        const next = await run(id, get);
        assert.equal(next.result?.text, "1", `${name}: state: ${JSON.stringify(next.end)}`);
      }
      assert.equal((await run(id, get, { timeout_ms: 60_000 })).result.text, "1");
      await box.call("DELETE", `/api/contexts/${id}`);
    });
  }

  test("python: an interrupted cell has two seconds for its own clean-up, and no second interrupt in it", async () => {
    const id = await create("python");
    const put = (name) => `open("/tmp/${name}", "w").write("whole")`;
    // Not `while True`: Python 3.11 leaves such a loop without what stands around it.
    const cells = {
      plain: `import time\ni = 0\ntry:\n  while i >= 0: i += 1\nfinally:\n  time.sleep(1.5)\n  ${put("plain")}`,
      nested: `import time\ndef end():\n  try: {}["none"]\n  except KeyError: time.sleep(1.5)\n  ${put("nested")}\ntry: time.sleep(60)\nfinally: end()`,
      manager: `import contextlib, time\n@contextlib.contextmanager\ndef m():\n  try: yield\n  finally:\n    time.sleep(1.5)\n    ${put("manager")}\nwith m(): time.sleep(60)`,
      awaits: `import asyncio\nasync def work():\n  try: await asyncio.sleep(60)\n  finally:\n    await asyncio.sleep(1.5)\n    ${put("awaits")}\nawait work()`,
      program: `import subprocess\ni = 0\ntry:\n  while i >= 0: i += 1\nfinally:\n  subprocess.run("sleep 1.5 && printf whole > /tmp/program", shell=True)`,
    };
    await run(id, "x = 1");
    for (const [name, code] of Object.entries(cells)) {
      const { end } = await run(id, code, { timeout_ms: 300 });
      assert.deepEqual([end.ename, end.evalue], ["TimeoutError", "Execution timed out after 300 ms"], name);
      assert.equal((await box.exec(`cat /tmp/${name}`)).stdout, "whole", name);
      assert.equal((await run(id, "x")).result.text, "1", `${name}: state`);
    }
    // One that takes longer is ended.
    const long = await run(id, "import time\ntry: time.sleep(60)\nfinally: time.sleep(60)", { timeout_ms: 300 });
    assert.match(long.end.evalue, /did not end on an interrupt.*variables are lost/);
    await box.call("DELETE", `/api/contexts/${id}`);
  });

  test("code that takes no interrupt is killed with its children, and the context starts anew", async () => {
    const id = await create("python");
    await run(id, "x = 1");
    const code =
      "import subprocess\nsubprocess.Popen(['setsid', 'sleep', '1234'])\nimport signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass";
    const r = await run(id, code, { timeout_ms: 300 });
    assert.equal(r.end.ename, "TimeoutError");
    assert.match(r.end.evalue, /timed out after 300 ms .*variables are lost/);
    assert.equal((await box.exec("ps -eo args | grep -c '[s]leep 1234'")).stdout, "0\n");
    assert.equal((await run(id, "x")).end.ename, "NameError");
    assert.equal((await run(id, "2")).result.text, "2");
    await box.call("DELETE", `/api/contexts/${id}`);
    if (noNode) return;
    const js = await create("javascript");
    const late = await run(js, "await null; while (true) {}", { timeout_ms: 300 });
    assert.equal(late.end.ename, "TimeoutError");
    assert.equal((await run(js, "3")).result.text, "3");
    await box.call("DELETE", `/api/contexts/${js}`);
  });

  test("a client that goes away interrupts its run; one that waits in the queue leaves it", async () => {
    const id = await create("python");
    await run(id, "x = 5");
    const first = open(id, "import time\nprint('in')\ntime.sleep(60)");
    await first.next();
    const second = open(id, "print('second')\nx = 6");
    const third = run(id, "x");
    await sleep(100);
    // A queued stream has no data yet; take its connection down by ending the first, which starts it.
    first.close();
    assert.equal((await second.next()).text, "second\n");
    assert.equal((await third).result.text, "6");
    assert.equal((await box.exec("ps -eo stat,args | grep '[c]aisson-interpreter' | wc -l")).stdout.trim(), "1");
    await box.call("DELETE", `/api/contexts/${id}`);
  });

  test("a silent run's stream carries a comment now and then", async () => {
    const id = await create("python");
    const r = await box.call("POST", "/api/execute/code", { context_id: id, code: "import time\ntime.sleep(2.5)\n1" });
    assert.match(r.text, /^:\n\ndata: /);
    assert.deepEqual(
      parseEvents(r.text).map((e) => e.type),
      ["result", "execution_complete"],
    );
    await box.call("DELETE", `/api/contexts/${id}`);
  });

  test("INTERPRETER_EXECUTION_TIMEOUT_MS of the sandbox is the default", async () => {
    const quick = await engine.sandbox("quick", { env: { INTERPRETER_EXECUTION_TIMEOUT_MS: "300" } });
    const context_id = (await quick.call("POST", "/api/contexts", {})).json.contextId;
    const r = await quick.call("POST", "/api/execute/code", { context_id, code: "while True: pass" });
    assert.match(r.text, /timed out after 300 ms/);
    await engine.api("DELETE", "/v1/sandboxes/quick");
    const odd = await engine.sandbox("odd", { env: { INTERPRETER_EXECUTION_TIMEOUT_MS: "20s" } });
    const context = (await odd.call("POST", "/api/contexts", {})).json.contextId;
    const code = "import time; time.sleep(0.3); print('done')";
    const whole = await odd.call("POST", "/api/execute/code", { context_id: context, code });
    assert.match(whole.text, /done/, "what is no number of milliseconds is none");
    await engine.api("DELETE", "/v1/sandboxes/odd");
  });

  test("runs of one context come one after another; contexts run side by side", async () => {
    const [a, b] = [await create("python"), await create("python")];
    const order = await Promise.all([
      run(a, "import time\nlog = [1]\ntime.sleep(0.3)\nlog.append(2)"),
      sleep(50).then(() => run(a, "log.append(3)\nlog")),
      sleep(50).then(async () => {
        const begun = Date.now();
        await run(b, "1");
        return Date.now() - begun;
      }),
    ]);
    assert.deepEqual(order[1].result.json, [1, 2, 3]);
    assert.ok(order[2] < 250, `${order[2]} ms`);
    for (const id of [a, b]) await box.call("DELETE", `/api/contexts/${id}`);
  });

  test("deleting a context ends its run and its children", async () => {
    const id = await create("python");
    const s = open(
      id,
      "import subprocess\nsubprocess.Popen(['setsid', 'sleep', '4321'])\nprint('in')\nwhile True: pass",
    );
    await s.next();
    const waiting = run(id, "1");
    await sleep(50);
    assert.equal((await box.call("DELETE", `/api/contexts/${id}`)).status, 200);
    assert.equal((await s.next()).ename, "ContextDeleted");
    assert.equal((await waiting).end.ename, "ContextDeleted");
    assert.equal((await box.exec("ps -eo args | grep -cE '[s]leep 4321|[c]aisson-interpreter'")).stdout, "0\n");
  });
});

describe("code that means harm", () => {
  const usable = async (id, code = "40 + 2") => assert.equal((await run(id, code)).result?.text, "42");

  for (const [language, codes] of [
    [
      "python",
      {
        exit: ["import os\nprint('last words')\nos._exit(7)", /exited with code 7/],
        segfault: ["import ctypes\nctypes.string_at(0)", /signal 11 \(SEGV\)/],
        kill: ["import os\nos.kill(os.getpid(), 9)", /signal 9 \(KILL\)/],
      },
    ],
    ...(noNode
      ? []
      : [
          [
            "javascript",
            {
              exit: ["console.log('last words'); process.exit(7)", /exited with code 7/],
              abort: ["process.abort()", /signal 6 \(ABRT\)/],
            },
          ],
        ]),
  ]) {
    test(`${language}: a crash is told, and the context is usable`, async () => {
      const id = await create(language);
      for (const [name, [code, says]] of Object.entries(codes)) {
        const r = await run(id, code);
        assert.deepEqual(
          [r.end.type, r.end.ename],
          ["error", "InterpreterExited"],
          `${name}: ${JSON.stringify(r.end)}`,
        );
        assert.match(r.end.evalue, says);
        assert.match(r.end.evalue, /variables are lost/);
        if (name === "exit") assert.equal(r.stdout, "last words\n");
        await usable(id);
      }
      await box.call("DELETE", `/api/contexts/${id}`);
    });
  }

  test("printing what looks like the protocol forges nothing", async () => {
    const id = await create("python");
    const text = 'R 1 {"text": "forged"}\nD 1\ndata: {"type":"result","text":"forged"}\n\n';
    const r = await run(id, `import os\nos.write(1, ${JSON.stringify(text)}.encode())\nos.write(2, b'D 1\\n')\nx = 1`);
    assert.deepEqual([r.stdout, r.stderr, r.results, r.end.type], [text, "D 1\n", [], "execution_complete"]);
    await box.call("DELETE", `/api/contexts/${id}`);
  });

  test("writing to, closing or flooding the interpreter's own descriptors", async () => {
    const id = await create("python");
    const sockets =
      "import os, stat\nfds = [int(f) for f in os.listdir('/proc/self/fd')]\ndef is_socket(f):\n    try: return stat.S_ISSOCK(os.fstat(f).st_mode)\n    except OSError: return False\nsocks = [f for f in fds if is_socket(f)]\n";
    for (const write of [
      "os.write(socks[0], b'garbage\\n')",
      "[os.write(socks[0], b'R %d {broken\\n' % n) for n in range(1, 99)]",
      "os.write(socks[0], b'\\xff\\x00\\n')",
      "os.write(socks[0], b'H {}\\n')",
      "os.close(socks[0])",
      "import socket; socket.socket(fileno=os.dup(socks[0])).sendall(b'x' * (30 << 20))",
    ]) {
      const r = await run(id, `${sockets}${write}\nimport time\ntime.sleep(20)`);
      assert.deepEqual([r.end.type, r.end.ename], ["error", "InterpreterExited"], `${write}: ${JSON.stringify(r.end)}`);
      assert.match(r.end.evalue, /own channel/);
      await usable(id);
    }
    const stale = await run(id, `${sockets}os.write(socks[0], b'R 999 {"text":"x"}\\nD 0\\nE 998 {}\\n')\n42`);
    assert.deepEqual([stale.results.map((x) => x.text), stale.end.type], [["42"], "execution_complete"]);
    const closed = await run(id, "import os\nos.close(0); os.close(1); os.close(2)\nx = 42");
    assert.equal(closed.end.type, "execution_complete");
    assert.equal((await run(id, "print('back')\nx")).stdout, "back\n");
    await run(id, "import sys\nsys.stdout.close(); sys.stderr = None; sys.stdin.close()");
    assert.equal((await run(id, "print('again')")).stdout, "again\n");
    await run(id, "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)");
    assert.equal(
      (await run(id, "while True: pass", { timeout_ms: 200 })).end.evalue,
      "Execution timed out after 200 ms",
    );
    await box.call("DELETE", `/api/contexts/${id}`);
  });

  test("a flood of output is held back, and bounded", { timeout: 120_000 }, async () => {
    const id = await create("python");
    const bytes = (await run(id, "print('x' * 20_000_000)")).stdout.length;
    assert.equal(bytes, 20_000_001);
    const flood = await run(id, "line = 'y' * 1000\nwhile True: print(line)");
    assert.deepEqual([flood.end.type, flood.end.ename], ["error", "OutputLimitExceeded"]);
    assert.ok(flood.stdout.length > 50e6 && flood.stdout.length < 80e6, `${flood.stdout.length}`);
    await usable(id, "42");
    const results = await run(id, "while True: display('z' * 500_000)");
    assert.equal(results.end.ename, "OutputLimitExceeded");
    const large = await run(
      id,
      "class L:\n    def _repr_html_(self): return 'h' * (20 << 20)\n    def __repr__(self): return 't' * (20 << 20)\nL()",
    );
    assert.ok(large.result.html === undefined && large.result.text.length < 2 << 20);
    // A client that does not read holds its own run, and no other.
    let res;
    const slow = exchange(box.port, "POST", "/api/execute/code", {
      headers: box.headers,
      body: JSON.stringify({ context_id: id, code: "while True: print('s' * 10000)" }),
      onData: (_, req) => {
        res = req;
        req.res.pause();
      },
    }).catch(() => {});
    while (res === undefined) await sleep(20);
    await sleep(700);
    const rss = async () => Number((await box.exec("awk '/VmRSS/{print $2}' /proc/1/status")).stdout);
    assert.ok((await rss()) < 40_000, `${await rss()} kB`);
    const other = await create("python");
    await usable(other);
    await box.call("DELETE", `/api/contexts/${other}`);
    res.destroy();
    await slow;
    await usable(id);
    await box.call("DELETE", `/api/contexts/${id}`);
  });

  test("forks, threads and a deleted directory", async () => {
    await box.exec("mkdir -p /workspace/gone");
    const id = await create("python", { cwd: "/workspace/gone" });
    await run(id, "import os, shutil\nshutil.rmtree('/workspace/gone')");
    await usable(id);
    assert.equal((await run(id, "os.getcwd()")).end.ename, "FileNotFoundError");
    await run(id, "os._exit(0)");
    await usable(id);
    const forks = await run(
      id,
      "import os, time\nfor i in range(50):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(2345)\n42",
    );
    assert.equal(forks.result.text, "42");
    await box.call("DELETE", `/api/contexts/${id}`);
    assert.equal((await box.exec("ps -eo args | grep -c '[c]aisson-interpreter'")).stdout, "0\n");
    const threads = await create("python");
    await run(
      threads,
      "import threading, time\ndef t():\n    for i in range(3):\n        time.sleep(0.05); print('bg', i)\nthreading.Thread(target=t).start()",
    );
    await sleep(300);
    assert.equal((await run(threads, "42")).stdout, "bg 0\nbg 1\nbg 2\n", "shown with the next run");
    await box.call("DELETE", `/api/contexts/${threads}`);
  });

  test("large code, deep code, odd code", async () => {
    const id = await create("python");
    assert.equal((await run(id, `s = '${"a".repeat(5_000_000)}'\nlen(s)`)).result.text, "5000000");
    assert.equal((await run(id, `${"(".repeat(5000)}1${")".repeat(5000)}`)).end.type, "error");
    assert.equal((await run(id, "def f(): f()\nf()")).end.ename, "RecursionError");
    const deep = await run(id, "x = []\nfor i in range(900): x = [x]\nx");
    assert.equal(deep.end.type, "execution_complete");
    assert.equal((await run(id, "'é' * 3 + '😀'")).result.text, "'ééé😀'");
    const split = await run(
      id,
      "import os, time\nfor b in '😀é'.encode(): os.write(1, bytes([b])); time.sleep(0.01)\nos.write(1, b'\\xff')",
    );
    assert.equal(split.stdout, "😀é\ufffd");
    await usable(id, "42");
    await box.call("DELETE", `/api/contexts/${id}`);
  });

  test("no process is left", async () => {
    assert.deepEqual((await box.call("GET", "/api/contexts")).json.contexts, []);
    assert.equal((await box.exec("ps -eo args | grep -c '[c]aisson-interpreter'")).stdout, "0\n");
    assert.equal((await box.exec("ps -eo comm | grep -c '[c]aisson-job'")).stdout, "1\n", "this command's own");
  });
});
