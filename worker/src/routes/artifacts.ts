/** What a session leaves behind: its diff and its artifacts. */
import { z } from "@hono/zod-openapi";
import { createTarPacker } from "modern-tar";
import { CoreError } from "../core/core.js";
import type { Guard } from "../core/guard.js";
import { DIFF_MAX } from "../effects/artifacts.js";
import { operatorMask, report } from "../effects/report.js";
import type { Env } from "../env.js";
import { failureProblem, type Problem, problem } from "../errors.js";
import { ARTIFACT_LINK_PREFIX, ARTIFACT_SCOPE, type Caller, callerBy, LINK_PATH } from "../identity/caller.js";
import { countRequest } from "../identity/quotas.js";
import type { ArtifactView } from "../session/api.js";
import { type App, endpoint } from "./endpoint.js";
import { disposition } from "./files.js";
import { UNTRUSTED_CSP } from "./headers.js";
import { isSessionId } from "./ids.js";
import { json } from "./json.js";
import { ArtifactSchema } from "./schemas.js";
import { type SessionRef, sessionObject, sessionRef, unwrap } from "./session-object.js";

const runQuery = z.strictObject({
  run: z
    .string()
    .optional()
    .openapi({ description: "Only this run; for one path the newest version when absent", example: "run_1" }),
});

const ARTIFACT_ANSWERS = {
  200: {
    description: "Its bytes",
    content: { "application/octet-stream": null },
    headers: { ETag: "SHA-256 of the bytes, in hex", "Repr-Digest": "SHA-256 as in RFC 9530" },
  },
  304: { description: "Not changed" },
};

export function registerArtifacts(app: App): void {
  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/diff",
    tag: "Results",
    summary: "What changed in the workspace, as a unified diff",
    query: z.strictObject({
      run: z.string().optional().openapi({
        description: "What this run changed; without it everything since the session began",
        example: "run_2",
      }),
    }),
    answers: {
      200: {
        description: `A git diff, in the files' own bytes; empty when nothing changed, cut after ${DIFF_MAX} bytes`,
        content: { "text/x-diff": null },
      },
    },
    problems: [409, 503],
    async handler({ env, session, query }) {
      const diff = unwrap(await sessionObject(env, session).diff(query.run));
      return new Response(diff, { headers: { "content-type": "text/x-diff; charset=utf-8" } });
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/artifacts",
    tag: "Results",
    summary: "List the stored artifacts",
    query: runQuery,
    answers: {
      200: {
        description: "The artifacts",
        content: { "application/json": z.object({ artifacts: z.array(ArtifactSchema) }) },
      },
    },
    async handler({ env, session, params, query }) {
      const id = params.id;
      const artifacts = (await artifactsOf(env, session, query.run)).map(({ key: _, ...view }) => ({
        ...view,
        url: `/v1/sessions/${id}/artifacts/${view.path.split("/").map(encodeURIComponent).join("/")}?run=${view.run_id}`,
      }));
      return json({ artifacts });
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/artifacts.tar.gz",
    tag: "Results",
    summary: "The artifacts as one archive",
    description: "Of each path its newest version, or with `run` what that run stored.",
    query: runQuery,
    answers: { 200: { description: "A gzipped tar", content: { "application/gzip": null } } },
    async handler({ c, env, session, params, query }) {
      const id = params.id;
      const artifacts = newestOfEachPath(await artifactsOf(env, session, query.run));
      const { readable, controller } = createTarPacker();
      c.executionCtx.waitUntil(pack(env, artifacts, controller));
      return new Response(readable.pipeThrough(new CompressionStream("gzip")), {
        headers: { "content-type": "application/gzip", "content-disposition": disposition(`${id}.tar.gz`) },
      });
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/artifacts/{path}",
    tag: "Results",
    summary: "One artifact",
    query: runQuery,
    headers: { "If-None-Match": "The ETag already had" },
    answers: ARTIFACT_ANSWERS,
    async handler({ env, session, request, params, query }) {
      const path = params.path.replace(/^\/workspace\//, "");
      const artifact = (await artifactsOf(env, session, query.run)).findLast((one) => one.path === path);
      if (artifact === undefined)
        throw problem("artifact_not_found", `There is no artifact "${path.slice(0, 200)}".`, { field: "path" });
      return await download(env, request, artifact);
    },
  });

  endpoint(app, {
    method: "get",
    path: `${LINK_PATH}{link}`,
    tag: "Results",
    scope: null,
    summary: "Download the artifact of a link",
    description:
      "The address is the credential: `POST /v1/sessions/{id}/share` with `artifact` makes one. One that is wrong, has expired or " +
      "was revoked is not there.",
    headers: { "If-None-Match": "The ETag already had" },
    answers: ARTIFACT_ANSWERS,
    problems: [429],
    async handler({ c, env, request, params }) {
      const { caller, sessionId } = linkOf(c.get("guard"), params.link);
      await countRequest(env, caller);
      const shared = await sessionObject(env, sessionRef(caller.tenant, sessionId)).sharedArtifact(caller.tokenId);
      if (!shared.ok) throw shared.status === 404 ? noLink() : failureProblem(shared);
      return await download(env, request, shared.value);
    },
  });
}

/** Whoever holds the link, or the 404 that says nothing about why it is refused. */
function linkOf(guard: Guard, token: string): { caller: Caller; sessionId: string } {
  try {
    const caller = callerBy(guard.verifyToken(token, Date.now()));
    const own = `${ARTIFACT_SCOPE}:`;
    const sessionId = caller.scopes.startsWith(own) ? caller.scopes.slice(own.length) : "";
    if (!caller.tokenId.startsWith(ARTIFACT_LINK_PREFIX) || !isSessionId(sessionId)) throw noLink();
    return { caller, sessionId };
  } catch (error) {
    throw error instanceof CoreError ? noLink() : error;
  }
}

function noLink(): Problem {
  return problem("link_not_found", "There is no such link: it is wrong, has expired or was revoked.");
}

/** Always a download: what an agent made is never a page of this origin, whatever a browser takes it for. */
async function download(env: Env, request: Request, artifact: ArtifactView): Promise<Response> {
  const headers = {
    etag: `"${artifact.sha256}"`,
    "repr-digest": `sha-256=:${Buffer.from(artifact.sha256, "hex").toString("base64")}:`,
    "content-type": "application/octet-stream",
    "content-disposition": disposition(artifact.path),
    "content-security-policy": UNTRUSTED_CSP,
    "x-caisson-run": artifact.run_id,
  };
  const known = (request.headers.get("if-none-match") ?? "").split(",").map((tag) => tag.trim().replace(/^W\//, ""));
  if (known.includes(headers.etag) || known.includes("*")) return new Response(null, { status: 304, headers });
  const object = await env.ARTIFACTS.get(artifact.key);
  if (object === null)
    throw problem("artifact_not_found", `"${artifact.path}" is no longer in the bucket.`, { field: "path" });
  return new Response(object.body.pipeThrough(new FixedLengthStream(object.size)), { headers });
}

/** Oldest first, so that the last of a path is its newest version. */
async function artifactsOf(env: Env, ref: SessionRef, run: string | undefined): Promise<ArtifactView[]> {
  const session = sessionObject(env, ref);
  const all = unwrap(await session.artifacts());
  if (run === undefined) return all;
  const ofRun = all.filter((artifact) => artifact.run_id === run);
  if (ofRun.length === 0) unwrap(await session.run(run));
  return ofRun;
}

function newestOfEachPath(artifacts: readonly ArtifactView[]): ArtifactView[] {
  return [...new Map(artifacts.map((artifact) => [artifact.path, artifact])).values()];
}

type TarController = ReturnType<typeof createTarPacker>["controller"];

/** Writes every artifact into the archive, one after the other; an object that is missing breaks it off, never leaves a hole. */
async function pack(env: Env, artifacts: readonly ArtifactView[], controller: TarController): Promise<void> {
  try {
    for (const artifact of artifacts) {
      const object = await env.ARTIFACTS.get(artifact.key);
      if (object === null) throw new Error(`${artifact.path} is no longer in the bucket`);
      const mode = Number.parseInt(artifact.mode, 8) & 0o777;
      const entry = controller.add({
        name: artifact.path,
        size: object.size,
        type: "file",
        mode: Number.isNaN(mode) ? 0o644 : mode,
        mtime: object.uploaded,
      });
      await object.body.pipeTo(entry);
    }
    controller.finalize();
  } catch (error) {
    report(operatorMask(env), "error", "artifacts.tar.gz", error);
    controller.error(error);
  }
}
