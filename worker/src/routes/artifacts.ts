/** What a session leaves behind: its diff and its artifacts. */
import { z } from "@hono/zod-openapi";
import { createTarPacker } from "modern-tar";
import { DIFF_MAX } from "../effects/artifacts.js";
import type { Env } from "../env.js";
import { problem } from "../errors.js";
import type { ArtifactView } from "../session/api.js";
import { type App, endpoint } from "./endpoint.js";
import { disposition } from "./files.js";
import { json } from "./json.js";
import { ArtifactSchema } from "./schemas.js";
import { type SessionRef, sessionObject, unwrap } from "./session-object.js";

const runQuery = z.strictObject({
  run: z
    .string()
    .optional()
    .openapi({ description: "Only this run; for one path the newest version when absent", example: "run_1" }),
});

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
    answers: {
      200: {
        description: "Its bytes",
        content: { "application/octet-stream": null },
        headers: { ETag: "SHA-256 of the bytes, in hex", "Repr-Digest": "SHA-256 as in RFC 9530" },
      },
      304: { description: "Not changed" },
    },
    async handler({ env, session, request, params, query }) {
      const path = params.path.replace(/^\/workspace\//, "");
      const artifact = (await artifactsOf(env, session, query.run)).findLast((one) => one.path === path);
      if (artifact === undefined)
        throw problem("artifact_not_found", `There is no artifact "${path.slice(0, 200)}".`, { field: "path" });
      const headers = {
        etag: `"${artifact.sha256}"`,
        "repr-digest": `sha-256=:${Buffer.from(artifact.sha256, "hex").toString("base64")}:`,
        "content-type": "application/octet-stream",
        "content-disposition": disposition(artifact.path),
        "x-caisson-run": artifact.run_id,
      };
      const known = (request.headers.get("if-none-match") ?? "")
        .split(",")
        .map((tag) => tag.trim().replace(/^W\//, ""));
      if (known.includes(headers.etag) || known.includes("*")) return new Response(null, { status: 304, headers });
      const object = await env.ARTIFACTS.get(artifact.key);
      if (object === null)
        throw problem("artifact_not_found", `"${path}" is no longer in the bucket.`, { field: "path" });
      return new Response(object.body.pipeThrough(new FixedLengthStream(object.size)), { headers });
    },
  });
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
    console.error("artifacts.tar.gz:", error);
    controller.error(error);
  }
}
