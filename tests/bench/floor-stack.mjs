/** A stack whose namespace FLOOR is the floor: the SDK's own class over a `ctx.container` that answers at once (floor-server.mjs). */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { sdk } from "../conformance/sdk.mjs";
import { engineApi, openStack } from "../conformance/stack.mjs";

/**
 * Calls `work` with a client of the SDK while the stack stands, and with `rested`, which resolves when the engine has as many
 * sandboxes ready as it keeps: what a sandbox meets that is not started right behind another.
 */
export async function withFloor(work, { spares = 2 } = {}) {
  const server = spawn(process.execPath, [join(import.meta.dirname, "floor-server.mjs")], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  let stack;
  try {
    const { port } = JSON.parse((await once(server.stdout, "data"))[0].toString());
    const engineArgs = ["--spares", String(spares)];
    stack = await openStack({ vars: { FLOOR_URL: `http://127.0.0.1:${port}` }, engineArgs });
    const rested = async () => {
      do await new Promise((r) => setTimeout(r, 20));
      while ((await engineApi(stack.engine, "GET", "/health")).body.spares < spares);
    };
    await work(sdk(stack.worker.url), rested);
  } finally {
    await stack?.close();
    server.kill();
  }
}
