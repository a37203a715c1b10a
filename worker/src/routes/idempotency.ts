/** The Idempotency-Key header. */
import { problem } from "../errors.js";
import { LIMITS } from "../limits.js";

/** The key of a request, or undefined when it has none; throws when it is empty, too long or not printable ASCII. */
export function idempotencyKey(request: Request): string | undefined {
  const key = request.headers.get("idempotency-key");
  if (key === null) return undefined;
  if (!/^[\x21-\x7e]+$/.test(key) || key.length > LIMITS.IDEMPOTENCY_KEY_MAX) {
    const detail = `Idempotency-Key must be 1 to ${LIMITS.IDEMPOTENCY_KEY_MAX} printable ASCII characters without spaces.`;
    throw problem("invalid_value", detail, { field: "Idempotency-Key" });
  }
  return key;
}
