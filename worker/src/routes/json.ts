/** Answers in JSON. */

export function json(value: unknown, status = 200, headers: Record<string, string> = {}): Response {
  return new Response(JSON.stringify(value), { status, headers: { "content-type": "application/json", ...headers } });
}

/** Whether the client asks for Server-Sent Events. */
export function wantsSSE(request: Request): boolean {
  return /(^|,)\s*text\/event-stream\b/i.test(request.headers.get("accept") ?? "");
}
