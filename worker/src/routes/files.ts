/** Files of a session's sandbox, binary safe. */
import { type FileStreamEvent, parseSSEStream } from "@cloudflare/sandbox";
import { z } from "@hono/zod-openapi";
import type { Env } from "../env.js";
import { problem } from "../errors.js";
import { LIMITS } from "../limits.js";
import { readBytes } from "./body.js";
import { type App, boolParam, endpoint } from "./endpoint.js";
import { guarded } from "./engine.js";
import { UNTRUSTED_CSP } from "./headers.js";
import { json } from "./json.js";
import { checkWorkspacePath, FILE_ROOTS } from "./paths.js";
import { type SandboxHandle, sandboxFailure, sandboxOfSession, sessionMask, shellQuote } from "./sandbox.js";
import { FileInfoSchema } from "./schemas.js";
import type { SessionRef } from "./session-object.js";

/** bytes: written with one call. A call into a Durable Object carries 32 MiB, and this becomes a third longer as base64. */
const WRITE_PART = 8 * 1024 * 1024;

/** Exit status of sysexits(3): the input does not exist. rm(1) has none but 0 and 1. */
const EX_NOINPUT = 66;

export function registerFiles(app: App): void {
  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/files",
    tag: "Files",
    summary: "List a directory",
    query: z.strictObject({
      path: z.string().optional().openapi({ description: "/workspace when absent" }),
      recursive: boolParam.optional(),
    }),
    answers: {
      200: {
        description: "Its entries, hidden ones too",
        content: {
          "application/json": z.object({
            path: z.string(),
            files: z.array(FileInfoSchema),
            truncated: z
              .boolean()
              .optional()
              .openapi({ description: "true when there are more entries than were listed" }),
          }),
        },
      },
    },
    problems: [409, 502, 503],
    async handler({ env, session, query }) {
      const path = workspacePath(query.path ?? "/workspace");
      const sandbox = await sandboxOfSession(env, session);
      const listing = await call(env, session, path, () =>
        sandbox.listFiles(path, { recursive: query.recursive ?? false, includeHidden: true }),
      );
      const files = listing.files.map((file) => ({
        name: file.name,
        path: file.absolutePath,
        type: file.type,
        size: file.size,
        modified_at: timestamp(file.modifiedAt),
        mode: file.mode,
      }));
      // Of the local guest server alone; the platform's has no bound.
      const { truncated } = listing as { truncated?: boolean };
      return json({ path, files, ...(truncated === true ? { truncated } : {}) });
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/files/{path}",
    tag: "Files",
    summary: "Read a file",
    answers: {
      200: {
        description: "Its bytes, with the content type that its name suggests",
        content: { "*/*": null },
        headers: { "Content-Length": "Bytes", "Content-Disposition": "`attachment` where a browser would run it" },
      },
    },
    problems: [409, 502, 503],
    async handler({ env, session, params }) {
      const path = workspacePath(params.path);
      const sandbox = await sandboxOfSession(env, session);
      const stream = await call(env, session, path, () => sandbox.readFileStream(path));
      return fileResponse(env, session, path, stream);
    },
  });

  endpoint(app, {
    method: "put",
    path: "/v1/sessions/{id}/files/{path}",
    tag: "Files",
    summary: "Write a file",
    description:
      "The body is the file. Parent directories are made. With `If-None-Match: *` an existing file is left alone (412).",
    rawBody: ["application/octet-stream"],
    headers: { "If-None-Match": "`*` to create only" },
    answers: {
      201: {
        description: "Written",
        content: { "application/json": z.object({ path: z.string(), size: z.number() }) },
        headers: { Location: "Address of the file" },
      },
    },
    problems: [409, 412, 502, 503],
    async handler({ env, session, request, params }) {
      const path = workspacePath(params.path);
      const bytes = await readBytes(request, LIMITS.FILE_PUT_MAX);
      const sandbox = await sandboxOfSession(env, session);
      if (request.headers.get("if-none-match")?.trim() === "*") {
        const { exists } = await call(env, session, path, () => sandbox.exists(path));
        if (exists) throw problem("file_exists", `${path} exists already.`, { field: "path" });
      }
      await call(env, session, path, () => write(sandbox, path, bytes));
      return json({ path, size: bytes.byteLength }, 201, { location: fileAddress(params.id, path) });
    },
  });

  endpoint(app, {
    method: "delete",
    path: "/v1/sessions/{id}/files/{path}",
    tag: "Files",
    summary: "Delete a file, or with recursive=true a directory",
    query: z.strictObject({ recursive: boolParam.optional() }),
    answers: { 204: { description: "Gone" } },
    problems: [409, 502, 503],
    async handler({ env, session, params, query }) {
      const path = workspacePath(params.path);
      if (isRoot(path)) throw problem("invalid_path", `${path} itself cannot be deleted.`, { field: "path" });
      const sandbox = await sandboxOfSession(env, session);
      if (query.recursive === true) {
        // Asked of the name itself and not of what it may point to: a dangling link is there too.
        const target = shellQuote(path);
        const script = `[ -e ${target} ] || [ -L ${target} ] || exit ${EX_NOINPUT}; rm -rf -- ${target}`;
        const removed = await call(env, session, path, () => sandbox.exec(script, { origin: "internal" }));
        if (removed.exitCode === EX_NOINPUT) throw problem("file_not_found", `There is no ${path}.`, { field: "path" });
        if (removed.exitCode !== 0) {
          const why = await sessionMask(env, session)(removed.stderr.trim().slice(-500));
          throw problem("permission_denied", why, { field: "path" });
        }
      } else {
        await call(env, session, path, () => sandbox.deleteFile(path));
      }
      return new Response(null, { status: 204 });
    },
  });

  endpoint(app, {
    method: "post",
    path: "/v1/sessions/{id}/files/{path}",
    tag: "Files",
    summary: "Make a directory, or rename",
    query: z.strictObject({
      op: z.enum(["mkdir", "rename"]),
      to: z.string().optional().openapi({ description: "New path; with op=rename" }),
    }),
    answers: { 200: { description: "Done", content: { "application/json": z.object({ path: z.string() }) } } },
    problems: [409, 502, 503],
    async handler({ env, session, params, query }) {
      const path = workspacePath(params.path);
      if (query.op === "rename" && query.to === undefined) {
        throw problem("missing_field", "op=rename needs `to`.", { field: "to" });
      }
      const to = query.op === "rename" ? workspacePath(query.to ?? "", "to") : path;
      if (query.op === "rename" && (isRoot(path) || isRoot(to))) {
        throw problem("invalid_path", "/workspace and /tmp themselves cannot be renamed.", { field: "path" });
      }
      const sandbox = await sandboxOfSession(env, session);
      if (query.op === "mkdir") await call(env, session, path, () => sandbox.mkdir(path, { recursive: true }));
      else await call(env, session, path, () => move(sandbox, path, to));
      return json({ path: to });
    },
  });
}

/** The absolute path, or the problem. */
export function workspacePath(raw: string, field = "path"): string {
  const check = checkWorkspacePath(raw);
  if (check.ok) return check.path;
  const shown = raw.slice(0, 200);
  const detail = {
    path_outside_workspace: `"${shown}" is not inside /workspace or /tmp.`,
    invalid_path: "The path has a character that no path has.",
    too_long: `The path is longer than ${LIMITS.PATH_MAX} characters.`,
  }[check.code];
  throw problem(check.code, detail, { field });
}

function isRoot(path: string): boolean {
  return FILE_ROOTS.some((root) => root === path);
}

function fileAddress(sessionId: string, path: string): string {
  const relative = path.startsWith("/workspace/") ? path.slice("/workspace/".length) : path;
  return `/v1/sessions/${sessionId}/files/${relative.split("/").map(encodeURIComponent).join("/")}`;
}

async function call<T>(env: Env, session: SessionRef, path: string, start: () => Promise<T>): Promise<T> {
  try {
    return await guarded(env, start());
  } catch (error) {
    throw await sandboxFailure(env, error, path, sessionMask(env, session));
  }
}

/** Small files with one call; longer ones in parts that are put together in the sandbox, so that readers never see half. */
async function write(sandbox: SandboxHandle, path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
  if (bytes.byteLength <= WRITE_PART) {
    await sandbox.writeFile(path, base64(bytes), { encoding: "base64" });
    return;
  }
  const base = `/tmp/.caisson-put-${crypto.randomUUID()}`;
  const parts: string[] = [];
  try {
    for (let offset = 0; offset < bytes.byteLength; offset += WRITE_PART) {
      const part = `${base}-${parts.length}`;
      parts.push(part);
      await sandbox.writeFile(part, base64(bytes.subarray(offset, offset + WRITE_PART)), { encoding: "base64" });
    }
    const target = shellQuote(path);
    const script = `mkdir -p -- "$(dirname -- ${target})" && cat -- ${parts.join(" ")} > ${target}`;
    const result = await sandbox.exec(script, { origin: "internal" });
    if (result.exitCode !== 0) throw new Error(result.stderr.trim().slice(-500));
  } finally {
    await sandbox.exec(`rm -f -- ${parts.join(" ")}`, { origin: "internal" }).catch(() => undefined);
  }
}

/** rename(2) does not go from /workspace to /tmp, which may be another file system; mv(1) does. */
async function move(sandbox: SandboxHandle, from: string, to: string): Promise<void> {
  const target = shellQuote(to);
  const script = `mkdir -p -- "$(dirname -- ${target})" && mv -fT -- ${shellQuote(from)} ${target}`;
  const result = await sandbox.exec(script, { origin: "internal" });
  if (result.exitCode !== 0) throw new Error(result.stderr.trim().slice(-500));
}

function base64(bytes: Uint8Array<ArrayBuffer>): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}

/** Types that a browser renders with scripts or as a page of this origin. */
const ACTIVE_TYPES = /html|svg|xml|javascript|pdf/i;

/** Answers with a file as it streams out of the sandbox: the first event says what it is, or that it is not there. */
async function fileResponse(
  env: Env,
  session: SessionRef,
  path: string,
  stream: ReadableStream<Uint8Array>,
): Promise<Response> {
  const events = parseSSEStream<FileStreamEvent>(stream)[Symbol.asyncIterator]();
  const first = await events.next();
  if (first.done === true) throw problem("sandbox_error", `${path}: the sandbox sent nothing.`);
  if (first.value.type === "error")
    throw await sandboxFailure(env, new Error(first.value.error), path, sessionMask(env, session));
  if (first.value.type !== "metadata") throw problem("sandbox_error", `${path}: the sandbox sent no metadata.`);
  const { mimeType, size, encoding } = first.value;
  const { readable, writable } = new FixedLengthStream(size);
  void pump(events, writable.getWriter(), encoding === "base64", size);
  // `inode/…` is what file(1) calls that which has no content to tell a type by: an empty file.
  const known = /^inode\//.test(mimeType) ? "" : mimeType;
  const type = known.startsWith("text/") && !/charset=/i.test(known) ? `${known}; charset=utf-8` : known;
  return new Response(readable, {
    headers: {
      "content-type": type === "" ? "application/octet-stream" : type,
      "content-security-policy": UNTRUSTED_CSP,
      ...(ACTIVE_TYPES.test(mimeType) ? { "content-disposition": disposition(path) } : {}),
    },
  });
}

/** Copies chunks until `size` bytes are through: a file that grows meanwhile is cut, one that shrinks ends the answer short. */
async function pump(
  events: AsyncIterator<FileStreamEvent, unknown>,
  writer: WritableStreamDefaultWriter<Uint8Array>,
  isBase64: boolean,
  size: number,
): Promise<void> {
  const utf8 = new TextEncoder();
  let left = size;
  try {
    for (let event = await events.next(); event.done !== true; event = await events.next()) {
      const value = event.value;
      if (value.type === "error") throw new Error(value.error);
      if (value.type !== "chunk") continue;
      const bytes = isBase64 ? Buffer.from(value.data, "base64") : utf8.encode(value.data);
      if (left > 0) await writer.write(bytes.subarray(0, left));
      left -= Math.min(left, bytes.byteLength);
    }
    await writer.close();
  } catch (error) {
    await writer.abort(error).catch(() => undefined);
  } finally {
    await Promise.resolve(events.return?.(undefined)).catch(() => undefined);
  }
}

/** `attachment` with the file's name, in the form of RFC 6266 that takes any character. */
export function disposition(path: string): string {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const encoded = encodeURIComponent(name).replace(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `attachment; filename*=UTF-8''${encoded}`;
}

/** RFC 3339 of the container server's local time, whose zone is UTC in every sandbox and which has digits to the nanosecond. */
function timestamp(local: string): string {
  const match = /^(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,3})\d*)?(Z|[+-]\d{2}:?\d{2})?/.exec(local);
  if (match === null) return local;
  return `${match[1]}T${match[2]}.${(match[3] ?? "").padEnd(3, "0")}${match[4] ?? "Z"}`;
}
