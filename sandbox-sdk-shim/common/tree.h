/* common/tree.h - process trees by walking /proc.
 *
 * A tree is a process and everything whose chain of parents leads to it. With the
 * root a child subreaper, a daemon that left its session and lost its parent is
 * still in the tree: the kernel gives it to the subreaper. */
#ifndef CAISSON_COMMON_TREE_H
#define CAISSON_COMMON_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Sends `sig` (0: only counts) to every descendant of `root`, deepest first, not to
 * root itself. Subtrees whose top is in skip[0..skip_count) are left alone. Zombies
 * are neither signalled nor counted. Returns how many live ones were found. */
size_t csn_tree_signal(pid_t root, int sig, const pid_t *skip, size_t skip_count);

/* Writes up to `cap` direct children of `parent`; returns how many. */
size_t csn_tree_children(pid_t parent, pid_t *out, size_t cap);

/* The supervisor's loop: the caller is a child subreaper, has SIGCHLD and SIGTERM
 * blocked, and `main_pid` is its child. Returns the wait status of main_pid.
 * SIGTERM with a queued value v asks for the end of the tree: SIGTERM to all, after
 * v ms (0..600000) SIGKILL to all, again until none is left. *asked tells that. */
int csn_tree_supervise(pid_t main_pid, bool *asked);

/* Kills every descendant of the caller, repeatedly, and reaps until no child is left. */
void csn_tree_kill_all(int *main_status, pid_t main_pid);

/* Exit code in the shell's manner: 128 + signal for a signalled process. */
int csn_exit_code(int wait_status);

#endif
