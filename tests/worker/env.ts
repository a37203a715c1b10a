/// <reference types="@cloudflare/vitest-pool-workers/types" />

import type { D1Migration } from "cloudflare:test";
import { env as untyped } from "cloudflare:workers";
import type { Env } from "../../worker/src/env.js";
import type { Scratch } from "./entry.js";

export interface TestEnv extends Env {
  readonly SCRATCH: DurableObjectNamespace<Scratch>;
  readonly TEST_MIGRATIONS: D1Migration[];
}

export const env = untyped as unknown as TestEnv;
