/**
 * Where a request stands in its script, whatever API it comes by.
 *
 * Each API is told as a list of entries, oldest first: {role: "user", text} for a prompt, {role: "assistant"} for an answer
 * of the model. `within` marks a text that comes with a tool's result: it begins nothing.
 */
const SCRIPT_TAG = /\[script:([a-z0-9-]+)\]/g;

/** Script name and turn number: the newest tag names the script, the answers since the prompt are the turn. */
export function place(entries, fallback) {
  let name = fallback;
  let turn = 0;
  for (const entry of entries) {
    if (entry.role === "assistant") {
      turn += 1;
      continue;
    }
    const tags = [...entry.text.matchAll(SCRIPT_TAG)];
    if (tags.length > 0) name = tags.at(-1)[1];
    if (!entry.within) turn = 0;
  }
  return { name, turn };
}

/** Tokens of a turn: what the script says, else counted from the lengths. */
export function usageOf(turn, request, answer) {
  return {
    input: turn.usage?.input_tokens ?? Math.ceil(JSON.stringify(request).length / 4),
    cacheRead: turn.usage?.cache_read_input_tokens ?? 0,
    output: turn.usage?.output_tokens ?? Math.ceil(JSON.stringify(answer).length / 4),
    reasoning: turn.usage?.reasoning_tokens ?? 0,
  };
}

/** A text in small pieces, as models stream it. */
export function pieces(text) {
  return text.match(/[\s\S]{1,24}/g) ?? [];
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
