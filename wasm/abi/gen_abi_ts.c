/* gen_abi_ts.c - prints the host's copy of the wire, from the tables of csn/abi.h.
 *
 *   gen_abi_ts ts      worker/src/core/abi.gen.ts
 *   gen_abi_ts digest  build/abi_digest.h
 *
 * The digest is FNV-1a (32 bit) over the TypeScript text without its `digest` line, so that any change of a
 * value, name or layout changes it. */
#include "csn/abi.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char text[1u << 16];
static size_t text_len;
static size_t digest_at;

__attribute__((format(printf, 1, 2))) static void put(const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  int n = vsnprintf(text + text_len, sizeof text - text_len, format, ap);
  va_end(ap);
  if (n < 0 || (size_t)n >= sizeof text - text_len) abort();
  text_len += (size_t)n;
}

static void open_table(const char *comment, const char *name) {
  put("\n/** %s */\nexport const %s = {\n", comment, name);
}
static void close_table(void) {
  put("} as const;\n");
}
static void entry(const char *name, long value) {
  put("  %s: %ld,\n", name, value);
}
static void entry_doc(const char *name, long value, const char *doc) {
  put("  /** %s */\n  %s: %ld,\n", doc, name, value);
}

#define ROW(name, value, doc)             entry_doc(#name, (long)(value), doc);
#define TYPE_ROW(name, value, wire, host) entry(#name, value);
#define TEXT_ROW(name, value, wire, host) put("  %d: \"%s\",\n", value, wire);
#define HOST_ROW(name, value, wire, host)                                                                    \
  if (host) put("%s%d", host_count++ > 0 ? ", " : "", value);
#define ERR_TEXT_ROW(name, value, doc) put("  %s: \"%s\",\n", #name, doc);

static void print_all(void) {
  put("// Printed by wasm/abi/gen_abi_ts.c from wasm/include/csn/abi.h. Do not edit: run `make abi`.\n\n");
  put("export const ABI = {\n");
  entry("magic", (long)CSN_ABI_MAGIC);
  entry("version", (long)CSN_ABI_VERSION);
  digest_at = text_len;
  entry("recSize", (long)sizeof(csn_rec));
  entry("fxEventSize", (long)sizeof(csn_fx_event));
  entry("descSize", (long)sizeof(csn_abi_desc));
  close_table();

  open_table("Events, host to core.", "EV");
  CSN_EV_TABLE(ROW)
  close_table();
  open_table("Effects, core to host, carried out strictly in order.", "FX");
  CSN_FX_TABLE(ROW)
  close_table();
  open_table("Questions to the guard.", "ASK");
  CSN_ASK_TABLE(ROW)
  close_table();
  open_table("Records of csn_transcript.", "TRANSCRIPT");
  CSN_TRANSCRIPT_OP_TABLE(ROW)
  close_table();
  open_table("Errors.", "ERR");
  CSN_ERR_TABLE(ROW)
  close_table();
  put("\nexport const ERR_TEXT = {\n");
  CSN_ERR_TABLE(ERR_TEXT_ROW)
  put("} as const satisfies Record<keyof typeof ERR, string>;\n");
  open_table("Streams of csn_feed.", "STREAM");
  CSN_STREAM_TABLE(ROW)
  close_table();
  open_table("Forms in which a secret is found.", "REDACT_FORM");
  CSN_REDACT_FORM_TABLE(ROW)
  close_table();
  open_table("Event types.", "T");
  CSN_TYPE_TABLE(TYPE_ROW)
  close_table();
  open_table("The text of an event type, as it stands in the event's `type`.", "TYPE_TEXT");
  CSN_TYPE_TABLE(TEXT_ROW)
  close_table();
  int host_count = 0;
  put("\n/** Event types that the host may report with EV.NOTE. */\nexport const TYPE_HOST = [");
  CSN_TYPE_TABLE(HOST_ROW)
  put("] as const;\n");
  open_table("Bounds.", "BOUND");
  CSN_BOUND_TABLE(ROW)
  close_table();
  open_table("Flags of an effect's record.", "REC_FLAG");
  CSN_REC_FLAG_TABLE(ROW)
  close_table();
  open_table("Flags of an event's line.", "LINE");
  CSN_LINE_FLAG_TABLE(ROW)
  close_table();

  open_table("Byte offsets of the fields of a record header.", "REC");
  entry("size", (long)offsetof(csn_rec, size));
  entry("kind", (long)offsetof(csn_rec, kind));
  entry("flags", (long)offsetof(csn_rec, flags));
  entry("id", (long)offsetof(csn_rec, id));
  entry("code", (long)offsetof(csn_rec, code));
  entry("payloadLen", (long)offsetof(csn_rec, payload_len));
  entry("stream", (long)offsetof(csn_rec, stream));
  entry("timeMs", (long)offsetof(csn_rec, time_ms));
  close_table();
  open_table("Byte offsets of the fields at the head of an FX.EVENT payload.", "FXE");
  entry("seq", (long)offsetof(csn_fx_event, seq));
  entry("lineOff", (long)offsetof(csn_fx_event, line_off));
  entry("lineLen", (long)offsetof(csn_fx_event, line_len));
  entry("type", (long)offsetof(csn_fx_event, type));
  entry("run", (long)offsetof(csn_fx_event, run));
  entry("lineFlags", (long)offsetof(csn_fx_event, line_flags));
  close_table();
  open_table("Byte offsets of the fields of the descriptor that csn_abi() points to.", "DESC");
  entry("magic", (long)offsetof(csn_abi_desc, magic));
  entry("version", (long)offsetof(csn_abi_desc, version));
  entry("digest", (long)offsetof(csn_abi_desc, digest));
  entry("inOff", (long)offsetof(csn_abi_desc, in_off));
  entry("inCap", (long)offsetof(csn_abi_desc, in_cap));
  entry("outOff", (long)offsetof(csn_abi_desc, out_off));
  entry("outCap", (long)offsetof(csn_abi_desc, out_cap));
  entry("outLen", (long)offsetof(csn_abi_desc, out_len));
  close_table();

  put("\nexport type EvName = keyof typeof EV;\n");
  put("export type AskName = keyof typeof ASK;\n");
  put("export type FxName = keyof typeof FX;\n");
  put("export type ErrName = keyof typeof ERR;\n");
  put("export type StreamName = keyof typeof STREAM;\n");
  put("export type TypeName = keyof typeof T;\n");
  put("export type EventTypeName = (typeof TYPE_TEXT)[keyof typeof TYPE_TEXT];\n");
}

int main(int argc, char **argv) {
  print_all();
  uint32_t digest = 2166136261u;
  for (size_t i = 0; i < text_len; i++)
    digest = (digest ^ (uint8_t)text[i]) * 16777619u;
  if (argc == 2 && strcmp(argv[1], "ts") == 0)
    printf("%.*s  digest: %u,\n%s", (int)digest_at, text, digest, text + digest_at);
  else if (argc == 2 && strcmp(argv[1], "digest") == 0)
    printf("#define CSN_ABI_DIGEST 0x%08xu\n", digest);
  else {
    fputs("usage: gen_abi_ts ts|digest\n", stderr);
    return 64;
  }
  return 0;
}
