/** The list of sessions, read from D1. The Session objects write it; the objects are the truth. */
import type { Env } from "../env.js";
import { problem } from "../errors.js";
import type { SessionSummary } from "./schemas.js";

type Row = Omit<SessionSummary, "metadata"> & { metadata: string };

export interface SessionPage {
  sessions: SessionSummary[];
  next_cursor: string | null;
}

/** One page, newest first. The cursor names the last row of the page before, so pages stay right while sessions come. */
export async function listSessions(
  env: Env,
  tenant: string,
  limit: number,
  cursor: string | undefined,
  state: string | undefined,
): Promise<SessionPage> {
  const conditions = ["tenant = ?"];
  const values: (string | number)[] = [tenant];
  if (state !== undefined) {
    conditions.push("state = ?");
    values.push(state);
  }
  if (cursor !== undefined) {
    conditions.push("(created_at, id) < (?, ?)");
    values.push(...decodeCursor(cursor));
  }
  const sql =
    "SELECT id, agent, state, created_at, expires_at, ended_at, ended_reason, timeout_s, metadata, runs, last_seq " +
    `FROM sessions WHERE ${conditions.join(" AND ")} ORDER BY created_at DESC, id DESC LIMIT ?`;
  const { results } = await env.INDEX.prepare(sql)
    .bind(...values, limit + 1)
    .all<Row>();
  const page = results.slice(0, limit);
  const last = results.length > limit ? page.at(-1) : undefined;
  return {
    sessions: page.map((row) => ({ ...row, metadata: JSON.parse(row.metadata) as Record<string, string> })),
    next_cursor: last === undefined ? null : encodeCursor(last.created_at, last.id),
  };
}

function encodeCursor(createdAt: string, id: string): string {
  return Buffer.from(JSON.stringify([createdAt, id])).toString("base64url");
}

function decodeCursor(cursor: string): [string, string] {
  try {
    const value: unknown = JSON.parse(Buffer.from(cursor, "base64url").toString("utf8"));
    if (Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && typeof value[1] === "string") {
      return [value[0], value[1]];
    }
  } catch {
    // Falls through to the one refusal.
  }
  throw problem("invalid_cursor", "Give `next_cursor` of a page as it is.", { field: "cursor" });
}
