/* transcript_write.h - between the files of a view. Each form writes a node in parts; transcript_write.c
 * walks the tree.
 */
#ifndef TRANSCRIPT_WRITE_H
#define TRANSCRIPT_WRITE_H

#include "csn/transcript.h"

static inline const csn_json_item *csn_transcript_get(const csn_transcript *v, uint32_t field) {
  return csn_json_get(&v->json, field, 0);
}
csn_span csn_transcript_text(const csn_transcript *v, uint32_t field); /* empty when it is no string */
bool csn_transcript_is_true(const csn_transcript *v, uint32_t field);
const char *csn_transcript_state(const csn_transcript *v); /* "succeeded" of the outcome that was read */

/* Whether the event that was read shows changes to a file; writes them line by line. */
bool csn_transcript_has_diff(const csn_transcript *v);
void csn_transcript_put_diff(csn_transcript *v, csn_fx *fx);
/* One line of it, escaped, after a mark. */
void csn_transcript_json_line(csn_fx *fx, const char *mark, csn_span line);
void csn_transcript_markdown_line(csn_transcript *v, csn_fx *fx, const char *mark, csn_span line);

/* What a form writes, in this order: head parts, nodes, end. In head parts and node parts the event asked for
 * has been read into v->json; `there` is false when the host did not have it. */
typedef struct csn_transcript_form {
  void (*begin)(csn_transcript *v, csn_fx *fx);
  void (*init)(csn_transcript *v, csn_fx *fx, bool there);
  void (*outcome)(csn_transcript *v, csn_fx *fx, bool there);
  void (*body)(csn_transcript *v, csn_fx *fx); /* counts and files; the turns follow */
  void (*open)(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there);
  void (*result)(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there);
  void (*extra)(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there);
  void (*piece)(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n,
                bool there);                                                  /* one event of an output */
  void (*items)(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n); /* its children follow */
  void (*close)(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n);
  void (*end)(csn_transcript *v, csn_fx *fx);
} csn_transcript_form;
extern const csn_transcript_form csn_transcript_json_form, csn_transcript_markdown_form;

#endif
