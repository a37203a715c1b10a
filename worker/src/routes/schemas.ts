/**
 * Request and answer bodies of the HTTP API: validation, TypeScript types and the OpenAPI components come from these.
 *
 * Custom issues carry `params.code`, the stable code of the problem document (errors.ts); the rest is mapped by zod's own
 * issue code. A parsed body has no unknown fields, and every path in it is absolute and normalized.
 */
import { z } from "@hono/zod-openapi";
import { CORE_BOUNDS, LIMITS } from "../limits.js";
import { checkWorkspacePath } from "./paths.js";

const utf8 = new TextEncoder();

/** A string of at most `maxBytes` bytes of UTF-8 without NUL, which no argument, variable or file name can hold. */
function boundedText(maxBytes: number, emptyCode?: string): z.ZodString {
  return z.string().superRefine((value, ctx) => {
    if (emptyCode !== undefined && value.trim() === "") {
      ctx.addIssue({ code: "custom", message: "must not be empty", params: { code: emptyCode } });
    } else if (value.length > maxBytes || utf8.encode(value).byteLength > maxBytes) {
      ctx.addIssue({ code: "custom", message: `is longer than ${maxBytes} bytes`, params: { code: "too_long" } });
    } else if (value.includes("\0")) {
      ctx.addIssue({ code: "custom", message: "must not contain NUL", params: { code: "invalid_value" } });
    }
  });
}

const timeoutS = z.int().min(CORE_BOUNDS.TIMEOUT_S_MIN).max(CORE_BOUNDS.TIMEOUT_S_MAX);
const timestamp = z.string().openapi({ format: "date-time", example: "2026-08-01T12:00:00.000Z" });

const envVars = z
  .record(z.string(), z.string())
  .superRefine((env, ctx) => {
    const names = Object.keys(env);
    if (names.length > CORE_BOUNDS.ENV_COUNT_MAX) {
      const message = `has more than ${CORE_BOUNDS.ENV_COUNT_MAX} variables`;
      ctx.addIssue({ code: "custom", message, params: { code: "too_long" } });
    }
    let bytes = 0;
    for (const name of names) {
      const value = env[name] ?? "";
      bytes += utf8.encode(name).byteLength + utf8.encode(value).byteLength;
      if (!/^[A-Za-z_][A-Za-z0-9_]{0,255}$/.test(name)) {
        const message = "is not a variable name (letters, digits and _)";
        ctx.addIssue({ code: "custom", path: [name], message, params: { code: "invalid_value" } });
      } else if (value.includes("\0")) {
        ctx.addIssue({
          code: "custom",
          path: [name],
          message: "must not contain NUL",
          params: { code: "invalid_value" },
        });
      }
    }
    if (bytes > CORE_BOUNDS.ENV_BYTES_MAX) {
      const message = `is longer than ${CORE_BOUNDS.ENV_BYTES_MAX} bytes`;
      ctx.addIssue({ code: "custom", message, params: { code: "too_long" } });
    }
  })
  .openapi({ description: "Environment variables", example: { NODE_ENV: "test" } });

const templateName = z
  .string()
  .max(CORE_BOUNDS.TEMPLATE_MAX)
  .regex(/^[a-z0-9][a-z0-9_-]*$/, "must be letters a-z, digits, - and _, a letter or digit first")
  .openapi({
    description:
      "Root file system of the sandbox, made with `make template`; the default root when absent. Only where the local engine runs the sandboxes: on Cloudflare it is refused with `template_unsupported`",
    example: "debian",
  });

/* --- agents and files ------------------------------------------------------------------------------------------- */

export const AgentNameSchema = z.enum(["claude-code", "codex", "gemini", "opencode", "shell"]).openapi("AgentName", {
  description:
    "`claude-code`, `codex` (Codex), `gemini` (Gemini CLI) and `opencode` run prompts; `shell` runs commands.",
});
export type AgentName = z.infer<typeof AgentNameSchema>;

const workspacePath = z.string().superRefine((value, ctx) => {
  const check = checkWorkspacePath(value);
  if (check.ok) return;
  const message = {
    path_outside_workspace: "is not inside /workspace or /tmp",
    invalid_path: "is not a path",
    too_long: `is longer than ${LIMITS.PATH_MAX} characters`,
  }[check.code];
  ctx.addIssue({ code: "custom", message, params: { code: check.code } });
});

export const FileBodySchema = z
  .strictObject({
    path: workspacePath
      .overwrite((value) => {
        const check = checkWorkspacePath(value);
        return check.ok ? check.path : value;
      })
      .openapi({
        description: "Relative to /workspace, or absolute inside /workspace or /tmp",
        example: "src/main.py",
      }),
    content: z.string().openapi({ description: "The file's text, or its bytes in base64" }),
    encoding: z.enum(["utf-8", "base64"]).optional().openapi({ description: "Of `content`; utf-8 when absent" }),
    mode: z
      .string()
      .regex(/^0?[0-7]{3}$/)
      .optional()
      .openapi({ description: "Octal permission bits; 0644 when absent", example: "0755" }),
  })
  .superRefine((file, ctx) => {
    if (file.encoding !== "base64") return;
    if (/^[A-Za-z0-9+/]*={0,2}$/.test(file.content) && file.content.length % 4 === 0) return;
    ctx.addIssue({ code: "custom", path: ["content"], message: "is not base64", params: { code: "invalid_value" } });
  })
  .openapi("File");
/** A file to lay into the sandbox. `path` is absolute and normalized after parsing. */
export type FileBody = z.infer<typeof FileBodySchema>;

/** No path twice, and no file where another one needs a directory: the sandbox could not lay them out. */
const files = z
  .array(FileBodySchema)
  .max(LIMITS.FILES_COUNT_MAX)
  .superRefine((list, ctx) => {
    const paths = new Set(list.map((file) => file.path));
    const seen = new Set<string>();
    for (const [i, { path }] of list.entries()) {
      const refuse = (message: string): void =>
        ctx.addIssue({ code: "custom", path: [i, "path"], message, params: { code: "invalid_value" } });
      if (seen.has(path)) refuse("is the path of another file too");
      seen.add(path);
      for (let end = path.lastIndexOf("/"); end > 0; end = path.lastIndexOf("/", end - 1)) {
        if (paths.has(path.slice(0, end))) {
          refuse(`lies below ${path.slice(0, end)}, which is a file`);
          break;
        }
      }
    }
  });

/* --- what an agent may be given ------------------------------------------------------------------------------------- */

/** The core has the last word on these: it knows what each agent can be asked for. */
const mcpServers = z
  .record(
    z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$/),
    z.union([
      z.strictObject({
        command: z.string().min(1),
        args: z.array(z.string()).optional(),
        env: z.record(z.string(), z.string()).optional(),
      }),
      z.strictObject({ url: z.string().regex(/^https?:\/\//), headers: z.record(z.string(), z.string()).optional() }),
    ]),
  )
  .refine((servers) => Object.keys(servers).length <= CORE_BOUNDS.MCP_COUNT_MAX, {
    message: `has more than ${CORE_BOUNDS.MCP_COUNT_MAX} servers`,
    params: { code: "too_long" },
  })
  .openapi({
    description: `MCP servers by name; ${CORE_BOUNDS.MCP_BYTES_MAX} bytes of text at most`,
    example: { files: { command: "node", args: ["server.mjs"] } },
  });

const toolRules = z
  .strictObject({ allow: z.array(z.string().min(1)).optional(), deny: z.array(z.string().min(1)).optional() })
  .openapi({
    description:
      "Rules in the agent's own words: a tool, or a tool with a pattern. With `allow` what no rule allows is refused. " +
      `${CORE_BOUNDS.TOOL_RULES_COUNT_MAX} rules and ${CORE_BOUNDS.TOOL_RULES_BYTES_MAX} bytes at most. Codex has none.`,
    example: { allow: ["Read", "Bash(git diff:*)"] },
  });

/* --- policy ------------------------------------------------------------------------------------------------------ */

/** Checked by the guard, which names the field at fault; here only that it is an object, and its size. */
export const PolicySchema = z
  .looseObject({})
  .refine((value) => JSON.stringify(value).length <= LIMITS.POLICY_MAX, {
    message: `is longer than ${LIMITS.POLICY_MAX} characters`,
    params: { code: "too_long" },
  })
  .openapi("Policy");

const secrets = z
  .record(z.string(), z.string().min(8).max(65_536))
  .superRefine((all, ctx) => {
    const names = Object.keys(all);
    if (names.length > LIMITS.SECRETS_COUNT_MAX)
      ctx.addIssue({
        code: "custom",
        message: `has more than ${LIMITS.SECRETS_COUNT_MAX} entries`,
        params: { code: "too_long" },
      });
    for (const name of names)
      if (!/^[A-Za-z_][A-Za-z0-9_]{0,63}$/.test(name))
        ctx.addIssue({
          code: "custom",
          path: [name],
          message: "is not a variable name (letters, digits and _)",
          params: { code: "invalid_value" },
        });
      // A header with a line break would be two.
      else if (/[\0\r\n]/.test(all[name] ?? ""))
        ctx.addIssue({
          code: "custom",
          path: [name],
          message: "must not contain NUL or line breaks",
          params: { code: "invalid_value" },
        });
  })
  .openapi({
    description:
      "Stored sealed and never shown. The sandbox gets a placeholder in its environment; `network.inject` of the policy says for which hosts it is replaced on the way out. " +
      "Whatever a run prints, changes or asks of the network is stored and sent with `*` for a secret, in plain and in the usual encodings; together they have at most some 8,000 bytes",
    example: { GITHUB_TOKEN: "the real one" },
  });

export const EgressEntrySchema = z
  .object({
    id: z.number(),
    time: timestamp,
    host: z.string(),
    address: z.string().nullable().openapi({ description: "Connected to; null where the platform does not tell" }),
    port: z.number(),
    method: z.string(),
    path: z.string().openapi({ description: "Without its query" }),
    verdict: z.enum(["allow", "deny"]),
    rule: z.string(),
    status: z.number().nullable(),
    bytes_up: z.number().nullable(),
    bytes_down: z.number().nullable(),
    duration_ms: z.number().nullable(),
  })
  .openapi("EgressEntry");

/* --- limits ------------------------------------------------------------------------------------------------------ */

const count = z.int().min(1).max(CORE_BOUNDS.LIMIT_MAX);
const runLimits = {
  wall_s: timeoutS.openapi({ description: "Seconds that runs take" }),
  turns: count.openapi({ description: "Answers of the model to the agent's main loop" }),
  tool_calls: count,
  tokens: count.openapi({ description: "Input, output, read from and written to the cache" }),
  output_tokens: count,
  cost_usd: z.number().min(0.000001).max(CORE_BOUNDS.COST_USD_MAX).openapi({ example: 5 }),
  output_bytes: count.openapi({ description: "Bytes of standard output and standard error" }),
};
const idleS = timeoutS.openapi({ description: "Seconds without a run and without use, after which the session ends" });

export const RunLimitsSchema = z
  .strictObject({ ...runLimits })
  .partial()
  .openapi("RunLimits", {
    description:
      "At 80 % of a limit there is one `limit.warning`; at 100 % the run is stopped with the outcome `run.over_budget`",
  });
export const LimitsSchema = z
  .strictObject({ ...runLimits, idle_s: idleS })
  .partial()
  .openapi("Limits", {
    description: "Over all runs of the session. A session that has reached one refuses its next run",
  });
export type Limits = z.infer<typeof LimitsSchema>;

const limitsPatch = z
  .strictObject(
    Object.fromEntries(
      Object.entries({ ...runLimits, idle_s: idleS }).map(([name, schema]) => [name, schema.nullable()]),
    ) as {
      [name in keyof typeof runLimits | "idle_s"]: z.ZodNullable<z.ZodNumber>;
    },
  )
  .partial()
  .openapi("LimitsPatch", { description: "Limits that are absent stay; null lifts one" });

export const BudgetSchema = z
  .record(z.string(), z.object({ used: z.number().nullable(), max: z.number(), remaining: z.number() }))
  .openapi("Budget", {
    description: "Use of each limit there is, in the unit of its name. `used` is null when it is not known",
  });

/* --- sessions ------------------------------------------------------------------------------------------------------ */

export const CreateSessionBodySchema = z
  .strictObject({
    agent: AgentNameSchema,
    template: templateName.optional(),
    files: files.optional().openapi({ description: "Laid out before the first run" }),
    env: envVars.optional(),
    system_prompt: boundedText(CORE_BOUNDS.SYSTEM_PROMPT_MAX)
      .optional()
      .openapi({ description: "Appended to the agent's own system prompt" }),
    model: boundedText(CORE_BOUNDS.MODEL_MAX, "invalid_value")
      .optional()
      .openapi({ description: "Default model of the session's runs" }),
    mcp: mcpServers.optional(),
    tools: toolRules.optional(),
    metadata: z
      .record(z.string().min(1).max(LIMITS.METADATA_KEY_MAX), z.string().max(LIMITS.METADATA_VALUE_MAX))
      .refine((metadata) => Object.keys(metadata).length <= LIMITS.METADATA_COUNT_MAX, {
        message: `has more than ${LIMITS.METADATA_COUNT_MAX} entries`,
        params: { code: "too_long" },
      })
      .optional()
      .openapi({ description: "The caller's own labels, returned as they are", example: { ticket: "42" } }),
    policy: PolicySchema.optional().openapi({ description: "What the sandbox may do; `model-only` when absent" }),
    secrets: secrets.optional(),
    timeout_s: timeoutS
      .optional()
      .openapi({ description: `Seconds until the session ends; ${CORE_BOUNDS.SESSION_TIMEOUT_S_DEFAULT} when absent` }),
    limits: LimitsSchema.optional(),
  })
  .openapi("CreateSession");
export type CreateSessionBody = z.infer<typeof CreateSessionBodySchema>;

export const PatchSessionBodySchema = z
  .strictObject({
    timeout_s: timeoutS.optional().openapi({ description: "Seconds from now until the session ends" }),
    limits: limitsPatch.optional(),
  })
  .superRefine((body, ctx) => {
    if (body.timeout_s !== undefined || body.limits !== undefined) return;
    const message = "one of timeout_s and limits is required";
    ctx.addIssue({ code: "custom", path: ["timeout_s"], message, params: { code: "missing_field" } });
  })
  .openapi("PatchSession");
export type PatchSessionBody = z.infer<typeof PatchSessionBodySchema>;

export const SessionStateSchema = z.enum(["starting", "idle", "running", "ending", "ended"]).openapi("SessionState");

export const UsageSchema = z
  .object({
    input_tokens: z.number(),
    output_tokens: z.number(),
    cache_read_tokens: z.number(),
    cache_write_tokens: z.number(),
    cost_usd: z.number().nullable().openapi({ description: "null: a model without a known price was used" }),
    turns: z.number(),
    tool_calls: z.number(),
    output_bytes: z.number(),
    wall_ms: z.number(),
  })
  .openapi("Usage");

export const SessionSchema = z
  .object({
    id: z.string(),
    agent: AgentNameSchema,
    template: z.string().nullable().openapi({ description: "null: the default root" }),
    state: SessionStateSchema,
    created_at: timestamp,
    expires_at: timestamp.nullable(),
    ended_at: timestamp.nullable(),
    ended_reason: z.string().nullable(),
    timeout_s: z.number(),
    metadata: z.record(z.string(), z.string()),
    runs: z.number().openapi({ description: "How many runs were created" }),
    last_seq: z.number().openapi({ description: "Number of the newest event" }),
    usage: UsageSchema,
    limits: LimitsSchema,
    budget: BudgetSchema,
    price_table: z.string().nullable().openapi({ description: "Version of the price table", example: "2026-11-21" }),
  })
  .openapi("Session");

/** What the index (D1) knows of a session: all but its counters. It may be a moment behind the session itself. */
export const SessionSummarySchema = SessionSchema.omit({
  usage: true,
  limits: true,
  budget: true,
  price_table: true,
}).openapi("SessionSummary");
export type SessionSummary = z.infer<typeof SessionSummarySchema>;

/* --- runs ---------------------------------------------------------------------------------------------------------- */

export const CreateRunBodySchema = z
  .strictObject({
    prompt: boundedText(CORE_BOUNDS.PROMPT_MAX, "empty_prompt")
      .optional()
      .openapi({ description: "For an agent", example: "Make the failing test pass." }),
    command: boundedText(CORE_BOUNDS.COMMAND_MAX, "empty_command")
      .optional()
      .openapi({ description: "For the `shell` agent: run by bash", example: "make test" }),
    model: boundedText(CORE_BOUNDS.MODEL_MAX, "invalid_value").optional(),
    max_turns: z.int().min(1).max(CORE_BOUNDS.MAX_TURNS_MAX).optional(),
    timeout_s: timeoutS
      .optional()
      .openapi({ description: `Wall time of the run; ${CORE_BOUNDS.RUN_TIMEOUT_S_DEFAULT} when absent` }),
    resume: z
      .union([z.boolean(), z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9_.:-]*$/)])
      .optional()
      .openapi({
        description:
          "false starts a new conversation; true, the default, goes on with the session's last one; an " +
          "`agent_session_id` of this session goes on with that one",
      }),
    fork: z.boolean().optional().openapi({
      description: "goes on with a copy of the conversation, which stays as it is (not Gemini CLI)",
    }),
    partial_messages: z.boolean().optional().openapi({ description: "texts in pieces as well (Claude Code)" }),
    output_format: z
      .enum(["stream-json", "json", "text"])
      .optional()
      .openapi({ description: "what Claude Code prints; only `stream-json`, the default, has events on the way" }),
    limits: RunLimitsSchema.optional(),
  })
  .superRefine((body, ctx) => {
    if ((body.prompt === undefined) === (body.command === undefined)) {
      const message =
        body.prompt === undefined ? "one of prompt and command is required" : "prompt and command exclude each other";
      const code = body.prompt === undefined ? "missing_field" : "conflicting_fields";
      ctx.addIssue({
        code: "custom",
        path: body.prompt === undefined ? ["prompt"] : ["command"],
        message,
        params: { code },
      });
    }
  })
  .openapi("CreateRun");
export type CreateRunBody = z.infer<typeof CreateRunBodySchema>;

export const RunStateSchema = z
  .enum([
    "queued",
    "running",
    "succeeded",
    "failed",
    "interrupted",
    "cancelled",
    "timed_out",
    "over_budget",
    "policy_violation",
  ])
  .openapi("RunState");

const countsSchema = z
  .object({
    turns: z.number(),
    tool_calls: z.number(),
    tool_errors: z.number(),
    denials: z.number(),
    subagents: z.number(),
    retries: z.number(),
    errors: z.number(),
    unparsed: z.number().openapi({ description: "Lines of the agent's output that are no events" }),
  })
  .openapi("RunCounts");
const touchedFile = z
  .object({
    path: z.string(),
    reads: z.number().openapi({ description: "By tools that name a file" }),
    edits: z.number(),
    status: z
      .enum(["added", "modified", "deleted"])
      .nullable()
      .openapi({ description: "Against the state before the run" }),
  })
  .openapi("TouchedFile");
const truncatedSchema = z
  .object({ items: z.number(), files: z.number(), events: z.number() })
  .nullable()
  .openapi({ description: "How much did not fit; null when all did" });

export const RunSummarySchema = z
  .object({ counts: countsSchema, files: z.array(touchedFile), truncated: truncatedSchema })
  .openapi("RunSummary");

export const TranscriptSchema = z
  .looseObject({
    format: z.literal("caisson.transcript/1"),
    run: z.string().nullable(),
    agent: z.looseObject({ model: z.string().nullable() }).nullable(),
    state: z.string().nullable().openapi({ description: "null while the run is under way" }),
    counts: countsSchema,
    files: z.array(touchedFile),
    truncated: truncatedSchema,
    turns: z.array(
      z.looseObject({
        turn: z.number().openapi({ description: "0 for what comes before the first answer of the model" }),
        seq: z.number(),
        items: z.array(
          z.looseObject({
            type: z.enum([
              "text",
              "thinking",
              "tool_call",
              "tool_result",
              "output",
              "retry",
              "denied",
              "warning",
              "error",
            ]),
            seq: z.number(),
          }),
        ),
      }),
    ),
  })
  .openapi("Transcript");

export const SessionTranscriptSchema = z
  .object({
    format: z.literal("caisson.session/1"),
    session: z.string(),
    agent: z.string(),
    runs: z.array(TranscriptSchema).openapi({ description: "Oldest first" }),
  })
  .openapi("SessionTranscript");

export const RunSchema = z
  .object({
    id: z.string().openapi({ example: "run_1" }),
    session_id: z.string(),
    state: RunStateSchema,
    prompt: z.string().optional(),
    command: z.string().optional(),
    created_at: timestamp,
    started_at: timestamp.nullable(),
    ended_at: timestamp.nullable(),
    exit_code: z.number().nullable(),
    reason: z.string().nullable().openapi({ description: "Why a run that did not succeed ended" }),
    result: z.string().nullable().openapi({ description: "The agent's final text" }),
    // A union and not nullable(), which would become an intersection of the component with null: never null.
    usage: z.union([UsageSchema, z.null()]),
    limits: RunLimitsSchema,
    budget: BudgetSchema,
    reached: z
      .object({
        limit: z.string(),
        scope: z.enum(["session", "run"]),
        used: z.number().nullable(),
        max: z.number(),
        detail: z.string().optional(),
      })
      .nullable()
      .openapi({ description: "The limit that was reached; it ended the run unless the agent had ended by itself" }),
    summary: RunSummarySchema.optional().openapi({
      description: "What the run touched; of one that is over, where it alone is asked for",
    }),
  })
  .openapi("Run");

/* --- exec and one-shots -------------------------------------------------------------------------------------------- */

export const ExecBodySchema = z
  .strictObject({
    command: boundedText(CORE_BOUNDS.COMMAND_MAX, "empty_command")
      .optional()
      .openapi({ description: "Run by the sandbox's shell", example: "ls -l && git status --short" }),
    argv: z
      .array(boundedText(CORE_BOUNDS.COMMAND_MAX))
      .min(1)
      .max(LIMITS.ARGV_COUNT_MAX)
      .optional()
      .openapi({ description: "Program and arguments, passed without interpretation", example: ["git", "log", "-1"] }),
    cwd: z
      .string()
      .min(1)
      .max(LIMITS.PATH_MAX)
      .refine((cwd) => !cwd.includes("\0"), { message: "must not contain NUL", params: { code: "invalid_path" } })
      .optional()
      .openapi({ description: "Absolute, or relative to /workspace; /workspace when absent" }),
    env: envVars.optional(),
    stdin: stdinText().optional(),
    timeout_s: z
      .int()
      .min(1)
      .max(LIMITS.EXEC_TIMEOUT_S_MAX)
      .optional()
      .openapi({ description: `Then the whole process tree is killed; ${LIMITS.EXEC_TIMEOUT_S_DEFAULT} when absent` }),
  })
  .superRefine((body, ctx) => {
    if ((body.command === undefined) !== (body.argv === undefined)) return;
    const none = body.command === undefined;
    const message = none ? "one of command and argv is required" : "command and argv exclude each other";
    const path = none ? ["command"] : ["argv"];
    ctx.addIssue({ code: "custom", path, message, params: { code: none ? "missing_field" : "conflicting_fields" } });
  })
  .openapi("Exec");
export type ExecBody = z.infer<typeof ExecBodySchema>;

/** Standard input is a file's content, so NUL is welcome; only its length is bounded. */
function stdinText(): z.ZodString {
  return z
    .string()
    .refine((text) => text.length <= LIMITS.STDIN_MAX && utf8.encode(text).byteLength <= LIMITS.STDIN_MAX, {
      message: `is longer than ${LIMITS.STDIN_MAX} bytes`,
      params: { code: "too_long" },
    })
    .openapi({ description: "Standard input; empty when absent" });
}

export const ExecResultSchema = z
  .object({
    exit_code: z.number().openapi({ description: "124 when the time-out ended it, 128 + n when signal n did" }),
    stdout: z.string(),
    stderr: z.string(),
    duration_ms: z.number(),
    timed_out: z.boolean(),
    truncated: z
      .boolean()
      .optional()
      .openapi({ description: "true when output was dropped because it is longer than an answer may be" }),
  })
  .openapi("ExecResult");
export type ExecResult = z.infer<typeof ExecResultSchema>;

export const LanguageSchema = z.enum(["python", "javascript", "typescript", "bash"]).openapi("Language");
export type Language = z.infer<typeof LanguageSchema>;

export const ExecuteBodySchema = z
  .strictObject({
    language: LanguageSchema,
    code: boundedText(LIMITS.CODE_MAX, "empty_code").openapi({ example: "print(6 * 7)" }),
    template: templateName.optional(),
    files: files.optional().openapi({ description: "Laid out in /workspace, where the code runs" }),
    stdin: stdinText().optional(),
    env: envVars.optional(),
    timeout_s: z
      .int()
      .min(1)
      .max(LIMITS.EXECUTE_TIMEOUT_S_MAX)
      .optional()
      .openapi({ description: `${LIMITS.EXECUTE_TIMEOUT_S_DEFAULT} when absent` }),
  })
  .openapi("Execute");
export type ExecuteBody = z.infer<typeof ExecuteBodySchema>;

export const ExecuteResultSchema = ExecResultSchema.extend({
  language: LanguageSchema,
  sandbox_id: z.string().openapi({ description: "The sandbox that ran the code; it is gone when this arrives" }),
}).openapi("ExecuteResult");

/** The contract of the claude-code-templates Cloudflare worker; its names, its units. */
export const QuestionBodySchema = z
  .strictObject({
    question: boundedText(LIMITS.QUESTION_MAX, "empty_question").openapi({
      example: "What is the 10th Fibonacci number?",
    }),
    language: z.enum(["python", "javascript"]).optional().openapi({ description: "python when absent" }),
    timeout: z
      .int()
      .min(0)
      .max(LIMITS.EXECUTE_TIMEOUT_S_MAX * 1000)
      .optional()
      .openapi({ description: "Milliseconds for the code; 30000 when absent or 0" }),
    maxTokens: z.int().min(0).max(64_000).optional().openapi({ description: "For the model; 2048 when absent or 0" }),
  })
  .openapi("Question");

export const QuestionResultSchema = z
  .object({
    success: z.boolean().openapi({ description: "The code exited with 0" }),
    question: z.string(),
    code: z.string(),
    output: z.string().openapi({ description: "Standard output" }),
    error: z.string().openapi({ description: "Standard error" }),
    sandboxId: z.string(),
    executionTime: z.number().openapi({ description: "Milliseconds, from the request to the answer" }),
  })
  .openapi("QuestionResult");

/* --- the rest ------------------------------------------------------------------------------------------------------ */

export const ProblemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.number(),
    code: z.string().openapi({ description: "Stable; what programs test" }),
    detail: z.string(),
    field: z.string().optional().openapi({ description: "JSON pointer into the body, or the name of a parameter" }),
    instance: z.string().openapi({ description: "The request's id" }),
  })
  .openapi("Problem");

export const ArtifactSchema = z
  .object({
    run_id: z.string(),
    path: z.string(),
    size: z.number(),
    sha256: z.string(),
    mode: z.string(),
    url: z.string(),
  })
  .openapi("Artifact");

export const FileInfoSchema = z
  .object({
    name: z.string(),
    path: z.string().openapi({ description: "Absolute" }),
    type: z.enum(["file", "directory", "symlink", "other"]),
    size: z.number(),
    modified_at: z.string(),
    mode: z.string().openapi({ example: "rw-r--r--" }),
  })
  .openapi("FileInfo");
