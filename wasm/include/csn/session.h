/* csn/session.h - the state machine of one session and its runs.
 *
 * Input:  event records (csn_session_event) and the bytes of the running run's output (csn_session_feed).
 * Output: effect records in the out-box, to be carried out strictly in order.
 * Memory: csn_session is caller-owned, fixed size, no pointers but to static tables; nothing to free.
 * Errors: a refused event changes nothing. Late answers (of runs that are over) are ignored and counted.
 * Time:   a field of the event; backward steps are clamped. Threads: one context, one thread. */
#ifndef CSN_SESSION_H
#define CSN_SESSION_H

#include "csn/agent.h"
#include "csn/base.h"
#include "csn/budget.h"
#include "csn/json.h"
#include "csn/request.h"

#include "bearssl_hash.h"

/* Room that csn_session_event wants: the whole out-box, which the exports empty on every call. The largest
 * answers are RUN_START with its spec (CSN_SPEC_MAX) and RUN_EXIT with the events of an unfinished line
 * (CSN_LINE_FX_MAX), text that was held back, and outcomes. */
#define CSN_EVENT_FX_MAX CSN_OUT_CAP
/* Room that csn_session_feed wants, so that progress is always possible. */
#define CSN_TEXT_FX_MAX (CSN_TEXT_CHUNK * 6u + CSN_LINE_EVENT_MAX + CSN_ERR_LINE_MAX)
#define CSN_FEED_FX_MIN (CSN_LINE_FX_MAX + CSN_LINE_TAIL_FX)
#define CSN_LINE_TAIL_FX                                                                                     \
  (2u * CSN_CURSOR_FX + CSN_BUDGET_FX + CSN_VIOLATION_FX) /* bytes: behind a line's events */
#define CSN_CURSOR_FX 40u                                 /* bytes: one FX_CURSOR */
/* bytes: what limits add to the effects of a line or an event: warnings, one FX_RUN_KILL, one FX_BUDGET */
#define CSN_BUDGET_FX (CSN_BUDGET_WARNINGS_MAX + 40u + 40u + CSN_BUDGET_JSON_MAX)
/* bytes: what a call against the policy adds to those of a line: one policy.violation, whose call and
 * sentence are escaped */
#define CSN_VIOLATION_FX                                                                                     \
  (CSN_LINE_EVENT_MAX + CSN_WATCH_ID_CAP + 12u * CSN_WATCH_WHAT_CAP + 6u * CSN_POLICY_PATTERN_MAX + 1024u)
_Static_assert(CSN_LINE_FX_MAX + CSN_TEXT_FX_MAX + CSN_FIELD_MAX + (CSN_QUEUE_MAX + 4u) * 768u +
                       CSN_BUDGET_FX <=
                   CSN_EVENT_FX_MAX,
               "RUN_EXIT and its like must fit the out-box");
_Static_assert((CSN_QUEUE_MAX + 4u) * (768u + CSN_MESSAGE_CAP) <= CSN_EVENT_FX_MAX,
               "SANDBOX_FAILED must fit the out-box");
_Static_assert(CSN_SPEC_MAX + 1024u <= CSN_EVENT_FX_MAX, "a spec must fit the out-box");
_Static_assert(CSN_IN_CAP + 1024u <= CSN_EVENT_FX_MAX, "a note must fit the out-box");

#define CSN_SNAPSHOT_VERSION 4u /* the one before is loaded as well */
#define CSN_SNAPSHOT_MAX                                                                                     \
  172032u /* bytes: texts, options and tool rules of a session, a run's calls and result, 8 KiB for all the  \
             rest */
#define CSN_OVERDUE_MS 15000u /* milliseconds that the runner gets beyond a run's own time-out */

/* One row of the transition table each. LOADING to COLLECTING are the phases of the current run. */
typedef enum csn_state {
  CSN_ST_NEW = 0,    /* nothing but CREATE */
  CSN_ST_STARTING,   /* the sandbox is being started */
  CSN_ST_IDLE,       /* no run */
  CSN_ST_LOADING,    /* the host reads the run's request */
  CSN_ST_LAUNCHING,  /* the runner is being started */
  CSN_ST_RUNNING,    /* the program runs */
  CSN_ST_KILLING,    /* the program has been told to end */
  CSN_ST_COLLECTING, /* the program has ended; the host looks for changed files */
  CSN_ST_ENDING,     /* the sandbox is being destroyed */
  CSN_ST_ENDED,      /* for good */
  CSN_ST_COUNT,
} csn_state;

/* What the core derives from TIMER, CANCEL and its counters; columns of the transition table beside CSN_EV_*.
 */
typedef enum csn_derived {
  CSN_EV_EXPIRED = CSN_EV_END, /* TIMER at or after the session's end */
  CSN_EV_OVERDUE,              /* TIMER at or after the run's watchdog */
  CSN_EV_CANCEL_WAITING,       /* CANCEL of a run in the queue */
  CSN_EV_IDLED,                /* TIMER when the session has been idle for its idle_s */
  CSN_EV_OVER_BUDGET,          /* a limit is over, found after any event or line */
  CSN_EV_VIOLATION,            /* a tool call that the policy forbids was made, found likewise */
  CSN_EV_COLUMNS,
} csn_derived;

/* Entries of the transition table. */
typedef enum csn_target {
  CSN_TO_ILLEGAL = 0, /* BAD_STATE, no change */
  CSN_TO_OVER,        /* SESSION_OVER, no change */
  CSN_TO_LATE,        /* ignored and counted */
  CSN_TO_SAME,        /* applied; the state stays */
  CSN_TO_QUEUE,       /* LOADING when a run waits, else IDLE */
  CSN_TO_STATE,       /* CSN_TO_STATE + csn_state */
} csn_target;
csn_target csn_session_target(csn_state state, uint32_t column);
const char *csn_state_name(csn_state state);

typedef enum csn_end {
  CSN_END_NONE = 0,
  CSN_END_DELETED,
  CSN_END_TIMEOUT,
  CSN_END_SANDBOX_FAILED,
  CSN_END_SANDBOX_LOST,
  CSN_END_IDLE,
  CSN_END_COUNT,
} csn_end;

/* Why the program was told to end; the values of FX_RUN_KILL's code. */
typedef enum csn_kill {
  CSN_KILL_NONE = 0,
  CSN_KILL_CANCELLED,
  CSN_KILL_TIMED_OUT,
  CSN_KILL_OVER_BUDGET,
  CSN_KILL_POLICY_VIOLATION,
} csn_kill;

/* How the current run ended; decided when its exit record comes, told after COLLECTED. */
typedef struct csn_outcome {
  uint8_t type; /* csn_type of the outcome, 0 while undecided */
  uint8_t has_exit_code, has_signal;
  int32_t exit_code;
  uint32_t signal;
  uint64_t duration_ms;
  csn_text64 reason;
} csn_outcome;

/* Plain text in pieces of whole lines, at most CSN_TEXT_CHUNK bytes; not part of a snapshot. */
typedef struct csn_text_stream {
  uint32_t len; /* bytes held back */
  uint8_t bytes[CSN_TEXT_CHUNK];
} csn_text_stream;

typedef struct csn_session { /* public size, private fields */
  /* In the snapshot. */
  uint8_t state;        /* csn_state */
  uint8_t agent;        /* csn_agent */
  uint8_t end_reason;   /* csn_end, while ENDING */
  uint8_t is_command;   /* the current run is a command: the shell dialect parses it */
  uint8_t kill;         /* csn_kill of the current run */
  uint8_t started;      /* run.started has been told */
  uint8_t err_mid_line; /* the cursor of stderr stands inside a line */
  uint8_t is_plain;     /* the agent of the current run prints plain text */
  uint32_t timeout_s;   /* of the session */
  uint32_t run_count;   /* runs issued */
  uint32_t run;         /* current run, 0 for none */
  uint32_t run_timeout_s;
  uint32_t late_count; /* late answers ignored, saturating */
  uint32_t queue_len;
  uint32_t queue[CSN_QUEUE_MAX];
  uint64_t seq;           /* of the last event */
  uint64_t now_ms;        /* latest time seen */
  uint64_t expires_ms;    /* end of the session, 0 before CREATE */
  uint64_t wake_ms;       /* last FX_WAKE_AT, 0 for never */
  uint64_t started_ms;    /* of the current run */
  uint64_t deadline_ms;   /* watchdog of the current run, 0 for none */
  uint64_t cursor[2];     /* stdout, stderr: first byte that is not in an event yet */
  uint64_t idle_since_ms; /* when the session became idle, or was last used without a run */
  uint32_t idle_s;        /* after which an idle session ends, 0 for never */
  uint32_t system_prompt_len, model_len, env_len, options_len;
  csn_budget budget;
  csn_tool_store tools; /* the tool rules of the policy */
  csn_watch watch;      /* the current run's calls */
  csn_prices prices;    /* the operator's own, as they were when the session was created */
  csn_outcome outcome;
  csn_agent_memory memory;
  csn_agent_run result;
  uint8_t model[CSN_MODEL_MAX];
  uint8_t system_prompt[CSN_SYSTEM_PROMPT_MAX];
  uint8_t env[CSN_ENV_BYTES_MAX + 2u * CSN_ENV_COUNT_MAX]; /* name NUL value NUL ... */
  uint8_t options[CSN_OPTIONS_CAP];                        /* csn_option ... */

  /* Not in the snapshot: rebuilt by feeding from the cursor. */
  uint64_t fed[2]; /* bytes fed of stdout, stderr */
  csn_json line;   /* the stdout line being read */
  uint32_t head_len;
  uint8_t head[CSN_RAW_TEXT_CAP]; /* its first bytes */
  uint8_t last_byte;              /* of the line so far */
  csn_text_stream text[2];
  br_sha256_context digest;
  uint32_t digest_id;
  uint8_t digest_open;
  uint8_t budget_dirty; /* FX_BUDGET is due at the end of the call */
  /* Scratch of one call. */
  _Alignas(8) uint8_t arena[CSN_ARENA_CAP];
} csn_session;
/* texts 66 KiB + options 26 KiB + tool rules and calls 16 KiB + result 33 KiB + line 196 KiB + held text 18
 * KiB + arena 448 KiB */
_Static_assert(sizeof(csn_session) <= 814 * 1024, "see the sum above");
/* The end of the arena is for judging a call: its name three times over, its argument twice. The rest may
 * hold a reader meanwhile. */
#define CSN_CALL_SCRATCH (CSN_WATCH_SCRATCH + 2u * CSN_FIELD_MAX + 4u * CSN_WATCH_NAME_CAP)
_Static_assert(sizeof(csn_json) + 1024u + CSN_CALL_SCRATCH <= CSN_ARENA_CAP, "a reader must fit the arena");

void csn_session_init(csn_session *s);
/* One event. Payload bytes follow the header at `payload`. fx must have CSN_EVENT_FX_MAX bytes of room.
 * An error of the -300 band comes with one FX_BAD_FIELD; any other error with no effect. */
csn_err csn_session_event(csn_session *s, const csn_rec *ev, csn_span payload, csn_fx *fx);
/* Consumes a prefix of `in` as output of run `id` (CSN_STREAM_STDOUT, CSN_STREAM_STDERR) or as bytes to be
 * hashed (CSN_STREAM_DIGEST). Returns bytes consumed, 0..in.len, or an error. Less than in.len means fx is
 * full, or a limit on output asked for attention: drain it and call again with the rest. fx must have
 * CSN_FEED_FX_MIN bytes of room. Output of a run that is over is consumed, ignored and counted. */
int64_t csn_session_feed(csn_session *s, uint32_t stream, uint32_t id, uint64_t time_ms, csn_span in,
                         csn_fx *fx);
/* Writes the snapshot; returns its length, at most CSN_SNAPSHOT_MAX, or CSN_ERR_AGAIN when cap is too small.
 */
int32_t csn_session_save(csn_session *s, uint8_t *out, uint32_t cap);
/* Replaces the whole state. After a failure the session is as after csn_session_init. */
csn_err csn_session_load(csn_session *s, csn_span snapshot);

/* Between the files of the session. */
csn_emit csn_session_emitter(csn_session *s, csn_fx *fx, uint32_t run);
/* Emits FX_WAKE_AT when the time has changed at which TIMER is due. */
void csn_session_wake(csn_session *s, csn_fx *fx);
void csn_session_kill(csn_session *s, csn_fx *fx, csn_kill kill);
csn_err csn_bad_field(csn_fx *fx, csn_err err, const csn_pointer *at);
/* Counts what the current run has used, tells the warnings that are due, and stops a run that is over a
 * limit. `may_stop` is false where the run's program has ended already. */
void csn_session_count(csn_session *s, csn_fx *fx, bool may_stop);
/* Emits FX_BUDGET when something of it has changed. */
void csn_session_tell_budget(csn_session *s, csn_fx *fx);
/* Tells one call that was made against the policy, or `all`, and stops the run for the first one. */
void csn_session_violations(csn_session *s, csn_fx *fx, bool all);
/* Keeps the rule and the sentence for the run's outcome, unless there are some. */
void csn_session_blame(csn_session *s, const csn_watched *call);
csn_err csn_session_on_set_tools(csn_session *s, csn_span payload, csn_fx *fx);
/* What a dialect needs to watch calls; the scratch memory is the end of the session's arena. */
csn_watching csn_session_watching(csn_session *s);
csn_err csn_session_on_usage(csn_session *s, csn_span payload, csn_fx *fx);
csn_err csn_session_on_set_limits(csn_session *s, csn_span payload, csn_fx *fx);
void csn_streams_reset(csn_session *s);              /* at the start of a run, and after a load */
void csn_streams_flush(csn_session *s, csn_emit *e); /* what was held back becomes events */
void csn_outcome_decide(csn_session *s,
                        const csn_json *record); /* from exit.json, read with the table below */
void csn_outcome_emit(csn_session *s, csn_emit *e);
extern const csn_json_table csn_exit_table;
enum csn_exit_field {
  CSN_EXIT_REASON = 1,
  CSN_EXIT_CODE,
  CSN_EXIT_SIGNAL,
  CSN_EXIT_DETAIL,
  CSN_EXIT_STARTED,
  CSN_EXIT_ENDED,
};
bool csn_exit_reason_known(csn_span reason);

#endif
