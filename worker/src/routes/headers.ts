/** What every answer of the API carries, whatever it is about. */

/** Of an answer that nobody is meant to look at in a browser: it loads nothing, runs nothing and is framed by nobody. */
const API_CSP = "default-src 'none'; frame-ancestors 'none'";

/** Of bytes that a sandbox made: were a browser to show them all the same, as a page of no origin at all. */
export const UNTRUSTED_CSP = `sandbox; ${API_CSP}`;

/** Of streams: kept by no cache, and not compressed on the way, which would hold events back. */
export const STREAM_CACHE_CONTROL = "no-store, no-transform";

/** seconds that a browser asks for this host by HTTPS alone: a year. */
const HSTS_S = 31_536_000;

/** Sets them; what an endpoint has said about caching and about content stays. */
export function setSecurityHeaders(headers: Headers, url: string): void {
  headers.set("x-content-type-options", "nosniff");
  if (!headers.has("cache-control")) headers.set("cache-control", "no-store");
  if (!headers.has("content-security-policy")) headers.set("content-security-policy", API_CSP);
  // Addresses of this API can carry the token of a link.
  headers.set("referrer-policy", "no-referrer");
  headers.set("cross-origin-resource-policy", "same-origin");
  if (url.startsWith("https:")) headers.set("strict-transport-security", `max-age=${HSTS_S}`);
}
