/** waitForPort: ready means that a connection, or an answer, came. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { perTransport, rejects } from "./lib.mjs";

const NODE = "/opt/caisson/bin/node";
const later = (ms, port, status = 200) =>
  `exec ${NODE} -e 'setTimeout(() => require("http").createServer((q, s) => s.writeHead(q.url === "/health" ? 204 : ${status}).end()).listen(${port}), ${ms})'`;

perTransport("waitForPort", (make) => {
  let sandbox;
  before(async () => {
    sandbox = make();
    await sandbox.exec("true");
  });

  it("waits until HTTP answers", async () => {
    const process = await sandbox.startProcess(later(700, 9001));
    const begun = Date.now();
    await process.waitForPort(9001, { interval: 100, timeout: 20_000 });
    assert.ok(Date.now() - begun > 400, "too early");
    await process.waitForPort(9001, { path: "/health", status: 204 });
    await process.waitForPort(9001, { status: { min: 200, max: 299 } });
    await process.kill();
  });

  it("waits for the status asked for", async () => {
    const process = await sandbox.startProcess(later(0, 9002, 500));
    await process.waitForPort(9002, { path: "/health", timeout: 20_000 });
    await rejects(process.waitForPort(9002, { timeout: 600, interval: 100 }), { code: "PROCESS_READY_TIMEOUT" });
    await process.waitForPort(9002, { status: 500, timeout: 20_000 });
    await process.waitForPort(9002, { mode: "tcp", timeout: 20_000 });
    await process.kill();
  });

  it("is not ready early, in TCP mode", async () => {
    const process = await sandbox.startProcess(
      `exec ${NODE} -e 'setTimeout(() => require("net").createServer(() => {}).listen(9003, () => console.log("bound " + Date.now())), 600)'`,
    );
    await process.waitForPort(9003, { mode: "tcp", interval: 100, timeout: 20_000 });
    assert.match((await process.getLogs()).stdout, /bound/);
    await process.kill();
  });

  it("fails when the process ends first", async () => {
    const process = await sandbox.startProcess("sleep 0.5; exit 9");
    const error = await rejects(process.waitForPort(9004, { interval: 100 }), { code: "PROCESS_EXITED_BEFORE_READY" });
    assert.equal(error.context.exitCode, 9);
    await rejects(process.waitForPort(9004), { code: "PROCESS_EXITED_BEFORE_READY" });
  });

  it("gives up after its time-out, and stops looking", async () => {
    const process = await sandbox.startProcess("sleep 60");
    await rejects(process.waitForPort(9005, { timeout: 500 }), {
      name: "ProcessReadyTimeoutError",
      code: "PROCESS_READY_TIMEOUT",
    });
    await process.kill();
  });
});
