/** A client that goes away from a run ends the run, also a silent one, and the context keeps its variables. */
import assert from "node:assert/strict";
import { it } from "node:test";
import { perTransport } from "./lib.mjs";

perTransport("a client that leaves a run", (make) => {
  for (const [what, code] of [
    ["silent", "n = 0\nprint('in')\nwhile True: n += 1"],
    ["printing", "import time\nn = 0\nwhile True:\n    n += 1; print(n); time.sleep(0.05)"],
  ]) {
    it(what, { timeout: 60_000 }, async () => {
      const sandbox = make();
      const context = await sandbox.createCodeContext({ language: "python" });
      const run = await sandbox.stream.runCodeStream(code, { context });
      for await (const event of run) if (event.type === "stdout") break;
      const next = await sandbox.runCode("n > 0", { context });
      assert.equal(next.results[0]?.text, "True", JSON.stringify(next));
    });
  }
});
