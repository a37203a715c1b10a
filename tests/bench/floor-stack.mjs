/** A stack whose namespace FLOOR is the floor: the SDK's own class over a `ctx.container` that answers at once (floor-server.mjs). */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { sdk } from "../conformance/sdk.mjs";
import { openStack } from "../conformance/stack.mjs";

/** Calls `work` with a client of the SDK while the stack stands. */
export async function withFloor(work) {
  const server = spawn(process.execPath, [join(import.meta.dirname, "floor-server.mjs")], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  let stack;
  try {
    const { port } = JSON.parse((await once(server.stdout, "data"))[0].toString());
    stack = await openStack({ vars: { FLOOR_URL: `http://127.0.0.1:${port}` } });
    await work(sdk(stack.worker.url));
  } finally {
    await stack?.close();
    server.kill();
  }
}
