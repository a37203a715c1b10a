/** The transport that is not served: a Worker that chooses it is told so by every call, at once. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { rejects, sandboxes } from "./lib.mjs";

describe("transport rpc", () => {
  const make = sandboxes();

  it("is refused in words, and the sandbox works with another", async () => {
    const sandbox = make({ transport: "rpc" });
    for (const call of [
      () => sandbox.exec("true"),
      () => sandbox.writeFile("/tmp/f", "1"),
      () => sandbox.stream.execStream("true"),
      () => sandbox.startProcess("true"),
    ])
      await rejects(call(), { name: "RPCTransportError", code: "RPC_TRANSPORT_ERROR", message: /choose "http"/ });
    await sandbox.setTransport("http");
    assert.equal((await sandbox.exec("echo there")).stdout, "there");
  });
});
