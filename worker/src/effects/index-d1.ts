/** The row of a session in the D1 index; the session object is the truth, the row follows it. */
import type { SessionView } from "../session/api.js";

/** Writes the row. An older write that arrives late never overwrites a newer one: last_seq decides. */
export async function writeIndex(db: D1Database, tenant: string, view: SessionView, updatedAt: string): Promise<void> {
  await db
    .prepare(
      `INSERT INTO sessions (id, agent, state, created_at, expires_at, ended_at, ended_reason, timeout_s, metadata, runs, last_seq, updated_at, tenant)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
       ON CONFLICT (id) DO UPDATE SET state = ?3, expires_at = ?5, ended_at = ?6, ended_reason = ?7, timeout_s = ?8, runs = ?10, last_seq = ?11, updated_at = ?12
       WHERE excluded.last_seq >= sessions.last_seq`,
    )
    .bind(
      view.id,
      view.agent,
      view.state,
      view.created_at,
      view.expires_at,
      view.ended_at,
      view.ended_reason,
      view.timeout_s,
      JSON.stringify(view.metadata),
      view.runs,
      view.last_seq,
      updatedAt,
      tenant,
    )
    .run();
}
