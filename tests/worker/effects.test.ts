import { describe, expect, it } from "vitest";
import { R2Writer } from "../../worker/src/effects/r2.js";
import { templateRefusal } from "../../worker/src/effects/template.js";
import { parseChanges, sh } from "../../worker/src/effects/workspace.js";
import type { Env } from "../../worker/src/env.js";
import { env } from "./env.js";

const PART = 8 * 1024 * 1024;
const NONE = "0".repeat(40);
const BLOB = "1".repeat(40);

describe("R2Writer", () => {
  it.each([0, 1, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 5])(
    "stores %d bytes as they came, whatever their pieces",
    async (size) => {
      const bytes = new Uint8Array(size).map((_, i) => (i * 31 + (i >> 13)) & 255);
      const key = `writer/${size}`;
      const writer = new R2Writer(env.ARTIFACTS, key);
      for (let at = 0; at < size; at += 777_777) await writer.write(bytes.subarray(at, at + 777_777));
      expect(await env.ARTIFACTS.head(key)).toBeNull();
      await writer.close();
      const stored = new Uint8Array((await (await env.ARTIFACTS.get(key))?.arrayBuffer()) ?? new ArrayBuffer());
      expect(stored.byteLength).toBe(size);
      expect(Buffer.compare(stored, bytes)).toBe(0);
      expect(writer.size).toBe(size);
    },
  );

  it("leaves nothing when it is given up", async () => {
    const writer = new R2Writer(env.ARTIFACTS, "writer/aborted");
    await writer.write(new Uint8Array(PART + 1));
    await writer.abort();
    expect(await env.ARTIFACTS.head("writer/aborted")).toBeNull();
  });
});

describe("templateRefusal", () => {
  it("refuses every template where the platform runs the sandboxes, and says what to do instead", async () => {
    const { CAISSON_ENGINE_URL: _, ...production } = env as unknown as Env;
    expect(await templateRefusal(production as Env, undefined)).toBeNull();
    const refusal = await templateRefusal(production as Env, "debian");
    expect(refusal?.code).toBe("template_unsupported");
    expect(refusal?.detail).toContain("Dockerfile");
  });
});

describe("parseChanges", () => {
  const output = (raw: string | Uint8Array, sizes = ""): string =>
    `${"c".repeat(40)}\n${Buffer.from(raw).toString("base64")}\n--\n${sizes}`;

  it("reads every kind of change, and names with anything in them", () => {
    const raw =
      `:000000 100644 ${NONE} ${BLOB} A\0a "b"\n\tc é\0` +
      `:100644 100755 ${BLOB} ${BLOB} M\0run.sh\0` +
      `:100644 000000 ${BLOB} ${NONE} D\0gone\0` +
      `:000000 120000 ${NONE} ${BLOB} A\0link\0` +
      `:100644 120000 ${BLOB} ${BLOB} T\0turned\0` +
      `:000000 160000 ${NONE} ${BLOB} A\0module\0`;
    expect(parseChanges(output(raw, `${BLOB} 12\n`))).toEqual({
      tree: "c".repeat(40),
      skipped: 0,
      changes: [
        { path: 'a "b"\n\tc é', status: "added", type: "file", mode: "644", size: 12 },
        { path: "run.sh", status: "modified", type: "file", mode: "755", size: 12 },
        { path: "gone", status: "deleted", type: "other", mode: "000", size: null },
        { path: "link", status: "added", type: "symlink", mode: "000", size: 12 },
        { path: "turned", status: "modified", type: "symlink", mode: "000", size: 12 },
        { path: "module", status: "added", type: "other", mode: "000", size: 12 },
      ],
    });
  });

  it("leaves out names that are not UTF-8, and what was cut off", () => {
    const one = Buffer.from(`:000000 100644 ${NONE} ${BLOB} A\0x\0`);
    const bad = Buffer.concat([Buffer.from(`:000000 100644 ${NONE} ${BLOB} A\0`), Buffer.from([0x62, 0xff, 0])]);
    const cut = Buffer.from(`:000000 100644 ${NONE} ${BLOB} A\0cut-in-the-mid`);
    const { changes, skipped } = parseChanges(output(Buffer.concat([bad, one, cut])));
    expect(changes.map(({ path }) => path)).toEqual(["x"]);
    expect(skipped).toBe(1);
  });

  it("is content with nothing", () => {
    expect(parseChanges(output(""))).toEqual({ tree: "c".repeat(40), changes: [], skipped: 0 });
  });
});

describe("sh", () => {
  it("quotes everything into one word", () => {
    expect(sh("it's $(a) `b`")).toBe("'it'\\''s $(a) `b`'");
  });
});
