/** What is under way through a preview when its port is closed; with real programs: tests/e2e/preview.test.mjs. */
import { describe, expect, it } from "vitest";
import { Cut, PreviewConnections } from "../../sandbox-sdk-shim/src/preview-connections.js";

describe("a preview's WebSocket", () => {
  it("whose program agrees as the port is closed is closed too", async () => {
    const previews = new PreviewConnections();
    const { 0: client, 1: program } = new WebSocketPair();
    program.accept();
    let agree: (answer: Response) => void = () => {};
    const asked = new Promise<Response>((resolve) => {
      agree = resolve;
    });
    const request = new Request("http://preview/", { headers: { upgrade: "websocket" } });
    const served = previews.serve(
      8080,
      () => Number.POSITIVE_INFINITY,
      request,
      () => asked,
    );
    const closed = new Promise<number>((resolve) => program.addEventListener("close", ({ code }) => resolve(code)));
    agree(new Response(null, { status: 101, webSocket: client }));
    previews.cut(8080, "the port was closed");
    const answer = await served.catch((error: unknown) => error);
    if (!(answer instanceof Cut)) (answer as Response).webSocket?.accept();
    expect(await Promise.race([closed, scheduler.wait(1_000)])).toBe(1001);
  });
});
