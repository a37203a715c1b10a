/* policy_shell.h - the commands in a line of the shell, for rules that deny; not public.
 *
 * Input:  a line of POSIX sh or bash. Output: each command of it that can be found without running it: in
 * lists, groups, substitutions, here-documents and scripts of `sh -c` and `eval`, behind keywords and behind
 * programs that run another one (docs/POLICY.md lists them).
 * A command is handed over as its words with one blank between them, quotes, backslashes and redirections
 * taken away; CSN_SHELL_FILLED stands for what the shell fills in, CSN_SHELL_BLANK for a blank within a word.
 * Memory: a copy of the line, in which it works. */
#ifndef CSN_POLICY_SHELL_H
#define CSN_POLICY_SHELL_H

#include "csn/base.h"

#define CSN_SHELL_FILLED 1u
#define CSN_SHELL_BLANK  2u

/* `command` is valid during the call. `raw`: it is the command as the line has it, blanks around it included,
 * where it stands in no substitution and no script; it comes in its plain form too. A raw one may be blank.
 */
typedef void csn_shell_see(void *context, csn_span command, bool raw);

typedef struct csn_shell_line {
  bool odd;    /* there is a substitution, redirection, group, comment or something that cannot be read */
  bool hidden; /* it may run commands that were not handed over */
} csn_shell_line;

/* `text`: room for line.len bytes, not in the line. */
csn_shell_line csn_shell_commands(csn_span line, uint8_t *text, csn_shell_see *see, void *context);

/* Whether what the shell fills in could make a command out of `command` that begins with the words of `head`;
 * or, when `whole`, that is `head`. */
bool csn_shell_may_be(csn_span head, bool whole, csn_span command);

#endif
