/**
 * One suite of tests: a command with a limit, after which nothing that it started is left running, whatever became of it.
 *
 * What a suite has started is found by a variable of the environment, which goes on to processes in sessions of their own and
 * to those whose parent has ended; and below such a process are those that got another environment, a sandbox's above all.
 */
import { spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";

const MARK = "CAISSON_TEST_SUITE";
/** How long a suite's processes have for what they do without being told, and then to end when they are told. */
const GRACE_MS = 10_000;
const LOOK_MS = 100;
/** The longest that a timer of Node can run; a longer one would fire at once. */
const TIMER_MAX_MS = 2 ** 31 - 1;

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** {id, above, start} of a live process, null when there is none. `start` tells it from a later one with the same id. */
function look(id) {
  try {
    const text = readFileSync(`/proc/${id}/stat`, "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return "ZX".includes(fields[0]) ? null : { id, above: Number(fields[1]), start: fields[19] };
  } catch {
    return null;
  }
}

function isMarked(id, mark) {
  try {
    return `\0${readFileSync(`/proc/${id}/environ`, "latin1")}`.includes(`\0${mark}\0`);
  } catch {
    // It has ended, or lets nobody look.
    return false;
  }
}

/** The process `root`, those that carry `mark`, and all below them. */
function started(root, mark) {
  const all = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const live = all.map((id) => look(Number(id))).filter((p) => p !== null && p.id !== process.pid);
  const found = new Set(live.filter((p) => p.id === root || isMarked(p.id, mark)).map((p) => p.id));
  for (let before = -1; before !== found.size; ) {
    before = found.size;
    for (const p of live) if (found.has(p.above)) found.add(p.id);
  }
  return live.filter((p) => found.has(p.id));
}

function send(p, signal) {
  if (look(p.id)?.start !== p.start) return;
  try {
    process.kill(p.id, signal);
  } catch {
    // It has ended meanwhile.
  }
}

/** Lines for people. The file that a node of its test runner runs stands behind all its options. */
function described(processes) {
  if (processes.length === 0) return "";
  const columns = "pid=,ppid=,etimes=,stat=,wchan:20=,args=";
  const list = processes.map((p) => p.id).join(",");
  const text = spawnSync("ps", ["ww", "-o", columns, "-p", list], { encoding: "utf8" }).stdout ?? "";
  return text.replace(/^(.{200}).*(.{100})$/gm, "$1 ... $2").replace(/^(?=.)/gm, "  ");
}

/**
 * Starts `command` in `cwd` and hands each piece of what it prints to `show`, a text. {done, stop}:
 *
 * done: {code, printed, wrong} when neither it nor anything that it started runs any more. `code` is its exit status, null when it
 * had none; `printed` its standard output. `wrong` is null, or says why the suite fails whatever it counted itself: it took longer
 * than `limitMs`, could not be started, or left a process that held its output. Processes that it left otherwise are named and
 * ended as well.
 * stop(): ends it and all that it started; resolves when nothing of it is left, or `graceMs` after SIGKILL. Told again, it kills at
 * once.
 */
export function startSuite(command, { cwd, limitMs, show, graceMs = GRACE_MS }) {
  const id = randomUUID();
  const mark = `${MARK}=${id}`;
  // Should this process be killed, the suite is told.
  const child = spawn("setpriv", ["--pdeathsig", "TERM", ...command], {
    cwd,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, FORCE_COLOR: "0", [MARK]: id },
  });
  let printed = "";
  child.stdout.setEncoding("utf8").on("data", (text) => {
    printed += text;
    show(text);
  });
  child.stderr.setEncoding("utf8").on("data", show);
  const find = () => started(child.pid, mark);

  let hurry = false;
  let ending;
  async function end() {
    for (const signal of ["SIGTERM", "SIGKILL"]) {
      const told = new Set();
      const last = Date.now() + graceMs;
      for (let left = find(); left.length > 0; left = find()) {
        if (Date.now() >= last || (hurry && signal === "SIGTERM")) break;
        for (const p of left) if (!told.has(`${p.id} ${p.start}`)) send(p, signal);
        for (const p of left) told.add(`${p.id} ${p.start}`);
        await sleep(LOOK_MS);
      }
    }
  }
  function stop() {
    hurry = ending !== undefined;
    return ended();
  }
  function ended() {
    ending ??= end();
    return ending;
  }

  async function wait() {
    let code = null;
    let wrong = null;
    const exited = new Promise((resolve) => {
      child.once("exit", (status) => {
        code = status;
        resolve(true);
      });
      child.once("error", (error) => {
        wrong = `cannot be started: ${error.message}`;
        resolve(true);
      });
    });
    const closed = new Promise((resolve) => child.once("close", () => resolve(true)));
    /** Whether `what` comes within `ms`. */
    const within = async (ms, what) => {
      let timer;
      const over = new Promise((resolve) => {
        timer = setTimeout(resolve, Math.min(ms, TIMER_MAX_MS), false);
      });
      const came = await Promise.race([what, over]);
      clearTimeout(timer);
      return came;
    };
    if (!(await within(limitMs, exited))) {
      wrong = `takes longer than ${limitMs / 1000} s`;
      show(`\nnot ok - it ${wrong}. Still running:\n${described(find())}`);
    } else if (!(await within(graceMs, closed))) {
      wrong = "has ended, but a process that it left still holds its output";
      show(`\nnot ok - it ${wrong}:\n${described(find())}`);
    } else {
      const last = Date.now() + graceMs;
      while (find().length > 0 && Date.now() < last) await sleep(LOOK_MS);
      const left = described(find());
      if (left !== "") show(`\n# it has ended, but left running:\n${left}`);
    }
    await ended();
    // Whoever still has the output open is none of its processes, or cannot be killed.
    if (!(await within(LOOK_MS, closed))) for (const stream of [child.stdout, child.stderr]) stream.destroy();
    return { code, printed, wrong };
  }
  return { done: wait(), stop };
}
