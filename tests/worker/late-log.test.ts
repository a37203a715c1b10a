/** What an object logs after the last test of a file must not keep the run from ending: see vitest.config.ts. */
import { runInDurableObject } from "cloudflare:test";
import { expect, it } from "vitest";
import { env } from "./env.js";

it("a log that comes when the tests are over holds nobody up", async () => {
  const object = env.SCRATCH.get(env.SCRATCH.idFromName("late-log"));
  let logged = 0;
  const log = async (): Promise<void> => {
    for (; logged < 100; logged += 1) {
      await new Promise((done) => setTimeout(done, 5));
      console.warn(`log ${logged} of an object whose test has ended`);
    }
  };
  await runInDurableObject(object, (_object, state) => state.waitUntil(log()));
  expect(logged).toBeLessThan(100);
});
