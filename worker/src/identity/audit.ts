/** Logs as `caisson-audit verify` reads them. */
import type { AuditState } from "../core/guard.js";

/** A part of a log: as much as one answer between objects may hold. */
export interface AuditPage {
  readonly lines: readonly string[];
  /** What to ask the next part after. */
  readonly next: number;
  /** The line that states the head after all of them; null when there are more. */
  readonly head: string | null;
}

/** `{"audit_head":"<hex>","count":n}` */
export function auditHead(state: AuditState): string {
  const count = new DataView(state.buffer, state.byteOffset).getBigUint64(32, true);
  return `{"audit_head":"${Buffer.from(state.subarray(0, 32)).toString("hex")}","count":${count}}`;
}

/** The line that a log begins with. */
export function auditFirst(id: string): string {
  return `{"audit":"caisson audit 1","id":${JSON.stringify(id)}}`;
}
