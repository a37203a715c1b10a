import { beforeEach, describe, expect, it } from "vitest";
import module from "../../build/guard.wasm";
import { CoreError } from "../../worker/src/core/core.js";
import { Guard } from "../../worker/src/core/guard.js";

const NOW = 1_700_000_000_000;
const KEYS = JSON.stringify({
  issuer: "caisson",
  keys: [{ kid: "one", secret: Buffer.alloc(32, 7).toString("base64url") }],
  api_keys: [{ name: "ci", tenant: "acme", secret: "correct horse battery", scopes: ["execute"] }],
});
let guard: Guard;
beforeEach(() => {
  guard = new Guard(module);
});

function errorOf(fn: () => unknown): CoreError {
  try {
    fn();
  } catch (error) {
    if (error instanceof CoreError) return error;
    throw error;
  }
  throw new Error("did not throw");
}

describe("policy", () => {
  it("denies everything before there is one", () => {
    expect(guard.net("example.com", 443)).toMatchObject({ verdict: "deny", rule: "network.default", inject: [] });
  });
  it("answers with the rule, the reason and the credentials of the host", () => {
    const inject = [{ host: "api.example.com", header: "x-key", secret: "K", format: "Bearer {}" }];
    expect(guard.setPolicy(JSON.stringify({ network: { allow: ["api.example.com:443"], inject } }))).toEqual({
      dialect: "caisson",
      unmapped: [],
    });
    const verdict = guard.net("API.example.com.", 443);
    expect(verdict).toMatchObject({ verdict: "allow", rule: "network.allow[0]", pattern: "api.example.com:443" });
    expect(verdict.inject).toEqual([{ body: false, secret: "K", header: "x-key", format: "Bearer {}" }]);
    const denied = guard.net("api.example.com", 443, "10.0.0.1");
    expect(denied).toMatchObject({ verdict: "deny", rule: "network.private_ranges", inject: [] });
    expect(denied.reason).toContain("private");
    expect(guard.net("::1", 80).verdict).toBe("deny");
    guard.setPolicy('{"git":{"push_approval":true,"push":{"allow":["a.test/x"],"deny":["[::1]"]}}}');
    expect(guard.push("a.test", 443, "/x.git/git-receive-pack")).toMatchObject({
      verdict: "allow",
      rule: "git.push.allow[0]",
      pattern: "a.test/x",
    });
    expect(guard.push("a.test", 443, "/X/git-receive-pack")).toEqual({
      verdict: "ask",
      rule: "git.push_approval",
      reason: "A push to a.test:443 needs an approval: git.push_approval is set and no rule of git.push allows it.",
    });
    expect(guard.push("::1", 443, "/x/git-receive-pack").rule).toBe("git.push.deny[0]");
    expect(guard.push("a.test:1", 443, "/x").rule).toBe("network.host");
    expect(guard.net('a"b\n', 80)).toMatchObject({ verdict: "deny", rule: "network.host" });
  });
  it("lays a session's document over a preset, and denies everything after an error", () => {
    guard.setPolicy('{"network":{"allow":["a.test"]}}');
    guard.setPolicy('{"network":{"allow":["b.test"]}}', "auto", true);
    expect([guard.net("a.test", 1).verdict, guard.net("b.test", 1).verdict]).toEqual(["allow", "allow"]);
    expect(JSON.parse(guard.policy()).network.allow).toEqual(["a.test", "b.test"]);
    const error = errorOf(() => guard.setPolicy('{"network":{"allow":["c.test","*.*"]}}'));
    expect([error.errName, error.field]).toEqual(["BAD_VALUE", "/network/allow/1"]);
    expect(guard.net("a.test", 1).verdict).toBe("deny");
  });
  it("reports what another dialect has and this one has not", () => {
    const report = guard.setPolicy('{"sandbox":{"enabled":true,"network":{"allowedDomains":["a.test"]}}}');
    expect(report).toMatchObject({ dialect: "claude-code", unmapped: [{ pointer: "/sandbox/enabled" }] });
    expect(errorOf(() => guard.setPolicy('{"docker":["--nope=1"]}', "docker-sandbox")).errName).toBe("UNKNOWN_FIELD");
  });
  it("judges tool calls and artifacts", () => {
    guard.setPolicy('{"tools":{"deny":["Bash(rm:*)"]},"artifacts":{"exclude":["*.o"]}}');
    const ask = (arg: string, cut = false) => guard.tool("Bash", arg, "/workspace", "/home/user", cut).verdict;
    expect([ask("ls"), ask("ls; rm -rf /"), ask("ls", true), ask("x\0y")]).toEqual(["allow", "deny", "deny", "allow"]);
    expect([guard.isArtifact("a.c"), guard.isArtifact("a.o")]).toEqual([true, false]);
  });
});

describe("identity", () => {
  it("mints a token and verifies it until it expires", () => {
    guard.setKeys(KEYS);
    const token = guard.mintToken({ sub: "me", tenant: "acme", scopes: ["sessions:read:s1"], expires_in_s: 60 }, NOW);
    expect(guard.verifyToken(token, NOW)).toMatchObject({ sub: "me", tenant: "acme", scope: "sessions:read:s1" });
    expect(errorOf(() => guard.verifyToken(token, NOW + 121_000)).errName).toBe("TOKEN_EXPIRED");
    expect(errorOf(() => guard.verifyToken(`${token.slice(0, -2)}xx`, NOW)).errName).toBe("BAD_SIGNATURE");
    expect(errorOf(() => new Guard(module).verifyToken(token, NOW)).errName).toBe("UNKNOWN_KEY");
  });
  it("names the field of a claim that is refused", () => {
    guard.setKeys(KEYS);
    const error = errorOf(() => guard.mintToken({ scopes: ["a b"], expires_in_s: 60 }, NOW));
    expect([error.errName, error.field]).toEqual(["BAD_VALUE", "/scopes"]);
    expect(errorOf(() => guard.setKeys('{"keys":[{"kid":"a","secret":"c2hvcnQ"}]}')).field).toBe("/keys/0");
  });
  it("knows static keys", () => {
    guard.setKeys(KEYS);
    expect(guard.checkAPIKey("correct horse battery")).toMatchObject({ sub: "ci", tenant: "acme", scope: "execute" });
    expect(errorOf(() => guard.checkAPIKey("wrong horse battery.")).errName).toBe("BAD_SIGNATURE");
  });
  it("tells scopes apart", () => {
    expect(guard.allows("sessions:read:s1", "sessions:read", "s1")).toBe(true);
    expect(guard.allows("sessions:read:s1", "sessions:read", "s2")).toBe(false);
    expect(guard.allows("x", "y\0admin")).toBe(false);
  });
});

describe("secrets", () => {
  const key = (version: number, fill: number) => ({ version, key: new Uint8Array(32).fill(fill) });
  const secret = new TextEncoder().encode("hunter2");
  it("opens what it sealed, there and nowhere else", () => {
    guard.setSealKeys([key(1, 1)]);
    const sealed = guard.seal("s1", "TOKEN", secret);
    expect(guard.unseal("s1", "TOKEN", sealed)).toEqual(secret);
    expect(errorOf(() => guard.unseal("s2", "TOKEN", sealed)).errName).toBe("BAD_SEAL");
    expect(errorOf(() => guard.unseal("s1", "OTHER", sealed)).errName).toBe("BAD_SEAL");
    expect(guard.seal("s1", "TOKEN", secret)).not.toEqual(sealed);
  });
  it("opens with a key that was rotated out, and not without it", () => {
    guard.setSealKeys([key(1, 1)]);
    const sealed = guard.seal("s1", "TOKEN", secret);
    guard.setSealKeys([key(2, 2), key(1, 1)]);
    expect(guard.unseal("s1", "TOKEN", sealed)).toEqual(secret);
    guard.setSealKeys([key(2, 2)]);
    expect(errorOf(() => guard.unseal("s1", "TOKEN", sealed)).errName).toBe("BAD_SEAL");
    expect(errorOf(() => new Guard(module).seal("s", "n", secret)).errName).toBe("BAD_SEAL");
    expect(errorOf(() => guard.seal("s", "n", new Uint8Array(65_537))).errName).toBe("TOO_LONG");
  });
});

describe("audit chain", () => {
  it("is the same however the lines are handed over", () => {
    const lines = new TextEncoder().encode(
      Array.from({ length: 9_000 }, (_, i) => `{"seq":${i},"x":"${"y".repeat(i % 200)}"}\n`).join(""),
    );
    const whole = guard.auditPush(guard.auditBegin("s1"), lines);
    let state = guard.auditBegin("s1");
    for (let at = 0; at < lines.byteLength; ) {
      const end = lines.indexOf(10, at + 50_000) + 1 || lines.byteLength;
      state = guard.auditPush(state, lines.subarray(at, end));
      at = end;
    }
    expect(state).toEqual(whole);
    expect(new DataView(whole.buffer).getUint32(32, true)).toBe(9_000);
    expect(guard.auditPush(guard.auditBegin("s2"), lines)).not.toEqual(whole);
    expect(errorOf(() => guard.auditPush(state, new TextEncoder().encode("no newline"))).errName).toBe("BAD_RECORD");
  });
});
