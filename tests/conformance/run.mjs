#!/usr/bin/env node
/**
 * Starts one engine and one test Worker, runs the conformance tests over them, stops both.
 * usage: tests/conformance/run.mjs [NAME…]   NAME: a file NAME.test.mjs of this directory; without one, all of them.
 * CONFORMANCE_TRANSPORTS="http websocket" chooses the SDK's transports, CONFORMANCE_ONLY=pattern the tests by name.
 */
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { openStack } from "./stack.mjs";

const here = import.meta.dirname;
const names = readdirSync(here).flatMap((file) => file.match(/^(.+)\.test\.mjs$/)?.[1] ?? []);
const wanted = process.argv.slice(2);
for (const name of wanted) {
  if (!names.includes(name)) {
    console.error(`conformance: no tests ${name}; there are: ${names.join(" ")}`);
    process.exit(64);
  }
}
const stack = await openStack();
let code = 1;
try {
  const files = (wanted.length > 0 ? wanted : names).map((name) => join(here, `${name}.test.mjs`));
  const tests = spawn(
    process.execPath,
    [
      `--import=${join(here, "../deadline.mjs")}`,
      "--test",
      "--test-concurrency=2",
      "--test-reporter=spec",
      "--test-timeout=120000",
      ...(process.env.CONFORMANCE_ONLY ? [`--test-name-pattern=${process.env.CONFORMANCE_ONLY}`] : []),
      ...files,
    ],
    {
      stdio: "inherit",
      env: {
        ...process.env,
        CONFORMANCE_URL: stack.worker.url,
        CONFORMANCE_ENGINE: JSON.stringify({ port: stack.engine.port, token: stack.engine.token }),
      },
    },
  );
  const end = () => tests.kill("SIGTERM");
  process.once("SIGINT", end).once("SIGTERM", end);
  code = await new Promise((done) => tests.once("exit", (status) => done(status ?? 1)));
} finally {
  await stack.close();
}
process.exit(code);
