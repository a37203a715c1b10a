/** Outbound handlers as the SDK has them: by host and for all, plain and over TLS, streams, WebSockets, and who gets out. */
import assert from "node:assert/strict";
import http from "node:http";
import { before, it } from "node:test";
import { freshId, perTransport, rejects, until } from "./lib.mjs";

const NODE = "/opt/caisson/bin/node";
const SCHEMES = ["http", "https"];

perTransport("outbound handlers", (make) => {
  let sandbox;
  before(async () => {
    sandbox = make({}, { namespace: "OUTBOUND" });
    await sandbox.exec("true");
  });
  const curl = async (args, target = sandbox) => {
    const { stdout, stderr, exitCode } = await target.exec(`curl -sS --max-time 60 ${args}`);
    assert.equal(exitCode, 0, `curl ${args}: ${stderr}`);
    return stdout;
  };
  const code = async (url, target) =>
    (await target.exec(`curl -s --max-time 60 -o /dev/null -w '%{http_code}' ${url}`)).stdout;

  for (const scheme of SCHEMES) {
    it(`get what programs ask of their hosts, ${scheme}`, async () => {
      const asked = `-X PUT -H 'x-test: é' --data-binary hello '${scheme}://by-host.example/p?q=1&r=%20'`;
      const { header, ...seen } = JSON.parse(await curl(asked));
      const url = `${scheme}://by-host.example/p?q=1&r=%20`;
      assert.deepEqual(seen, { handler: "by-host", method: "PUT", url, body: "hello" });
      assert.ok(header);
      for (const [host, handler] of [
        ["a.glob.example", "glob"],
        ["deep.a.glob.example", "glob"],
        ["BY-HOST.example", "by-host"],
        ["glob.example", "outbound"],
        ["anything.else", "outbound"],
      ])
        assert.equal(JSON.parse(await curl(`${scheme}://${host}/`)).handler, handler, host);
    });

    it(`carry bytes both ways, ${scheme}`, async () => {
      const sums = await sandbox.exec(
        `head -c 20000000 /dev/urandom >/tmp/${scheme} && sha256sum </tmp/${scheme} && curl -sS -T /tmp/${scheme} -X POST ${scheme}://echo.example/ | sha256sum`,
      );
      const [there, back] = sums.stdout.split("\n");
      assert.equal(there, back, sums.stderr);
      const head = await curl(`-i -d x ${scheme}://echo.example/`);
      assert.match(head, /^HTTP\/1\.1 200 .*x-echo: 1/is);
    });

    it(`stream answers as they come, ${scheme}`, async () => {
      const query = `?${freshId(scheme)}`;
      const { stdout } = await sandbox.exec(
        `curl -sSN ${scheme}://slow.example/${query} | (read -r line; echo "$line"; curl -sS '${scheme}://slow.example/go${query}'; cat)`,
      );
      assert.equal(stdout, "first\ngone\nsecond");
    });

    it(`stream requests while they are answered, ${scheme}`, async () => {
      await sandbox.writeFile(
        `/tmp/both-${scheme}.py`,
        `import http.client
c = http.client.${scheme.toUpperCase()}Connection("echo.example", timeout=60)
c.putrequest("POST", "/")
c.putheader("transfer-encoding", "chunked")
c.endheaders()
c.send(b"5\\r\\nfirst\\r\\n")
answer = c.getresponse()
print(answer.read(5))
c.send(b"4\\r\\nlast\\r\\n0\\r\\n\\r\\n")
print(answer.read())
`,
      );
      const { stdout, stderr } = await sandbox.exec(`python3 /tmp/both-${scheme}.py`);
      assert.equal(stdout, "b'first'\nb'last'", stderr);
    });

    it(`answer WebSockets, ${scheme === "http" ? "ws" : "wss"}`, async () => {
      await sandbox.writeFile(
        `/tmp/socket-${scheme}.mjs`,
        `const socket = new WebSocket("${scheme === "http" ? "ws" : "wss"}://socket.example/chat");
const got = [];
socket.onmessage = ({ data }) => {
  got.push(data);
  if (got.length === 1) for (let i = 0; i < 20; i++) socket.send("m" + i);
  if (got.length === 21) socket.send("close me");
};
socket.onerror = (event) => console.error(event.message);
socket.onclose = ({ code, reason }) => console.log(JSON.stringify({ got, code, reason }));
`,
      );
      const { stdout, stderr } = await sandbox.exec(`timeout 60 ${NODE} /tmp/socket-${scheme}.mjs`);
      const { got, code, reason } = JSON.parse(stdout || JSON.stringify({ stderr }));
      assert.deepEqual([got, code, reason], [["/chat", ...Array.from({ length: 20 }, (_, i) => `m${i}`)], 4001, "why"]);
    });

    it(`that throw are an error of the request alone, ${scheme}`, async () => {
      assert.match(await code(`${scheme}://broken.example/`, sandbox), /^5\d\d$/);
      assert.equal(JSON.parse(await curl(`${scheme}://by-host.example/`)).handler, "by-host");
    });
  }

  it("get no GET with a body: fetch() has none, and the program is told so", async () => {
    const fresh = make({}, { namespace: "OUTBOUND" });
    // The first goes through the server in front, the others past it.
    for (let i = 0; i < 3; i += 1) {
      const said = await curl("-w '%{http_code}' -X GET -d x http://by-host.example/", fresh);
      assert.match(said, /^a GET request with a body cannot be passed on: .*\n400$/);
    }
    const { method, body } = JSON.parse(await curl("-X GET -H 'content-length: 0' http://by-host.example/", fresh));
    assert.deepEqual([method, body], ["GET", ""]);
  });

  it("are trusted by what checks certificates", async () => {
    for (const program of [
      `${NODE} -e 'fetch("https://by-host.example/").then((r) => r.text()).then(console.log)'`,
      `python3 -c 'import urllib.request; print(urllib.request.urlopen("https://by-host.example/").read().decode())'`,
    ]) {
      const { stdout, stderr } = await sandbox.exec(program);
      assert.equal(JSON.parse(stdout || JSON.stringify({ stderr })).handler, "by-host", stderr);
    }
  });

  it("are changed while the sandbox runs", async () => {
    const own = make({}, { namespace: "OUTBOUND" });
    const handler = async (url) => {
      const { handler: name, params } = JSON.parse(await curl(url, own));
      return [name, params];
    };
    await own.setOutboundByHost("by-host.example", "named", { n: 1 });
    for (const scheme of SCHEMES) assert.deepEqual(await handler(`${scheme}://by-host.example/`), ["named", { n: 1 }]);
    await own.removeOutboundByHost("by-host.example");
    await own.setOutboundHandler("named", { n: 2 });
    for (const scheme of SCHEMES) {
      assert.deepEqual(await handler(`${scheme}://by-host.example/`), ["by-host", undefined]);
      assert.deepEqual(await handler(`${scheme}://anything.else/`), ["named", { n: 2 }]);
    }
    await own.denyHost("a.glob.example");
    for (const scheme of SCHEMES) {
      assert.equal(await code(`${scheme}://a.glob.example/`, own), "520");
      assert.equal((await handler(`${scheme}://b.glob.example/`))[0], "glob");
    }
    await rejects(own.setOutboundByHost("x.example", "no-such-method"), { message: /no-such-method/ });
  });

  it("are reached by listed hosts only, and not by denied ones", async () => {
    const hosts = make({}, { namespace: "HOSTS" });
    for (const scheme of SCHEMES) {
      assert.equal(JSON.parse(await curl(`${scheme}://allowed.example/`, hosts)).handler, "allowed");
      assert.equal(JSON.parse(await curl(`${scheme}://a.wild.example/`, hosts)).handler, "wild");
      for (const host of ["denied.wild.example", "other.example", "nobody.example"])
        assert.equal(await code(`${scheme}://${host}/`, hosts), "520", `${scheme} ${host}`);
    }
  });

  it("are no way to the host, with internet and without", async () => {
    let asked = 0;
    const host = http.createServer((_request, response) => {
      asked += 1;
      response.end("the host's own");
    });
    await new Promise((done) => host.listen(0, "0.0.0.0", done));
    try {
      const { port } = host.address();
      for (const namespace of ["SANDBOX", "ONLINE", "HOSTS"]) {
        const box = make({}, { namespace, id: freshId(namespace.toLowerCase()) });
        for (const name of ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254"]) {
          const { stdout } = await box.exec(`curl -s --max-time 20 http://${name}:${port}/`);
          assert.ok(!stdout.includes("the host's own"), `${namespace} ${name}: ${stdout}`);
        }
      }
      assert.equal(asked, 0);
    } finally {
      host.close();
    }
  });

  it("hold after a restart", async () => {
    const own = make({}, { namespace: "OUTBOUND" });
    assert.equal(JSON.parse(await curl("https://by-host.example/", own)).handler, "by-host");
    await own.stop("SIGKILL");
    await until(async () => (await own.getState()).status.startsWith("stopped"), "it has stopped");
    assert.equal(JSON.parse(await curl("https://by-host.example/", own)).handler, "by-host");
  });
});
