/** The session request split into the core's part and the files, which the core never sees. */
import type { WorkspaceFile } from "../effects/sandbox.js";
import type { CreateSessionBody } from "../routes/schemas.js";
import type { Failure } from "./api.js";
import { fail } from "./failures.js";

/** The tool rules of a policy. With `allow`, what it does not name is denied. */
export interface ToolRules {
  readonly allow?: readonly string[];
  readonly deny?: readonly string[];
  readonly ask?: readonly string[];
}

/** The fields of EV_CREATE's payload. */
export function coreRequest(
  body: CreateSessionBody,
  prices: string | undefined,
  policyTools: ToolRules = {},
): Record<string, unknown> {
  const { agent, template, system_prompt, model, env, mcp, tools, timeout_s, limits } = body;
  return {
    agent,
    ...(template === undefined ? {} : { template }),
    ...(system_prompt === undefined ? {} : { system_prompt }),
    ...(model === undefined ? {} : { model }),
    ...(env === undefined ? {} : { env }),
    ...(mcp === undefined ? {} : { mcp }),
    ...(tools === undefined ? {} : { tools }),
    ...(timeout_s === undefined ? {} : { timeout_s }),
    ...(limits === undefined ? {} : { limits }),
    ...(Object.keys(policyTools).length > 0 ? { policy_tools: policyTools } : {}),
    ...(prices === undefined || prices.trim() === "" ? {} : { prices: operatorPrices(prices) }),
  };
}

/** The operator's own prices are not what they should be; no request can be blamed for it. */
export class BadPrices extends Error {
  constructor(why: string) {
    super(
      `CAISSON_PRICES ${why}; it is a JSON array of {model, input, output, cache_read?, cache_write?, above_tokens?}, in US dollars per million tokens`,
    );
    this.name = "BadPrices";
  }
}

function operatorPrices(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new BadPrices("is not JSON");
  }
}

/** The files decoded, or what is wrong with one. Paths come normalized from the routes; this is the second look. */
export function workspaceFiles(files: NonNullable<CreateSessionBody["files"]>): WorkspaceFile[] | Failure {
  const decoded: WorkspaceFile[] = [];
  for (const [i, file] of files.entries()) {
    const inside = /^\/(workspace|tmp)\/./.test(file.path);
    if (!inside || file.path.includes("\0") || file.path.split("/").some((part) => part === ".." || part === ".")) {
      return fail(400, "path_outside_workspace", "the path is not inside /workspace or /tmp", `/files/${i}/path`);
    }
    const bytes =
      file.encoding === "base64" ? Buffer.from(file.content, "base64") : new TextEncoder().encode(file.content);
    decoded.push({ path: file.path, bytes, mode: file.mode ?? null });
  }
  return decoded;
}
