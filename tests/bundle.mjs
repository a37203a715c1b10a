/** Sources of the Worker as Node can import them. */
import { pathToFileURL } from "node:url";
import { build } from "esbuild";

/** Bundles the file at `entry`, with what it imports, into the file `outfile` and imports that. Rejects with esbuild's message. */
export async function importBundled(entry, outfile) {
  await build({ entryPoints: [entry], bundle: true, format: "esm", platform: "node", outfile, logLevel: "error" });
  return await import(pathToFileURL(outfile).href);
}
