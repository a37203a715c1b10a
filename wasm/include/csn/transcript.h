/* csn/transcript.h - a run's events folded into a transcript, as JSON or as Markdown.
 *
 * Two passes, so that memory is bounded by the number of turns and calls and not by their texts. First every
 * event of the run is shown, in order (csn_transcript_event): the fold keeps what belongs together, by event
 * number. Then csn_transcript_next writes the transcript in pieces and asks for the events whose texts it
 * needs, one at a time.
 *
 * Input:  events as the session emitted them: one JSON object each, without `raw`.
 * Output: effect records in the out-box: FX_TRANSCRIPT_TEXT (a piece of UTF-8) and FX_TRANSCRIPT_WANT (the
 * number of an event). Memory: csn_transcript is the caller's, fixed size, no pointers but to static tables.
 * Errors: an event that is not one is counted and skipped. What does not fit is counted and said. */
#ifndef CSN_TRANSCRIPT_H
#define CSN_TRANSCRIPT_H

#include "csn/base.h"
#include "csn/json.h"

#define CSN_TRANSCRIPT_NODES_MAX 8192u  /* items: turns, texts, calls, outputs and the like */
#define CSN_TRANSCRIPT_FILES_MAX 512u   /* items: paths */
#define CSN_TRANSCRIPT_PATHS_CAP 32768u /* bytes: all of them, escaped */
#define CSN_TRANSCRIPT_DEPTH_MAX                                                                             \
  8u /* items: subagents in each other; deeper ones are shown at this depth                                  \
      */
#define CSN_TRANSCRIPT_OUTPUT_MAX 65536u /* bytes, escaped: plain text of one output in a transcript */
#define CSN_TRANSCRIPT_BRIEF_MAX  4096u  /* bytes: result of a tool, or thinking, in Markdown */

/* Room that csn_transcript_next wants: the longest event, every byte of it as an escape of six, and a diff.
 */
#define CSN_TRANSCRIPT_FX_MIN 655360u

typedef enum csn_transcript_format {
  CSN_TRANSCRIPT_JSON = 1,
  CSN_TRANSCRIPT_MARKDOWN = 2,
  CSN_TRANSCRIPT_SUMMARY = 3, /* the head of the JSON form alone: no event is asked for */
  CSN_TRANSCRIPT_FORMAT_END,
} csn_transcript_format;

typedef enum csn_transcript_kind {
  CSN_VN_TURN = 1,
  CSN_VN_TEXT,
  CSN_VN_THINKING,
  CSN_VN_CALL,
  CSN_VN_RESULT, /* of a call that is not there */
  CSN_VN_STDOUT,
  CSN_VN_STDERR,
  CSN_VN_RETRY,
  CSN_VN_DENIED, /* of a call that is not there */
  CSN_VN_WARNING,
  CSN_VN_ERROR, /* agent.result with an error */
} csn_transcript_kind;

#define CSN_TRANSCRIPT_NONE UINT16_MAX

typedef struct csn_transcript_node {
  uint64_t id;    /* CALL: hash of its tool_use_id; TURN: its number; outputs: bytes of text, escaped */
  uint32_t seq;   /* of its event */
  uint32_t other; /* CALL: its result; outputs: last of its events; TURN: its agent.usage; 0: none */
  uint32_t extra; /* CALL: end of the subagent that it started; 0: none */
  uint16_t parent, next, first, last;
  uint8_t kind, depth;
  uint8_t is_implicit; /* TURN: no event began it, seq is that of the first item */
  uint8_t is_denied;   /* CALL */
} csn_transcript_node;

typedef struct csn_transcript_file {
  uint64_t hash;
  uint32_t off;
  uint16_t len;
  uint16_t reads, edits; /* by tools, saturating */
  uint8_t status;        /* of the last file.changed: 0 none, 1 added, 2 modified, 3 deleted */
} csn_transcript_file;

typedef struct csn_transcript { /* public size, private fields */
  uint8_t format;
  uint8_t state; /* of the writing */
  uint8_t has_turn;
  uint8_t after_result; /* the last item of the main loop was a tool's result */
  uint8_t line_start;   /* Markdown: nothing stands in the line yet */
  uint8_t part;         /* of the node being written */
  uint8_t comma;        /* JSON: the list being written has a member */
  uint8_t indent;       /* Markdown: lines are plain text, four spaces in */
  uint32_t want;        /* event that was asked for, 0 for none */
  uint32_t run;         /* of the events; the first one decides */
  uint32_t last_seq;
  uint32_t init_seq, outcome_seq, started_seq, result_seq;
  uint32_t turns, tool_calls, tool_errors, retries, denials, errors, raws, subagents;
  uint32_t bad_events, lost_nodes, lost_files; /* what did not fit, saturating */
  uint32_t node_count, file_count, paths_len;
  uint16_t turn; /* open turn of the main loop */
  uint16_t root_first, root_last;
  uint16_t at;     /* node being written */
  uint32_t at_seq; /* next event of an output being written */
  uint64_t shown;  /* bytes of that output written so far */
  uint64_t first_ms, last_ms;
  uint16_t slots[16384]; /* nodes of calls by hash, 1-based; open addressing */
  csn_transcript_node nodes[CSN_TRANSCRIPT_NODES_MAX];
  csn_transcript_file files[CSN_TRANSCRIPT_FILES_MAX];
  uint8_t paths[CSN_TRANSCRIPT_PATHS_CAP];
  csn_json json;
} csn_transcript;
/* nodes 320 KiB + files 16 KiB + paths 32 KiB + slots 32 KiB + reader 144 KiB */
_Static_assert(sizeof(csn_transcript) <= 640 * 1024, "see the sum above");
_Static_assert(CSN_TRANSCRIPT_NODES_MAX < CSN_TRANSCRIPT_NONE, "a node's number is 16 bits");

void csn_transcript_init(csn_transcript *v, csn_transcript_format format);
/* First pass: one event. Its texts are not kept. BAD_STATE once the second pass has begun. */
csn_err csn_transcript_event(csn_transcript *v, csn_span event);
/* Second pass. `given` is the event that the call before asked for, or empty (it is not there any more). fx
 * must have CSN_TRANSCRIPT_FX_MIN bytes of room. Returns true while there is more to come. */
bool csn_transcript_next(csn_transcript *v, csn_span given, csn_fx *fx);

/* Fields of events that are read. */
/* field, parent, step, key, verbatim, cap in the first pass (-1: not looked at), cap in the second */
#define CSN_TRANSCRIPT_FIELDS(X)                                                                             \
  X(ROOT, ROOT, KEY, "", 0, -1, -1)                                                                          \
  X(SEQ, ROOT, KEY, "seq", 0, 24, 24)                                                                        \
  X(TIME, ROOT, KEY, "time_ms", 0, 24, 24)                                                                   \
  X(RUN, ROOT, KEY, "run", 0, 24, 24)                                                                        \
  X(TYPE, ROOT, KEY, "type", 0, 32, 32)                                                                      \
  X(ID, ROOT, KEY, "tool_use_id", 0, 128, 128)                                                               \
  X(PARENT, ROOT, KEY, "parent_tool_use_id", 0, 128, 128)                                                    \
  X(MESSAGE_ID, ROOT, KEY, "message_id", 0, -1, 128)                                                         \
  X(MODEL, ROOT, KEY, "model", 0, -1, 256)                                                                   \
  X(VERSION, ROOT, KEY, "version", 0, -1, 64)                                                                \
  X(SESSION_ID, ROOT, KEY, "agent_session_id", 0, -1, 128)                                                   \
  X(TOOL, ROOT, KEY, "tool", 0, -1, 256)                                                                     \
  X(FILE, ROOT, KEY, "file", 0, 4096, 4096)                                                                  \
  X(COMMAND, ROOT, KEY, "command", 0, -1, 4096)                                                              \
  X(TEXT, ROOT, KEY, "text", 0, 0, CSN_FIELD_MAX)                                                            \
  X(TEXT_LEN, ROOT, KEY, "text_len", 0, -1, 24)                                                              \
  X(IS_ERROR, ROOT, KEY, "is_error", 0, 8, 8)                                                                \
  X(INPUT, ROOT, KEY, "input", 1, -1, CSN_FIELD_MAX)                                                         \
  X(OLD, INPUT, KEY, "old_string", 0, 0, CSN_FIELD_MAX)                                                      \
  X(NEW, INPUT, KEY, "new_string", 0, -1, CSN_FIELD_MAX)                                                     \
  X(OLD_CAMEL, INPUT, KEY, "oldString", 0, 0, CSN_FIELD_MAX)                                                 \
  X(NEW_CAMEL, INPUT, KEY, "newString", 0, -1, CSN_FIELD_MAX)                                                \
  X(CONTENT, INPUT, KEY, "content", 0, 0, CSN_FIELD_MAX)                                                     \
  X(PATCH, INPUT, KEY, "patch", 0, 0, CSN_FIELD_MAX)                                                         \
  X(EDITS, INPUT, KEY, "edits", 0, 0, 0)                                                                     \
  X(CHANGES, INPUT, KEY, "changes", 0, 0, 0)                                                                 \
  X(CHANGE, CHANGES, ANY_INDEX, "", 0, -1, -1)                                                               \
  X(CHANGE_PATH, CHANGE, KEY, "path", 0, 4096, -1)                                                           \
  X(EDIT, EDITS, ANY_INDEX, "", 0, -1, -1)                                                                   \
  X(EDIT_OLD, EDIT, KEY, "old_string", 0, -1, CSN_FIELD_MAX)                                                 \
  X(EDIT_NEW, EDIT, KEY, "new_string", 0, -1, CSN_FIELD_MAX)                                                 \
  X(INPUT_HEAD, ROOT, KEY, "input_head", 0, 0, CSN_FIELD_MAX)                                                \
  X(INPUT_LEN, ROOT, KEY, "input_len", 0, -1, 24)                                                            \
  X(MESSAGE, ROOT, KEY, "message", 0, -1, 8192)                                                              \
  X(REASON, ROOT, KEY, "reason", 0, 64, 64)                                                                  \
  X(RESULT, ROOT, KEY, "result", 0, -1, CSN_FIELD_MAX)                                                       \
  X(RESULT_LEN, ROOT, KEY, "result_len", 0, -1, 24)                                                          \
  X(ERROR, ROOT, KEY, "error", 1, -1, 2048)                                                                  \
  X(ERROR_MESSAGE, ERROR, KEY, "message", 0, -1, 2048)                                                       \
  X(USAGE, ROOT, KEY, "usage", 1, -1, 1024)                                                                  \
  X(BUDGET, ROOT, KEY, "budget", 1, -1, 1024)                                                                \
  X(EXIT, ROOT, KEY, "exit_code", 0, -1, 24)                                                                 \
  X(DURATION, ROOT, KEY, "duration_ms", 0, -1, 24)                                                           \
  X(PATH, ROOT, KEY, "path", 0, 4096, 4096)                                                                  \
  X(STATUS, ROOT, KEY, "status", 0, 32, 64)                                                                  \
  X(PHASE, ROOT, KEY, "phase", 0, 16, 16)                                                                    \
  X(SUMMARY, ROOT, KEY, "summary", 0, -1, 8192)                                                              \
  X(ATTEMPT, ROOT, KEY, "attempt", 0, -1, 24)                                                                \
  X(MAX_RETRIES, ROOT, KEY, "max_retries", 0, -1, 24)                                                        \
  X(DELAY, ROOT, KEY, "delay_ms", 0, -1, 24)                                                                 \
  X(LIMIT, ROOT, KEY, "limit", 0, -1, 64)                                                                    \
  X(SCOPE, ROOT, KEY, "scope", 0, -1, 16)                                                                    \
  X(USED, ROOT, KEY, "used", 0, -1, 32)                                                                      \
  X(MAX, ROOT, KEY, "max", 0, -1, 32)                                                                        \
  X(DETAIL, ROOT, KEY, "detail", 0, -1, 1024)                                                                \
  X(IN, ROOT, KEY, "input_tokens", 0, -1, 24)                                                                \
  X(OUT, ROOT, KEY, "output_tokens", 0, -1, 24)                                                              \
  X(READ, ROOT, KEY, "cache_read_tokens", 0, -1, 24)                                                         \
  X(WRITE, ROOT, KEY, "cache_write_tokens", 0, -1, 24)                                                       \
  X(COST, ROOT, KEY, "cost_usd", 0, -1, 32)
#define CSN_X_FIELD(name, parent, step, key, verbatim, scan, write) CSN_VF_##name,
enum csn_transcript_field { CSN_TRANSCRIPT_FIELDS(CSN_X_FIELD) CSN_VF_END };
#undef CSN_X_FIELD
extern const csn_json_table csn_transcript_table;

#endif
