/* guest/interp_event.h - what an interpreter says, and the events that are made of it.
 *
 * An interpreter is a program that runs a stranger's code in its own process, so every line of it is taken as
 * that code's claim: it can only spoil the answers of its own context. Pure: no I/O. */
#ifndef CAISSON_GUEST_INTERP_EVENT_H
#define CAISSON_GUEST_INTERP_EVENT_H

#include "../common/buf.h"

#define INTERP_LINE_MAX                                                                                      \
  (24u * 1024 * 1024) /* one line of an interpreter, bytes; the drivers send half of it */

typedef enum interp_kind {
  INTERP_BAD,    /* not a line of the protocol */
  INTERP_STALE,  /* of another run: shown by a timer or thread that outlived its cell */
  INTERP_HELLO,  /* "H {…}": ready */
  INTERP_RESULT, /* "R n {…}": a value to show */
  INTERP_DONE,   /* "D n": the cell has ended well */
  INTERP_ERROR,  /* "E n {…}": the cell has ended with an error */
} interp_kind;

typedef struct interp_line {
  interp_kind kind;
  const char *body; /* the JSON object, inside the line; NULL for INTERP_DONE */
  size_t body_len;
} interp_line;

/* Reads one line (no line feed). `run` is the number of the run under way, 0 between runs. */
interp_line interp_read(const char *line, size_t len, uint64_t run);

/* Each appends one event, "data: JSON\n\n". All of it is ASCII: the SDK decodes each piece it reads by
 * itself, and would break a character that lies across two. */
void interp_add_text(csn_buf *out, int which, const char *text, size_t len,
                     int64_t wall_ms); /* 0 stdout, 1 stderr */
void interp_add_result(csn_buf *out, const interp_line *line);
void interp_add_done(csn_buf *out, uint64_t count);
/* `line` may be NULL or another kind; its traceback is kept. With `ename` and `evalue` NULL they are the
 * line's. */
void interp_add_error(csn_buf *out, const interp_line *line, const char *ename, const char *evalue);

/* Appends JSON text with every byte above ASCII as \uXXXX; bytes that are no UTF-8 become \ufffd. */
void interp_ascii(csn_buf *out, const char *json, size_t len);

#endif
