/* redact_shapes.c - keys of well-known services, by prefix, class and least length (wasm/data/shapes.h). */
#include "csn/redact.h"

#include "shapes.h"

/* bytes: a JSON Web Token's header is shorter */
#define JWT_HEADER_MAX 4096u
/* backslashes before the `n` of a line's end that was escaped more than once */
#define SLASHES_MAX 8u

typedef enum shape_class {
  CLASS_ALNUM,
  CLASS_DIGIT,
  CLASS_WORD,
  CLASS_SLUG,
  CLASS_UPPER,
  CLASS_DOT,
  CLASS_B64,
  CLASS_JWT,
  CLASS_PEM,
} shape_class;

#define SHAPE_ROW(prefix, class, min, what) {prefix, #class, CLASS_##class, min, sizeof(prefix) - 1},
static const struct {
  const char *prefix, *name;
  shape_class class;
  uint8_t min, prefix_len;
} shapes[] = {CSN_SHAPE_TABLE(SHAPE_ROW)};
#undef SHAPE_ROW
#define SHAPE_COUNT ((uint32_t)(sizeof shapes / sizeof shapes[0]))
_Static_assert(sizeof shapes / sizeof shapes[0] <= CSN_REDACT_SHAPES_MAX, "runs_active is 64 bits");

uint32_t csn_redact_shape_count(void) {
  return SHAPE_COUNT;
}
const char *csn_redact_shape_prefix(uint32_t shape) {
  return shapes[shape].prefix;
}
const char *csn_redact_shape_class(uint32_t shape) {
  return shapes[shape].name;
}
uint32_t csn_redact_shape_min(uint32_t shape) {
  return shapes[shape].min;
}

void csn_redact_shape_begin(csn_redact_run *run, uint32_t shape) {
  *run = (csn_redact_run){.len = shapes[shape].prefix_len};
}

static bool is_digit(uint8_t c) {
  return c >= '0' && c <= '9';
}
static bool is_upper(uint8_t c) {
  return c >= 'A' && c <= 'Z';
}
static bool is_alnum(uint8_t c) {
  return is_digit(c) || is_upper(c) || (c >= 'a' && c <= 'z');
}

static bool in_class(shape_class class, uint8_t c) {
  switch (class) {
  case CLASS_ALNUM:
  case CLASS_DIGIT:
    return is_alnum(c);
  case CLASS_WORD:
    return is_alnum(c) || c == '_';
  case CLASS_UPPER:
    return is_upper(c) || is_digit(c);
  case CLASS_DOT:
    return is_alnum(c) || c == '_' || c == '-' || c == '.';
  case CLASS_B64:
    return is_alnum(c) || c == '+' || c == '/' || c == '=';
  case CLASS_SLUG:
  case CLASS_JWT:
  case CLASS_PEM:
    return is_alnum(c) || c == '_' || c == '-';
  }
  return false;
}

static csn_redact_turn plain_turn(csn_redact_run *run, uint32_t shape, uint8_t c) {
  if (!in_class(shapes[shape].class, c)) return CSN_REDACT_OVER;
  if (run->is_key) return CSN_REDACT_MORE;
  run->len++;
  run->has_digit = run->has_digit || is_digit(c);
  if (run->len < shapes[shape].prefix_len + shapes[shape].min) return CSN_REDACT_OPEN;
  return shapes[shape].class == CLASS_DIGIT && !run->has_digit ? CSN_REDACT_OVER : CSN_REDACT_KEY;
}

/* header "." payload "." signature; header and payload are JSON objects, whose base64 begins `eyJ`. */
static csn_redact_turn jwt_turn(csn_redact_run *run, uint32_t shape, uint8_t c) {
  bool dot = c == '.';
  if (!dot && !in_class(CLASS_JWT, c)) return CSN_REDACT_OVER;
  if (run->is_key) {
    if (dot && run->dots == 2) return CSN_REDACT_OVER;
    run->dots = (uint8_t)(run->dots + dot);
    return CSN_REDACT_MORE;
  }
  run->len++;
  if (run->dots == 0) {
    if (!dot) return run->len > JWT_HEADER_MAX ? CSN_REDACT_OVER : CSN_REDACT_OPEN;
    run->dots = 1;
    return run->len <= 3u + shapes[shape].min ? CSN_REDACT_OVER : CSN_REDACT_OPEN;
  }
  if (c != (uint8_t) "eyJ"[run->part]) return CSN_REDACT_OVER;
  run->part++;
  return run->part == 3 ? CSN_REDACT_KEY : CSN_REDACT_OPEN;
}

/* RFC 7468, RFC 1421 headers, and line ends that are escaped, indented or marked as a diff's. */
static bool in_pem(csn_redact_run *run, uint8_t c) {
  if (c == ' ')
    return run->fences > 0 || run->previous == ':' || run->previous == '\n' || run->previous == ' ';
  return in_class(CLASS_B64, c) || c == '\n' || c == '\r' || c == ':' || c == ',' || c == '.' || c == '-';
}

static csn_redact_turn pem_turn(csn_redact_run *run, uint32_t shape, uint8_t c) {
  csn_redact_turn turn = run->is_key ? CSN_REDACT_MORE : CSN_REDACT_OPEN;
  if (!run->is_key) run->len++;
  if (c == '\\') {
    run->slashes++;
    run->dashes = 0;
    return run->slashes > SLASHES_MAX ? CSN_REDACT_OVER : run->is_key ? CSN_REDACT_WAIT : CSN_REDACT_OPEN;
  }
  if (run->slashes > 0) {
    /* Anything else is the end of the string that the key stands in. */
    if (c != 'n' && c != 'r') return CSN_REDACT_OVER;
    run->previous = '\n';
    if (!run->is_key) run->slashes = 0;
  } else {
    if (!in_pem(run, c)) return CSN_REDACT_OVER;
    run->previous = c == '\r' ? '\n' : c;
    run->dashes = c == '-' ? (uint8_t)(run->dashes + (run->dashes < 9)) : 0;
    if (run->dashes == 5) run->fences++;
    if (run->fences == 2) return run->is_key ? CSN_REDACT_LAST : CSN_REDACT_OVER;
  }
  if (run->is_key || run->len < shapes[shape].prefix_len + shapes[shape].min) return turn;
  return CSN_REDACT_KEY;
}

csn_redact_turn csn_redact_shape_turn(csn_redact_run *run, uint32_t shape, uint8_t c) {
  csn_redact_turn turn = shapes[shape].class == CLASS_JWT   ? jwt_turn(run, shape, c)
                         : shapes[shape].class == CLASS_PEM ? pem_turn(run, shape, c)
                                                            : plain_turn(run, shape, c);
  if (turn == CSN_REDACT_KEY) run->is_key = true;
  return turn;
}
