/** The Anthropic Messages API, as Claude Code uses it. */
import { pause, pieces, usageOf } from "./place.mjs";

export const matches = (path) => path === "/v1/messages" || path === "/v1/messages/count_tokens";

export function entriesOf(body) {
  const entries = [];
  for (const { role, content } of body.messages) {
    if (role === "assistant") {
      entries.push({ role });
      continue;
    }
    const blocks = typeof content === "string" ? [{ type: "text", text: content }] : content;
    const texts = blocks.filter((block) => block.type === "text").map((block) => block.text);
    const within = blocks.some((block) => block.type === "tool_result");
    if (texts.length > 0) entries.push({ role, text: texts.join("\n"), within });
  }
  return entries;
}

export function refuse(_status, type, message, seed) {
  return { type: "error", error: { type, message }, request_id: `req_${seed}` };
}

function blocksOf(turn, seed) {
  const blocks = [];
  if (turn.thinking) blocks.push({ type: "thinking", thinking: turn.thinking, signature: "c2NyaXB0ZWQ=" });
  if (turn.text) blocks.push({ type: "text", text: turn.text });
  for (const [i, tool] of (turn.tools ?? []).entries())
    blocks.push({ type: "tool_use", id: `toolu_${seed}_${i}`, name: tool.name, input: tool.input });
  if (blocks.length === 0) blocks.push({ type: "text", text: "Done." });
  return blocks;
}

async function stream(res, message, blocks, usage, turn, paceMs) {
  const send = (type, fields) => res.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...fields })}\n\n`);
  res.writeHead(200, {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    "request-id": `req_${message.id}`,
  });
  send("message_start", {
    message: { ...message, content: [], stop_reason: null, usage: { ...usage, output_tokens: 1 } },
  });
  if (turn.hang) return;
  for (const [index, block] of blocks.entries()) {
    const deltas = [];
    let start = block;
    if (block.type === "text") {
      start = { type: "text", text: "" };
      for (const text of pieces(block.text)) deltas.push({ type: "text_delta", text });
    } else if (block.type === "thinking") {
      start = { type: "thinking", thinking: "", signature: "" };
      for (const thinking of pieces(block.thinking)) deltas.push({ type: "thinking_delta", thinking });
      deltas.push({ type: "signature_delta", signature: block.signature });
    } else {
      start = { ...block, input: {} };
      deltas.push({ type: "input_json_delta", partial_json: JSON.stringify(block.input) });
    }
    send("content_block_start", { index, content_block: start });
    for (const delta of deltas) {
      send("content_block_delta", { index, delta });
      if (paceMs > 0) await pause(paceMs);
    }
    send("content_block_stop", { index });
  }
  send("message_delta", {
    delta: { stop_reason: turn.tools?.length ? "tool_use" : "end_turn", stop_sequence: null },
    usage: { output_tokens: usage.output_tokens },
  });
  send("message_stop", {});
  res.end();
}

export async function answer(res, { path, body, turn, seed, paceMs }) {
  if (path.endsWith("/count_tokens")) {
    res.writeHead(200, { "content-type": "application/json" });
    res.end(JSON.stringify({ input_tokens: Math.ceil(JSON.stringify(body.messages).length / 4) }));
    return;
  }
  const blocks = blocksOf(turn, seed);
  const used = usageOf(turn, body.messages, blocks);
  const usage = {
    input_tokens: used.input,
    cache_creation_input_tokens: 0,
    cache_read_input_tokens: used.cacheRead,
    output_tokens: used.output,
  };
  const message = { id: `msg_${seed}`, type: "message", role: "assistant", model: body.model, stop_sequence: null };
  if (body.stream) return await stream(res, message, blocks, usage, turn, paceMs);
  const stop_reason = turn.tools?.length ? "tool_use" : "end_turn";
  res.writeHead(200, { "content-type": "application/json" });
  res.end(JSON.stringify({ ...message, content: blocks, stop_reason, usage }));
}
