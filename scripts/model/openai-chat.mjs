/** The OpenAI Chat Completions API, as OpenCode uses it. */
import { pause, pieces, usageOf } from "./place.mjs";

export const matches = (path) => path === "/v1/chat/completions";

function textOf(message) {
  if (typeof message.content === "string") return message.content;
  return (message.content ?? []).map((part) => part.text ?? "").join("\n");
}

export function entriesOf(body) {
  const entries = [];
  for (const message of body.messages) {
    if (message.role === "assistant") entries.push({ role: "assistant" });
    if (message.role === "user") entries.push({ role: "user", text: textOf(message) });
  }
  return entries;
}

/** A request without tools is one for a title or the like: it is no part of the conversation. */
export function aside(body) {
  if ((body.tools ?? []).length > 0) return undefined;
  return { text: "A scripted title", usage: { input_tokens: 50, output_tokens: 5 } };
}

export function refuse(_status, type, message) {
  return { error: { message, type, param: null, code: null } };
}

export async function answer(res, { body, turn, seed, paceMs }) {
  const calls = (turn.tools ?? []).map((tool, i) => ({
    index: i,
    id: `call_${seed}_${i}`,
    type: "function",
    function: { name: tool.name, arguments: JSON.stringify(tool.input) },
  }));
  const text = turn.text ?? (calls.length === 0 ? "Done." : "");
  const used = usageOf(turn, body.messages, [text, calls]);
  const usage = {
    prompt_tokens: used.input,
    completion_tokens: used.output,
    total_tokens: used.input + used.output,
    prompt_tokens_details: { cached_tokens: used.cacheRead },
    completion_tokens_details: { reasoning_tokens: used.reasoning },
  };
  const head = { id: `chatcmpl-${seed}`, created: 1_700_000_000, model: body.model };
  const finish_reason = calls.length > 0 ? "tool_calls" : (turn.finish_reason ?? "stop");
  if (!body.stream) {
    const message = { role: "assistant", content: text, ...(calls.length > 0 ? { tool_calls: calls } : {}) };
    res.writeHead(200, { "content-type": "application/json" });
    res.end(
      JSON.stringify({ ...head, object: "chat.completion", choices: [{ index: 0, message, finish_reason }], usage }),
    );
    return;
  }
  const write = (fields) =>
    res.write(`data: ${JSON.stringify({ ...head, object: "chat.completion.chunk", ...fields })}\n\n`);
  const delta = (fields, reason = null) => write({ choices: [{ index: 0, delta: fields, finish_reason: reason }] });
  res.writeHead(200, {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-request-id": `req_${seed}`,
  });
  delta({ role: "assistant", content: "" });
  if (turn.hang) return;
  for (const piece of turn.thinking ? pieces(turn.thinking) : []) delta({ reasoning_content: piece });
  for (const piece of pieces(text)) {
    delta({ content: piece });
    if (paceMs > 0) await pause(paceMs);
  }
  if (calls.length > 0) delta({ tool_calls: calls });
  delta({}, finish_reason);
  write({ choices: [], usage });
  res.write("data: [DONE]\n\n");
  res.end();
}
