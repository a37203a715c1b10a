/**
 * Session ids: `ses_`, 16 characters of base32 (80 bits), 4 characters that check them.
 *
 * The check lets a wrong id be refused without waking, and so without creating, a Durable Object. It is no secret and keeps
 * nobody out: that is what keys and tokens are for.
 */
import { createHash } from "node:crypto";

const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";
const ID = /^ses_([a-z2-7]{16})([a-z2-7]{4})$/;

export function newSessionId(): string {
  return formatId(crypto.getRandomValues(new Uint8Array(10)));
}

/** The id that an Idempotency-Key stands for: the same key of one tenant always names the same session. */
export function sessionIdForKey(key: string, tenant: string): string {
  const owner = tenant === "" ? "" : `${tenant}\0`;
  return formatId(createHash("sha256").update(`caisson session key\0${owner}${key}`).digest().subarray(0, 10));
}

export function isSessionId(text: string): boolean {
  const match = ID.exec(text);
  return match !== null && checkOf(match[1] ?? "") === match[2];
}

/** Name of a sandbox that lives as long as one request. Lower case, because host names are. */
export function newOneshotId(): string {
  return `one-${base32(crypto.getRandomValues(new Uint8Array(10)))}`;
}

function formatId(bytes: Uint8Array): string {
  const body = base32(bytes);
  return `ses_${body}${checkOf(body)}`;
}

function checkOf(body: string): string {
  return base32(createHash("sha256").update(`caisson session id\0${body}`).digest().subarray(0, 5)).slice(0, 4);
}

/** RFC 4648 alphabet in lower case, no padding; `bytes` is a multiple of 5 long. */
function base32(bytes: Uint8Array): string {
  let text = "";
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += ALPHABET[(held >> bits) & 31];
    }
    held &= 31;
  }
  return text;
}
