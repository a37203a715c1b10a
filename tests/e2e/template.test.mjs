/** Sessions and one-shots on a template, through the real Worker and engine; what is refused, and how. */
import assert from "node:assert/strict";
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { makeRoot, template } from "../engine/rootfs.mjs";
import { scratch } from "../scratch.mjs";
import { assertProblem, openStack } from "./lib.mjs";

/** What a session's workspace needs: git, and what its scripts call. */
const PROGRAMS = [
  "bash",
  "cat",
  "id",
  "mkdir",
  "mv",
  "rm",
  "chmod",
  "touch",
  "env",
  "git",
  "sed",
  "head",
  "tail",
  "wc",
];
const MORE = [
  "find",
  "base64",
  "stat",
  "sleep",
  "test",
  "printf",
  "sort",
  "tr",
  "cut",
  "grep",
  "dirname",
  "basename",
  "ls",
];

describe("templates", () => {
  let dir;
  let stack;
  let api;
  before(async () => {
    dir = scratch("e2e-template");
    const home = join(dir, "templates");
    mkdirSync(home);
    makeRoot(join(dir, "root"), "made here", [...PROGRAMS, ...MORE]);
    const made = template(home, ["add", "small", join(dir, "root")]);
    assert.equal(made.status, 0, made.text);
    process.env.CAISSON_TEMPLATES = home;
    try {
      stack = await openStack();
    } finally {
      delete process.env.CAISSON_TEMPLATES;
    }
    api = stack.api;
  });
  after(async () => {
    await stack?.close();
    rmSync(dir, { recursive: true, force: true });
  });

  test("a session stands on its template, as root, with its workspace and its diff", async () => {
    const files = [{ path: "a.txt", content: "one\n" }];
    const session = await api.session({ agent: "shell", template: "small", files });
    assert.equal(session.template, "small");
    const { body } = await api.ok("POST", `/v1/sessions/${session.id}/exec`, {
      command: "cat /etc/marker; id -u; cat a.txt; echo two >>a.txt; touch /bin/mine",
    });
    assert.deepEqual([body.exit_code, body.stdout], [0, "made here0\none\n"], body.stderr);
    const diff = await api.ok("GET", `/v1/sessions/${session.id}/diff`);
    assert.match(diff.bytes.toString(), /\+two/);
    const other = await api.session({ agent: "shell" });
    assert.equal(other.template, null);
    const usual = await api.ok("POST", `/v1/sessions/${other.id}/exec`, {
      command: "test -e /etc/marker || echo none",
    });
    assert.equal(usual.body.stdout, "none\n");
  });

  test("a run of a session on a template", async () => {
    const session = await api.session({ agent: "shell", template: "small" });
    const { events, outcome } = await api.run(session.id, { command: "cat /etc/marker" });
    assert.equal(outcome.type, "run.succeeded");
    // An end that could be the beginning of a key's form comes later, by itself.
    const printed = events.filter((e) => e.type === "output.stdout").map((e) => e.text);
    assert.equal(printed.join(""), "made here");
  });

  test("a one-shot on a template", async () => {
    const { body } = await api.ok("POST", "/v1/execute", {
      language: "bash",
      code: "cat /etc/marker",
      template: "small",
    });
    assert.deepEqual([body.exit_code, body.stdout], [0, "made here"]);
  });

  test("one that is not there is refused with those that are; a name that is none is refused before", async () => {
    for (const [path, body] of [
      ["/v1/sessions", { agent: "shell" }],
      ["/v1/execute", { language: "bash", code: "true" }],
    ]) {
      const unknown = await api.call("POST", path, { ...body, template: "smalll" });
      assertProblem(unknown, 400, "unknown_template");
      assert.equal(unknown.body.field, "/template");
      assert.match(unknown.body.detail, /there are: small\. .*make template NAME=smalll/);
      for (const template of ["", "-a", "../small", "A", "x".repeat(65), 7, null]) {
        const bad = await api.call("POST", path, { ...body, template });
        assert.equal(bad.status, 400, JSON.stringify(bad.body));
        assert.equal(bad.body.field, "/template");
      }
    }
  });
});
