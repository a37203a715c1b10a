/** Whether a sandbox can stand on the template that a request names, asked before anything is started. */
import type { Env } from "../env.js";

export interface TemplateRefusal {
  readonly code: "unknown_template" | "template_unsupported";
  readonly detail: string;
}

/** milliseconds: the engine is on this machine and reads one directory. */
const LIST_MS = 2_000;
/** characters of names in a refusal. */
const NAMES_MAX = 1_000;

/** null when there is such a template or none is asked for. Throws when the engine does not answer. */
export async function templateRefusal(env: Env, name: string | undefined): Promise<TemplateRefusal | null> {
  if (name === undefined) return null;
  if (env.CAISSON_ENGINE_URL === undefined || env.CAISSON_ENGINE_URL === "") {
    const detail =
      "Cloudflare gives all sandboxes of a Worker one image, so a session cannot choose: build what it needs into sandbox-sdk-shim/Dockerfile, and leave template out";
    return { code: "template_unsupported", detail };
  }
  const response = await fetch(`${env.CAISSON_ENGINE_URL.replace(/\/$/, "")}/v1/templates`, {
    headers: { authorization: `Bearer ${env.CAISSON_ENGINE_TOKEN ?? ""}` },
    signal: AbortSignal.timeout(LIST_MS),
  });
  if (!response.ok) throw new Error(`the local engine answered ${response.status} when asked for its templates`);
  const { templates } = (await response.json()) as { templates: string[] };
  if (templates.includes(name)) return null;
  const names = templates.join(", ");
  const there = names.length > NAMES_MAX ? `${names.slice(0, NAMES_MAX)} …` : names;
  const detail = `there is no template ${name}; ${there === "" ? "none has been made" : `there are: ${there}`}. Make one with \`make template NAME=${name} FROM=<rootfs directory or tarball>\``;
  return { code: "unknown_template", detail };
}
