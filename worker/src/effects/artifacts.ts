/**
 * What a run leaves: the list of changed files, the files themselves, the diff, the archived output, a manifest. The files
 * come out of the sandbox in base64 over one stream, whatever their type, and go to R2 under `sessions/<id>/…`.
 */
import { type ExecEvent, parseSSEStream } from "@cloudflare/sandbox";
import { addFound, type Found, type RedactStream } from "../core/redact.js";
import { R2Writer } from "./r2.js";
import { spoolDir } from "./run.js";
import { lastLine, run, type SandboxStub } from "./sandbox.js";
import { type Change, changesScript, diffScript, GIT_TIMEOUT_MS, gitScript, parseChanges, sh } from "./workspace.js";

/** bytes: a larger file is reported as changed but not stored. */
export const ARTIFACT_MAX = 100 * 1024 * 1024;
/** items: files stored of one run. */
export const ARTIFACT_COUNT_MAX = 2_000;
/** bytes: list of changed files of one run. */
const LISTING_MAX = 4 * 1024 * 1024;
/** bytes: a diff that is longer is cut; in base64 it still fits into one call between objects. */
export const DIFF_MAX = 16 * 1024 * 1024;
/** bytes: R2 refuses longer keys. */
const KEY_MAX = 1_024;
/** items: `file.changed` events of one run. */
const CHANGED_EVENTS_MAX = 5_000;
/** items: objects being put at the same time; each holds at most one part of 8 MiB. */
const CLOSE_PARALLEL = 4;
const DIFF_OPTIONS = { httpMetadata: { contentType: "text/x-diff; charset=utf-8" } };
/** bytes of shell command per batch of files. */
const BATCH_BYTES = 64 * 1024;

export interface StoredArtifact {
  readonly path: string;
  readonly size: number;
  readonly sha256: string;
  readonly mode: string;
  readonly key: string;
}

/** Computes SHA-256 of a stream piece by piece; the core does the work. */
export interface Digest {
  update(bytes: Uint8Array): void;
  /** Lower-case hex. */
  end(): string;
}

/** What collecting needs of the session. Each report is persisted before the call returns. */
export interface CollectSink {
  readonly sessionId: string;
  readonly run: number;
  readonly bucket: R2Bucket;
  /** Tree of the workspace when the session began, and when the run began. */
  readonly sessionTree: string;
  readonly runTree: string;
  digest(): Digest;
  /** A redacted stream: of files registered values only, or they would be spoilt; of all else the shapes of keys too. */
  open(valuesOnly: boolean): RedactStream;
  /** A path as it is told and stored: without secrets. */
  name(path: string): string;
  /** What was masked in what is stored. */
  masked(found: Found): void;
  /** Whether a former attempt has reported this path already. */
  hasChange(path: string): boolean;
  hasArtifact(path: string): boolean;
  /** What has been stored of this run, by former attempts too. */
  artifacts(): readonly Omit<StoredArtifact, "key">[];
  changed(change: Change): void;
  stored(artifact: StoredArtifact): void;
  warn(fields: Record<string, string | number>): void;
}

/** Collects everything. What cannot be stored is named in a warning; only a lost sandbox makes this throw. */
export async function collect(sandbox: SandboxStub, sink: CollectSink): Promise<void> {
  const prefix = runPrefix(sink.sessionId, sink.run);
  const { stdout } = await run(sandbox, changesScript(sink.runTree, LISTING_MAX));
  const { tree, changes, skipped } = parseChanges(stdout);
  if (skipped > 0)
    sink.warn({ limit: "file_names", detail: "changed files whose names are not UTF-8 were left out", count: skipped });
  if (stdout.length > LISTING_MAX)
    sink.warn({ limit: "changed_files", detail: `the list of changed files was cut at ${LISTING_MAX} bytes` });

  const found: Record<string, number> = {};
  for (const change of changes.slice(0, CHANGED_EVENTS_MAX)) {
    const told = { ...change, path: sink.name(change.path) };
    if (!sink.hasChange(told.path)) sink.changed(told);
  }
  if (changes.length > CHANGED_EVENTS_MAX) {
    sink.warn({
      limit: "file_changed_events",
      detail: `only the first ${CHANGED_EVENTS_MAX} changed files are events`,
      count: changes.length - CHANGED_EVENTS_MAX,
    });
  }

  const files = storable(changes, prefix, sink);
  for (const batch of batches(files.filter(({ path }) => !sink.hasArtifact(sink.name(path))))) {
    await storeBatch(sandbox, batch, prefix, sink, found);
  }

  await attempt(sink, "diff.patch", () =>
    storeCommand(
      sandbox,
      diffScript(sink.runTree, tree, DIFF_MAX),
      new R2Writer(sink.bucket, `${prefix}/diff.patch`, DIFF_OPTIONS),
      sink.open(false),
      found,
    ),
  );
  await attempt(sink, "session diff", () =>
    storeCommand(
      sandbox,
      diffScript(sink.sessionTree, tree, DIFF_MAX),
      new R2Writer(sink.bucket, sessionDiffKey(sink.sessionId), DIFF_OPTIONS),
      sink.open(false),
    ),
  );
  for (const [file, name] of [
    ["stdout", "stdout.jsonl"],
    ["stderr", "stderr.txt"],
  ] as const) {
    const spool = sh(`${spoolDir(sink.run)}/${file}`);
    await attempt(sink, name, () =>
      storeCommand(
        sandbox,
        `[ ! -s ${spool} ] || base64 ${spool}`,
        new R2Writer(sink.bucket, `${prefix}/${name}`),
        sink.open(false),
      ),
    );
  }
  if (Object.keys(found).length > 0) sink.masked(found);
  const document = {
    session: sink.sessionId,
    run: `run_${sink.run}`,
    tree,
    changes: changes.map((change) => ({ ...change, path: sink.name(change.path) })),
    artifacts: sink.artifacts().map(({ path, size, sha256, mode }) => ({ path, size, sha256, mode })),
  };
  await sink.bucket.put(`${prefix}/manifest.json`, JSON.stringify(document), {
    httpMetadata: { contentType: "application/json" },
  });
}

export function runPrefix(sessionId: string, runNumber: number): string {
  return `sessions/${sessionId}/runs/run_${runNumber}`;
}

export function sessionDiffKey(sessionId: string): string {
  return `sessions/${sessionId}/diff.patch`;
}

export function runDiffKey(sessionId: string, runNumber: number): string {
  return `${runPrefix(sessionId, runNumber)}/diff.patch`;
}

/** Stores what the session has changed in all; what happened since the last run, by exec or by hand, is in no run's diff. */
export async function storeSessionDiff(
  sandbox: SandboxStub,
  bucket: R2Bucket,
  sessionId: string,
  tree: string,
  redacted: RedactStream,
): Promise<void> {
  const { stdout } = await run(sandbox, gitScript("write_tree"));
  const command = diffScript(tree, lastLine(stdout), DIFF_MAX);
  const writer = new R2Writer(bucket, sessionDiffKey(sessionId), DIFF_OPTIONS);
  await storeCommand(sandbox, command, writer, redacted);
  if (writer.size === 0) await bucket.delete(sessionDiffKey(sessionId));
}

/** The regular files that may be stored; the others are named in warnings. Symbolic links are never followed. */
function storable(changes: readonly Change[], prefix: string, sink: CollectSink): Change[] {
  const files: Change[] = [];
  let tooMany = 0;
  for (const change of changes) {
    if (change.status === "deleted" || change.type !== "file") continue;
    if ((change.size ?? 0) > ARTIFACT_MAX) {
      sink.warn({
        limit: "artifact_bytes",
        path: sink.name(change.path),
        size: change.size ?? 0,
        detail: `a file above ${ARTIFACT_MAX} bytes is not stored`,
      });
    } else if (Buffer.byteLength(`${prefix}/files/${change.path}`) > KEY_MAX) {
      sink.warn({ limit: "artifact_path", path: sink.name(change.path), detail: "the path is too long to be stored" });
    } else if (files.length >= ARTIFACT_COUNT_MAX) {
      tooMany += 1;
    } else {
      files.push(change);
    }
  }
  if (tooMany > 0)
    sink.warn({
      limit: "artifact_count",
      detail: `only the first ${ARTIFACT_COUNT_MAX} files of a run are stored`,
      count: tooMany,
    });
  return files;
}

function* batches(files: readonly Change[]): Generator<Change[]> {
  let batch: Change[] = [];
  let bytes = 0;
  for (const file of files) {
    const cost = Buffer.byteLength(sh(file.path)) + 1;
    if (batch.length > 0 && bytes + cost > BATCH_BYTES) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(file);
    bytes += cost;
  }
  if (batch.length > 0) yield batch;
}

/**
 * Streams the files of one batch: a line "f <index>", the file in base64 lines, then "e 0" for a complete one. O_NOFOLLOW
 * is what `-L` and `-f` stand for here; a file that became a link in between is skipped.
 */
async function storeBatch(
  sandbox: SandboxStub,
  batch: readonly Change[],
  prefix: string,
  sink: CollectSink,
  found: Record<string, number>,
): Promise<void> {
  const script = `cd /workspace; i=0; for p in ${batch.map(({ path }) => sh(`./${path}`)).join(" ")}; do
  echo "f $i"; if [ -f "$p" ] && [ ! -L "$p" ] && base64 -- "$p"; then echo "e 0"; else echo "e 1"; fi; i=$((i+1)); done`;
  const closing = new Set<Promise<void>>();
  /** Writers of files that are not in the bucket yet. */
  const open = new Set<R2Writer>();
  let current: {
    path: string;
    change: Change;
    writer: R2Writer;
    digest: Digest;
    redacted: RedactStream;
    failed: string | null;
  } | null = null;
  try {
    for await (const lines of outputLines(sandbox, script)) {
      let base64 = "";
      const flush = async (last: boolean): Promise<void> => {
        if (current === null || current.failed !== null) return;
        const { redacted } = current;
        const bytes = Buffer.concat([
          redacted.push(Buffer.from(base64, "base64")),
          ...(last ? [redacted.flush()] : []),
        ]);
        base64 = "";
        if (bytes.byteLength === 0) return;
        current.digest.update(bytes);
        if (current.writer.size + bytes.byteLength > ARTIFACT_MAX) {
          current.failed = `it has grown above ${ARTIFACT_MAX} bytes`;
          return;
        }
        try {
          await current.writer.write(bytes);
        } catch (error) {
          current.failed = error instanceof Error ? error.message : String(error);
        }
      };
      for (const line of lines) {
        if (line.startsWith("f ")) {
          const change = batch[Number(line.slice(2))];
          if (change === undefined) throw new Error("the sandbox's answer is malformed");
          const path = sink.name(change.path);
          const writer = new R2Writer(sink.bucket, `${prefix}/files/${path}`);
          open.add(writer);
          current = { path, change, writer, digest: sink.digest(), redacted: sink.open(true), failed: null };
        } else if (line.startsWith("e ")) {
          await flush(true);
          if (current === null) throw new Error("the sandbox's answer is malformed");
          const { path, change, writer, digest, redacted, failed } = current;
          current = null;
          addFound(found, redacted.found());
          redacted.close();
          const sha256 = digest.end();
          const why = line === "e 0" ? failed : "it cannot be read";
          if (why !== null) {
            open.delete(writer);
            await writer.abort();
            warnUnstored(sink, path, why);
            continue;
          }
          // R2 takes a while for each object; the next files are read meanwhile.
          if (closing.size >= CLOSE_PARALLEL) await Promise.race(closing);
          const close = writer
            .close()
            .then(() => {
              const key = `${prefix}/files/${path}`;
              open.delete(writer);
              sink.stored({ path, size: writer.size, sha256, mode: `0${change.mode}`, key });
            })
            .catch((error: unknown) => warnUnstored(sink, path, error instanceof Error ? error.message : String(error)))
            .finally(() => closing.delete(close));
          closing.add(close);
        } else {
          // Each line of base64 is whole groups of four characters, so lines can be put together.
          base64 += line;
        }
      }
      await flush(false);
    }
    await Promise.all(closing);
    if (current !== null) throw new Error("the sandbox's stream ended in the middle of a file");
  } finally {
    // Parts of an object that was not completed stay in the bucket until they are given up.
    current?.redacted.close();
    for (const writer of open) await writer.abort();
  }
}

function warnUnstored(sink: CollectSink, path: string, why: string): void {
  sink.warn({ limit: "artifact_failed", path, detail: `the file was not stored: ${why}`.slice(0, 1_000) });
}

/** Stores what a command prints in base64; nothing when it prints nothing or fails. */
async function storeCommand(
  sandbox: SandboxStub,
  command: string,
  writer: R2Writer,
  redacted: RedactStream,
  found: Record<string, number> = {},
): Promise<void> {
  try {
    for await (const lines of outputLines(sandbox, command))
      await writer.write(redacted.push(Buffer.from(lines.join(""), "base64")));
    await writer.write(redacted.flush());
    addFound(found, redacted.found());
    if (writer.size > 0) await writer.close();
  } catch (error) {
    await writer.abort();
    throw error;
  } finally {
    redacted.close();
  }
}

/** The complete lines of a command's standard output, chunk by chunk; throws unless it ends with status 0. */
async function* outputLines(sandbox: SandboxStub, command: string): AsyncGenerator<string[]> {
  const stream = await sandbox.execStream(command, { timeout: GIT_TIMEOUT_MS });
  let carry = "";
  let stderr = "";
  for await (const event of parseSSEStream<ExecEvent>(stream)) {
    if (event.type === "stdout") {
      const lines = (carry + (event.data ?? "")).split("\n");
      carry = lines.pop() ?? "";
      if (lines.length > 0) yield lines;
    } else if (event.type === "stderr") {
      stderr = (stderr + (event.data ?? "")).slice(-500);
    } else if (event.type === "error") {
      throw new Error(event.error ?? event.data ?? "the command failed");
    } else if (event.type === "complete") {
      if (event.exitCode !== 0) throw new Error(`a command failed with status ${event.exitCode}: ${stderr.trim()}`);
      if (carry !== "") yield [carry];
      return;
    }
  }
  throw new Error("the sandbox's stream ended early");
}

/** Runs one part of the collection; a failure is a warning and the rest goes on. */
async function attempt(sink: CollectSink, what: string, fn: () => Promise<void>): Promise<void> {
  try {
    await fn();
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    sink.warn({ limit: "artifact_failed", path: what, detail: `not stored: ${detail}`.slice(0, 1_000) });
  }
}
