/**
 * What the core makes of Gemini CLI's lines (wasm/src/agent_gemini.c), in JavaScript: the same events with the same fields.
 * It knows no caps, no policy and no lines that are not JSON, which the bench does not give it.
 */

/** Micro-dollars a million tokens (wasm/data/prices.h); the only model of the transcripts. */
const RATE = { input: 1_250_000, cached: 125_000, output: 10_000_000 };
const KINDS = { FatalTurnLimitedError: "max_turns", FatalCancellationError: "aborted" };

/** A function that appends to `events` what a parsed line becomes. */
export function geminiNormalizer(timeMs, firstSeq) {
  const run = "run_1";
  let seq = firstSeq - 1;
  let model;
  let text = "";
  let turns = 0;
  let told = 0;
  let busy = false;
  let more = false;

  /** `fields` begins with what every event has. */
  function put(events, type, fields) {
    events.push({ kind: "event", seq, type, run: 1, timeMs, json: JSON.stringify(fields) });
  }
  function turn(events) {
    turns += 1;
    busy = true;
    more = false;
    const type = "agent.turn";
    const none = { input_tokens: 0, output_tokens: 0, cache_read_tokens: 0, cache_write_tokens: 0 };
    put(events, type, { seq: ++seq, time_ms: timeMs, run, type, turn: turns, model, ...none });
  }
  function begin() {
    if (busy) return false;
    text = "";
    return true;
  }
  function endText(events) {
    if (text === "") return;
    const type = "agent.text";
    put(events, type, { seq: ++seq, time_ms: timeMs, run, type, text });
  }
  function result(events, line) {
    endText(events);
    const { total_tokens: total, input_tokens: all, output_tokens: out, cached } = line.stats;
    const input = all - cached;
    const output = Math.max(total - all, out);
    const cost = Math.round((input * RATE.input + output * RATE.output + cached * RATE.cached) / 1_000) / 1e9;
    let type = "agent.usage";
    put(events, type, {
      seq: ++seq,
      time_ms: timeMs,
      run,
      type,
      input_tokens: input,
      output_tokens: output,
      cache_read_tokens: cached,
      cache_write_tokens: 0,
      cost_usd: cost,
      turns: turns - told,
    });
    told = turns;
    more = busy = false;
    const failed = line.status !== "success";
    const status = failed ? Number(/"code":(\d+)/.exec(line.error.message)?.[1] ?? 0) : 0;
    type = "agent.result";
    put(events, type, {
      seq: ++seq,
      time_ms: timeMs,
      run,
      type,
      subtype: null,
      is_error: failed,
      terminal_reason: failed ? (KINDS[line.error.type] ?? (status > 0 ? "api_error" : "agent_error")) : "completed",
      text: failed ? line.error.message : text,
      num_turns: null,
      duration_ms: null,
      api_error_status: status > 0 ? status : null,
      stop_reason: null,
      total_cost_usd: null,
    });
    if (failed) text = "";
  }

  return (line, events) => {
    let type;
    switch (line.type) {
      case "init":
        model = line.model;
        type = "agent.init";
        put(events, type, { seq: ++seq, time_ms: timeMs, run, type, agent_session_id: line.session_id, model });
        return;
      case "message":
        if (line.role !== "assistant") {
          const agentType = `${line.type}/${line.role}`;
          type = "raw";
          put(events, type, { seq: ++seq, time_ms: timeMs, run, type, reason: "unmapped", agent_type: agentType });
          return;
        }
        begin();
        if (more || !busy) turn(events);
        type = "agent.text_delta";
        put(events, type, { seq: ++seq, time_ms: timeMs, run, type, text: line.content });
        text += line.content;
        return;
      case "tool_use": {
        if (begin()) turn(events);
        endText(events);
        text = "";
        const input = line.parameters;
        const file = input.file_path ?? input.absolute_path ?? input.path;
        type = "agent.tool_call";
        const call = { tool_use_id: line.tool_id, tool: line.tool_name, input, file, command: input.command };
        put(events, type, { seq: ++seq, time_ms: timeMs, run, type, ...call });
        return;
      }
      case "tool_result": {
        const failed = line.status !== "success";
        const output = (failed && !line.output ? line.error?.message : line.output) ?? "";
        type = "agent.tool_result";
        const fields = { tool_use_id: line.tool_id, is_error: failed, text: output };
        put(events, type, { seq: ++seq, time_ms: timeMs, run, type, ...fields });
        more = true;
        return;
      }
      case "result":
        result(events, line);
        return;
      default:
        throw new Error(`no Gemini line of the transcripts: ${line.type}`);
    }
  };
}
