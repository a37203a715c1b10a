/** The code interpreter: contexts whose state stays, results of every kind, errors with their place. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { perTransport, rejects } from "./lib.mjs";
import { callback } from "./sdk.mjs";

perTransport("code interpreter", (make) => {
  let sandbox;
  const out = (execution) => execution.logs.stdout.join("");
  before(async () => {
    sandbox = make();
    await sandbox.exec("true");
  });

  it("keeps state between runs, apart for each context", async () => {
    for (const [language, set, print] of [
      ["python", "x = 41\ndef f(n): return n + 1", "print(f(x))"],
      ["javascript", "let x = 41; const f = (n) => n + 1; function g() { return 1 }", "console.log(f(x))"],
      ["typescript", "let x: number = 41; const f = (n: number): number => n + 1;", "console.log(f(x as number))"],
    ]) {
      const context = await sandbox.createCodeContext({ language });
      assert.ok(context.id);
      assert.equal(context.language, language);
      const first = await sandbox.runCode(set, { context });
      assert.equal(first.error, undefined, `${language}: ${JSON.stringify(first.error)}`);
      assert.equal(out(await sandbox.runCode(print, { context })).trim(), "42", language);
      const other = await sandbox.createCodeContext({ language });
      const missing = await sandbox.runCode(print, { context: other });
      assert.match(missing.error.name, /NameError|ReferenceError/, language);
      await sandbox.deleteCodeContext(other.id);
    }
  });

  it("runs without a context in one of the language", async () => {
    const sandbox = make(); // the SDK takes any context of the language
    assert.equal(out(await sandbox.runCode("y = 1; print('py')")).trim(), "py");
    assert.equal(out(await sandbox.runCode("print(y)")).trim(), "1");
    assert.equal(out(await sandbox.runCode("console.log('js')", { language: "javascript" })).trim(), "js");
    assert.equal(
      out(await sandbox.runCode("const t: string = 'ts'; console.log(t)", { language: "typescript" })).trim(),
      "ts",
    );
  });

  it("gives the last expression as a result", async () => {
    for (const [language, code, text] of [
      ["python", "a = 2\na * 21", "42"],
      ["python", "[1, 'b', None]", "[1, 'b', None]"],
      ["javascript", "const q = 2; q * 21", "42"],
      ["javascript", "await Promise.resolve('later')", /later/],
      ["typescript", "const z: number = 21; z * 2", "42"],
    ]) {
      const { results, error } = await sandbox.runCode(code, { language });
      assert.equal(error, undefined, JSON.stringify(error));
      assert.equal(results.length, 1, `${language}: ${code}: ${JSON.stringify(results)}`);
      if (typeof text === "string") assert.equal(results[0].text, text);
      else assert.match(results[0].text, text);
    }
    assert.equal((await sandbox.runCode("b = 1")).results.length, 0);
    assert.equal((await sandbox.runCode("None")).results.length, 0);
  });

  it("gives rich results", async () => {
    const html = await sandbox.runCode("class H:\n  def _repr_html_(self): return '<b>h</b>'\nH()");
    assert.equal(html.results[0].html, "<b>h</b>");
    const json = await sandbox.runCode("({ a: [1, { b: null }] })", { language: "javascript" });
    assert.deepEqual(json.results[0].json, { a: [1, { b: null }] });
    const several = await sandbox.runCode(
      "class M:\n  def _repr_markdown_(self): return '# m'\n  def _repr_latex_(self): return '$l$'\n  def _repr_svg_(self): return '<svg/>'\nM()",
    );
    assert.deepEqual(
      [several.results[0].markdown, several.results[0].latex, several.results[0].svg],
      ["# m", "$l$", "<svg/>"],
    );
    if ((await sandbox.exec("python3 -c 'import matplotlib'")).success) {
      const plot = await sandbox.runCode("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()");
      assert.ok(
        plot.results.some((result) => result.png?.startsWith("iVBOR")),
        JSON.stringify(plot).slice(0, 500),
      );
    }
  });

  it("tells errors with name, value and traceback", async () => {
    for (const [language, code, name, value] of [
      ["python", "def f():\n  return 1 / 0\nf()", "ZeroDivisionError", /division by zero/],
      ["python", "if:", "SyntaxError", /./],
      ["javascript", "null.x", "TypeError", /null/],
      ["javascript", "let let = ;", "SyntaxError", /./],
      ["javascript", "await Promise.reject(new RangeError('r'))", "RangeError", /r/],
      ["typescript", "throw new TypeError('typed')", "TypeError", /typed/],
    ]) {
      const { error } = await sandbox.runCode(`${code}`, { language });
      assert.equal(error?.name, name, `${language} ${code}: ${JSON.stringify(error)}`);
      assert.match(error.message, value);
      assert.ok(Array.isArray(error.traceback) && error.traceback.length > 0);
    }
    const { logs, error } = await sandbox.runCode("print('before')\nraise ValueError('v')");
    assert.deepEqual([logs.stdout.join(""), error.name], ["before\n", "ValueError"]);
    // The context goes on.
    assert.equal(out(await sandbox.runCode("print('after')")), "after\n");
  });

  it("keeps stdout and stderr apart, and streams them as they come", async () => {
    const both = await sandbox.runCode("import sys\nprint('o')\nprint('e', file=sys.stderr)");
    assert.deepEqual([both.logs.stdout.join(""), both.logs.stderr.join("")], ["o\n", "e\n"]);
    // What is awaited is made once the first output is here.
    const stream = await sandbox.stream.runCodeStream(
      "import os, time\nprint('first', flush=True)\nwhile not os.path.exists('/tmp/seen'): time.sleep(0.05)\nprint('second')",
    );
    let output = "";
    for await (const event of stream) {
      if (event.type === "stdout") {
        if (output === "") await sandbox.writeFile("/tmp/seen", "");
        output += event.text;
      }
      if (event.type === "execution_complete" || event.type === "error") break;
    }
    assert.equal(output, "first\nsecond\n");
    const called = await sandbox.runCode("print('c')", { onStdout: callback("stdout") });
    assert.deepEqual(
      called.callbacks?.map((call) => call.args[0].text),
      ["c\n"],
    );
  });

  it("loses no character of a long text, wherever it is cut", async () => {
    const sandbox = make();
    const text = "aé€\u{1f680}".repeat(100_000);
    const { logs } = await sandbox.runCode("print('aé€\u{1f680}' * 100_000)");
    assert.ok(logs.stdout.join("") === `${text}\n`, "the text was changed on its way");
  });

  it("ends a run at its time-out, and the context serves on", async () => {
    // The SDK does not pass on runCode's own `timeout`; the server's is a variable of the container.
    const sandbox = make();
    await sandbox.setEnvVars({ INTERPRETER_EXECUTION_TIMEOUT_MS: "1000" });
    for (const [language, code, print] of [
      ["python", "while True: pass", "print('on')"],
      ["javascript", "for (;;);", "console.log('on')"],
      ["typescript", "for (;;);", "console.log('on')"],
    ]) {
      const context = await sandbox.createCodeContext({ language });
      const result = await sandbox.runCode(code, { context }).catch((error) => ({ error }));
      assert.ok(result.error, language);
      assert.equal(out(await sandbox.runCode(print, { context })).trim(), "on", language);
    }
  });

  it("has a directory, variables, files and packages of the sandbox", async () => {
    await sandbox.exec("mkdir -p /workspace/code && echo content >/workspace/code/f");
    const context = await sandbox.createCodeContext({
      language: "python",
      cwd: "/workspace/code",
      envVars: { MINE: "m" },
    });
    const { logs } = await sandbox.runCode(
      "import os\nprint(os.getcwd(), os.environ['MINE'], open('f').read().strip())",
      { context },
    );
    assert.equal(logs.stdout.join(""), "/workspace/code m content\n");
    const node = await sandbox.createCodeContext({ language: "javascript", cwd: "/workspace/code" });
    const read = await sandbox.runCode("require('fs').readFileSync('f', 'utf8').trim() + process.cwd()", {
      context: node,
    });
    assert.match(read.results[0].text, /content\/workspace\/code/);
  });

  it("lists and deletes contexts", async () => {
    const own = make();
    const [a, b] = [await own.createCodeContext(), await own.createCodeContext({ language: "javascript" })];
    const listed = await own.listCodeContexts();
    assert.deepEqual(listed.map((context) => context.id).toSorted(), [a.id, b.id].toSorted());
    await own.deleteCodeContext(a.id);
    assert.deepEqual(
      (await own.listCodeContexts()).map((context) => context.id),
      [b.id],
    );
    await rejects(own.deleteCodeContext(a.id), { code: "CONTEXT_NOT_FOUND" });
    await rejects(own.runCode("1", { context: a }), { code: "CONTEXT_NOT_FOUND" });
  });

  it("survives code that ends its process, floods and reads input", async () => {
    const own = make();
    for (const code of [
      "import os\nos._exit(3)",
      "import sys\nsys.exit(4)",
      "input()",
      "import os\nos.kill(os.getpid(), 9)",
    ]) {
      await own.runCode(code).catch(() => {});
      const after = await own.runCode("print('alive')").catch((error) => error);
      assert.equal(after.logs?.stdout.join(""), "alive\n", `${code}: ${JSON.stringify(after)} ${after.message}`);
    }
    const flood = await own.runCode("print('x' * 3_000_000)");
    assert.equal(out(flood).length, 3_000_001);
  });

  it("runs contexts at the same time", async () => {
    const contexts = await Promise.all([0, 1, 2].map(() => sandbox.createCodeContext()));
    // Each waits for the others.
    const meet = (i) =>
      `import os, time\nopen('/tmp/c${i}', 'w').close()\nwhile not all(os.path.exists(f'/tmp/c{n}') for n in range(3)): time.sleep(0.05)\nprint('met')`;
    const met = await Promise.all(contexts.map((context, i) => sandbox.runCode(meet(i), { context })));
    assert.deepEqual(met.map(out), ["met\n", "met\n", "met\n"]);
  });
});
