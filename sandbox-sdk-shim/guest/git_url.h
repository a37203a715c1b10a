/* guest/git_url.h - what a repository's address is: checked, its credentials taken out, texts freed of them.
 *
 * Pure: no I/O. Accepted are http, https, ssh, git and file URLs, the scp form [user@]host:path, and paths
 * that start with "/", "./" or "../". Everything else is refused: git would take "ext::sh -c …" for a command
 * to run and "--upload-pack=…" for an option. */
#ifndef CAISSON_GUEST_GIT_URL_H
#define CAISSON_GUEST_GIT_URL_H

#include "../common/buf.h"

#define GIT_URL_MAX 4096u /* bytes */

typedef struct git_url {
  char *clean;         /* the address without user and password (http, https); else as given */
  char *scope;         /* "https://host[:port]" when there are credentials, else NULL */
  char *user, *pass;   /* decoded; both NULL without credentials, pass "" when only a user was given */
  char *raw_user_pass; /* as it stood before the "@" */
  char name[256];      /* of the repository: the last part of the path without ".git"; never empty */
} git_url;

/* NULL, or why the address is refused: a static text. Free with git_url_free() in both cases. */
const char *git_url_parse(const char *text, git_url *out);
void git_url_free(git_url *u);

/* NULL, or why `branch` cannot be the name of a branch or tag (git-check-ref-format's rules). */
const char *git_branch_check(const char *branch);

/* Appends `text` with the credentials of `u` (plain, percent-encoded, base64 of user:password) and any
 * "user:password@" of a URL in it replaced by "***". */
void git_redact(csn_buf *out, const git_url *u, const char *text, size_t len);

/* The protocol's error code for a clone that ended with `code` and said `err`. */
const char *git_error_code(int code, const char *err);

#endif
