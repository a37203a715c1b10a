/** caisson-token and caisson-audit as an operator uses them. Prints TAP. usage: identity.mjs CAISSON_TOKEN CAISSON_AUDIT */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { scratch } from "../scratch.mjs";
import { done, ok } from "../tap.mjs";

const [token, audit] = process.argv.slice(2);
const dir = scratch("identity");
function run(program, args, input = "") {
  const r = spawnSync(program, args, { input });
  return { status: r.status, out: r.stdout.toString(), err: r.stderr.toString() };
}
const keys = join(dir, "keys.json");
const other = join(dir, "other.json");
writeFileSync(keys, run(token, ["keygen", "one"]).out);
writeFileSync(other, run(token, ["keygen", "one"]).out);
const minted = run(token, [
  "mint",
  "--keys",
  keys,
  "--scope",
  "execute",
  "--scope",
  "sessions:read:s1",
  "--tenant",
  "acme",
  "--sub",
  'a "b"',
]);
ok(minted.status === 0 && minted.out.split(".").length === 3, "a token is minted");
const seen = run(token, ["verify", "--keys", keys], minted.out);
const claims = seen.status === 0 ? JSON.parse(seen.out) : {};
ok(
  claims.tenant === "acme" &&
    claims.sub === 'a "b"' &&
    claims.scope === "execute sessions:read:s1" &&
    claims.kid === "one",
  "and verified",
);
ok(Math.abs(claims.expires_s - Date.now() / 1000 - 3600) < 60, "for an hour");
ok(run(token, ["verify", "--keys", other], minted.out).status === 1, "not by another key of that name");
ok(run(token, ["verify", "--keys", keys], `${minted.out.trim()}x`).status === 1, "not changed");
ok(run(token, ["mint", "--keys", keys]).status === 64, "no token without a scope");
ok(run(token, ["mint", "--keys", keys, "--scope", "a b"]).status === 64, "no scope with a space");
ok(run(token, ["mint", "--keys", join(dir, "none"), "--scope", "x"]).status === 66, "keys that are not there");
writeFileSync(join(dir, "bad.json"), '{"keys":[{"kid":"a","secret":"c2hvcnQ"}]}');
const short = run(token, ["mint", "--keys", join(dir, "bad.json"), "--scope", "x"]);
ok(short.status === 65 && short.err.includes("/keys/0"), "a short key is refused, and named");
ok(run(token, ["--help"]).out.includes(" approve;"), "--help names every scope");
ok(run(token, ["--help"]).status === 0 && run(token, []).status === 64, "--help");

/** The chain as csn/audit.h defines it, by another implementation. */
const sha = (...parts) => parts.reduce((h, p) => h.update(p), createHash("sha256")).digest();
const lines = ['{"seq":1,"type":"session.created"}', '{"seq":2,"type":"run.queued","x":"ü"}', '{"seq":3}'];
let head = sha("caisson audit 1\n", "s1");
const marks = lines.map((line) => {
  head = sha(head, line, "\n");
  return head.toString("hex");
});
const first = '{"audit":"caisson audit 1","id":"s1"}';
const mark = (n) => `{"audit_head":"${marks[n - 1]}","count":${n}}`;
const log = (...parts) => `${[first, ...parts].join("\n")}\n`;
const verify = (text, ...args) => run(audit, ["verify", ...args, "-"], text);
const good = log(lines[0], mark(1), lines[1], lines[2], mark(3));
ok(verify(good).status === 0 && verify(good).out.includes("3 entries"), "an unchanged log");
ok(verify(good, "--head", marks[2]).status === 0, "with the head that was kept");
ok(verify(good, "--head", marks[1]).status === 1, "another head");
const changed = verify(log(lines[0], mark(1), lines[1].replace("ü", "u"), lines[2], mark(3)));
ok(changed.status === 1 && changed.out.includes("line 6"), `a changed entry: ${changed.out.trim()}`);
ok(verify(log(lines[1], mark(1), lines[0], lines[2], mark(3))).out.includes("line 3"), "entries in another order");
ok(verify(log(lines[0], mark(1), lines[2], mark(3))).status === 1, "an entry left out");
ok(verify(log(lines[0], mark(1), lines[1])).status === 1, "entries that no head covers");
ok(verify(good.slice(0, -1)).status === 1, "cut in its last line");
ok(verify(log(lines[0], mark(1)), "--head", marks[2]).status === 1, "a whole end cut off shows against the head");
ok(verify("{}\n").status === 65 && verify("").status === 1, "not a log at all");
ok(run(audit, ["verify"]).status === 64 && run(audit, ["--help"]).status === 0, "--help");
done();
