/** TAP, as the tests that are programs of their own print it; tests/unit/tally.mjs adds it up. */
let count = 0;
let failed = 0;

/** One test. Of `detail`, which stands below a failed one, at most 64 KiB are shown. */
export function ok(good, name, detail = "") {
  count += 1;
  if (!good) failed += 1;
  console.log(`${good ? "ok" : "not ok"} ${count} - ${name}`);
  if (!good && detail) console.log(String(detail).slice(0, 65_536).replace(/^/gm, "  # "));
}

/** Prints the plan and ends the program: with 1 when a test failed. */
export function done() {
  console.log(`1..${count}`);
  process.exit(failed > 0 ? 1 : 0);
}
