/** Sessions with a scripted sandbox, and what tests ask of them. */
import { expect, vi } from "vitest";
import type { CreateRunBody, CreateSessionBody } from "../../worker/src/routes/schemas.js";
import type { Result, RunView, SessionRpc } from "../../worker/src/session/api.js";
import { env } from "./env.js";
import { type FakeScript, script } from "./fake-sandbox.js";

export type Stub = DurableObjectStub & SessionRpc;
let count = 0;

export interface Fixture {
  readonly id: string;
  readonly session: Stub;
  readonly fake: FakeScript;
}

export function fresh(): Fixture {
  count += 1;
  const id = `ses_test${count}`;
  return { id, session: stub(id), fake: script(`ses-test${count}`) };
}

export function stub(id: string): Stub {
  return env.SESSION.get(env.SESSION.idFromName(id)) as unknown as Stub;
}

export function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.code}: ${result.detail}`);
  return result.value;
}

export async function created(body: Partial<CreateSessionBody> = {}): Promise<Fixture> {
  const fixture = fresh();
  value(await fixture.session.create(fixture.id, { agent: "shell", ...body }));
  return fixture;
}

export async function running(
  body: Partial<CreateSessionBody> = {},
  run: CreateRunBody = { command: "work" },
): Promise<Fixture> {
  const fixture = await created(body);
  value(await fixture.session.createRun(run));
  await eventually(async () => expect(value(await fixture.session.run("run_1")).state).toBe("running"));
  return fixture;
}

export async function eventually(check: () => Promise<void>): Promise<void> {
  await vi.waitFor(check, { timeout: 8_000, interval: 20 });
}

export async function ended(session: Stub, run = "run_1"): Promise<RunView> {
  let view: RunView | undefined;
  await eventually(async () => {
    view = value(await session.run(run));
    expect(["queued", "running"]).not.toContain(view.state);
  });
  return view as RunView;
}

export async function log(session: Stub, withRaw = false): Promise<Record<string, unknown>[]> {
  const { events } = value(await session.events(0, 10_000, withRaw));
  return events.map(({ json }) => JSON.parse(json) as Record<string, unknown>);
}

export function types(events: Record<string, unknown>[]): unknown[] {
  return events.map(({ type }) => type);
}

/** Every event has the next number, and none is there twice. */
export function expectGapless(events: Record<string, unknown>[]): void {
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, i) => i + 1));
}
