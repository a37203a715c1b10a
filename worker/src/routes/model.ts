/** Asks the model for code: the same upstream and key as model requests that leave a sandbox. */
import guardModule from "../../../build/guard.wasm";
import { Guard } from "../core/guard.js";
import { operatorMask } from "../effects/report.js";
import type { Env } from "../env.js";
import { problem } from "../errors.js";

const DEFAULT_UPSTREAM = "https://api.anthropic.com";
const DEFAULT_MODEL = "claude-opus-5-5";
const DEFAULT_MAX_TOKENS = 2_048;
/** milliseconds: the model's whole answer. */
const MODEL_MS = 120_000;
/** characters of an endpoint's refusal that are looked at, and that are told. */
const REFUSAL_MAX = 4_096;
const REFUSAL_SHOWN = 500;

export type AnswerLanguage = "python" | "javascript";

/** Throws when there is neither a key nor an upstream that may do without one. */
export function requireModel(env: Env): void {
  if (env.ANTHROPIC_API_KEY !== undefined && env.ANTHROPIC_API_KEY !== "") return;
  if (env.ANTHROPIC_UPSTREAM !== undefined && env.ANTHROPIC_UPSTREAM !== "") return;
  throw problem(
    "no_model_key",
    "ANTHROPIC_API_KEY is not configured: set it with `wrangler secret put ANTHROPIC_API_KEY`.",
  );
}

/** Throws when what the model's answers cost is not known although the caller's spending is limited. */
export function requirePrice(env: Env): void {
  const model = modelOf(env);
  if (price(new Guard(guardModule), env, { model, input_tokens: 1 }) !== null) return;
  const detail = `The tenant's spending is limited, and the model "${model}" has no price: CAISSON_PRICES gives it one.`;
  throw problem("quota_exceeded", detail);
}

function modelOf(env: Env): string {
  return env.CAISSON_CODE_MODEL || DEFAULT_MODEL;
}

function price(guard: Guard, env: Env, usage: Parameters<Guard["price"]>[1]): number | null {
  try {
    return guard.price(env.CAISSON_PRICES?.trim() ?? "", usage);
  } catch (error) {
    throw problem("bad_prices", `CAISSON_PRICES cannot be read: ${error instanceof Error ? error.message : ""}`);
  }
}

/** Code that answers the question, without the fences that models like to put around it. `spent` is told of the cost of every answer, a useless one too. */
export async function codeFor(
  env: Env,
  question: string,
  language: AnswerLanguage,
  maxTokens: number,
  spent: (costUsd: number) => Promise<void>,
): Promise<string> {
  requireModel(env);
  const upstream = new URL(env.ANTHROPIC_UPSTREAM || DEFAULT_UPSTREAM);
  upstream.pathname = `${upstream.pathname.replace(/\/$/, "")}/v1/messages`;
  const key = env.ANTHROPIC_API_KEY || undefined;
  let response: Response;
  let text: string;
  try {
    response = await fetch(upstream, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "anthropic-version": "2023-06-01",
        ...(key === undefined ? {} : { "x-api-key": key }),
      },
      body: JSON.stringify({
        model: modelOf(env),
        max_tokens: maxTokens === 0 ? DEFAULT_MAX_TOKENS : maxTokens,
        messages: [{ role: "user", content: instructions(question, language) }],
      }),
      signal: AbortSignal.timeout(MODEL_MS),
    });
    text = await response.text();
  } catch {
    throw problem("model_error", `The model endpoint ${upstream.origin} does not answer, or not to the end.`);
  }
  if (!response.ok) {
    // A server that refuses a key may repeat it; masked before it is cut to what is shown.
    const why = operatorMask(env)(text.slice(0, REFUSAL_MAX)).slice(0, REFUSAL_SHOWN);
    throw problem("model_error", `The model endpoint answered ${response.status}: ${why}`);
  }
  await spent(costOf(env, text));
  const code = stripFences(answerText(text));
  if (code === "") throw problem("model_error", "The model's answer has no code.");
  return code;
}

/** Dollars, as far as they are known. */
function costOf(env: Env, answer: string): number {
  const guard = new Guard(guardModule);
  guard.wireBegin(false);
  guard.wirePush(new TextEncoder().encode(answer));
  const { seen, unread: _, final: __, estimate: ___, model, ...tokens } = guard.wireEnd();
  return seen ? (price(guard, env, { ...tokens, model: model === "" ? modelOf(env) : model }) ?? 0) : 0;
}

function instructions(question: string, language: AnswerLanguage): string {
  const [name, library, print] =
    language === "python"
      ? ["Python 3", "the Python standard library", "print()"]
      : ["JavaScript", "what Node.js 24 has built in", "console.log()"];
  return [
    `Write a ${name} program that answers the question between the <question> tags.`,
    `Use only ${library}. Write the answer to standard output with ${print}. Handle errors.`,
    "Reply with the program alone: no explanation and no Markdown.",
    `<question>\n${question}\n</question>`,
  ].join("\n");
}

/** The text blocks of a Messages API answer. */
function answerText(text: string): string {
  try {
    const answer = JSON.parse(text) as { content?: { type?: string; text?: string }[] };
    return (answer.content ?? []).map((block) => (block.type === "text" ? (block.text ?? "") : "")).join("");
  } catch {
    throw problem("model_error", "The model endpoint answered with something that is not JSON.");
  }
}

/** The inside of the first fenced block, or the whole text when there is none. A block that is never closed ends with the text. */
export function stripFences(text: string): string {
  const lines = text.split("\n");
  const first = lines.findIndex((line) => FENCE.test(line));
  if (first === -1) return text.trim();
  const fence = FENCE.exec(lines[first] ?? "")?.[1] ?? "";
  const rest = lines.slice(first + 1);
  const last = rest.findIndex((line) => line.trim() === fence);
  return rest
    .slice(0, last === -1 ? rest.length : last)
    .join("\n")
    .trim();
}

/** An opening fence: backticks or tildes at the start of a line, then perhaps the language. */
const FENCE = /^[ \t]*(`{3,}|~{3,})[^`]*$/;
