/* redact.c - the streaming filter: what is certain goes out, what may still become a match is held. */
#include "csn/redact.h"

/* One call of csn_redact_push. Positions are relative to the chunk: -held_len for the first byte held. */
typedef struct scan {
  const csn_redact_set *set;
  csn_redact_stream *s;
  const uint8_t *in;
  int32_t len;  /* bytes of the chunk */
  uint8_t *out; /* out[i] is in[i], masked or not; the held bytes stand before it */
} scan;

/* How many backslashes stand right before `at`. */
static int32_t slashes_before(const scan *c, int32_t at) {
  int32_t first = -(int32_t)c->s->held_len, n = 0;
  while (at - n > first && c->out[at - n - 1] == '\\')
    n++;
  return n;
}

static bool is_hex(uint8_t c) {
  return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* How far before `at` the JSON escape begins that `at` is within: 1..5, or 0. What is held begins at no such
 * place, so nothing that has gone out matters. */
static int32_t escape_before(const scan *c, int32_t at) {
  int32_t first = -(int32_t)c->s->held_len;
  for (int32_t back = 1; back <= 5 && at - back >= first; back++) {
    uint8_t byte = c->out[at - back];
    if (byte == '\\') {
      bool whole = slashes_before(c, at - back + 1) % 2 == 0 || (back > 1 && c->out[at - back + 1] != 'u');
      return whole ? 0 : back;
    }
    if (!is_hex(byte) && byte != 'u') return 0;
  }
  return 0;
}

static void hide(uint8_t *from, int32_t len) {
  for (int32_t i = 0; i < len; i++)
    if (from[i] != '\n' && from[i] != '\r') from[i] = CSN_REDACT_MASK;
}

/* Masks [from, to); counts it when it is new and touches nothing that is masked already. Calls come with
 * growing `to`; a stretch that is masked already is not gone over again, so that matches within matches cost
 * nothing. */
static void mask(scan *c, int32_t from, int32_t to, bool is_new, csn_redact_form form) {
  csn_redact_stream *s = c->s;
  int64_t mask_from = (int64_t)(s->mask_from - s->fed), mask_to = (int64_t)(s->mask_to - s->fed);
  /* A backslash that escapes what follows leaves nothing of it: `\"` would end a string. */
  bool splits = c->out[to - 1] == '\\' && slashes_before(c, to) % 2 == 1;
  from -= escape_before(c, from);
  if (is_new && from >= mask_to) s->found[form]++;
  if (splits) {
    to++;
    s->mask_next = to > c->len;
  }
  int32_t here = to > c->len ? c->len : to, first = -(int32_t)s->held_len;
  /* What has gone out already was masked, or it was released. */
  if (from < first) from = first;
  if (from > mask_to || s->mask_to == 0) {
    hide(c->out + from, here - from);
    mask_from = from;
  } else {
    if (from < mask_from) {
      hide(c->out + from, (int32_t)(mask_from - from));
      mask_from = from;
    }
    if (here > mask_to) hide(c->out + mask_to, (int32_t)(here - mask_to));
  }
  if (to > mask_to || s->mask_to == 0) mask_to = to;
  s->mask_from = s->fed + (uint64_t)mask_from;
  s->mask_to = s->fed + (uint64_t)mask_to;
}

/* The form of the longest value that ends at a state. */
static csn_redact_form form_of(const csn_redact_set *set, uint32_t state) {
  while (set->own[state] == 0)
    state = set->fail[state];
  return (csn_redact_form)(set->own[state] - 1);
}

static void turn_shapes(scan *c, int32_t at) {
  csn_redact_stream *s = c->s;
  for (uint64_t left = s->runs_active; left != 0; left &= left - 1) {
    uint32_t shape = (uint32_t)__builtin_ctzll(left);
    csn_redact_run *run = &s->run[shape];
    csn_redact_turn turn = csn_redact_shape_turn(run, shape, c->in[at]);
    if (turn == CSN_REDACT_KEY) mask(c, at + 1 - run->len, at + 1, true, CSN_REDACT_SHAPE_FORM);
    if (turn == CSN_REDACT_MORE || turn == CSN_REDACT_LAST)
      mask(c, at - run->slashes, at + 1, false, CSN_REDACT_SHAPE_FORM);
    if (turn == CSN_REDACT_KEY || turn == CSN_REDACT_MORE) run->slashes = 0;
    if (turn == CSN_REDACT_OVER || turn == CSN_REDACT_LAST) s->runs_active &= ~(1ull << shape);
  }
}

/* A prefix ends at `at` as far as folded bytes can tell. The first of a shape that is under way covers those
 * that begin within it. */
static void begin_shape(scan *c, int32_t at, uint32_t state) {
  const csn_redact_set *set = c->set;
  csn_redact_stream *s = c->s;
  while (set->shape[state] == 0)
    state = set->fail[state];
  uint32_t shape = set->shape[state] - 1u;
  const char *prefix = csn_redact_shape_prefix(shape);
  int32_t from = at + 1 - set->depth[state];
  if ((s->runs_active >> shape & 1) != 0) return;
  for (int32_t i = from; i <= at; i++) {
    uint8_t byte = i >= 0 ? c->in[i] : s->recent[(int32_t)CSN_REDACT_PREFIX_MAX + i];
    if (byte != (uint8_t)prefix[i - from]) return;
  }
  csn_redact_shape_begin(&s->run[shape], shape);
  s->runs_active |= 1ull << shape;
}

static void take(scan *c, int32_t at) {
  csn_redact_stream *s = c->s;
  s->state = csn_redact_step(c->set, s->state, csn_redact_fold(c->in[at]));
  uint8_t mark = c->set->mark[s->state];
  if ((mark & CSN_REDACT_ENDS_VALUE) != 0)
    mask(c, at + 1 - c->set->match[s->state], at + 1, true, form_of(c->set, s->state));
  if (s->runs_active != 0) turn_shapes(c, at);
  if ((mark & CSN_REDACT_ENDS_SHAPE) != 0 && !s->values_only) begin_shape(c, at, s->state);
}

static inline uint32_t word_at(const uint8_t *p) {
  uint32_t word;
  memcpy(&word, p, 4);
  return word;
}

/* Whether a pattern may have its first bytes here, or those from its second on: by three bytes, then by four.
 */
static inline bool may_begin(const csn_redact_set *set, const uint8_t *p) {
  uint32_t word = word_at(p), three = set->filter[csn_redact_slot(word)];
  return (three & CSN_REDACT_SURE) != 0 ||
         ((three & CSN_REDACT_THREE) != 0 &&
          (set->filter[csn_redact_slot_of_four(word)] & CSN_REDACT_FOUR) != 0);
}

/* The first even place from `at` on where a pattern may stand; one that is less than 4 bytes from the end
 * when there is none. */
static int32_t skip(const scan *c, int32_t at) {
  const uint8_t *filter = c->set->filter, *in = c->in;
  at += at & 1;
  for (; c->len - at >= 10; at += 8) {
    const uint8_t *p = in + at;
    uint32_t any = filter[csn_redact_slot(word_at(p))] | filter[csn_redact_slot(word_at(p + 2))] |
                   filter[csn_redact_slot(word_at(p + 4))] | filter[csn_redact_slot(word_at(p + 6))];
    if ((any & (CSN_REDACT_THREE | CSN_REDACT_SURE)) == 0) continue;
    for (int32_t i = 0; i < 8; i += 2)
      if (may_begin(c->set, p + i)) return at + i;
  }
  while (c->len - at >= 4 && !may_begin(c->set, in + at))
    at += 2;
  return at;
}

/* The automaton takes what the filter cannot clear. A pattern that has not been ruled out begins at or after
 * `clear`. */
static void scan_all(scan *c) {
  csn_redact_stream *s = c->s;
  int32_t at = 0, clear = 0;
  while (at < c->len) {
    /* Short partial matches go back to the filter: it takes them up again if they are any. */
    int32_t begun = at - c->set->depth[s->state];
    if (s->runs_active == 0 && at - begun <= 2 && begun >= clear) {
      int32_t place = skip(c, begun);
      s->state = 0;
      at = place - 1 > begun ? place - 1 : begun;
      clear = place + 1;
      if (c->len - place < 4) {
        while (at < c->len)
          take(c, at++);
        return;
      }
    }
    take(c, at++);
  }
}

/* How many bytes at the end may still be masked. */
static int32_t held_at_end(const scan *c) {
  const csn_redact_stream *s = c->s;
  int32_t held = c->set->depth[s->state];
  for (uint64_t left = s->runs_active; left != 0; left &= left - 1) {
    const csn_redact_run *run = &s->run[__builtin_ctzll(left)];
    int32_t waits = run->is_key ? run->slashes : run->len;
    if (waits > held) held = waits;
  }
  /* What is masked is certain, whatever else it becomes a part of. */
  int64_t from = (int64_t)(s->mask_from - s->fed), to = (int64_t)(s->mask_to - s->fed), at = c->len - held;
  if (s->mask_to > 0 && at >= from && at < to) held = to >= c->len ? 0 : (int32_t)(c->len - to);
  /* The head of a match under way may have gone out, released or masked as part of another one. */
  int32_t total = (int32_t)c->s->held_len + c->len;
  return held < total ? held + escape_before(c, c->len - held) : total;
}

static void remember(csn_redact_stream *s, csn_span in) {
  uint32_t n = in.len < CSN_REDACT_PREFIX_MAX ? in.len : CSN_REDACT_PREFIX_MAX;
  memmove(s->recent, s->recent + n, CSN_REDACT_PREFIX_MAX - n);
  if (n > 0) memcpy(s->recent + CSN_REDACT_PREFIX_MAX - n, in.ptr + in.len - n, n);
}

void csn_redact_begin(csn_redact_stream *s, bool values_only) {
  memset(s, 0, offsetof(csn_redact_stream, held));
  s->values_only = values_only;
}

uint32_t csn_redact_push(const csn_redact_set *set, csn_redact_stream *s, csn_span in, uint8_t *out) {
  CSN_INVARIANT(set->is_ready && in.len <= INT32_MAX - CSN_REDACT_HELD_MAX);
  if (in.len == 0) return 0;
  scan c = {set, s, in.ptr, (int32_t)in.len, out + s->held_len};
  memcpy(out, s->held, s->held_len);
  memcpy(out + s->held_len, in.ptr, in.len);
  if (s->mask_next) hide(c.out, 1);
  s->mask_next = false;
  scan_all(&c);
  uint32_t total = s->held_len + in.len, held = (uint32_t)held_at_end(&c);
  CSN_INVARIANT(held <= total && held <= CSN_REDACT_HELD_MAX);
  memcpy(s->held, out + total - held, held);
  s->held_len = held;
  s->fed += in.len;
  remember(s, in);
  return total - held;
}

uint32_t csn_redact_begun(const csn_redact_set *set, const csn_redact_stream *s) {
  uint32_t state = s->state;
  while (state != 0 && set->least[state] == 0)
    state = set->fail[state];
  return set->depth[state];
}

uint32_t csn_redact_release(const csn_redact_set *set, csn_redact_stream *s, uint8_t *out) {
  uint32_t len = s->held_len;
  CSN_INVARIANT(set->is_ready);
  if (len == 0) return 0;
  memcpy(out, s->held, len);
  /* Every value that may be under way counts: a longer one must not let the half of a shorter one through. */
  uint32_t behind = 0;
  for (uint32_t state = s->state; state != 0; state = set->fail[state]) {
    uint32_t begun = set->depth[state], half = set->least[state] / 2u;
    if (half > 0 && begun > half && begun - half > behind) behind = begun - half;
  }
  if (behind > len) behind = len;
  hide(out + (len - behind), (int32_t)behind);
  s->held_len = 0;
  return len;
}

uint32_t csn_redact_flush(csn_redact_stream *s, uint8_t *out) {
  uint32_t len = s->held_len;
  if (len > 0) memcpy(out, s->held, len);
  s->held_len = 0;
  s->state = 0;
  s->runs_active = 0;
  s->mask_next = false;
  memset(s->recent, 0, sizeof s->recent);
  return len;
}
