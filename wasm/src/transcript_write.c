#include "transcript_write.h"

csn_span csn_transcript_text(const csn_transcript *v, uint32_t field) {
  const csn_json_item *item = csn_transcript_get(v, field);
  return item->kind == CSN_JK_STRING ? csn_json_text(&v->json, item) : csn_span_of(NULL, 0);
}

bool csn_transcript_is_true(const csn_transcript *v, uint32_t field) {
  return csn_transcript_get(v, field)->kind == CSN_JK_TRUE;
}

const char *csn_transcript_state(const csn_transcript *v) {
  csn_type type = csn_type_by_text(csn_transcript_text(v, CSN_VF_TYPE));
  bool outcome = type >= CSN_T_RUN_SUCCEEDED && type <= CSN_T_RUN_POLICY_VIOLATION;
  return outcome ? csn_type_text(type) + 4 : "";
}

/* States of the writing. WALK writes v->at, part by part. */
enum { BEGIN, INIT, OUTCOME, BODY, WALK, END, DONE };
/* Parts of a node, in order. */
enum { OPEN, RESULT, EXTRA, PIECES, ITEMS, CHILDREN, CLOSE };

/* Reads an event; false when it is not there. */
static bool read_event(csn_transcript *v, csn_span event) {
  csn_json_reset(&v->json);
  csn_json_push(&v->json, event);
  if (csn_json_end(&v->json) == CSN_JSON_OK) return true;
  csn_json_reset(&v->json); /* no captures */
  return false;
}

/* Goes to the node after v->at, up the tree where there is none; its parts begin anew. */
static void leave(csn_transcript *v) {
  const csn_transcript_node *n = &v->nodes[v->at];
  if (n->next != CSN_TRANSCRIPT_NONE) {
    v->at = n->next;
    v->part = OPEN;
    return;
  }
  v->at = n->parent;
  v->part = CLOSE;
  if (v->at == CSN_TRANSCRIPT_NONE) v->state = END;
}

/* The event that the next part of v->at needs; 0 when it needs none. Skips parts that there are not. */
static uint32_t need_of(csn_transcript *v) {
  const csn_transcript_node *n = &v->nodes[v->at];
  bool output = n->kind == CSN_VN_STDOUT || n->kind == CSN_VN_STDERR;
  for (;; v->part++) {
    switch (v->part) {
    case OPEN:
      if (output) v->at_seq = n->seq;
      v->shown = 0;
      return n->kind == CSN_VN_TURN && n->is_implicit ? 0 : output ? 0 : n->seq;
    case RESULT:
      if (output || n->other == 0) break;
      return n->other;
    case EXTRA:
      if (n->extra == 0) break;
      return n->extra;
    case PIECES:
      if (!output || v->at_seq > n->other || v->shown >= CSN_TRANSCRIPT_OUTPUT_MAX) break;
      return v->at_seq;
    default:
      return 0;
    }
  }
}

static void write_part(csn_transcript *v, csn_fx *fx, const csn_transcript_form *f, bool there) {
  const csn_transcript_node *n = &v->nodes[v->at];
  switch (v->part) {
  case OPEN:
    f->open(v, fx, n, there);
    break;
  case RESULT:
    f->result(v, fx, n, there);
    break;
  case EXTRA:
    f->extra(v, fx, n, there);
    break;
  case PIECES:
    f->piece(v, fx, n, there);
    v->shown += csn_transcript_text(v, CSN_VF_TEXT).len;
    v->at_seq++;
    return; /* there may be more */
  case ITEMS:
    f->items(v, fx, n);
    break;
  case CHILDREN:
    if (n->first == CSN_TRANSCRIPT_NONE) break;
    v->at = n->first;
    v->part = OPEN;
    return;
  default:
    f->close(v, fx, n);
    leave(v);
    return;
  }
  v->part++;
}

/* One step. Returns the event that the next one needs, 0 for none. */
static uint32_t step(csn_transcript *v, csn_fx *fx, const csn_transcript_form *f, bool there) {
  bool summary = v->format == CSN_TRANSCRIPT_SUMMARY;
  switch (v->state) {
  case BEGIN:
    csn_json_init(&v->json, csn_transcript_table);
    f->begin(v, fx);
    v->state = summary ? BODY : INIT;
    return summary ? 0 : v->init_seq;
  case INIT:
    f->init(v, fx, there);
    v->state = OUTCOME;
    return v->outcome_seq;
  case OUTCOME:
    f->outcome(v, fx, there);
    v->state = BODY;
    return 0;
  case BODY:
    f->body(v, fx);
    v->at = v->root_first;
    v->part = OPEN;
    v->state = summary || v->at == CSN_TRANSCRIPT_NONE ? END : WALK;
    break;
  case WALK:
    write_part(v, fx, f, there);
    break;
  case END:
    f->end(v, fx);
    v->state = DONE;
    break;
  default:
    break;
  }
  return v->state == WALK ? need_of(v) : 0;
}

bool csn_transcript_next(csn_transcript *v, csn_span given, csn_fx *fx) {
  const csn_transcript_form *f =
      v->format == CSN_TRANSCRIPT_MARKDOWN ? &csn_transcript_markdown_form : &csn_transcript_json_form;
  CSN_INVARIANT(csn_fx_room(fx) >= CSN_TRANSCRIPT_FX_MIN);
  bool there = v->want != 0 && read_event(v, given);
  if (v->want == 0 || !there) csn_json_reset(&v->json);
  v->want = 0;
  uint32_t at = csn_fx_open(fx, CSN_FX_TRANSCRIPT_TEXT, 0, 0, 0, 0), from = fx->len;
  /* A part without an event is short: room for the longest one is kept for those with one. */
  while (v->state != DONE && v->want == 0 && fx->len - from < 65536u) {
    v->want = step(v, fx, f, there);
    there = false;
    if (v->want == 0) csn_json_reset(&v->json);
  }
  csn_fx_close(fx, at);
  if (v->want != 0) csn_fx_emit(fx, CSN_FX_TRANSCRIPT_WANT, v->want, 0, csn_span_of(NULL, 0));
  return v->state != DONE;
}
