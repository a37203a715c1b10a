/** The forms in which a secret turns up in what programs print; all of them are to be masked. */

/** What base64 of a longer text has of this one, where `before` (0..2) bytes stand before it: its own characters alone. */
export function insideBase64(text: string, before: number): string {
  const bytes = Buffer.concat([Buffer.alloc(before), Buffer.from(text)]);
  return bytes.toString("base64").slice(before === 0 ? 0 : before + 1, Math.floor((bytes.length * 8) / 6));
}

/** As it is, in JSON, in JSON in JSON, in a URL, in hex, in base64. */
export function formsOf(secret: string): string[] {
  return [
    secret,
    JSON.stringify(secret).slice(1, -1),
    JSON.stringify(JSON.stringify(secret)).slice(3, -3),
    encodeURIComponent(secret),
    Buffer.from(secret).toString("hex"),
    insideBase64(secret, 0),
    insideBase64(secret, 1),
    insideBase64(secret, 2),
  ];
}

/** A token by its shape alone: registered nowhere. */
export const SHAPE = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
