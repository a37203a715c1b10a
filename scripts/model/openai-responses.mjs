/** The OpenAI Responses API, as Codex uses it. */
import { pause, pieces, usageOf } from "./place.mjs";

export const matches = (path) => path === "/v1/responses";

const ANSWERS = new Set(["function_call", "custom_tool_call", "local_shell_call", "reasoning"]);

/** Neighbouring items of the model are one answer. What Codex says of its surroundings comes as a user's message too. */
export function entriesOf(body) {
  const entries = [];
  let answering = false;
  for (const item of Array.isArray(body.input) ? body.input : [{ role: "user", content: body.input }]) {
    const answer = item.role === "assistant" || ANSWERS.has(item.type);
    if (answer && !answering) entries.push({ role: "assistant" });
    answering = answer;
    if (item.role !== "user") continue;
    const parts = Array.isArray(item.content) ? item.content : [{ text: item.content }];
    const text = parts.map((part) => part.text ?? "").join("\n");
    if (!/^\s*(<[a-z_]+>|# AGENTS\.md)/.test(text)) entries.push({ role: "user", text });
  }
  return entries;
}

export function refuse(_status, type, message) {
  return { error: { message, type, param: null, code: null } };
}

function itemsOf(turn, seed) {
  const items = [];
  if (turn.thinking) {
    const summary = [{ type: "summary_text", text: turn.thinking }];
    items.push({ id: `rs_${seed}`, type: "reasoning", summary, encrypted_content: "c2NyaXB0ZWQ=" });
  }
  if (turn.text) {
    const content = [{ type: "output_text", text: turn.text, annotations: [] }];
    items.push({ id: `msg_${seed}`, type: "message", role: "assistant", status: "completed", content });
  }
  for (const [i, tool] of (turn.tools ?? []).entries()) {
    const call = { id: `fc_${seed}_${i}`, call_id: `call_${seed}_${i}`, name: tool.name, status: "completed" };
    items.push(
      typeof tool.input === "string"
        ? { ...call, type: "custom_tool_call", input: tool.input }
        : { ...call, type: "function_call", arguments: JSON.stringify(tool.input) },
    );
  }
  items.push(...(turn.items ?? []));
  if (items.length === 0) {
    const content = [{ type: "output_text", text: "Done.", annotations: [] }];
    items.push({ id: `msg_${seed}`, type: "message", role: "assistant", status: "completed", content });
  }
  return items;
}

export async function answer(res, { body, turn, seed, paceMs }) {
  const items = itemsOf(turn, seed);
  const used = usageOf(turn, body.input, items);
  const usage = {
    input_tokens: used.input,
    input_tokens_details: { cached_tokens: used.cacheRead },
    output_tokens: used.output,
    output_tokens_details: { reasoning_tokens: used.reasoning },
    total_tokens: used.input + used.output,
  };
  const response = { id: `resp_${seed}`, object: "response", model: body.model, status: "in_progress", output: [] };
  const done = { ...response, status: "completed", output: items, usage };
  if (!body.stream) {
    res.writeHead(200, { "content-type": "application/json" });
    res.end(JSON.stringify(done));
    return;
  }
  let number = 0;
  const send = (type, fields) =>
    res.write(`event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: number++, ...fields })}\n\n`);
  res.writeHead(200, {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "x-request-id": `req_${seed}`,
  });
  send("response.created", { response });
  if (turn.hang) return;
  for (const [index, item] of items.entries()) {
    send("response.output_item.added", { output_index: index, item: { ...item, content: [], summary: [] } });
    for (const delta of item.type === "message" ? pieces(turn.text ?? "Done.") : []) {
      send("response.output_text.delta", { item_id: item.id, output_index: index, content_index: 0, delta });
      if (paceMs > 0) await pause(paceMs);
    }
    send("response.output_item.done", { output_index: index, item });
  }
  if (turn.failed) send("response.failed", { response: { ...response, status: "failed", error: turn.failed } });
  else send("response.completed", { response: done });
  res.end();
}
