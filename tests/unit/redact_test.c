/* redact_test.c - masking: forms, shapes, splits, escapes, bounds. */
#include "csn/redact.h"
#include "tap.h"

static csn_redact_set set;
static csn_redact_stream stream;
static uint8_t text[1 << 20], once[1 << 20], pieces[(1 << 20) + CSN_REDACT_HELD_MAX];

static void fresh(const char *const *values) {
  csn_redact_init(&set);
  for (; values != NULL && *values != NULL; values++)
    if (csn_redact_add(&set, csn_span_str(*values)) != CSN_ERR_OK) abort();
  csn_redact_build(&set);
}

/* All of `in` in pieces of `chunk` bytes, each read from before a page that must not be touched. */
static uint32_t redact(const void *in, uint32_t len, uint32_t chunk, uint8_t *out) {
  uint32_t n = 0;
  csn_redact_begin(&stream, false);
  for (uint32_t at = 0; at < len; at += chunk) {
    uint32_t part = len - at < chunk ? len - at : chunk;
    uint8_t *piece = guarded((const uint8_t *)in + at, part);
    n += csn_redact_push(&set, &stream, csn_span_of(piece, part), out + n);
    unguard(piece, part);
  }
  return n + csn_redact_flush(&stream, out + n);
}

/* `expected` for every split in two and for pieces of every small size. */
static void expect(const char *in, const char *expected, const char *what) {
  uint32_t len = (uint32_t)strlen(in);
  bool same = len == strlen(expected);
  for (uint32_t chunk = 1; chunk <= len && same; chunk++)
    same = redact(in, len, chunk, once) == len && memcmp(once, expected, len) == 0;
  for (uint32_t split = 1; split < len && same; split++) {
    csn_redact_begin(&stream, false);
    uint32_t n = csn_redact_push(&set, &stream, csn_span_of(in, split), once);
    n += csn_redact_push(&set, &stream, csn_span_of(in + split, len - split), once + n);
    n += csn_redact_flush(&stream, once + n);
    same = n == len && memcmp(once, expected, len) == 0;
  }
  if (!ok(same, "%s", what)) printf("# %s\n# %.*s\n# %s\n", in, (int)len, once, expected);
}

/* The same, with what is to be masked in [brackets]. */
static void expect_marked(const char *marked, const char *what) {
  static char in[1024], want[1024];
  uint32_t n = 0;
  bool hidden = false;
  for (; *marked != 0; marked++) {
    if (*marked == '[' || *marked == ']') {
      hidden = *marked == '[';
      continue;
    }
    in[n] = *marked;
    want[n++] = hidden && *marked != '\n' ? '*' : *marked;
  }
  in[n] = want[n] = 0;
  expect(in, want, what);
}

static void forms(void) {
  fresh((const char *const[]){"hunter2/x\"yz",
                              "Gr\xc3\xbc\xc3\x9f"
                              "e<&>",
                              NULL});
  expect("a hunter2/x\"yz b", "a ************ b", "a value as it is");
  expect("HUNTER2/X\"YZ", "************", "in the other case");
  expect("{\"k\":\"hunter2/x\\\"yz\"}", "{\"k\":\"*************\"}", "in a JSON string");
  expect("{\"k\":\"hunter2\\/x\\\"yz\"}", "{\"k\":\"**************\"}", "with an escaped slash");
  expect("\"{\\\"k\\\":\\\"hunter2/x\\\\\\\"yz\\\"}\"", "\"{\\\"k\\\":\\\"***************\\\"}\"",
         "escaped twice");
  expect("\"hunter2\\\\/x\\\\\\\"yz\"", "\"*****************\"", "escaped twice, the slash in between");
  expect("q=hunter2%2Fx%22yz&r", "q=****************&r", "percent-encoded");
  expect("q=hunter2%2fx%22yz&r", "q=****************&r", "percent-encoded in lower case");
  expect("%68%75%6e%74%65%72%32%2f%78%22%79%7A", "************************************",
         "every byte encoded");
  expect("68756e746572322f7822797a", "************************", "hex");
  expect("68756E746572322F7822797A", "************************", "hex in upper case");
  expect("aHVudGVyMi94Inl6", "****************", "base64 at the first place");
  expect_marked("eG[h1bnRlcjIveCJ5e]g==", "base64 at the second place, what neighbours decide left");
}

static void base64(void) {
  fresh((const char *const[]){"\xfb\xff\xbf"
                              "abcdefgh\xff\xfe",
                              NULL});
  expect("+/+/YWJjZGVmZ2j//g==",
         "*****************"
         "g==",
         "base64");
  expect("-_-_YWJjZGVmZ2j__g",
         "*****************"
         "g",
         "base64 of the URL alphabet");
  char value[100] = "", line[64];
  for (int i = 0; i < 99; i++)
    value[i] = (char)('a' + i * 7 % 26);
  fresh((const char *const[]){value, NULL});
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (uint32_t width = 64; width <= 76; width += 12) {
    char in[256], want[256];
    uint32_t n = 0, column = 0;
    for (uint32_t i = 0; i + 3 <= 99; i += 3) {
      uint32_t v = (uint32_t)value[i] << 16 | (uint32_t)value[i + 1] << 8 | (uint32_t)value[i + 2];
      for (int shift = 18; shift >= 0; shift -= 6) {
        if (column == width) {
          in[n] = want[n] = '\n';
          n++;
          column = 0;
        }
        in[n] = alphabet[v >> shift & 63];
        want[n] = width == 64 && i >= 96 ? in[n] : '*'; /* a last line below 8 characters is left */
        n++;
        column++;
      }
    }
    in[n] = want[n] = 0;
    snprintf(line, sizeof line, "base64 in lines of %u", width);
    expect(in, want, line);
  }
}

static void unicode(void) {
  fresh((const char *const[]){"Gr\xc3\xbc\xc3\x9f"
                              "e<\xf0\x9f\x98\x80>",
                              NULL});
  expect("Gr\xc3\xbc\xc3\x9f"
         "e<\xf0\x9f\x98\x80>.",
         "*************.", "other than ASCII");
  expect("Gr\\u00fc\\u00DFe<\\ud83d\\uDE00>.", "*****************************.", "in \\u, of either case");
  expect("Gr\\u00fc\\u00dfe\\u003C\\ud83d\\ude00\\u003e.", "***************************************.",
         "brackets for HTML");
  expect("Gr\\\\u00fc\\\\u00dfe<\\\\ud83d\\\\ude00>.", "*********************************.", "escaped twice");
}

static void overlaps(void) {
  fresh((const char *const[]){"abcdefgh", "efghijklmnop", "abcdefghijklmnopqrst", "aaaaaaaab", "cdefghij",
                              NULL});
  expect("xabcdefghijklx", "x**********klx", "two that overlap");
  expect("abcdefghijklmnop!", "****************!", "three");
  expect("abcdefghijklmnopqrst!", "********************!", "one within another");
  expect("abcdefghijklmnopqrs!", "****************qrs!", "the longer one is none in the end");
  expect("aaaaaaaaaaaaab", "aaaaa*********", "a value that begins within itself");
  expect("abcdefg abcdefg", "abcdefg abcdefg", "nearly");
}

/* A match whose head has gone out, masked as part of another one, and a third in between. */
static void gone(void) {
  static const char in[] = "abcdefghijklmnopqrstuv.";
  uint8_t box[128];
  char got[sizeof in] = "";
  bool kept = true;
  fresh((const char *const[]){"abcdefgh", "klmnopqr", "abcdefghijklmnopqrstuv", NULL});
  csn_redact_begin(&stream, false);
  for (uint32_t i = 0, n = 0; i < sizeof in - 1; i++) {
    memset(box, 7, sizeof box);
    uint32_t len = csn_redact_push(&set, &stream, csn_span_of(in + i, 1), box + 32);
    memcpy(got + n, box + 32, len);
    n += len;
    for (uint32_t k = 0; k < 32; k++)
      kept = kept && box[k] == 7 && box[96 + k] == 7;
  }
  ok(strcmp(got, "**********************.") == 0, "a match whose head has gone out: %s", got);
  ok(kept, "nothing is written but the output");
}

static void escapes(void) {
  fresh((const char *const[]){"nabcdefgh", "00e9abcdefgh", "tail\\tail\\", NULL});
  expect("\"x\\nabcdefgh\"", "\"x**********\"", "a mask that begins in an escape takes all of it");
  expect("\"x\\\\nabcdefgh\"", "\"x\\\\*********\"", "two backslashes are none that escapes");
  expect("\"x\\u00e9abcdefgh\"", "\"x**************\"", "\\u likewise");
  expect("\"\\\"tail\\tail\\\"x\"", "\"\\\"***********x\"", "a mask that ends in an escape takes all of it");
  expect("tail\\tail\\\nx", "**********\nx", "but no end of a line");
}

static void shapes(void) {
  fresh(NULL);
  expect_marked("key=[sk-ant-api03-AbCdEfGhIjKlMnOp-q_] end", "Anthropic");
  expect_marked("[ghp_0123456789abcdefghijABCDEFGHIJ012345],x", "GitHub");
  expect_marked("ghp_0123456789abcdefghij", "too short");
  expect_marked("[AKIAIOSFODNN7EXAMPLE].", "AWS");
  expect_marked("akiaiosfodnn7example.", "in the wrong case");
  expect_marked("risk-assessmentFrameworkForTheEnterprisesOfToday", "a long word without a digit");
  expect_marked("[sk-0abcdefghijklmnopqrstuvwxyz01234567]", "with one");
  expect_marked("{\"a\":\"\\n[sk_live_0123456789abcdef]\"}", "behind an escape");
  expect_marked("[eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl].", "a token");
  expect_marked("eyJhbGciOiJIUzI1NiJ9.map eyJ2ZXJzaW9uIjoz", "no token");
  expect_marked("[eyJhbGciOiJIeyJIUzI1NiJ9.eyJzdWIiO] 1", "from the first eyJ on");
  expect_marked(
      "-----[BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAabcdefgh\nijklmnopqrs=\n-----END RSA PRIVATE "
      "KEY-----]\nok",
      "a PEM file keeps its lines");
  expect_marked(
      "{\"k\":\"-----[BEGIN PRIVATE KEY-----\\nMIIEowIBAAKCAQEAabcdefgh\\nabcdefgh\\n-----END PRIVATE "
      "KEY-----]\\n\"}",
      "and its string");
  expect_marked(
      "\"{\\\"k\\\":\\\"[BEGIN PRIVATE KEY-----\\\\nMIIEowIBAAKCAQEAabcdefghijklmnopqrstuv]\\\\\\\"}\"",
      "a string that ends in it");
  expect_marked("+-----[BEGIN EC PRIVATE KEY-----\n+MHcCAQEEIabcdefghijklmnopqrstuvwxyz\n+-----END EC "
                "PRIVATE KEY-----]\n+ok",
                "in a diff");
  expect_marked("  -----[BEGIN RSA PRIVATE KEY-----\n  Proc-Type: 4,ENCRYPTED\n  DEK-Info: "
                "AES-128-CBC,0123456789ABCDEF\n\n  "
                "abcd\n  -----END RSA PRIVATE KEY-----]\n",
                "encrypted and indented");
  expect_marked("-----BEGIN PRIVATE KEY----- is how such a file begins, as everyone knows who has seen one",
                "no PEM file");
  bool suffix = false;
  for (uint32_t i = 0; i < csn_redact_shape_count(); i++)
    for (uint32_t k = 0; k < csn_redact_shape_count(); k++) {
      size_t a = strlen(csn_redact_shape_prefix(i)), b = strlen(csn_redact_shape_prefix(k));
      suffix = suffix || (i != k && a <= b &&
                          strcmp(csn_redact_shape_prefix(k) + b - a, csn_redact_shape_prefix(i)) == 0);
    }
  ok(!suffix, "no prefix is the end of another: one begins at a time");
  const char *key = "AKIAIOSFODNN7EXAMPLE";
  csn_redact_begin(&stream, true);
  uint32_t n = csn_redact_push(&set, &stream, csn_span_str(key), once);
  n += csn_redact_flush(&stream, once + n);
  ok(n == 20 && memcmp(once, key, 20) == 0, "values only: shapes are left");
}

static void counts(void) {
  fresh((const char *const[]){"hunter2/x", NULL});
  const char *in = "hunter2/x hunter2/x \"hunter2\\/x\" hunter2%2Fx aHVudGVyMi94 68756e746572322f78 "
                   "ghp_0123456789abcdefghijABCDEFGHIJ012345";
  for (uint32_t chunk = 1; chunk < 90; chunk += 11) {
    redact(in, (uint32_t)strlen(in), chunk, once);
    const uint32_t *f = stream.found;
    ok(f[0] == 2 && f[1] == 1 && f[2] == 1 && f[3] == 1 && f[4] == 1 && f[5] == 1,
       "counts by form: %u %u %u %u %u %u", f[0], f[1], f[2], f[3], f[4], f[5]);
  }
}

static void held(void) {
  fresh((const char *const[]){"hunter2/x", NULL});
  csn_redact_begin(&stream, false);
  ok(csn_redact_push(&set, &stream, csn_span_str("line one\n"), once) == 9, "a line's end is not held");
  ok(csn_redact_push(&set, &stream, csn_span_str("it is hunt"), once) == 6, "a beginning is");
  ok(csn_redact_push(&set, &stream, csn_span_str("ing\n"), once) == 8 && memcmp(once, "hunting\n", 8) == 0,
     "until it is none");
  ok(csn_redact_push(&set, &stream, csn_span_of(NULL, 0), once) == 0, "nothing from nothing");
  ok(csn_redact_push(&set, &stream, csn_span_str("hunter2/"), once) == 0 &&
         csn_redact_flush(&stream, once) == 8 && memcmp(once, "hunter2/", 8) == 0,
     "the end gives what was held");
  ok(csn_redact_push(&set, &stream, csn_span_str("x hunter2/x"), once) == 11 &&
         memcmp(once, "x *********", 11) == 0,
     "what comes after the end is no part of what came before");
}

/* `pieces` separated by `|`, with a release between any two; what comes out, after the end too. */
static void expect_released(const char *split, const char *expected, const char *what) {
  uint32_t n = 0, in = 0;
  csn_redact_begin(&stream, false);
  for (const char *end; *split != 0; split = *end == 0 ? end : end + 1) {
    end = split + strcspn(split, "|");
    in += (uint32_t)(end - split);
    n += csn_redact_push(&set, &stream, csn_span_of(split, (uint32_t)(end - split)), once + n);
    n += csn_redact_release(&set, &stream, once + n);
    if (n != in) break;
  }
  bool same = n == in && n == strlen(expected) && memcmp(once, expected, n) == 0;
  if (!ok(same, "released: %s", what)) printf("# %.*s\n# %s\n", (int)n, once, expected);
}

static void released(void) {
  fresh((const char *const[]){"hunter2/x\"yz", NULL});
  expect_released("it is |hunti|ng\n", "it is hunting\n", "what is none");
  expect_released("h|u|n|ter2/x\"yz|!", "hun*********!", "the rest of a value");
  expect_released("h|u|n|t|e|r|2|/|x|\"|y|z|!", "hunter******!", "byte for byte");
  expect_released("hunter2/x|-", "hunter***-", "more than the half, which then was none");
  expect_released("hunter2/x|\"yz hunter2/x\"yz", "hunter****** ************", "and again");
  expect_released("aHVudGVy|Mi94Inl6", "aHVudGVy********", "base64");
  expect_released("{\"k\":\"hunter2/x\\|\"yz\"}",
                  "{\"k\":\"hunter****"
                  "***\"}",
                  "an escape");
  expect_released("ghp_0123456789|01234567890123456789|abc d", "ghp_0123456789*********************** d",
                  "a key by its shape, which is none before it is long enough");
  csn_redact_begin(&stream, false);
  csn_redact_push(&set, &stream, csn_span_str("so hunt"), once);
  ok(csn_redact_begun(&set, &stream) == 4, "four bytes of a value have come");
  csn_redact_release(&set, &stream, once);
  csn_redact_push(&set, &stream, csn_span_str("er"), once);
  ok(csn_redact_begun(&set, &stream) == 6, "six, of which four are out");
  csn_redact_push(&set, &stream, csn_span_str("s ghp_0123"), once);
  ok(csn_redact_begun(&set, &stream) == 0, "none: a key's shape is no value");
  csn_redact_flush(&stream, once);
  ok(csn_redact_release(&set, &stream, once) == 0, "nothing is held after the end");
  fresh((const char *const[]){"hunter2/x-and-much-more", "ter2/x#b", NULL});
  expect_released("hunter2/x|-|a|b", "hunter2**-ab", "the half of the shorter one of two");
}

static void bounds(void) {
  static uint8_t value[CSN_REDACT_VALUE_MAX + 1];
  csn_redact_init(&set);
  ok(csn_redact_add(&set, csn_span_str("1234567")) == CSN_ERR_BAD_VALUE, "7 bytes are refused");
  ok(csn_redact_add(&set, csn_span_str("12345678")) == CSN_ERR_OK, "8 bytes");
  ok(csn_redact_add(&set, csn_span_str("123456789")) == CSN_ERR_OK, "9 bytes");
  for (uint32_t i = 0; i < sizeof value; i++)
    value[i] = (uint8_t)("abcdefghijklmnop"[i * 7 % 16] + (i / 16 % 7));
  ok(csn_redact_add(&set, csn_span_of(value, CSN_REDACT_VALUE_MAX - 1)) == CSN_ERR_OK, "4095 bytes");
  csn_redact_init(&set);
  ok(csn_redact_add(&set, csn_span_of(value, CSN_REDACT_VALUE_MAX)) == CSN_ERR_OK, "4096 bytes");
  ok(csn_redact_add(&set, csn_span_of(value, CSN_REDACT_VALUE_MAX + 1)) == CSN_ERR_TOO_LONG,
     "4097 are refused");
  csn_redact_build(&set);
  printf("# %u states for %u bytes\n", set.state_count, CSN_REDACT_VALUE_MAX);
  memset(text, ' ', sizeof text);
  memcpy(text + 100, value, CSN_REDACT_VALUE_MAX);
  for (uint32_t chunk = 1000; chunk <= 70000; chunk += 23000) {
    uint32_t n = redact(text, 20000, chunk, once);
    bool masked = n == 20000;
    for (uint32_t i = 0; i < n; i++)
      masked = masked && once[i] == (i >= 100 && i < 100 + CSN_REDACT_VALUE_MAX ? '*' : ' ');
    ok(masked, "the longest value, pieces of %u", chunk);
  }
  memset(value, 1, sizeof value);
  csn_redact_init(&set);
  ok(csn_redact_add(&set, csn_span_of(value, CSN_REDACT_VALUE_MAX)) == CSN_ERR_OK, "the longest form");
  csn_redact_build(&set);
  uint32_t len = 0;
  for (uint32_t i = 0; i < CSN_REDACT_VALUE_MAX; i++, len += 7)
    memcpy(text + len, "\\\\u0001", 7);
  csn_redact_begin(&stream, false);
  ok(csn_redact_push(&set, &stream, csn_span_of(text, len - 1), once) == 0 && stream.held_len == len - 1,
     "is held but for its last byte");
  uint32_t n = csn_redact_push(&set, &stream, csn_span_of(text + len - 1, 1), once);
  n += csn_redact_flush(&stream, once + n);
  ok(n == len && memchr(once, 'u', n) == NULL, "and masked");

  csn_redact_init(&set);
  csn_err err = CSN_ERR_OK;
  uint32_t count = 0;
  for (char small[16]; count <= CSN_REDACT_VALUES_MAX && err == CSN_ERR_OK; count += err == CSN_ERR_OK) {
    snprintf(small, sizeof small, "value%05u", count);
    err = csn_redact_add(&set, csn_span_str(small));
  }
  ok(err == CSN_ERR_NO_MEMORY && count == CSN_REDACT_VALUES_MAX, "%u values, one more is refused", count);
  csn_redact_init(&set);
  err = CSN_ERR_OK;
  count = 0;
  for (uint32_t x = 1; err == CSN_ERR_OK; count += err == CSN_ERR_OK) {
    uint8_t random[256];
    for (uint32_t i = 0; i < sizeof random; i++, x = x * 1664525u + 1013904223u)
      random[i] = (uint8_t)(33 + (x >> 16) % 90);
    err = csn_redact_add(&set, csn_span_of(random, sizeof random));
  }
  ok(err == CSN_ERR_NO_MEMORY && count >= 12, "the automaton is full after %u values of 256 bytes", count);
  csn_redact_build(&set);
  expect("still AKIAIOSFODNN7EXAMPLE", "still ********************", "and does its work");
}

static void push_unready(void) {
  csn_redact_path_of(&set);
  csn_redact_push(&set, &stream, csn_span_str("x"), once);
}

/* Pieces of values, escapes and shapes in any order: the same in one piece and in many, and no byte changed
 * but to a mask. */
static void chunkings(void) {
  static const char *const parts[] = {"hunter2/x",
                                      "hunter2",
                                      "/x\"yz",
                                      "\\",
                                      "\\\\",
                                      "\\/",
                                      "\\n",
                                      "\\u00",
                                      "e9abcdefgh",
                                      "n",
                                      "abcdefgh",
                                      "aHVudGVyMi94Inl6",
                                      "%2F",
                                      "%22yz",
                                      "sk-",
                                      "sk-ant-",
                                      "0123456789abcdef",
                                      "ghp_",
                                      "eyJ",
                                      ".",
                                      " ",
                                      "\n",
                                      "BEGIN RSA PRIVATE KEY-----",
                                      "-----",
                                      "tail",
                                      "\\tail\\",
                                      "\"",
                                      "AKIA",
                                      "IOSFODNN7EXAMPLE",
                                      "68756e74",
                                      "6572322f7822797a",
                                      ":",
                                      "\xc3",
                                      "\xbc"};
  fresh((const char *const[]){"hunter2/x\"yz", "nabcdefgh", "00e9abcdefgh", "tail\\tail\\", "abcdefgh\\n",
                              "hunter2/", NULL});
  uint32_t x = 7, bad = 0, changed = 0;
  for (uint32_t round = 0; round < 3000; round++) {
    uint32_t len = 0;
    while (len < 400) {
      x = x * 1664525u + 1013904223u;
      const char *part = parts[(x >> 16) % (sizeof parts / sizeof parts[0])];
      memcpy(text + len, part, strlen(part));
      len += (uint32_t)strlen(part);
    }
    csn_redact_begin(&stream, false);
    uint32_t n = csn_redact_push(&set, &stream, csn_span_of(text, len), once);
    n += csn_redact_flush(&stream, once + n);
    for (uint32_t i = 0; i < len; i++)
      changed += once[i] != text[i] && once[i] != '*';
    uint32_t m = 0;
    csn_redact_begin(&stream, false);
    for (uint32_t at = 0; at < len;) {
      x = x * 1664525u + 1013904223u;
      uint32_t part = 1 + (x >> 16) % (round % 2 == 0 ? 3 : 40);
      if (part > len - at) part = len - at;
      m += csn_redact_push(&set, &stream, csn_span_of(text + at, part), pieces + m);
      at += part;
    }
    m += csn_redact_flush(&stream, pieces + m);
    bad += n != len || m != len || memcmp(once, pieces, len) != 0;
  }
  ok(bad == 0, "3000 random texts: the same in any chunking (%u differ)", bad);
  ok(changed == 0, "and no byte became anything but a mask (%u)", changed);
}

int main(void) {
  forms();
  base64();
  unicode();
  overlaps();
  gone();
  escapes();
  shapes();
  counts();
  held();
  released();
  bounds();
  ok(traps(push_unready), "a set that is not ready is a trap");
  chunkings();
  return done();
}
