import { applyD1Migrations } from "cloudflare:test";
import { env } from "./env.js";

await applyD1Migrations(env.INDEX, env.TEST_MIGRATIONS);
