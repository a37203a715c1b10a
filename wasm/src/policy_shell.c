#include "policy_shell.h"

#include "csn/glob.h"

#define DEPTH_MAX    16u   /* levels: substitutions and scripts within each other */
#define COMMANDS_MAX 1024u /* items: places of one line where a command may stand */
/* bytes: what is handed over of them together. `sudo sudo sudo ...` is as many commands as words, each up to
 * the line's end: every rule would be held against megabytes. */
#define BYTES_MAX 131072u

/* In the wasm module size counts: what is small stands in many places. */
#define SMALL __attribute__((noinline)) static

typedef struct document {
  csn_span delimiter; /* in the line */
  bool waits;         /* for the end of its line */
  bool quoted;        /* nothing in it is filled in */
  bool tabs;          /* `<<-`: tabs before the delimiter do not count */
} document;

typedef struct reader {
  const uint8_t *line;
  uint8_t *text; /* the same, overwritten */
  uint32_t at, end, depth;
  csn_shell_see *see;
  void *context;
  uint32_t left; /* items: commands that may still come */
  uint32_t room; /* bytes: of them */
  bool odd;      /* csn_shell_line */
  bool hidden;   /* something cannot be seen */
  bool doubt;    /* the line itself could not be read: stop */
  bool shifts;   /* arithmetic or a subscript has been seen: `<<` may be no here-document */
  bool open;     /* a subscript that may have a blank in it has been seen: `#` may begin no comment */
  bool tests;    /* `[[` has been seen: nor in its parentheses */
  document doc;
} reader;

/* How a text is quoted. */
enum quoted { BARE, QUOTED, DOCUMENT };

/* The command under way. What it was written from lies behind `out`: a word is never longer than its source.
 */
typedef struct building {
  uint32_t start, out, word; /* offsets: the command, its end so far, its last word */
  bool in_word;
  bool drop; /* the word is a redirection's */
} building;

static void read_list(reader *r, bool nested);
static bool read_expansion(reader *r, building *c, uint8_t b, enum quoted quoted);

SMALL bool one_of(uint8_t b, const char *set) {
  for (; *set != 0; set++)
    if (b == (uint8_t)*set) return true;
  return false;
}

SMALL bool is_name(uint8_t b) {
  return (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9') || b == '_';
}

/* The next byte, 0 at the end: the text has no such byte. */
SMALL uint8_t peek(const reader *r) {
  return r->at < r->end ? r->text[r->at] : 0;
}

SMALL uint8_t take(reader *r) {
  uint8_t b = peek(r);
  r->at += b != 0;
  return b;
}

SMALL bool accept(reader *r, uint8_t b) {
  bool is = peek(r) == b;
  r->at += is;
  return is;
}

SMALL void put(reader *r, building *c, uint8_t b) {
  r->text[c->out++] = b;
  c->in_word = true;
}

SMALL void put_quoted(reader *r, building *c, uint8_t b) {
  /* Shells differ in where a here-document begins then. */
  if (b == '\n' && r->doc.waits) r->doubt = true;
  put(r, c, b == ' ' || b == '\t' ? CSN_SHELL_BLANK : b);
}

SMALL void begin(const reader *r, building *c) {
  c->start = c->out = c->word = r->at;
  c->in_word = c->drop = false;
}

static void read_inside(reader *r, uint32_t from, uint32_t to) {
  uint32_t at = r->at, end = r->end;
  r->at = from;
  r->end = to;
  read_list(r, false);
  r->at = at;
  r->end = end;
}

/* --- what commands are made of --- */

/* Text in which `$`, backticks and backslashes alone mean something: behind a `"` up to the next one, or all
 * of a here-document. */
static void read_text(reader *r, building *c, enum quoted quoted) {
  c->in_word = true;
  while (!r->doubt) {
    uint8_t b = take(r);
    if (b == 0) r->doubt = quoted == QUOTED;
    if (b == 0 || (b == '"' && quoted == QUOTED)) return;
    if (read_expansion(r, c, b, quoted)) continue;
    if (b == '\\' && accept(r, '\n')) {
      r->doubt = quoted == DOCUMENT; /* the delimiter may lie behind it */
      continue;
    }
    if (b == '\\' && one_of(peek(r), "$`\"\\")) b = take(r);
    put_quoted(r, c, b);
  }
}

/* Behind `${`, to what follows the `}`. */
static void read_parameter(reader *r, enum quoted quoted) {
  while (!r->doubt) {
    building c;
    begin(r, &c);
    uint8_t b = take(r);
    if (b == '}') return;
    if (b == '\\') take(r);
    /* What quotes mean here depends on the operator. */
    if (b == 0 || b == '{' || b == '\'' || (quoted != BARE && b == '"')) r->doubt = true;
    if (one_of(b, "<>") && one_of(peek(r), "(\\")) r->doubt = true; /* bash runs what is in it */
    if (b == '@' && peek(r) == 'P') r->doubt = true;                /* and what a prompt has in it */
    if (b == '"') read_text(r, &c, QUOTED);
    read_expansion(r, &c, b, quoted);
  }
}

/* Behind a backtick. */
static void read_backticks(reader *r, enum quoted quoted) {
  uint32_t from = r->at, to = from;
  for (uint8_t b; (b = take(r)) != '`'; r->text[to++] = b) {
    if (b == '\\' && peek(r) == '\n') b = 0; /* shells take both away before anything else */
    if (b == '\\' && one_of(peek(r), quoted == QUOTED ? "\\`$\"" : "\\`$")) b = take(r);
    if (b != 0) continue;
    r->doubt = true;
    return;
  }
  read_inside(r, from, to);
}

/* Whether `b`, which has been taken, begins something that the shell fills in; reads it then. */
static bool read_expansion(reader *r, building *c, uint8_t b, enum quoted quoted) {
  uint8_t next = peek(r);
  if (b != '$' && b != '`') return false;
  if (++r->depth > DEPTH_MAX) r->doubt = true;
  if (r->doubt) {
    b = '$';
  } else if (b == '`') {
    r->odd = true;
    read_backticks(r, quoted);
  } else if (next == '(') {
    r->odd = true;
    r->at++;
    r->shifts = r->shifts || one_of(peek(r), "(\\");
    read_list(r, true);
  } else if (next == '{') {
    r->odd = true;
    r->at++;
    read_parameter(r, quoted);
  } else if (next == '[' || (next == '\\' && r->at + 1 < r->end && r->text[r->at + 1] == '\n')) {
    r->doubt = true;
  } else if (quoted == BARE && (next == '\'' || next == '"')) {
    r->odd = true;
    if (next == '"') {
      r->depth--;
      return true;
    }
    r->at++;
    for (b = take(r); b != '\'' && b != 0; b = take(r))
      if (b == '\\') take(r);
    r->doubt = b == 0;
    b = '$';
  } else if (is_name(next)) {
    do
      r->at++;
    while (next > '9' && is_name(peek(r)));
  } else if (one_of(next, "@*#?$!-")) {
    r->at++;
  } else {
    b = 0;
  }
  r->depth--;
  put(r, c, b == 0 ? '$' : CSN_SHELL_FILLED);
  return true;
}

/* --- here-documents --- */

/* Behind `<<`. One document to a line is read, with a delimiter of letters, digits and _.- as it is, quoted
 * or behind a backslash. */
static void read_delimiter(reader *r) {
  document *d = &r->doc;
  if (d->waits || r->shifts) r->doubt = true;
  d->waits = true;
  d->tabs = accept(r, '-');
  while (one_of(peek(r), " \t"))
    r->at++;
  uint8_t quote = one_of(peek(r), "'\"\\") ? take(r) : 0;
  d->quoted = quote != 0;
  uint32_t from = r->at;
  while (is_name(peek(r)) || one_of(peek(r), ".-"))
    r->at++;
  d->delimiter = csn_span_of(r->line + from, r->at - from);
  /* Where the text is not the line's any more, what comes before the delimiter's end could overwrite it. */
  if (r->at == from || memcmp(r->line + from, r->text + from, r->at - from) != 0) r->doubt = true;
  if (d->quoted && quote != '\\' && !accept(r, quote)) r->doubt = true;
  if (!one_of(peek(r), " \t\n;&|()<>")) r->doubt = true;
}

/* The document that begins here, behind the end of its line. */
static void read_document(reader *r) {
  const document *d = &r->doc;
  uint32_t from = r->at, to = from, end = r->end;
  if (!d->waits) return;
  r->doc.waits = false;
  for (bool found = false; !found; accept(r, '\n')) {
    if (peek(r) == 0) {
      r->doubt = true;
      return;
    }
    to = r->at;
    while (d->tabs && accept(r, '\t')) {
    }
    uint32_t start = r->at;
    while (peek(r) != '\n' && peek(r) != 0)
      r->at++;
    found =
        r->at - start == d->delimiter.len && memcmp(r->text + start, d->delimiter.ptr, r->at - start) == 0;
  }
  if (d->quoted) return;
  building c;
  uint32_t at = r->at;
  r->at = from;
  begin(r, &c);
  r->end = to;
  read_text(r, &c, DOCUMENT);
  r->at = at;
  r->end = end;
}

/* --- commands --- */

/* Where the byte stands in the text from `at` on, `end` when nowhere. */
SMALL uint32_t find(const reader *r, uint32_t at, uint32_t end, uint8_t byte) {
  while (at < end && r->text[at] != byte)
    at++;
  return at;
}

SMALL bool is_in(const reader *r, uint32_t at, uint32_t end, const char *list) {
  return csn_word_in(csn_span_of(r->text + at, end - at), list);
}

/* A text of the command that is a line of the shell itself. What has been filled in there is read once more:
 * `X='; rm x'; sh -c "echo $X"`. */
SMALL void read_script(reader *r, uint32_t from, uint32_t to) {
  bool odd = r->odd;
  if (find(r, from, to, CSN_SHELL_FILLED) < to) r->hidden = true;
  for (uint32_t i = from; i < to; i++)
    if (r->text[i] == CSN_SHELL_BLANK) r->text[i] = ' ';
  read_inside(r, from, to);
  r->hidden = r->hidden || r->doubt;
  r->doubt = false;
  r->odd = odd;
}

/* Whether the word may name commands that are in no file: `<(...)`, an input, options in a variable. */
SMALL bool is_no_file(const reader *r, uint32_t at, uint32_t end) {
  csn_span word = csn_span_of(r->text + at, end - at);
  bool input = word.len >= 5 && (memcmp(word.ptr, "/dev/", 5) == 0 || memcmp(word.ptr, "/proc", 5) == 0);
  return input || (find(r, at, end, CSN_SHELL_FILLED) < end && find(r, at, end, '/') == end);
}

/* What follows the name of a shell: where the file stands that it runs, `end` when that is none. One without
 * a script or a file reads commands that nobody sees. */
static uint32_t read_shell(reader *r, uint32_t at, uint32_t end) {
  uint32_t file = end;
  bool script = false, line = false, value = false;
  for (uint32_t stop; at < end; at = stop + 1) {
    stop = find(r, at, end, ' ');
    if (one_of(r->text[at], "-+")) {
      script = script || is_in(r, at, stop, "--version --help");
      if (at + 1 < stop && r->text[at + 1] == '-') continue;
      line = line || find(r, at, stop, 'c') < stop;
      value = find(r, at, stop, 'o') < stop || find(r, at, stop, 'O') < stop;
      continue;
    }
    if (line) read_script(r, at, stop);
    if (line && !value) return end;
    if (!script && !value && is_no_file(r, at, stop)) r->hidden = true;
    if (!value && file == end) file = at;
    script = script || !value;
    value = false;
  }
  if (!script) r->hidden = true;
  return file;
}

/* Where in an option of several bytes its value begins, which may be a command: -Srm, -ic'rm x',
 * --command=rm; `stop` when there is none, or nothing of it is known. */
static uint32_t option_value(const reader *r, uint32_t at, uint32_t stop) {
  uint32_t sign = find(r, at, stop, '=');
  bool blank = find(r, at, stop, CSN_SHELL_BLANK) < stop;
  if (stop - at < 2 || (!blank && find(r, at, stop, CSN_SHELL_FILLED) < stop)) return stop;
  if (r->text[at + 1] == '-') return sign < stop ? sign + 1 : blank ? at : stop;
  for (uint32_t i = at + 2; i < stop; i++)
    if (one_of(r->text[i - 1], "Sc")) return i;
  return at + 2;
}

/* Hands over the command and those that it runs. A word after an option may be the option's value or the
 * command: `sudo -u root rm` must not pass as `root`. */
static void judge(reader *r, uint32_t at, uint32_t end, bool nested) {
  bool first = true, option = false, running = true;
  for (uint32_t stop, name; at < end; at = stop + 1) {
    name = stop = find(r, at, end, ' ');
    while (name > at && r->text[name - 1] != '/')
      name--;
    if (!running) {
      running = is_in(r, at, stop, "-exec -execdir -ok -okdir");
      continue;
    }
    uint32_t bytes = end - at + (name != at ? end - name : 0);
    if (r->left == 0 || bytes > r->room) {
      r->hidden = true;
      return;
    }
    r->left--;
    r->room -= bytes;
    r->see(r->context, csn_span_of(r->text + at, end - at), false);
    if (name != at) r->see(r->context, csn_span_of(r->text + name, end - name), false);
    uint32_t rest = stop < end ? stop + 1 : end;
    if (is_in(r, at, stop, "eval trap")) {
      /* eval joins its words; of those of trap the first is a line. */
      bool joins = r->text[at] == 'e';
      if (is_in(r, rest, find(r, rest, end, ' '), "--")) rest += rest + 2 < end ? 3 : 2;
      read_script(r, rest, joins ? end : find(r, rest, end, ' '));
      return;
    }
    if (is_in(r, at, stop, ". source") && is_no_file(r, rest, find(r, rest, end, ' '))) r->hidden = true;
    if (is_in(r, name, stop, "bash sh dash zsh ksh ash rbash")) {
      uint32_t file = read_shell(r, rest, end);
      if (file == end) return;
      stop = file - 1;
      first = option = false;
      continue;
    }
    /* The parentheses of its patterns cannot be told from the one that ends the substitution. */
    if (nested && is_in(r, at, stop, "case")) r->doubt = true;
    uint32_t sign = find(r, at, stop, '='), blank = find(r, at, stop, CSN_SHELL_BLANK);
    uint8_t b = r->text[at];
    bool assigns = sign > at && sign < blank && sign < stop;
    bool point = b == '.' && stop - at > 1;
    bool keeps = !first && b == '-', number = !first && one_of(point ? r->text[at + 1] : b, "0123456789");
    /* What takes a word of its own before the command that it runs; then what does not. */
    bool own = is_in(r, name, stop, "function coproc flock taskset timeout chroot chrt su script unshare");
    bool text = blank < stop && !first && (!assigns || option);
    running = keeps || number || option || own || sign < stop || /* env takes `=x` and `'a b=c'`, too */
              is_in(r, name, stop,
                    "! { if then elif else do while until time sudo doas env nohup nice ionice stdbuf setsid "
                    "command exec builtin xargs busybox watch parallel strace");
    option = keeps ? sign == stop : own;
    if (keeps) at = option_value(r, at, stop);
    if (keeps ? at < stop : text) read_script(r, at, stop);
    first = false;
  }
}

SMALL void end_word(reader *r, building *c) {
  if (!c->in_word) return;
  if (c->drop)
    c->out = c->word;
  else
    r->text[c->out++] = ' ';
  c->in_word = c->drop = false;
  c->word = c->out;
}

static void end_command(reader *r, const building *c, uint32_t at, bool nested) {
  uint32_t end = c->drop ? c->word : c->out;
  if (r->depth == 1) r->see(r->context, csn_span_of(r->line + c->start, at - c->start), true);
  if (end > c->start && r->text[end - 1] == ' ') end--;
  if (!r->doubt) judge(r, c->start, end, nested);
}

/* Behind `<` or `>`. */
static void read_redirection(reader *r, building *c, uint8_t b) {
  bool number = c->in_word;
  for (uint32_t i = c->word; i < c->out; i++)
    number = number && r->text[i] >= '0' && r->text[i] <= '9';
  if (number) {
    c->out = c->word;
    c->in_word = c->drop = false;
  }
  end_word(r, c);
  if (accept(r, '(')) {
    read_list(r, true);
    put(r, c, CSN_SHELL_FILLED);
    return;
  }
  if (b == '<' && accept(r, '<') && !accept(r, '<')) {
    read_delimiter(r);
    return;
  }
  if (one_of(peek(r), "<>")) r->at++;
  if (one_of(peek(r), "&|")) r->at++;
  if (peek(r) == '\\') r->doubt = true; /* the operator may go on in the next line */
  c->drop = true;
}

/* Reads commands to the end, or when `nested` to the `)` that is theirs. */
static void read_list(reader *r, bool nested) {
  uint32_t parens = 0;
  /* dash ends `$((` at the next `))`, whatever is between. */
  bool begins = nested && one_of(peek(r), "(\\"), arithmetic = begins;
  building c;
  begin(r, &c);
  if (++r->depth > DEPTH_MAX || (r->depth > 1 && r->doc.waits)) r->doubt = true;
  while (!r->doubt) {
    uint32_t at = r->at;
    uint8_t b = take(r);
    if (b == ' ' || b == '\t') {
      end_word(r, &c);
    } else if (b == 0 || one_of(b, "\n;&|()")) {
      uint8_t before = at > 0 ? r->text[at - 1] : 0;
      end_command(r, &c, at, nested);
      if (b == '(' || b == ')') r->odd = true;
      if (b == '(' && one_of(peek(r), "(\\")) r->shifts = arithmetic = true;
      /* `@(#a|$(rm x))` and `[[ x =~ (#a) && $(rm x) ]]` are patterns. */
      if (b == '(' && (r->tests || (c.in_word && one_of(before, "@?*+!")))) arithmetic = true;
      parens += b == '(';
      if (b == 0 || (b == ')' && parens == 0 && nested)) {
        if (r->doc.waits || (b == 0 && nested)) r->doubt = true;
        break;
      }
      parens -= b == ')' && parens > 0;
      if (parens == 0) arithmetic = begins;
      if (b == '\n') read_document(r);
      begin(r, &c);
    } else if (b == '\'') {
      c.in_word = true;
      for (b = take(r); b != '\'' && b != 0; b = take(r))
        put_quoted(r, &c, b);
      if (b == 0) r->doubt = true;
    } else if (b == '"') {
      read_text(r, &c, QUOTED);
    } else if (b == '\\') {
      if (accept(r, '\n')) continue;
      if (peek(r) == 0) r->doubt = true;
      put_quoted(r, &c, take(r));
    } else if (b == '#' && !c.in_word) {
      r->odd = true;
      /* None within arithmetic, where what follows it is run: `$((#$(rm x)`. */
      if (r->open || arithmetic) r->doubt = true;
      while (peek(r) != '\n' && peek(r) != 0)
        r->at++;
    } else if (b == '<' || b == '>') {
      r->odd = true;
      read_redirection(r, &c, b);
    } else if (!read_expansion(r, &c, b, BARE)) {
      if (one_of(b, "{}\r")) r->odd = true;
      r->tests = r->tests || (b == '[' && peek(r) == '[');
      if (b == '[' && c.out > c.word && is_name(r->text[c.out - 1])) {
        uint32_t stop = r->at;
        /* One within it may end before it: `a[b[1] #$(rm x)`. And no byte is looked at for two of them. */
        while (stop < r->end && !one_of(r->text[stop], "[] \t\n"))
          stop++;
        r->shifts = true;
        r->open = r->open || stop == r->end || r->text[stop] != ']';
      }
      /* {a,b} is several words; {} and a brace alone are none. */
      put(r, &c, b == '{' && !one_of(peek(r), "} \t\n;") && peek(r) != 0 ? CSN_SHELL_FILLED : b);
    }
  }
  r->depth--;
}

csn_shell_line csn_shell_commands(csn_span line, uint8_t *text, csn_shell_see *see, void *context) {
  reader r = {.line = line.ptr,
              .text = text,
              .end = line.len,
              .see = see,
              .context = context,
              .left = COMMANDS_MAX,
              .room = BYTES_MAX};
  for (uint32_t i = 0; i < line.len; i++) {
    text[i] = line.ptr[i] != 0 ? line.ptr[i] : CSN_SHELL_FILLED;
    if (line.ptr[i] == 0) r.odd = r.hidden = true;
  }
  read_list(&r, false);
  return (csn_shell_line){r.odd || r.doubt, r.hidden || r.doubt};
}

bool csn_shell_may_be(csn_span head, bool whole, csn_span command) {
  uint32_t h = 0, c = 0;
  bool maybe = false;
  while (c < command.len) {
    uint8_t b = command.ptr[c];
    if (b == CSN_SHELL_FILLED || one_of(b, "*?[")) {
      uint32_t stop = c, tail = c, want = h;
      bool path = false;
      for (; stop < command.len && command.ptr[stop] != ' '; stop++) {
        if (one_of(command.ptr[stop], "*?]}\001")) tail = stop + 1;
        path = path || command.ptr[stop] == '/';
      }
      while (want < head.len && head.ptr[want] != ' ')
        want++;
      /* It may be several words, or none; of a path the name at the end is known. */
      if (b == CSN_SHELL_FILLED && !path) return true;
      /* What follows the last of these ends the word, whatever they become. `[` and `[[` are commands. */
      tail = stop - tail;
      if (tail > want - h || memcmp(command.ptr + stop - tail, head.ptr + want - tail, tail) != 0)
        return false;
      /* `*` is several words, too, when several files fit. */
      if (b == CSN_SHELL_FILLED || want < head.len) return true;
      maybe = true;
      h = want;
      c = stop;
      continue;
    }
    if (h == head.len && b == ' ' && !whole) return maybe;
    if (h == head.len ? b != ' ' : b != head.ptr[h]) return false;
    if (h < head.len) h++;
    c++;
  }
  return maybe && h == head.len;
}
