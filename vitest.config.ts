import { cloudflareTest, readD1Migrations } from "@cloudflare/vitest-pool-workers";
import { defineConfig } from "vitest/config";

/** Worker tests, inside workerd. The sandbox behind the session is scripted: tests/worker/fake-sandbox.ts. */
export default defineConfig(async () => ({
  plugins: [
    cloudflareTest({
      main: "./tests/worker/entry.ts",
      miniflare: {
        compatibilityDate: "2026-08-01",
        compatibilityFlags: ["nodejs_compat"],
        // As in production: workerd compiles the module; Vite on its own would read and instantiate it.
        modulesRules: [{ type: "CompiledWasm", include: ["**/*.wasm"] }],
        durableObjects: {
          SESSION: { className: "Session", useSQLite: true },
          SANDBOX: { className: "FakeSandbox", useSQLite: true },
          TENANT: { className: "Tenant", useSQLite: true },
          SCRATCH: { className: "Scratch", useSQLite: true },
        },
        r2Buckets: ["ARTIFACTS"],
        d1Databases: ["INDEX"],
        bindings: {
          TEST_MIGRATIONS: await readD1Migrations("worker/migrations"),
          // Of tests alone: 32 bytes of 7.
          CAISSON_SEAL_KEY: `1:${Buffer.alloc(32, 7).toString("base64url")}`,
          CAISSON_PRICES: '[{"model":"house-model","input":1,"output":2.5}]',
        },
      },
    }),
  ],
  test: {
    include: ["tests/worker/**/*.test.ts"],
    setupFiles: ["./tests/worker/setup.ts"],
    testTimeout: 10_000,
    // Logs go straight to workerd's own. Vitest would send each as a call to its main process and end a file when all are answered;
    // the pool cannot send one that an object makes after the file's last test, and the run would wait for its answer forever
    // (cloudflare/workers-sdk#15498).
    disableConsoleIntercept: true,
    // A run that is cut says in which file.
    reporters: ["default", { onTestModuleStart: ({ relativeModuleId }) => console.log(` … ${relativeModuleId}`) }],
  },
}));
