/**
 * Loaded into each file of a suite (`node --import ./tests/deadline.mjs --test …`), so that every file ends. Node's runner has a
 * limit for a test, but waits forever for a file that a call blocks, or that a server keeps alive which a failed test did not
 * close. Here such a file is ended and fails: after LIMIT_S seconds, with the tests that were running, or IDLE_S seconds after its
 * last test, with what is still open.
 */
import { spawnSync } from "node:child_process";
import { writeSync } from "node:fs";
import { relative } from "node:path";
import { isMainThread, Worker, workerData } from "node:worker_threads";

const LIMIT_S = 600 * Number(process.env.CAISSON_TEST_PATIENCE || 1);
const IDLE_S = 30;
/** How long what ends with the process (its temporary directories) may take. */
const GRACE_MS = 5000;
const NAMES_MAX = 4000;

const fail = (file, why) => writeSync(2, `\nnot ok - ${file}: ${why}\n`);
const endChildren = () => spawnSync("pkill", ["-TERM", "-P", String(process.pid)]);

if (!isMainThread) watch(workerData);
else if (process.env.NODE_TEST_CONTEXT?.startsWith("child")) await follow(relative(process.cwd(), process.argv[1]));

/** In the file's process: writes down what runs, for the other thread, which a call that blocks this one does not stop. */
async function follow(file) {
  const { after, afterEach, beforeEach } = await import("node:test");
  const length = new Int32Array(new SharedArrayBuffer(4));
  const names = new Uint8Array(new SharedArrayBuffer(NAMES_MAX));
  const running = new Set();
  const write = () => {
    const text = Buffer.from([...running].join("; ")).subarray(0, NAMES_MAX);
    names.set(text);
    Atomics.store(length, 0, text.length);
  };
  beforeEach(({ fullName }) => {
    running.add(fullName);
    write();
  });
  afterEach(({ fullName }) => {
    running.delete(fullName);
    write();
  });
  const idle = () => {
    if (running.size > 0) return void setTimeout(idle, IDLE_S * 1000).unref();
    fail(file, `still runs ${IDLE_S} s after its last test; open: ${process.getActiveResourcesInfo().join(", ")}`);
    endChildren();
    process.exit(1);
  };
  after(() => void setTimeout(idle, IDLE_S * 1000).unref());
  new Worker(new URL(import.meta.url), { workerData: { file, length, names }, execArgv: [] }).unref();
}

function watch({ file, length, names }) {
  const pause = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  pause(LIMIT_S * 1000);
  const running = Buffer.from(names.slice(0, Atomics.load(length, 0))).toString("utf8");
  fail(
    file,
    `takes longer than ${LIMIT_S} s (CAISSON_TEST_PATIENCE multiplies that); running: ${running || "no test"}`,
  );
  endChildren();
  process.kill(process.pid, "SIGTERM");
  pause(GRACE_MS);
  process.kill(process.pid, "SIGKILL");
}
