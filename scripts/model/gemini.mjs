/** The Gemini API (generateContent and streamGenerateContent), as Gemini CLI uses it. */
import { pause, pieces, usageOf } from "./place.mjs";

const PATH = /^\/v1beta\/models\/([^/:]+):(generateContent|streamGenerateContent|countTokens)$/;
export const matches = (path) => PATH.test(path);

export function entriesOf(body) {
  const entries = [];
  for (const content of body.contents ?? []) {
    if (content.role === "model") {
      entries.push({ role: "assistant" });
      continue;
    }
    if (content.parts.some((part) => part.functionResponse)) continue;
    entries.push({ role: "user", text: content.parts.map((part) => part.text ?? "").join("\n") });
  }
  return entries;
}

/** A request for JSON is one of the CLI's own: which model to take, whether the answer is complete. */
export function aside(body) {
  if (body.generationConfig?.responseJsonSchema === undefined && body.generationConfig?.responseSchema === undefined)
    return undefined;
  return {
    text: JSON.stringify({
      reasoning: "scripted",
      model_choice: "pro",
      next_speaker: "user",
      complexity_score: 90,
      complexity_reasoning: "scripted",
    }),
  };
}

const STATUS = {
  400: "INVALID_ARGUMENT",
  401: "UNAUTHENTICATED",
  403: "PERMISSION_DENIED",
  404: "NOT_FOUND",
  429: "RESOURCE_EXHAUSTED",
  503: "UNAVAILABLE",
};
export function refuse(status, _type, message) {
  return { error: { code: status, message, status: STATUS[status] ?? "INTERNAL" } };
}

export async function answer(res, { path, body, turn, seed, paceMs }) {
  const [, model, method] = PATH.exec(path);
  const parts = [];
  if (turn.thinking) parts.push({ text: turn.thinking, thought: true });
  for (const piece of pieces(turn.text ?? "")) parts.push({ text: piece });
  for (const [i, tool] of (turn.tools ?? []).entries())
    parts.push({ functionCall: { id: `call_${seed}_${i}`, name: tool.name, args: tool.input } });
  if (parts.length === 0) parts.push({ text: "Done." });
  const used = usageOf(turn, body.contents, parts);
  const usageMetadata = {
    promptTokenCount: used.input,
    candidatesTokenCount: used.output,
    thoughtsTokenCount: used.reasoning,
    cachedContentTokenCount: used.cacheRead,
    totalTokenCount: used.input + used.output + used.reasoning,
  };
  const chunk = (list, last) => ({
    candidates: [
      {
        content: { role: "model", parts: list },
        index: 0,
        ...(last ? { finishReason: turn.finish_reason ?? "STOP" } : {}),
      },
    ],
    ...(last ? { usageMetadata } : {}),
    modelVersion: model,
    responseId: `resp_${seed}`,
  });
  if (method === "countTokens") {
    res.writeHead(200, { "content-type": "application/json" });
    res.end(JSON.stringify({ totalTokens: used.input }));
    return;
  }
  if (method === "generateContent") {
    res.writeHead(200, { "content-type": "application/json" });
    res.end(JSON.stringify(chunk(parts, true)));
    return;
  }
  res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  res.flushHeaders();
  if (turn.hang) return;
  for (const [i, part] of parts.entries()) {
    res.write(`data: ${JSON.stringify(chunk([part], i === parts.length - 1))}\n\n`);
    if (paceMs > 0) await pause(paceMs);
  }
  res.end();
}
