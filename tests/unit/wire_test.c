#include "csn/wire.h"

#include "tap.h"

static csn_wire wire;

/* Every chunking must count the same. */
static void reads(const char *what, bool streamed, const char *body, const char *model, uint64_t in,
                  uint64_t out, uint64_t read, uint64_t written) {
  uint32_t len = (uint32_t)strlen(body);
  bool good = true;
  for (uint32_t chunk = 1; chunk <= len && good; chunk = chunk < 40 ? chunk + 1 : chunk * 2) {
    csn_wire_init(&wire, streamed);
    for (uint32_t at = 0; at < len; at += chunk) {
      uint32_t n = len - at < chunk ? len - at : chunk;
      uint8_t *p = guarded(body + at, n);
      csn_wire_push(&wire, csn_span_of(p, n));
      unguard(p, n);
    }
    csn_wire_end(&wire);
    good = wire.input_tokens == in && wire.output_tokens == out && wire.cache_read_tokens == read &&
           wire.cache_write_tokens == written && wire.model_len == strlen(model) &&
           memcmp(wire.model, model, wire.model_len) == 0;
  }
  ok(good, "%s: %llu in, %llu out, %llu read, %llu written, %.*s", what,
     (unsigned long long)wire.input_tokens, (unsigned long long)wire.output_tokens,
     (unsigned long long)wire.cache_read_tokens, (unsigned long long)wire.cache_write_tokens,
     (int)wire.model_len, (const char *)wire.model);
}

int main(void) {
  reads("Anthropic, streamed", true,
        "event: message_start\ndata: "
        "{\"type\":\"message_start\",\"message\":{\"model\":\"claude-x\",\"usage\":{\"input_tokens\":12,"
        "\"cache_creation_input_tokens\":3,"
        "\"cache_read_input_tokens\":400,\"output_tokens\":1}}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n"
        "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"data: "
        "{\\\"usage\\\":{\\\"input_tokens\\\":99}}\"}}\n\n"
        "event: message_delta\r\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":42}}\r\n\r\n",
        "claude-x", 12, 42, 400, 3);
  reads("Anthropic, whole", false,
        "{\"model\":\"claude-x\",\n\"usage\":{\"input_tokens\":5,\"output_tokens\":6,\"cache_read_input_"
        "tokens\":7}}",
        "claude-x", 5, 6, 7, 0);
  reads("OpenAI responses, streamed", true,
        "data: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-x\",\"usage\":null}}\n\n"
        "data: "
        "{\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-x\",\"usage\":{\"input_tokens\":100,"
        "\"input_tokens_details\":{\"cached_tokens\":60},"
        "\"output_tokens\":9}}}\n\n",
        "gpt-x", 40, 9, 60, 0);
  reads("OpenAI responses, whole", false,
        "{\"model\":\"gpt-x\",\"usage\":{\"input_tokens\":100,\"input_tokens_details\":{\"cached_tokens\":60}"
        ",\"output_tokens\":9}}",
        "gpt-x", 40, 9, 60, 0);
  reads("OpenAI chat, streamed", true,
        "data: {\"model\":\"gpt-y\",\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: "
        "{\"model\":\"gpt-y\",\"choices\":[],\"usage\":{\"prompt_tokens\":10,"
        "\"completion_tokens\":4,\"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\ndata: [DONE]\n\n",
        "gpt-y", 8, 4, 2, 0);
  reads("Gemini, streamed", true,
        "data: "
        "{\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":1},\"modelVersion\":\"gemini-"
        "x\"}\n\n"
        "data: "
        "{\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":5,\"thoughtsTokenCount\":7,"
        "\"cachedContentTokenCount\":4},\"modelVersion\":\"gemini-x\"}\n\n",
        "gemini-x", 10, 12, 4, 0);
  reads("Gemini, an array", false,
        "[{\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":1},\"modelVersion\":\"gemini-"
        "x\"},\n{\"usageMetadata\":{\"promptTokenCount\":10,"
        "\"candidatesTokenCount\":5}}]",
        "gemini-x", 10, 5, 0, 0);
  reads("an answer that is cut", true,
        "data: "
        "{\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":3,\"output_"
        "tokens\":1}}}\n\ndata: {\"type\":\"mess",
        "m", 3, 1, 0, 0);
  reads("nothing of use", true, ": comment\nevent: x\nid: 7\ndata\ndat: {\"usage\":{\"input_tokens\":1}}\n\n",
        "", 0, 0, 0, 0);
  reads("a number that is none", false, "{\"usage\":{\"input_tokens\":-5,\"output_tokens\":\"7\"}}", "", 0, 0,
        0, 0);
  reads("an error", false, "{\"error\":{\"message\":\"no\"}}", "", 0, 0, 0, 0);
  reads("the largest number", false,
        "{\"usage\":{\"input_tokens\":18446744073709551615,\"output_tokens\":99999999999999999999}}", "",
        UINT64_MAX, 0, 0, 0);
  csn_wire_init(&wire, true);
  csn_wire_push(&wire, csn_span_str("data: {not json\n\ndata: 1 2\n\n"));
  csn_wire_end(&wire);
  ok(wire.unread == 2 && !wire.seen, "what is no JSON is counted");
  ok(!wire.final && wire.estimate == 2, "and is a token each");
  static char event[CSN_WIRE_FRAME_BYTES + 64];
  memset(event, ' ', sizeof event);
  memcpy(event, "data: {}", 8);
  memcpy(event + sizeof event - 2, "\n\n", 2);
  for (uint32_t cut = 1; cut < sizeof event; cut++) {
    csn_wire_init(&wire, true);
    csn_wire_push(&wire, csn_span_of((const uint8_t *)event, cut));
    csn_wire_push(&wire, csn_span_of((const uint8_t *)event + cut, sizeof event - cut));
    csn_wire_push(&wire, csn_span_str("data: {\"choices\":[]}\n\ndata: [DONE]\n\n"));
    csn_wire_end(&wire);
    if (wire.final || wire.estimate != 1 + (64 - 8) / CSN_WIRE_TOKEN_BYTES + 2) break;
    if (cut + 1 == sizeof event) ok(true, "an answer that says nothing counts by its length");
  }
  ok(wire.estimate == 1 + (64 - 8) / CSN_WIRE_TOKEN_BYTES + 2, "however it is cut");
  csn_wire_init(&wire, true);
  csn_wire_push(&wire,
                csn_span_str("data: {\"message\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n"));
  ok(wire.seen && !wire.final, "the beginning of an answer is not its end");
  csn_wire_push(&wire, csn_span_str("data: {\"usage\":{\"output_tokens\":9}}\n\n"));
  ok(wire.final && wire.output_tokens == 9, "what its end says is");
  csn_wire_init(&wire, false);
  csn_wire_push(&wire, csn_span_str("{\"id\":\"12345678\"}"));
  csn_wire_end(&wire);
  ok(!wire.final && wire.estimate == 4, "a whole answer by all of it");
  return done();
}
