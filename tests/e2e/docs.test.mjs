/** What README.md and `make dev` tell a user to paste works when it is pasted. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { freePort, ROOT } from "../../scripts/local.mjs";

/** Runs a script as a user's shell would, and fails with what it printed. */
function paste(script) {
  const run = spawnSync("bash", ["-o", "pipefail", "-e", "-c", script], { encoding: "utf8", timeout: 60_000 });
  assert.equal(run.status, 0, `${script}\n${run.stdout}${run.stderr}`);
  return run.stdout;
}

describe("make dev", () => {
  let child;
  let output = "";
  let url;
  before(async () => {
    const port = await freePort();
    url = `http://localhost:${port}`;
    const env = { ...process.env, PORT: String(port), NO_COLOR: "1" };
    delete env.ANTHROPIC_API_KEY;
    child = spawn("node", [join(ROOT, "scripts/dev.mjs")], { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (data) => {
        output += data;
      });
    }
    for (let i = 0; i < 600 && !output.includes("Ctrl-C stops everything") && child.exitCode === null; i++)
      await new Promise((r) => setTimeout(r, 100));
    assert.match(output, /Caisson is ready/);
  });
  after(async () => {
    const gone = new Promise((done) => child.once("exit", done));
    if (child.exitCode === null) child.kill("SIGINT");
    else return;
    assert.equal(await gone, 0, "Ctrl-C ends it cleanly");
    await assert.rejects(fetch(`${url}/health`), "the server is gone");
  });

  test("the printed curl lines work", () => {
    const lines = output.split("\n").filter((line) => /^ {2}(curl|ID=)/.test(line));
    assert.equal(lines.length, 3, output);
    const printed = paste(lines.join("\n"));
    assert.match(printed, /"stdout":"42\\n"/);
    assert.match(printed, /event: agent\.tool_call/);
    assert.match(printed, /event: run\.succeeded/);
  });

  test("the README's session with curl works", () => {
    const blocks = [...readFileSync(join(ROOT, "README.md"), "utf8").matchAll(/```sh\n([\s\S]*?)```/g)].map(
      (m) => m[1],
    );
    const session = blocks.find((block) => block.includes("/runs"));
    const printed = paste(session.replaceAll("http://localhost:8787", url));
    assert.match(printed, /event: run\.succeeded/);
    assert.match(printed, /\+Hello from the sandbox\./, "the diff");
    assert.match(printed, /"path":"hello\.txt"/, "the artifacts");
    assert.match(printed, /\}hello\.txt\n\{/, "the archive: one file, between the answers before and after");
    assert.match(printed, /"stdout":"Hello from the sandbox\.\\n"/, "exec");
    assert.match(printed, /"state":"ended"/, "the end");
    const oneShot = blocks.find((block) => block.includes("/v1/execute"));
    assert.match(paste(oneShot.replaceAll("http://localhost:8787", url)), /"stdout":"42\\n"/);
  });
});
