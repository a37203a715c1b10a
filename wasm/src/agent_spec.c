#include "csn/dialect.h"

/* The part of `rest` before its first NUL; moves `rest` behind that NUL. */
static csn_span next_text(csn_span *rest) {
  uint32_t n = 0;
  while (n < rest->len && rest->ptr[n] != 0)
    n++;
  csn_span text = csn_span_of(rest->ptr, n);
  uint32_t skip = n < rest->len ? n + 1 : n;
  *rest = csn_span_of(rest->ptr + skip, rest->len - skip);
  return text;
}

void csn_spec_env(csn_fx *fx, csn_span env, const char *const *fixed, bool first) {
  while (env.len > 0) {
    csn_span name = next_text(&env);
    csn_span value = next_text(&env);
    bool skip = false;
    for (uint32_t i = 0; fixed[i] != NULL; i++)
      if (csn_span_is(name, fixed[i])) skip = true;
    if (skip) continue;
    if (!first) csn_put_str(fx, ",");
    first = false;
    csn_put_str(fx, "\"");
    csn_put_escaped(fx, name);
    csn_put_str(fx, "\":\"");
    csn_put_escaped(fx, value);
    csn_put_str(fx, "\"");
  }
}

void csn_spec_default(csn_fx *fx, csn_span env, const char *name, const char *value) {
  while (env.len > 0) {
    csn_span have = next_text(&env);
    next_text(&env);
    if (csn_span_is(have, name)) return;
  }
  csn_put_field_raw(fx, name, csn_span_str(value));
}

void csn_spec_arg(csn_fx *fx, csn_span raw) {
  csn_put_str(fx, ",\"");
  csn_put_escaped(fx, raw);
  csn_put_str(fx, "\"");
}

void csn_spec_arg_str(csn_fx *fx, const char *text) {
  csn_spec_arg(fx, csn_span_str(text));
}

void csn_spec_arg_escaped(csn_fx *fx, csn_span escaped) {
  csn_put_str(fx, ",\"");
  csn_fx_put(fx, escaped.ptr, escaped.len);
  csn_put_str(fx, "\"");
}

void csn_spec_tail(csn_fx *fx, const csn_spec_in *in, bool prompt_on_stdin) {
  csn_put_field_text(fx, "cwd", csn_span_str("/workspace"));
  csn_put_field_json(fx, "stdin", csn_span_str(prompt_on_stdin ? "\"prompt\"" : "null"));
  csn_put_field_u64(fx, "wall_ms", in->wall_ms);
  csn_put_field_u64(fx, "grace_ms", CSN_GRACE_MS);
  csn_put_field_u64(fx, "output_max_bytes", CSN_OUTPUT_MAX_BYTES);
}

void csn_put_nested(csn_fx *fx, csn_span raw) {
  static const char hex[] = "0123456789abcdef";
  for (uint32_t i = 0; i < raw.len; i++) {
    uint8_t b = raw.ptr[i];
    if (b == '"') {
      csn_put_str(fx, "\\\\\\\"");
    } else if (b == '\\') {
      csn_put_str(fx, "\\\\\\\\");
    } else if (b < 0x20 || b == 0x7f) {
      char seven[7] = {'\\', '\\', 'u', '0', '0', hex[b >> 4], hex[b & 15]};
      csn_fx_put(fx, seven, 7);
    } else {
      csn_fx_put(fx, &raw.ptr[i], 1);
    }
  }
}

void csn_put_doc(csn_fx *fx, const char *text) {
  csn_put_escaped(fx, csn_span_str(text));
}

void csn_put_doc_string(csn_fx *fx, csn_span raw) {
  csn_put_str(fx, "\\\"");
  csn_put_nested(fx, raw);
  csn_put_str(fx, "\\\"");
}
