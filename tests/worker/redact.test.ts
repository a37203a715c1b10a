/** Secrets that a program prints: in nothing that is stored or sent, however they come. */
import { abortAllDurableObjects, runInDurableObject } from "cloudflare:test";
import { describe, expect, it } from "vitest";
import module from "../../build/redact.wasm";
import { BOUND } from "../../worker/src/core/abi.gen.js";
import { Redactor } from "../../worker/src/core/redact.js";
import { operatorRedactor, register } from "../../worker/src/effects/redactor.js";
import type { Env } from "../../worker/src/env.js";
import { Flow } from "../../worker/src/session/flow.js";
import { RAW_HEAD, RAW_MAX } from "../../worker/src/session/lines.js";
import { formsOf, SHAPE } from "../secret-forms.js";
import { env } from "./env.js";
import {
  created,
  ended,
  eventually,
  expectGapless,
  log,
  running,
  type Stub,
  stub,
  types,
  value,
} from "./session-fixture.js";

const SECRET = 'pa$$/w"ord-\u00e9-0123456789';
const FORMS = [...formsOf(SECRET), SHAPE];
const bytesOf = (text: string): Buffer => Buffer.from(text);

/** Every value of every table, as text of one character a byte. */
async function stored(session: Stub): Promise<string> {
  return await runInDurableObject(session, async (_, { storage }) => {
    const tables = [...storage.sql.exec<{ name: string }>("SELECT name FROM sqlite_master WHERE type = 'table'")];
    let all = "";
    for (const { name } of tables.filter(({ name }) => !name.startsWith("_cf"))) {
      for (const row of storage.sql.exec(`SELECT * FROM "${name}"`).raw()) {
        for (const cell of row) {
          all += `${cell instanceof ArrayBuffer ? Buffer.from(cell).toString("latin1") : bytesOf(String(cell)).toString("latin1")}\n`;
        }
      }
    }
    return all;
  });
}

async function inBucket(id: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const { key } of (await env.ARTIFACTS.list({ prefix: `sessions/${id}/` })).objects) {
    found[key] = Buffer.from((await (await env.ARTIFACTS.get(key))?.bytes()) ?? []).toString("latin1");
  }
  return found;
}

/** Forms that are in a text of one character a byte. */
const leaks = (text: string): string[] => FORMS.filter((form) => text.includes(bytesOf(form).toString("latin1")));
const latin = (value: unknown): string => bytesOf(JSON.stringify(value)).toString("latin1");

describe("a run that prints secrets", () => {
  it("leaves them nowhere, split anywhere, in any form", async () => {
    const { id, session, fake } = await running(
      { secrets: { TOKEN: SECRET }, metadata: { note: `it is ${SECRET}` } },
      { command: `echo '${SECRET}' | work` },
    );
    fake.diff = bytesOf(`--- a/x\n+++ b/x\n+${SECRET}\n+${SHAPE}\n`).toString("latin1");
    fake.changes = [
      { path: "out.txt", status: "A", content: bytesOf(`${SECRET} and ${SHAPE}`) },
      { path: `${SHAPE}.txt`, status: "A", content: bytesOf("x") },
    ];
    const text = `${FORMS.map((form) => `a ${form} b`).join("\n")}\nplain\n`;
    const bytes = bytesOf(text);
    for (let at = 0; at < bytes.length; at += 7) {
      fake.output(1, bytes.subarray(at, at + 7));
      fake.output(1, bytes.subarray(at, at + 7), "stderr");
      if (at % 70 === 0) await new Promise((resolve) => setTimeout(resolve, 3));
    }
    fake.exit(1, { reason: "exited", exit_code: 0, detail: `said ${SECRET}` });
    const view = await ended(session);
    expect(view.state).toBe("succeeded");
    const events = await log(session, true);
    expectGapless(events);
    expect(leaks(latin(events))).toEqual([]);
    expect(leaks(latin([view, value(await session.view()), value(await session.runs())]))).toEqual([]);
    const masked = events.filter(({ type }) => type === "secret.masked");
    expect(masked.map((event) => event["in"])).toEqual(["output", "artifacts"]);
    expect(masked[0]).toMatchObject({ value: 2, json: 4, percent: 2, hex: 2, base64: 6, shape: 2 });
    expect(types(events).indexOf("secret.masked")).toBeLessThan(types(events).indexOf("run.succeeded"));
    const lines = events.filter(({ type }) => type === "output.stdout").map((event) => event["text"]);
    expect(lines.join("")).toContain("plain");
    expect(lines.join("")).toContain(`a ${"*".repeat(Buffer.byteLength(SECRET))} b`);

    expect(leaks(await stored(session))).toEqual([]);
    expect(leaks(Buffer.from(value(await session.diff("run_1"))).toString("latin1"))).toEqual([]);
    const objects = await inBucket(id);
    const prefix = `sessions/${id}/runs/run_1`;
    expect(objects[`${prefix}/stdout.jsonl`]?.length).toBe(bytes.length);
    expect(leaks(`${objects[`${prefix}/stdout.jsonl`]}${objects[`${prefix}/stderr.txt`]}`)).toEqual([]);
    expect(objects[`${prefix}/diff.patch`]).toContain("--- a/x");
    expect(leaks(`${objects[`${prefix}/diff.patch`]}${objects[`${prefix}/manifest.json`]}`)).toEqual([]);
    // A file keeps what is no registered value: a fixture is not spoilt for what it looks like.
    expect(objects[`${prefix}/files/out.txt`]).toBe(`${"*".repeat(Buffer.byteLength(SECRET))} and ${SHAPE}`);
    expect(Object.keys(objects).some((key) => key.includes(SHAPE))).toBe(false);
    await eventually(async () => {
      const row = await env.INDEX.prepare("SELECT * FROM sessions WHERE id = ?").bind(id).first();
      expect(row).not.toBeNull();
      expect(leaks(latin(row))).toEqual([]);
    });
  });

  it("is taken up in the middle of one after an eviction", async () => {
    const { id, session: first, fake } = await running({ secrets: { TOKEN: SECRET } });
    const line = bytesOf(`first\nx ${SECRET} y\n`);
    const middle = line.length - 12;
    fake.output(1, line.subarray(0, middle));
    await eventually(async () => expect(latin(await log(first))).toContain("first"));
    expect(leaks(await stored(first))).toEqual([]);
    await abortAllDurableObjects();
    const session = stub(id);
    fake.output(1, line.subarray(middle));
    fake.exit(1, { reason: "exited", exit_code: 0 });
    await ended(session);
    const events = await log(session, true);
    expectGapless(events);
    const text = events.filter(({ type }) => type === "output.stdout").map((event) => event["text"]);
    expect(text.join("")).toContain(`x ${"*".repeat(Buffer.byteLength(SECRET))} y`);
    expect(leaks(latin(events))).toEqual([]);
    expect(events.find(({ type }) => type === "secret.masked")).toMatchObject({ in: "output", value: 1 });
  });

  it("leaves no half of one where a field or a line is cut", async () => {
    const { session, fake } = await running({ secrets: { TOKEN: SECRET }, agent: "claude-code" }, { prompt: "work" });
    const escaped = JSON.stringify(SECRET).slice(1, -1);
    for (const cap of [BOUND.FIELD_MAX, RAW_HEAD, RAW_MAX]) {
      for (const before of [3, 12, escaped.length - 3]) {
        const head = '{"type":"assistant","message":{"id":"m","role":"assistant","content":[{"type":"text","text":"';
        // The field's cap counts from the field's beginning, those of a raw line from the line's.
        const pad = "x".repeat(cap - before - (cap === BOUND.FIELD_MAX ? 0 : head.length));
        fake.output(1, `${head}${pad}${escaped}${"y".repeat(70_000)}"}]}}\n`);
      }
    }
    fake.exit(1, { reason: "exited", exit_code: 0 });
    await ended(session);
    const events = await log(session, true);
    const texts = events.filter(({ type }) => type === "agent.text");
    expect(texts).toHaveLength(9);
    expect(texts.some((event) => String(event["text"]).includes("xx***"))).toBe(true);
    // Not even the three bytes with which it begins.
    expect(latin(events)).not.toContain("pa$");
    expect(events.find(({ type }) => type === "secret.masked")).toMatchObject({ in: "output", json: 9 });
  });

  it("is given up when a stored secret cannot be opened: nothing of its output is kept", async () => {
    const { id, session: first, fake } = await created({ secrets: { TOKEN: SECRET } });
    await runInDurableObject(first, async (_, { storage }) => {
      storage.sql.exec("UPDATE secrets SET sealed = x'00'");
    });
    await abortAllDurableObjects();
    const session = stub(id);
    value(await session.createRun({ command: "work" }));
    await eventually(async () => expect(fake.run(1).started).toBe(true));
    fake.output(1, "whatever it prints\n");
    const view = await ended(session);
    expect(view.state).toBe("interrupted");
    expect(latin([view, await log(session, true)])).not.toContain("whatever");
    expect(latin(await log(session))).toContain("cannot be opened");
    expect(value(await session.end()).state).toBe("ended");
  });

  it("tells of none when there was none, and gives what was held at the end", async () => {
    const { session, fake } = await running({ secrets: { TOKEN: SECRET } });
    const text = `nothing\n${SECRET.slice(0, 12)}`;
    fake.output(1, text);
    fake.exit(1, { reason: "exited", exit_code: 0 });
    await ended(session);
    const events = await log(session);
    expect(types(events)).not.toContain("secret.masked");
    expect(events.filter(({ type }) => type === "output.stdout").map((event) => event["text"])).toEqual([
      "nothing\n",
      SECRET.slice(0, 12),
    ]);
  });
});

describe("a request with a secret in it", () => {
  it("is shown and kept without it, and is known again", async () => {
    const { session, fake } = await created({ secrets: { TOKEN: SECRET } });
    const command = `curl -H 'x: ${SECRET}' https://a.example/`;
    const first = value(await session.createRun({ command }, "key"));
    expect(leaks(latin(first))).toEqual([]);
    await eventually(async () => expect(value(await session.run("run_1")).state).toBe("running"));
    expect(latin([...fake.files.values()])).toContain("pa$$");
    expect(leaks(await stored(session))).toEqual([]);
    expect(value(await session.createRun({ command }, "key")).id).toBe("run_1");
    expect(await session.createRun({ command: "other" }, "key")).toMatchObject({ code: "idempotency_mismatch" });
  });

  it("is refused when its secrets cannot be kept out of the log", async () => {
    const { session } = await created();
    const many = Object.fromEntries(
      Array.from({ length: 3 }, (_, i) => [`S${i}`, Buffer.alloc(6_000, `${i}A/"<${i}`).toString()]),
    );
    expect(await session.create("ses_other", { agent: "shell", secrets: many })).toMatchObject({
      ok: false,
      status: 400,
      code: "too_long",
      field: expect.stringMatching(/^\/secrets\/S\d$/),
    });
    expect(await session.create("ses_other", { agent: "shell", secrets: { A: "  1234567  " } })).toMatchObject({
      status: 400,
      code: "invalid_value",
      field: "/secrets/A",
    });
  });
});

describe("what leaves", () => {
  it("is logged without secrets in its path", async () => {
    const { session } = await created({ secrets: { TOKEN: SECRET }, policy: { network: { allow: ["a.example"] } } });
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    const path = `/x/${encodeURIComponent(SECRET)}/${SHAPE}`;
    const asked = { port: 443, method: "GET", path, websocket: false, policy: null, door: null };
    const { id } = value(await session.egress({ host: "a.example", ...asked }));
    value(await session.egressEnded(id, { status: 200, bytes_up: 1, bytes_down: 2, duration_ms: 3, address: null }));
    value(await session.egress({ host: "b.example", ...asked }));
    const rows = value(await session.egressLog(0, 10));
    expect(rows.map((row) => row.path.length)).toEqual([path.length, path.length]);
    expect(leaks(latin([rows, await log(session)]))).toEqual([]);
    expect(leaks(await stored(session))).toEqual([]);
  });
});

describe("registered values", () => {
  it("are the operator's keys too, and long ones in pieces", () => {
    const keys = JSON.stringify({
      keys: [{ kid: "a", secret: "signing-key-in-base64url" }],
      api_keys: [
        { name: "x", secret: "static-api-key" },
        { name: "y", sha256: "00" },
      ],
    });
    const redactor = operatorRedactor(module, {
      ANTHROPIC_API_KEY: "model-key-1",
      CAISSON_API_KEY: "short",
      CAISSON_SEAL_KEY: "2:newer-seal-key, 1:older-seal-key",
      CAISSON_KEYS: keys,
    } as unknown as Env);
    for (const key of ["model-key-1", "signing-key-in-base64url", "static-api-key", "newer-seal-key", "older-seal-key"])
      expect(redactor.text(`<${key}>`)).toBe(`<${"*".repeat(key.length)}>`);
    expect(redactor.text("<short>")).toBe("<short>");
    expect(operatorRedactor(module, { CAISSON_KEYS: "no JSON" } as unknown as Env).text("x")).toBe("x");

    const long = new Redactor(module);
    const value = Array.from({ length: 2_051 }, (_, i) => "abcdefghijklmnopqrstuvw"[(i * i) % 23]).join("");
    register(long, value);
    expect(long.text(`<${value}>`)).toBe(`<${"*".repeat(value.length)}>`);
    const lines = new Redactor(module);
    register(lines, "first line of a value\nsecond line of a value\n");
    expect(lines.text("+second line of a value\n")).toBe(`+${"*".repeat(22)}\n`);
  });

  it("are found across the offset at which a stream is taken up, and counted once", () => {
    const redactor = new Redactor(module);
    redactor.add(SECRET);
    const bytes = bytesOf(`${SECRET} ${SECRET} z`.padStart(70_000, "."));
    for (const offset of [0, 1, 65_536, 69_970, 69_980, 69_999, 70_000]) {
      const flow = new Flow(redactor.open(), Math.min(offset, bytes.length));
      const out = Buffer.concat([flow.push(bytes.subarray(flow.position)), flow.flush()]);
      const whole = Buffer.from(redactor.bytes(bytes).bytes);
      expect(out.equals(whole.subarray(Math.min(offset, bytes.length)))).toBe(true);
      expect(flow.position).toBe(bytes.length);
      flow.close();
    }
  });
});
