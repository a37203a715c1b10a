/* csn/wire.h - what a model's answer says it used, read from the answer as it passes: Anthropic messages,
 * OpenAI responses and chat completions, Gemini generateContent; streamed (server-sent events) or whole.
 *
 * Input:  the bytes of one answer's body, in any chunking; hostile: the answer may come from anywhere.
 * Output: counters and the model's name. Nothing else of the answer is kept.
 * Memory: csn_wire is the caller's, fixed size. Errors: none; what cannot be read is counted in `unread`.
 *
 * Facts: platform.claude.com/docs (messages, streaming: usage of message_start, cumulative in message_delta),
 * platform.openai.com/docs (responses: response.completed; chat: the chunk with usage), ai.google.dev
 * (usageMetadata). */
#ifndef CSN_WIRE_H
#define CSN_WIRE_H

#include "csn/json.h"

#define CSN_WIRE_MODEL_CAP   128u /* bytes */
#define CSN_WIRE_TOKEN_BYTES 4u   /* bytes of text that are about one token */
#define CSN_WIRE_FRAME_BYTES 256u /* bytes of an event that are not the model's words */

typedef struct csn_wire {
  uint8_t streamed;  /* lines of server-sent events; else one JSON text */
  uint8_t state;     /* where in a line */
  uint8_t seen;      /* some usage was found */
  uint8_t model_len; /* bytes */
  uint8_t final;     /* usage of the whole answer was found, not only what its beginning says */
  uint32_t unread;   /* items: events that are no JSON */
  uint32_t text_len; /* bytes of the present JSON text; saturates */
  /* As in csn_usage: input that was neither read from nor written to a cache. */
  uint64_t input_tokens, output_tokens, cache_read_tokens, cache_write_tokens;
  /* Tokens that the answer's length stands for, for one that does not say what it used (chat completions
   * without stream_options.include_usage) or was cut before it did: of a stream one for each event and one
   * for each CSN_WIRE_TOKEN_BYTES that an event has beyond CSN_WIRE_FRAME_BYTES; of a whole answer one for
   * each CSN_WIRE_TOKEN_BYTES. */
  uint64_t estimate;
  uint8_t model[CSN_WIRE_MODEL_CAP]; /* escaped, as in the answer */
  csn_json json;
} csn_wire;

/* `streamed`: the answer's content type is text/event-stream. */
void csn_wire_init(csn_wire *w, bool streamed);
void csn_wire_push(csn_wire *w, csn_span in);
/* The answer has ended, or was cut: what was read before counts. */
void csn_wire_end(csn_wire *w);

#endif
