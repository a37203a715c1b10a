/** Pushes that wait for somebody's word. */
import { describe, expect, it } from "vitest";
import { created, eventually, value } from "./session-fixture.js";

const REFS = [{ ref: "refs/heads/main", old: "0".repeat(40), new: "1".repeat(40) }];

const QUESTION = {
  host: "git.example",
  port: 443,
  method: "POST",
  path: "/r/git-receive-pack",
  websocket: false,
  push: true,
  policy: null,
  door: null,
};

describe("approvals", () => {
  it("of a session that ends are not given any more, while its sandbox is still there", async () => {
    const { session, fake } = await created({
      policy: { network: { allow: ["git.example"] }, git: { push_approval: true } },
    });
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    const { id } = value(await session.egress(QUESTION));
    const one = value(await session.requestApproval(id, REFS));
    const other = value(await session.requestApproval(id, REFS));
    fake.stuck = true;
    const ending = session.end();
    await eventually(async () => expect(fake.retired).toBe(true));
    const late = await session.resolveApproval(one.id, "approved", "ann", "");
    expect(late).toMatchObject({ ok: false, status: 409, code: "session_ended" });
    expect(value(await session.resolveApproval(other.id, "denied", "ann", "")).state).toBe("denied");
    fake.stuck = false;
    fake.wake();
    expect(value(await ending).state).toBe("ended");
  });

  it("never wait by more than sixteen, also where all are asked for at once", async () => {
    const { session } = await created({
      policy: { network: { allow: ["git.example"] }, git: { push_approval: true } },
    });
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    const { id, holdPush } = value(await session.egress(QUESTION));
    expect(holdPush).toBe(true);
    const asked = await Promise.all(Array.from({ length: 20 }, () => session.requestApproval(id, REFS)));
    expect(asked.map((answer) => (answer.ok ? "waits" : answer.code)).sort()).toEqual([
      ...Array.from({ length: 4 }, () => "too_many_approvals"),
      ...Array.from({ length: 16 }, () => "waits"),
    ]);
    expect(value(await session.approvals())).toHaveLength(16);
  });
});
