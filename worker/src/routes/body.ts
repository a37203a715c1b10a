/** Reading request bodies: counted while they arrive, so that no header has to be believed. */
import { problem } from "../errors.js";

/**
 * Parses a JSON body of at most `maxBytes`. Throws the problem for a wrong content type, a body that is too long, is not
 * UTF-8 or is not JSON.
 */
export async function readJSON(request: Request, maxBytes: number): Promise<unknown> {
  const type = (request.headers.get("content-type") ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  if (type !== "application/json" && !/^application\/[\w.-]+\+json$/.test(type)) {
    const got = type === "" ? "none" : `"${type.slice(0, 100)}"`;
    throw problem("unsupported_media_type", `Send the body as Content-Type: application/json; got ${got}.`);
  }
  const bytes = await readBytes(request, maxBytes);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes);
  } catch {
    throw problem("malformed_json", "The body is not UTF-8.");
  }
  if (text.trim() === "") throw problem("malformed_json", "The body is empty; a JSON object is expected.");
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const why = error instanceof Error ? error.message : "not JSON";
    throw problem("malformed_json", `The body is not JSON: ${why.slice(0, 200)}`);
  }
}

/** The whole body; throws `body_too_large` as soon as more than `maxBytes` have arrived. */
export async function readBytes(request: Request, maxBytes: number): Promise<Uint8Array<ArrayBuffer>> {
  const declared = Number(request.headers.get("content-length") ?? "0");
  if (declared > maxBytes) throw tooLarge(maxBytes);
  if (request.body === null) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  let length = 0;
  const reader = request.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.byteLength;
    if (length > maxBytes) {
      await reader.cancel().catch(() => undefined);
      throw tooLarge(maxBytes);
    }
    chunks.push(value);
  }
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return whole;
}

function tooLarge(maxBytes: number): Error {
  return problem("body_too_large", `The body is longer than ${maxBytes} bytes, the most that is taken here.`);
}
