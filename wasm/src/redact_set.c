/* redact_set.c - the automaton: patterns as a trie of folded bytes, and the failure links over it. */
#include "csn/redact.h"

uint8_t csn_redact_fold(uint8_t c) {
  if (c >= 'A' && c <= 'Z') return (uint8_t)(c | 0x20);
  return c == '-' ? '+' : c == '_' ? '/' : c;
}

static uint32_t new_state(csn_redact_set *set, uint8_t folded, uint32_t depth) {
  uint32_t state = set->state_count++;
  set->child[state] = set->sibling[state] = set->fail[state] = 0;
  set->own[state] = set->shape[state] = set->mark[state] = 0;
  set->match[state] = set->least[state] = 0;
  set->byte[state] = folded;
  set->depth[state] = (uint16_t)depth;
  return state;
}

void csn_redact_init(csn_redact_set *set) {
  set->state_count = 0;
  set->value_count = 0;
  memset(set->root, 0, sizeof set->root);
  memset(set->filter, 0, sizeof set->filter);
  new_state(set, 0, 0);
  for (uint32_t i = 0; i < csn_redact_shape_count(); i++) {
    csn_redact_path path = csn_redact_path_of(set);
    for (const char *p = csn_redact_shape_prefix(i); *p != 0; p++)
      csn_redact_path_put(&path, (uint8_t)*p);
    csn_redact_path_end_shape(&path, i);
  }
  csn_redact_build(set);
}

static uint32_t child_of(const csn_redact_set *set, uint32_t state, uint8_t c) {
  if (state == 0) return set->root[c];
  for (uint32_t k = set->child[state]; k != 0; k = set->sibling[k])
    if (set->byte[k] == c) return k;
  return 0;
}

uint32_t csn_redact_step(const csn_redact_set *set, uint32_t state, uint8_t folded) {
  while (state != 0) {
    uint32_t next = child_of(set, state, folded);
    if (next != 0) return next;
    state = set->fail[state];
  }
  return set->root[folded];
}

/* --- patterns ---------------------------------------------------------------------------------------------
 */

csn_redact_path csn_redact_path_of(csn_redact_set *set) {
  set->is_ready = false;
  return (csn_redact_path){.set = set};
}

void csn_redact_path_put(csn_redact_path *path, uint8_t c) {
  csn_redact_set *set = path->set;
  uint8_t folded = csn_redact_fold(c);
  if (path->is_full) return;
  uint32_t next = child_of(set, path->state, folded);
  if (next == 0) {
    if (set->state_count == CSN_REDACT_STATES || path->len == CSN_REDACT_PATTERN_MAX) {
      path->is_full = true;
      return;
    }
    next = new_state(set, folded, path->len + 1);
    if (path->state == 0) {
      set->root[folded] = next;
    } else {
      set->sibling[next] = set->child[path->state];
      set->child[path->state] = next;
    }
  }
  if (path->len < sizeof path->head) path->head[path->len] = folded;
  path->len++;
  path->state = next;
}

/* The bytes that fold to `folded`, as the filter sees them: letters lose their case there. */
static uint32_t unfold(uint8_t folded, uint8_t out[2]) {
  out[0] = folded;
  out[1] = folded == '+' ? '-' : '_';
  return folded == '+' || folded == '/' ? 2 : 1;
}

/* Puts three bytes into the filter, and the fourth where it is known. */
static void filter_block(csn_redact_set *set, const uint8_t *block, bool has_fourth) {
  uint8_t a[2], b[2], c[2], d[2] = {0, 0};
  uint32_t an = unfold(block[0], a), bn = unfold(block[1], b), cn = unfold(block[2], c);
  uint32_t dn = has_fourth ? unfold(block[3], d) : 1;
  for (uint32_t i = 0; i < an * bn * cn * dn; i++) {
    uint32_t word = a[i % an] | (uint32_t)b[i / an % bn] << 8 | (uint32_t)c[i / an / bn % cn] << 16 |
                    (uint32_t)d[i / an / bn / cn] << 24;
    set->filter[csn_redact_slot(word)] |= has_fourth ? CSN_REDACT_THREE : CSN_REDACT_SURE;
    if (has_fourth) set->filter[csn_redact_slot_of_four(word)] |= CSN_REDACT_FOUR;
  }
}

/* A block at an even place is looked at: the one that a pattern begins with, or the one from its second byte
 * on. */
static void filter_head(csn_redact_set *set, const csn_redact_path *path) {
  const uint8_t *head = path->head;
  filter_block(set, head, path->len > 3);
  if (path->len > 3) {
    filter_block(set, head + 1, path->len > 4);
    return;
  }
  for (uint32_t any = 0; any < 256; any++)
    filter_block(set, (const uint8_t[]){head[1], head[2], (uint8_t)any}, false);
}

bool csn_redact_path_end(csn_redact_path *path, csn_redact_form form) {
  csn_redact_set *set = path->set;
  if (path->is_full) return false;
  if (path->len < CSN_REDACT_VALUE_MIN) return true;
  if (set->own[path->state] == 0) set->own[path->state] = (uint8_t)(form + 1);
  filter_head(set, path);
  return true;
}

void csn_redact_path_end_shape(csn_redact_path *path, uint32_t shape) {
  CSN_INVARIANT(!path->is_full && path->len >= 3 && path->len <= CSN_REDACT_PREFIX_MAX);
  path->set->shape[path->state] = (uint8_t)(shape + 1);
  filter_head(path->set, path);
}

/* --- failure links
 * ------------------------------------------------------------------------------------------ */

static void settle(csn_redact_set *set, uint32_t state, uint32_t fail) {
  set->fail[state] = fail;
  set->match[state] = set->own[state] != 0 ? set->depth[state] : set->match[fail];
  set->mark[state] = (uint8_t)(set->mark[fail] | (set->own[state] != 0 ? CSN_REDACT_ENDS_VALUE : 0) |
                               (set->shape[state] != 0 ? CSN_REDACT_ENDS_SHAPE : 0));
}

void csn_redact_build(csn_redact_set *set) {
  uint32_t head = 0, tail = 0;
  if (set->is_ready) return;
  for (uint32_t c = 0; c < 256; c++) {
    if (set->root[c] == 0) continue;
    settle(set, set->root[c], 0);
    set->queue[tail++] = set->root[c];
  }
  while (head < tail) {
    uint32_t state = set->queue[head++];
    for (uint32_t k = set->child[state]; k != 0; k = set->sibling[k]) {
      settle(set, k, csn_redact_step(set, set->fail[state], set->byte[k]));
      set->queue[tail++] = k;
    }
  }
  /* Children stand behind their parents. */
  while (tail > 0) {
    uint32_t state = set->queue[--tail], least = set->own[state] != 0 ? set->depth[state] : 0;
    for (uint32_t k = set->child[state]; k != 0; k = set->sibling[k])
      if (set->least[k] != 0 && (least == 0 || set->least[k] < least)) least = set->least[k];
    set->least[state] = (uint16_t)least;
  }
  set->is_ready = true;
}
