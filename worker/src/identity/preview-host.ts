/**
 * Host names of previews: `<port>-<sandbox>-<token>.<base>`, as the SDK makes them. The base is CAISSON_PREVIEW_HOST, or
 * `localhost` where that is absent. Nothing but previews is served under such a name, and no page of one may call the API.
 */
import { isSessionId } from "../routes/ids.js";

export interface PreviewEnv {
  /** Domain, with its port where that is not 443, below which a wildcard leads to this Worker. */
  readonly CAISSON_PREVIEW_HOST?: string;
}

export interface PreviewName {
  readonly port: number;
  /** Name of the sandbox's object. */
  readonly sandbox: string;
  readonly token: string;
}

const LABEL = /^(\d{4,5})-ses-([a-z2-7]{20})-([a-z0-9_]{1,63})$/;

/** The label before the base when the name is one that previews have, whatever follows its port; else null. */
function labelOf(hostname: string, env: PreviewEnv): string | null {
  const base = (env.CAISSON_PREVIEW_HOST || "localhost").replace(/:\d+$/, "").toLowerCase();
  const name = hostname.toLowerCase().replace(/\.$/, "");
  if (!name.endsWith(`.${base}`)) return null;
  const label = name.slice(0, -base.length - 1);
  return /^\d+-[^.]*$/.test(label) ? label : null;
}

export function isPreviewHost(hostname: string, env: PreviewEnv): boolean {
  return labelOf(hostname, env) !== null;
}

/** What a preview's host name says; null when it is one of no session. */
export function previewName(hostname: string, env: PreviewEnv): PreviewName | null {
  const [, port = "", id = "", token = ""] = LABEL.exec(labelOf(hostname, env) ?? "") ?? [];
  // The id's check keeps names that were only guessed from making an object.
  if (!isSessionId(`ses_${id}`)) return null;
  return { port: Number(port), sandbox: `ses-${id}`, token };
}
