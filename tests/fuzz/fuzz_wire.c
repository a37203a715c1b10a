/* A model's answer. Oracle: the counts do not depend on the chunking; counters never fall. */
#include "csn/wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static csn_wire whole, parts;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  bool streamed = data[0] & 1;
  uint32_t chunk = 1u + data[1] % 17u, len = (uint32_t)size - 2;
  csn_wire_init(&whole, streamed);
  csn_wire_push(&whole, csn_span_of(data + 2, len));
  csn_wire_end(&whole);
  csn_wire_init(&parts, streamed);
  for (uint32_t at = 0; at < len; at += chunk)
    csn_wire_push(&parts, csn_span_of(data + 2 + at, len - at < chunk ? len - at : chunk));
  csn_wire_end(&parts);
  if (whole.input_tokens != parts.input_tokens || whole.output_tokens != parts.output_tokens ||
      whole.unread != parts.unread || whole.final != parts.final || whole.estimate != parts.estimate ||
      whole.cache_read_tokens != parts.cache_read_tokens ||
      whole.cache_write_tokens != parts.cache_write_tokens || whole.model_len != parts.model_len ||
      memcmp(whole.model, parts.model, whole.model_len) != 0)
    abort();
  return 0;
}
