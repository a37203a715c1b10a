/** The egress log in R2. */
import { runInDurableObject } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import { createApp } from "../../worker/src/routes/app.js";
import { newSessionId } from "../../worker/src/routes/ids.js";
import type { EgressEntry } from "../../worker/src/session/api.js";
import { archivePrefix, BEHIND_MAX, PORTION } from "../../worker/src/session/egress-archive.js";
import { env } from "./env.js";
import { created, eventually, type Stub, stub, value } from "./session-fixture.js";

const ask = async (session: Stub, n: number, host = "denied.example") =>
  value(
    await session.egress({ host, port: 443, method: "GET", path: `/${n}`, websocket: false, policy: null, door: null }),
  ).id;

/** Denials, written as the object writes them: as many questions would take longer than a test may. */
async function seed(session: Stub, count: number): Promise<void> {
  await ask(session, 0);
  await runInDurableObject(session, (_, state) => {
    for (let n = 1; n < count; n++)
      state.storage.sql.exec(
        "INSERT INTO egress (time_ms, host, port, method, path, verdict, rule) VALUES (?, 'denied.example', 443, 'GET', ?, 'deny', 'network.default')",
        Date.now(),
        `/${n}`,
      );
  });
}

async function stored(id: string): Promise<{ keys: string[]; entries: EgressEntry[] }> {
  const { objects } = await env.ARTIFACTS.list({ prefix: archivePrefix(id) });
  const keys = objects.map(({ key }) => key);
  const texts = await Promise.all(keys.map(async (key) => (await env.ARTIFACTS.get(key))?.text() ?? ""));
  const entries = texts
    .join("")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as EgressEntry);
  return { keys, entries };
}

describe("the archive of the egress log", () => {
  it("is written in portions while the session lives, up to the first request that is under way, and whole at its end", async () => {
    const { id, session } = await created({ policy: { network: { allow: ["slow.example"] } } });
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    await seed(session, PORTION - 1);
    expect((await stored(id)).keys).toEqual([]);
    await ask(session, PORTION);
    await eventually(async () => expect(value(await session.egressArchived())).toBe(PORTION));
    const first = await stored(id);
    expect(first.keys).toEqual([`sessions/${id}/egress/0000000001.ndjson`]);
    expect(first.entries.map((entry) => entry.id)).toEqual(Array.from({ length: PORTION }, (_, i) => i + 1));
    expect(first.entries[0]).toMatchObject({
      host: "denied.example",
      path: "/0",
      verdict: "deny",
      rule: "network.default",
    });

    const open = await ask(session, 0, "slow.example");
    await seed(session, PORTION - 1);
    await ask(session, 1);
    await new Promise((done) => setTimeout(done, 50));
    expect(value(await session.egressArchived())).toBe(PORTION);
    value(
      await session.egressEnded(open, {
        status: 200,
        bytes_up: 1,
        bytes_down: 2,
        duration_ms: 3,
        address: "192.0.2.1",
      }),
    );
    await eventually(async () => expect(value(await session.egressArchived())).toBe(2 * PORTION));

    await ask(session, 1);
    const last = await ask(session, 2, "slow.example");
    value(await session.end());
    const all = (await stored(id)).entries;
    expect(all.map((entry) => entry.id)).toEqual(Array.from({ length: last }, (_, i) => i + 1));
    expect(all[open - 1]).toMatchObject({
      status: 200,
      bytes_up: 1,
      bytes_down: 2,
      duration_ms: 3,
      address: "192.0.2.1",
    });
    expect(all[last - 1]).toMatchObject({ host: "slow.example", status: null });
  });

  it("waits for no request that is under way longer than the log can keep what comes after it", async () => {
    const { id, session } = await created({ policy: { network: { allow: ["slow.example"] } } });
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    const open = await ask(session, 0, "slow.example");
    await seed(session, BEHIND_MAX - 3);
    await ask(session, 1);
    await new Promise((done) => setTimeout(done, 50));
    expect(value(await session.egressArchived())).toBe(0);
    const last = await ask(session, 2);
    expect(last).toBe(BEHIND_MAX);
    await eventually(async () => expect(value(await session.egressArchived())).toBe(BEHIND_MAX));
    const { entries } = await stored(id);
    expect(entries.map((entry) => entry.id)).toEqual(Array.from({ length: BEHIND_MAX }, (_, i) => i + 1));
    expect(entries[open - 1]).toMatchObject({ host: "slow.example", status: null });
  });

  it("comes once each, also where a portion is written while it is read", async () => {
    const id = newSessionId();
    const session = stub(id);
    value(await session.create(id, { agent: "shell" }));
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    await seed(session, PORTION - 1);
    await ask(session, PORTION);
    await eventually(async () => expect(value(await session.egressArchived())).toBe(PORTION));
    const last = await ask(session, PORTION + 1);
    // What the next portion will be called: it is there, and the session has not said so yet.
    const next = `${archivePrefix(id)}${String(last).padStart(10, "0")}.ndjson`;
    await env.ARTIFACTS.put(next, `${JSON.stringify({ id: last })}\n`);
    const answer = await createApp().request(`/v1/sessions/${id}/egress/archive`, {}, env);
    const ids = (await answer.text())
      .trimEnd()
      .split("\n")
      .map((line) => (JSON.parse(line) as EgressEntry).id);
    expect(ids).toEqual(Array.from({ length: last }, (_, n) => n + 1));
  });

  it("ends with an error where it cannot be read to its end", async () => {
    const id = newSessionId();
    const session = stub(id);
    value(await session.create(id, { agent: "shell" }));
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    await ask(session, 1);
    const failed = vi.spyOn(console, "error").mockImplementation(() => {});
    let pages = 0;
    const SESSION = {
      idFromName: () => null,
      get: () => ({
        egressArchived: () => session.egressArchived(),
        egressLog: async (after: number, limit: number) => {
          pages += 1;
          if (pages > 1) throw new Error("scripted: the object is away");
          return await session.egressLog(after, limit);
        },
      }),
    };
    const answer = await createApp().request(`/v1/sessions/${id}/egress/archive`, {}, { ...env, SESSION });
    await expect(answer.text()).rejects.toThrow();
    expect(failed).toHaveBeenCalled();
    failed.mockRestore();
  });

  it("a bucket that is away costs no entry: the next portion has them all", async () => {
    const { id, session } = await created({});
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    const put = vi.spyOn(env.ARTIFACTS, "put").mockRejectedValue(new Error("scripted: the bucket is away"));
    const failed = vi.spyOn(console, "error").mockImplementation(() => {});
    await seed(session, PORTION - 1);
    await ask(session, 1);
    await eventually(async () => expect(failed).toHaveBeenCalled());
    put.mockRestore();
    failed.mockRestore();
    await ask(session, 1);
    await eventually(async () => expect(value(await session.egressArchived())).toBe(PORTION));
    expect((await stored(id)).entries).toHaveLength(value(await session.egressArchived()));
  });
});

describe("the egress log", () => {
  it("has an allowed request soon after its verdict, and allows nothing while it cannot be written", async () => {
    const { session } = await created({ policy: { network: { allow: ["allowed.example"] } } });
    const sql = <T>(work: (sql: SqlStorage) => T): Promise<T> =>
      runInDurableObject(session, (_, state) => work(state.storage.sql));
    const hosts = (): Promise<string[]> =>
      sql((db) => [...db.exec<{ path: string }>("SELECT path FROM egress ORDER BY id")].map(({ path }) => path));
    await ask(session, 1, "allowed.example");
    await vi.waitFor(async () => expect(await hosts()).toEqual(["/1"]));
    await sql(
      (db) => void db.exec("CREATE TRIGGER full BEFORE INSERT ON egress BEGIN SELECT RAISE(ABORT, 'disk full'); END"),
    );
    await ask(session, 2, "allowed.example");
    await scheduler.wait(50);
    const question = {
      host: "allowed.example",
      port: 443,
      method: "GET",
      path: "/3",
      websocket: false,
      policy: null,
      door: null,
    };
    expect((await session.egress(question)).ok).toBe(false);
    await sql((db) => void db.exec("DROP TRIGGER full"));
    await ask(session, 4, "allowed.example");
    expect(value(await session.egressLog(0, 10)).map(({ path }) => path)).toEqual(["/1", "/2", "/4"]);
  });
});
