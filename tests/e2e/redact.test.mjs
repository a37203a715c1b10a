/** A real sandbox whose programs print secrets: in nothing that the API tells, and in no byte under the stack's directory but the sandbox's own disk. */
import assert from "node:assert/strict";
import { basename, relative } from "node:path";
import { after, before, describe, test } from "node:test";
import { formsOf, SHAPE } from "../secret-forms.ts";
import { openStack } from "./lib.mjs";
import { storedFiles } from "./stored.mjs";

const SECRET = 'e2e/redact"5f1c0a77d2b94e3b8c61-é';
const MODEL_KEY = "operator-model-key-77d2b94e3b8c61";
const FORMS = [...formsOf(SECRET), SHAPE, MODEL_KEY].map((form) => Buffer.from(form));
const leaks = (bytes) => FORMS.filter((form) => bytes.includes(form)).map(String);

let stack;
let api;
before(async () => {
  stack = await openStack({
    vars: { CAISSON_SEAL_KEY: `1:${Buffer.alloc(32, 9).toString("base64url")}` },
    otherKeys: { OPENAI_API_KEY: MODEL_KEY },
  });
  api = stack.api;
});
after(() => stack.close());

/** A Python program that has the secrets without anybody's having told them: from bytes, backwards. */
function program(body) {
  const told = [SECRET, SHAPE, MODEL_KEY].map((text) => [...Buffer.from(text)].reverse());
  return `import base64, json, os, sys, time, urllib.parse
secret, shape, model = (bytes(reversed(x)) for x in ${JSON.stringify(told)})
def out(b, fd=1):
    os.write(fd, b)
${body}
`;
}
const PRINTS = `
for fd in (1, 2):
    out(b"first ", fd); out(secret[:9], fd); time.sleep(0.3); out(secret[9:] + b" then\\n", fd)
    out(b"b64 " + base64.b64encode(secret) + b" " + base64.b64encode(b"x" + secret) + b" " + base64.b64encode(b"xy" + secret) + b"\\n", fd)
    text = secret.decode()
    out(b"json " + json.dumps({"k": text}, ensure_ascii=False).encode() + b" " + json.dumps(json.dumps({"k": text}, ensure_ascii=False), ensure_ascii=False).encode() + b"\\n", fd)
    out(b"url " + urllib.parse.quote(text, safe="").encode() + b" hex " + secret.hex().encode() + b"\\n", fd)
    out(b"shape " + shape + b" key " + model + b"\\n", fd)
open("/workspace/leak.txt", "wb").write(secret + b" " + shape + b"\\n")
out(b"done\\n")
`;

describe("what a program prints of secrets", () => {
  test("is in nothing that is stored or sent", async () => {
    const session = await api.session({ agent: "shell", secrets: { TOKEN: SECRET } });
    await api.ok("PUT", `/v1/sessions/${session.id}/files/prog.py`, program(PRINTS), {
      "content-type": "application/octet-stream",
    });
    const { run, events, outcome } = await api.run(session.id, { command: "python3 prog.py" });
    assert.equal(outcome.type, "run.succeeded", JSON.stringify(outcome));
    assert.deepEqual(leaks(Buffer.from(JSON.stringify(events))), [], "SSE");
    const masked = events.filter((event) => event.type === "secret.masked");
    assert.deepEqual(
      masked.map((event) => event.in),
      ["output", "artifacts"],
    );
    assert.equal(masked[0].shape, 2, JSON.stringify(masked));
    assert.ok(masked[0].value >= 4 && masked[0].base64 >= 6 && masked[0].json >= 4 && masked[0].hex === 2);
    const said = events.filter((event) => event.type === "output.stdout").map((event) => event.text);
    assert.ok(said.join("").includes(`first ${"*".repeat(Buffer.byteLength(SECRET))} then`), said.join(""));
    assert.ok(said.join("").includes("done"));

    const base = `/v1/sessions/${session.id}`;
    const seen = {};
    for (const path of ["", "/events?limit=1000", "/runs", `/runs/${run.id}`, "/diff", "/egress", "/artifacts"])
      seen[path] = (await api.ok("GET", base + path)).bytes;
    seen.diff = (await api.ok("GET", `${base}/diff?run=${run.id}`)).bytes;
    seen.transcript = (await api.ok("GET", `${base}/runs/${run.id}/transcript`)).bytes;
    for (const [path, bytes] of Object.entries(seen)) assert.deepEqual(leaks(bytes), [], path);
    assert.ok(seen["/diff"].includes("leak.txt") && seen["/diff"].includes("*".repeat(20)), "the diff");
    const file = (await api.ok("GET", `${base}/artifacts/leak.txt`)).bytes.toString();
    assert.equal(file, `${"*".repeat(Buffer.byteLength(SECRET))} ${SHAPE}\n`, "a stored file");

    await api.ok("DELETE", base);
    const found = [];
    for (const [path, bytes] of storedFiles(stack.dir)) {
      // The Worker's variables are the operator's own.
      if (basename(path) === "worker.vars") continue;
      const own = leaks(bytes).filter((form) => form !== SHAPE || !bytes.includes(`* ${SHAPE}`));
      if (own.length > 0) found.push([relative(stack.dir, path), own]);
    }
    assert.deepEqual(found, []);
  });

  test("is not shown of a request either", async () => {
    const session = await api.session({ agent: "shell", secrets: { TOKEN: SECRET } });
    const base = `/v1/sessions/${session.id}`;
    const { run, outcome } = await api.run(session.id, { command: `echo '${SECRET}' ${SHAPE}` });
    assert.equal(outcome.type, "run.succeeded");
    for (const path of ["/events?limit=1000", "/runs", `/runs/${run.id}`, `/runs/${run.id}/transcript`])
      assert.deepEqual(leaks((await api.ok("GET", base + path)).bytes), [], path);
    await api.ok("DELETE", base);
  });

  test("is not printed by a one-shot", async () => {
    const { body } = await api.ok("POST", "/v1/execute", {
      language: "python",
      code: program(`out(b"a " + shape[:20]); time.sleep(0.2); out(shape[20:] + b" " + model + b" b\\n")`),
    });
    assert.equal(body.stdout, `a ${"*".repeat(SHAPE.length)} ${"*".repeat(MODEL_KEY.length)} b\n`);
    const session = await api.session({ agent: "shell" });
    const exec = await api.ok("POST", `/v1/sessions/${session.id}/exec`, {
      argv: ["python3", "-c", program(`out(shape + b" " + model + b"\\n")`)],
    });
    assert.equal(exec.body.stdout, `${SHAPE} ${"*".repeat(MODEL_KEY.length)}\n`, "a command of the caller's own");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("is not printed by a command where the session has it as a secret", async () => {
    const session = await api.session({ agent: "shell", secrets: { TOKEN: SECRET } });
    await api.ok("PUT", `/v1/sessions/${session.id}/files/prog.py`, program(PRINTS), {
      "content-type": "application/octet-stream",
    });
    const path = `/v1/sessions/${session.id}/exec`;
    const { bytes, body } = await api.ok("POST", path, { command: "python3 prog.py" });
    // What merely looks like a key is the caller's own: the command is theirs.
    assert.deepEqual(leaks(bytes), [SHAPE]);
    assert.ok(body.stdout.includes(`first ${"*".repeat(Buffer.byteLength(SECRET))} then`), body.stdout);
    const stream = await api.call("POST", path, { command: "python3 prog.py" }, { accept: "text/event-stream" });
    assert.deepEqual(leaks(stream.bytes), [SHAPE]);
    assert.match(stream.bytes.toString(), /event: exit/);
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });
});
