#include "csn/dialect.h"

bool csn_option_next(csn_span *rest, csn_option *out) {
  if (rest->len < 2) return false;
  uint32_t n = 1;
  while (n < rest->len && rest->ptr[n] != 0)
    n++;
  if (n == rest->len) return false;
  *out = (csn_option){rest->ptr[0], csn_span_of(rest->ptr + 1, n - 1)};
  *rest = csn_span_of(rest->ptr + n + 1, rest->len - n - 1);
  return true;
}

bool csn_option_find(csn_span *rest, csn_option_tag tag, csn_span *text) {
  csn_option o;
  while (csn_option_next(rest, &o)) {
    if (o.tag != (uint8_t)tag) continue;
    *text = o.text;
    return true;
  }
  return false;
}

bool csn_option_has(csn_span options, csn_option_tag tag) {
  csn_span text;
  return csn_option_find(&options, tag, &text);
}

/* --- tool rules --- */

void csn_put_rules(csn_fx *fx, csn_span options, csn_option_tag tag) {
  csn_span rule;
  const char *comma = "";
  csn_put_doc(fx, "[");
  while (csn_option_find(&options, tag, &rule)) {
    csn_put_doc(fx, comma);
    csn_put_doc_string(fx, rule);
    comma = ",";
  }
  csn_put_doc(fx, "]");
}

static uint32_t paren_of(csn_span rule) {
  uint32_t n = 0;
  while (n < rule.len && rule.ptr[n] != '(')
    n++;
  return n;
}

csn_span csn_rule_tool(csn_span rule) {
  return csn_span_of(rule.ptr, paren_of(rule));
}

csn_span csn_rule_args(csn_span rule) {
  uint32_t n = paren_of(rule);
  if (rule.len - n < 2) return csn_span_of(NULL, 0);
  return csn_span_of(rule.ptr + n + 1, rule.len - n - 2); /* without the parentheses */
}

/* --- MCP servers --- */

/* The options of one server: up to the next one's, or to what is no server's. */
static bool server_next(csn_span *rest, csn_option *o) {
  csn_span before = *rest;
  if (!csn_option_next(rest, o)) return false;
  if (o->tag != CSN_OPT_SERVER && o->tag != CSN_OPT_ALLOW && o->tag != CSN_OPT_DENY) return true;
  *rest = before;
  return false;
}

static void put_key(csn_fx *fx, const char *key, const csn_mcp_style *style) {
  csn_put_doc(fx, "\"");
  csn_put_doc(fx, key);
  csn_put_doc(fx, "\"");
  csn_put_doc(fx, style->is);
}

static void put_text(csn_fx *fx, csn_span text, const csn_mcp_style *style, bool in_map) {
  uint32_t from = 0;
  csn_put_str(fx, "\\\"");
  for (uint32_t i = 0; i < text.len; i++) {
    const char *as = NULL;
    if (text.ptr[i] == '$') as = in_map ? style->dollar_in_map : style->dollar;
    if (text.ptr[i] == '{') as = style->brace;
    if (as == NULL) continue;
    csn_put_nested(fx, csn_span_of(text.ptr + from, i - from));
    csn_put_doc(fx, as);
    from = i + 1;
  }
  csn_put_nested(fx, csn_span_of(text.ptr + from, text.len - from));
  csn_put_str(fx, "\\\"");
}

static void put_list(csn_fx *fx, csn_span rest, csn_option_tag tag, const csn_mcp_style *style) {
  csn_option o;
  const char *comma = "";
  while (server_next(&rest, &o)) {
    if (o.tag != (uint8_t)tag) continue;
    csn_put_doc(fx, comma);
    put_text(fx, o.text, style, false);
    comma = ",";
  }
}

static void put_map(csn_fx *fx, const char *key, csn_span rest, csn_option_tag tag,
                    const csn_mcp_style *style) {
  csn_option o;
  const char *comma = "";
  bool values = false;
  csn_put_doc(fx, ",");
  put_key(fx, key, style);
  csn_put_doc(fx, "{");
  while (server_next(&rest, &o)) {
    if (o.tag == (uint8_t)tag) {
      csn_put_doc(fx, comma);
      csn_put_doc_string(fx, o.text);
      csn_put_doc(fx, style->is);
      comma = ",";
      values = true;
    } else if (o.tag == CSN_OPT_VALUE && values) {
      put_text(fx, o.text, style, true);
      values = false;
    }
  }
  csn_put_doc(fx, "}");
}

static void put_local(csn_fx *fx, csn_span command, csn_span rest, const csn_mcp_style *style) {
  csn_span args = rest;
  csn_option o;
  bool has_args = false;
  while (!has_args && server_next(&args, &o))
    has_args = o.tag == CSN_OPT_ARG;
  csn_put_doc(fx, style->local);
  put_key(fx, "command", style);
  if (style->args == NULL) csn_put_doc(fx, "[");
  put_text(fx, command, style, false);
  if (style->args == NULL) {
    if (has_args) csn_put_doc(fx, ",");
  } else {
    csn_put_doc(fx, ",");
    put_key(fx, style->args, style);
    csn_put_doc(fx, "[");
  }
  put_list(fx, rest, CSN_OPT_ARG, style);
  csn_put_doc(fx, "]");
  put_map(fx, style->env, rest, CSN_OPT_ENV, style);
}

void csn_put_mcp_server(csn_fx *fx, csn_span *rest, const csn_mcp_style *style) {
  csn_option first, o;
  csn_put_doc(fx, "{");
  if (server_next(rest, &first)) {
    if (first.tag == CSN_OPT_URL) {
      csn_put_doc(fx, style->remote);
      put_key(fx, style->url, style);
      put_text(fx, first.text, style, false);
      put_map(fx, style->headers, *rest, CSN_OPT_HEADER, style);
    } else {
      put_local(fx, first.text, *rest, style);
    }
    while (server_next(rest, &o)) {
    }
  }
  csn_put_doc(fx, "}");
}

void csn_put_mcp_servers(csn_fx *fx, csn_span options, const csn_mcp_style *style) {
  csn_span name;
  const char *comma = "";
  csn_put_doc(fx, "{");
  while (csn_option_find(&options, CSN_OPT_SERVER, &name)) {
    csn_put_doc(fx, comma);
    csn_put_doc_string(fx, name);
    csn_put_doc(fx, style->is);
    csn_put_mcp_server(fx, &options, style);
    comma = ",";
  }
  csn_put_doc(fx, "}");
}
