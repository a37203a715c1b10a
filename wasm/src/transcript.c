#include "csn/transcript.h"

#define NODE(cap, name, parent, step, key, verbatim)                                                         \
  {CSN_VF_##parent,                                                                                          \
   CSN_JS_##step,                                                                                            \
   (cap) < 0 ? 0 : CSN_VF_##name,                                                                            \
   verbatim,                                                                                                 \
   (cap) < 0 ? 0 : (uint32_t)(cap),                                                                          \
   key},
static const csn_json_node scan_nodes[CSN_VF_END] = {
#define X(name, parent, step, key, verbatim, scan, write) NODE(scan, name, parent, step, key, verbatim)
    CSN_TRANSCRIPT_FIELDS(X)
#undef X
};
static const csn_json_node write_nodes[CSN_VF_END] = {
#define X(name, parent, step, key, verbatim, scan, write) NODE(write, name, parent, step, key, verbatim)
    CSN_TRANSCRIPT_FIELDS(X)
#undef X
};
_Static_assert(CSN_VF_END <= CSN_JSON_NODE_MAX, "table too large");
static const csn_json_table scan_table = {scan_nodes, CSN_VF_END};
const csn_json_table csn_transcript_table = {write_nodes, CSN_VF_END};

void csn_transcript_init(csn_transcript *v, csn_transcript_format format) {
  CSN_INVARIANT(format > 0 && format < CSN_TRANSCRIPT_FORMAT_END);
  memset(v, 0, offsetof(csn_transcript, nodes)); /* nodes and files are counted */
  v->format = (uint8_t)format;
  v->turn = v->root_first = v->root_last = v->at = CSN_TRANSCRIPT_NONE;
  csn_json_init(&v->json, scan_table);
}

static const csn_json_item *get(const csn_transcript *v, uint32_t field) {
  return csn_json_get(&v->json, field, 0);
}

static csn_span text_of(const csn_transcript *v, uint32_t field) {
  const csn_json_item *item = get(v, field);
  return item->kind == CSN_JK_STRING ? csn_json_text(&v->json, item) : csn_span_of(NULL, 0);
}

static bool has(const csn_transcript *v, uint32_t field) {
  return get(v, field)->kind != CSN_JK_NONE;
}

static uint64_t number_of(const csn_transcript *v, uint32_t field) {
  const csn_json_item *item = get(v, field);
  uint64_t n = 0;
  if (item->kind == CSN_JK_NUMBER && !item->cut) csn_json_u64(csn_json_text(&v->json, item), &n);
  return n;
}

static uint64_t hash_of(csn_span s) {
  uint64_t h = 0xcbf29ce484222325u;
  for (uint32_t i = 0; i < s.len; i++)
    h = (h ^ s.ptr[i]) * 0x100000001b3u;
  return h == 0 ? 1 : h;
}

static void up(uint32_t *n) {
  if (*n < UINT32_MAX) *n += 1;
}

/* --- the tree --- */

/* A new last child of `parent` (CSN_TRANSCRIPT_NONE: the root); CSN_TRANSCRIPT_NONE when there is no room. */
static uint16_t add(csn_transcript *v, uint16_t parent, csn_transcript_kind kind, uint32_t seq) {
  if (v->node_count == CSN_TRANSCRIPT_NODES_MAX) {
    up(&v->lost_nodes);
    return CSN_TRANSCRIPT_NONE;
  }
  uint16_t at = (uint16_t)v->node_count++;
  csn_transcript_node *n = &v->nodes[at];
  *n = (csn_transcript_node){.seq = seq,
                             .kind = (uint8_t)kind,
                             .parent = parent,
                             .next = CSN_TRANSCRIPT_NONE,
                             .first = CSN_TRANSCRIPT_NONE,
                             .last = CSN_TRANSCRIPT_NONE};
  uint16_t *first = parent == CSN_TRANSCRIPT_NONE ? &v->root_first : &v->nodes[parent].first;
  uint16_t *last = parent == CSN_TRANSCRIPT_NONE ? &v->root_last : &v->nodes[parent].last;
  if (parent != CSN_TRANSCRIPT_NONE) {
    uint32_t depth = v->nodes[parent].depth + (v->nodes[parent].kind == CSN_VN_CALL ? 1u : 0u);
    n->depth = (uint8_t)depth;
  }
  if (*last == CSN_TRANSCRIPT_NONE)
    *first = at;
  else
    v->nodes[*last].next = at;
  *last = at;
  return at;
}

enum { SLOTS = 16384 };

/* The node of the last call with this id. */
static uint16_t find_call(const csn_transcript *v, csn_span id) {
  if (id.len == 0) return CSN_TRANSCRIPT_NONE;
  uint64_t h = hash_of(id);
  uint32_t slot = (uint32_t)(h % SLOTS);
  while (v->slots[slot] != 0) {
    uint16_t at = (uint16_t)(v->slots[slot] - 1);
    if (v->nodes[at].id == h) return at;
    slot = (slot + 1) % SLOTS;
  }
  return CSN_TRANSCRIPT_NONE;
}

/* Half of the slots at least are free: there are twice as many as nodes. */
static void index_call(csn_transcript *v, uint16_t at, csn_span id) {
  if (id.len == 0) return;
  uint64_t h = hash_of(id);
  uint32_t slot = (uint32_t)(h % SLOTS);
  v->nodes[at].id = h;
  while (v->slots[slot] != 0 && v->nodes[v->slots[slot] - 1].id != h)
    slot = (slot + 1) % SLOTS;
  v->slots[slot] = (uint16_t)(at + 1);
}

/* The call under which an event of a subagent belongs, no deeper than is shown. */
static uint16_t home_of(const csn_transcript *v) {
  uint16_t call = find_call(v, text_of(v, CSN_VF_PARENT));
  while (call != CSN_TRANSCRIPT_NONE && v->nodes[call].depth >= CSN_TRANSCRIPT_DEPTH_MAX)
    call = v->nodes[v->nodes[call].parent].parent;
  return call;
}

static uint16_t open_turn_of(const csn_transcript *v, uint16_t home) {
  if (home == CSN_TRANSCRIPT_NONE) return v->turn;
  uint16_t last = v->nodes[home].last;
  return last != CSN_TRANSCRIPT_NONE && v->nodes[last].kind == CSN_VN_TURN ? last : CSN_TRANSCRIPT_NONE;
}

static uint16_t begin_turn(csn_transcript *v, uint16_t home, uint32_t seq, bool implicit) {
  uint16_t before = open_turn_of(v, home);
  uint16_t at = add(v, home, CSN_VN_TURN, seq);
  if (at == CSN_TRANSCRIPT_NONE) return at;
  v->nodes[at].is_implicit = implicit;
  v->nodes[at].id = home == CSN_TRANSCRIPT_NONE     ? v->turns
                    : before == CSN_TRANSCRIPT_NONE ? 1
                                                    : v->nodes[before].id + 1;
  if (home == CSN_TRANSCRIPT_NONE) v->turn = at;
  return at;
}

/* A new item of the open turn. Where the dialect tells no beginnings of turns, what a model says first, or
 * after a tool's result, begins one; what nobody said stands in turn 0 until then. */
static uint16_t add_item(csn_transcript *v, csn_transcript_kind kind, uint32_t seq, bool said) {
  uint16_t home = home_of(v), turn = open_turn_of(v, home);
  bool begins = turn == CSN_TRANSCRIPT_NONE;
  if (said && home == CSN_TRANSCRIPT_NONE) {
    if (!v->has_turn && (begins || v->after_result || v->turns == 0)) {
      begins = true;
      up(&v->turns);
    }
    v->after_result = 0;
  }
  if (begins) turn = begin_turn(v, home, seq, true);
  return turn == CSN_TRANSCRIPT_NONE ? CSN_TRANSCRIPT_NONE : add(v, turn, kind, seq);
}

/* --- files --- */

static void touch_file(csn_transcript *v, csn_span path, bool edits, uint8_t status) {
  static const char *const inside = "/workspace/";
  uint32_t n = csn_str_len(inside);
  if (path.len > n && memcmp(path.ptr, inside, n) == 0) path = csn_span_of(path.ptr + n, path.len - n);
  if (path.len == 0) return;
  uint64_t h = hash_of(path);
  csn_transcript_file *f = NULL;
  for (uint32_t i = 0; i < v->file_count && f == NULL; i++)
    if (v->files[i].hash == h) f = &v->files[i];
  if (f == NULL) {
    if (v->file_count == CSN_TRANSCRIPT_FILES_MAX || path.len > CSN_TRANSCRIPT_PATHS_CAP - v->paths_len) {
      up(&v->lost_files);
      return;
    }
    f = &v->files[v->file_count++];
    *f = (csn_transcript_file){.hash = h, .off = v->paths_len, .len = (uint16_t)path.len};
    memcpy(v->paths + v->paths_len, path.ptr, path.len);
    v->paths_len += path.len;
  }
  if (status != 0)
    f->status = status;
  else if (edits && f->edits < UINT16_MAX)
    f->edits++;
  else if (!edits && f->reads < UINT16_MAX)
    f->reads++;
}

/* --- events --- */

static void on_call(csn_transcript *v, uint32_t seq) {
  up(&v->tool_calls);
  bool edits = has(v, CSN_VF_OLD) || has(v, CSN_VF_OLD_CAMEL) || has(v, CSN_VF_CONTENT) ||
               has(v, CSN_VF_EDITS) || has(v, CSN_VF_PATCH) || has(v, CSN_VF_INPUT_HEAD);
  uint32_t changes = csn_json_index_end(&v->json, CSN_VF_CHANGE_PATH, CSN_VF_CHANGE_PATH);
  for (uint32_t i = 0; i < changes; i++) {
    const csn_json_item *path = csn_json_get(&v->json, CSN_VF_CHANGE_PATH, i);
    if (path->kind == CSN_JK_STRING) touch_file(v, csn_json_text(&v->json, path), true, 0);
  }
  if (changes == 0) touch_file(v, text_of(v, CSN_VF_FILE), edits, 0);
  uint16_t at = add_item(v, CSN_VN_CALL, seq, true);
  if (at != CSN_TRANSCRIPT_NONE) index_call(v, at, text_of(v, CSN_VF_ID));
}

static void on_result(csn_transcript *v, uint32_t seq) {
  if (get(v, CSN_VF_IS_ERROR)->kind == CSN_JK_TRUE) up(&v->tool_errors);
  if (text_of(v, CSN_VF_PARENT).len == 0) v->after_result = 1;
  uint16_t call = find_call(v, text_of(v, CSN_VF_ID));
  if (call != CSN_TRANSCRIPT_NONE && v->nodes[call].other == 0)
    v->nodes[call].other = seq;
  else
    add_item(v, CSN_VN_RESULT, seq, false);
}

static void on_output(csn_transcript *v, csn_transcript_kind kind, uint32_t seq) {
  uint16_t turn = open_turn_of(v, CSN_TRANSCRIPT_NONE);
  uint16_t last = turn == CSN_TRANSCRIPT_NONE ? CSN_TRANSCRIPT_NONE : v->nodes[turn].last;
  if (last == CSN_TRANSCRIPT_NONE || v->nodes[last].kind != kind || v->nodes[last].other + 1 != seq) {
    last = add_item(v, kind, seq, false);
    if (last == CSN_TRANSCRIPT_NONE) return;
  }
  v->nodes[last].other = seq;
  v->nodes[last].id += get(v, CSN_VF_TEXT)->true_len;
}

static void on_turn(csn_transcript *v, uint32_t seq) {
  uint16_t home = home_of(v);
  if (text_of(v, CSN_VF_PARENT).len == 0) {
    v->has_turn = 1;
    v->after_result = 0;
    up(&v->turns);
  }
  /* Beyond the depth that is shown, a turn goes on in the one above it. */
  if (home == CSN_TRANSCRIPT_NONE && text_of(v, CSN_VF_PARENT).len > 0) return;
  begin_turn(v, home, seq, false);
}

static void on_denied(csn_transcript *v, uint32_t seq) {
  up(&v->denials);
  uint16_t call = find_call(v, text_of(v, CSN_VF_ID));
  if (call != CSN_TRANSCRIPT_NONE)
    v->nodes[call].is_denied = 1;
  else
    add_item(v, CSN_VN_DENIED, seq, false);
}

static void on_subagent(csn_transcript *v, uint32_t seq) {
  csn_span phase = text_of(v, CSN_VF_PHASE);
  uint16_t call = find_call(v, text_of(v, CSN_VF_ID));
  if (csn_span_is(phase, "started")) up(&v->subagents);
  if (csn_span_is(phase, "ended") && call != CSN_TRANSCRIPT_NONE) v->nodes[call].extra = seq;
}

static void on_file(csn_transcript *v) {
  csn_span status = text_of(v, CSN_VF_STATUS);
  uint8_t s = csn_span_is(status, "added") ? 1 : csn_span_is(status, "deleted") ? 3 : 2;
  touch_file(v, text_of(v, CSN_VF_PATH), false, s);
}

static void on_agent_result(csn_transcript *v, uint32_t seq) {
  v->result_seq = seq;
  if (get(v, CSN_VF_IS_ERROR)->kind != CSN_JK_TRUE) return;
  up(&v->errors);
  add_item(v, CSN_VN_ERROR, seq, false);
}

static void on_raw(csn_transcript *v) {
  if (!csn_span_is(text_of(v, CSN_VF_REASON), "unmapped")) up(&v->raws);
}

csn_err csn_transcript_event(csn_transcript *v, csn_span event) {
  if (v->state != 0) return CSN_ERR_BAD_STATE;
  csn_json_reset(&v->json);
  csn_json_push(&v->json, event);
  uint64_t number = 0;
  bool fine = csn_json_end(&v->json) == CSN_JSON_OK;
  if (fine) number = number_of(v, CSN_VF_SEQ);
  /* Events come in order, once each: anything else would pair what does not belong together. */
  if (!fine || number == 0 || number > UINT32_MAX || number <= v->last_seq) {
    up(&v->bad_events);
    return CSN_ERR_OK;
  }
  uint32_t seq = (uint32_t)number;
  v->last_seq = seq;
  csn_span run = text_of(v, CSN_VF_RUN);
  uint64_t n = 0;
  if (v->run == 0 && run.len > 4 && csn_json_u64(csn_span_of(run.ptr + 4, run.len - 4), &n) &&
      n <= UINT32_MAX)
    v->run = (uint32_t)n;
  v->last_ms = number_of(v, CSN_VF_TIME);
  if (v->first_ms == 0) v->first_ms = v->last_ms;

  switch ((int)csn_type_by_text(text_of(v, CSN_VF_TYPE))) {
  case CSN_T_RUN_STARTED:
    v->started_seq = seq;
    break;
  case CSN_T_RUN_SUCCEEDED:
  case CSN_T_RUN_FAILED:
  case CSN_T_RUN_INTERRUPTED:
  case CSN_T_RUN_CANCELLED:
  case CSN_T_RUN_TIMED_OUT:
  case CSN_T_RUN_OVER_BUDGET:
  case CSN_T_RUN_POLICY_VIOLATION:
    v->outcome_seq = seq;
    break;
  case CSN_T_AGENT_INIT:
    if (v->init_seq == 0) v->init_seq = seq;
    break;
  case CSN_T_AGENT_TURN:
    on_turn(v, seq);
    break;
  case CSN_T_AGENT_TEXT:
    add_item(v, CSN_VN_TEXT, seq, true);
    break;
  case CSN_T_AGENT_THINKING:
    add_item(v, CSN_VN_THINKING, seq, true);
    break;
  case CSN_T_AGENT_TOOL_CALL:
    on_call(v, seq);
    break;
  case CSN_T_AGENT_TOOL_RESULT:
    on_result(v, seq);
    break;
  case CSN_T_AGENT_PERMISSION_DENIED:
    on_denied(v, seq);
    break;
  case CSN_T_AGENT_SUBAGENT:
    on_subagent(v, seq);
    break;
  case CSN_T_AGENT_USAGE:
    if (v->turn != CSN_TRANSCRIPT_NONE) v->nodes[v->turn].other = seq;
    break;
  case CSN_T_AGENT_RETRY:
    up(&v->retries);
    add_item(v, CSN_VN_RETRY, seq, false);
    break;
  case CSN_T_AGENT_RESULT:
    on_agent_result(v, seq);
    break;
  case CSN_T_OUTPUT_STDOUT:
    on_output(v, CSN_VN_STDOUT, seq);
    break;
  case CSN_T_OUTPUT_STDERR:
    on_output(v, CSN_VN_STDERR, seq);
    break;
  case CSN_T_FILE_CHANGED:
    on_file(v);
    break;
  case CSN_T_LIMIT_WARNING:
    add_item(v, CSN_VN_WARNING, seq, false);
    break;
  case CSN_T_RAW:
    on_raw(v);
    break;
  default:
    break;
  }
  return CSN_ERR_OK;
}
