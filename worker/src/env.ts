/** Bindings and variables of the Worker; wrangler.toml gives the bindings, scripts/dev.mjs the local variables. */
import type { Sandbox } from "../../sandbox-sdk-shim/src/sandbox.js";
import type { Tenant } from "./identity/tenant.js";
import type { Session } from "./session/session.js";

export interface Env {
  /** One object per session: log, runs, the core. */
  readonly SESSION: DurableObjectNamespace<Session>;
  /** One object per sandbox: the SDK's class. */
  readonly SANDBOX: DurableObjectNamespace<Sandbox>;
  /** One object per tenant: quotas, administrative acts. */
  readonly TENANT: DurableObjectNamespace<Tenant>;
  /** `sessions/<id>/…`: artifacts, diffs, archived logs. */
  readonly ARTIFACTS: R2Bucket;
  /** Table `sessions`: see worker/migrations. */
  readonly INDEX: D1Database;
  /** Base URL of the local engine, e.g. http://127.0.0.1:7070. Absent in production. */
  readonly CAISSON_ENGINE_URL?: string;
  /** Bearer token of the local engine. */
  readonly CAISSON_ENGINE_TOKEN?: string;
  /** URL under which the local engine reaches this Worker. */
  readonly CAISSON_WORKER_URL?: string;
  /** Added to model requests on their way out, each for its vendor; they never enter a sandbox. */
  readonly ANTHROPIC_API_KEY?: string;
  readonly OPENAI_API_KEY?: string;
  readonly GEMINI_API_KEY?: string;
  /** Where a vendor's model requests go; its own address when absent. */
  readonly ANTHROPIC_UPSTREAM?: string;
  readonly OPENAI_UPSTREAM?: string;
  readonly GEMINI_UPSTREAM?: string;
  /** The operator's own prices, a JSON array; see docs/EVENTS.md, "Usage and budgets". */
  readonly CAISSON_PRICES?: string;
  /** When set, the API asks for it as a bearer token; its holder is the operator. */
  readonly CAISSON_API_KEY?: string;
  /** Signing keys of tokens and static keys: a document that `caisson-token keygen` begins (csn/token.h). */
  readonly CAISSON_KEYS?: string;
  /** Keys that seal secrets at rest: `<version>:<32 bytes in base64url>`, newest first, separated by commas. */
  readonly CAISSON_SEAL_KEY?: string;
  /** The operator's presets of policies: a JSON object of documents by name. */
  readonly CAISSON_POLICIES?: string;
  /** Seconds that a git push waits for its approval; 600 when absent. */
  readonly CAISSON_APPROVAL_WAIT_S?: string;
  /** Model that `POST /execute` asks for code. */
  readonly CAISSON_CODE_MODEL?: string;
  /** Class → limits of a tenant, JSON (identity/quotas.ts). */
  readonly CAISSON_QUOTAS?: string;
  /** Origins whose pages may call, separated by commas; `*` for any. None when absent. */
  readonly CAISSON_CORS_ORIGINS?: string;
  /** Domain below which previews are served; `localhost` when absent, which serves them on the machine itself. */
  readonly CAISSON_PREVIEW_HOST?: string;
}
