/* csn/glob.h - path patterns in the manner of .gitignore, and wild cards in plain text.
 *
 * Input:  hostile patterns and paths.
 * Output: a verdict; work is bounded by pattern length x text length (no recursion on the text).
 * Memory: none. */
#ifndef CSN_GLOB_H
#define CSN_GLOB_H

#include "csn/base.h"

/* `**` between slashes, or at either end, stands for any number of path segments, also none; `*` for any
 * bytes but a slash; `?` for one byte that is no slash. Everything else is literal: no classes, no escapes.
 */
bool csn_glob_path(csn_span pattern, csn_span path);
/* `*` stands for any bytes, slashes included; everything else is literal. */
bool csn_glob_text(csn_span pattern, csn_span text);

/* Makes a path absolute and plain: `cwd` before a relative one, `~` and `~/` for `home`, no `.`, `..`, double
 * or trailing slashes. `..` above the root stays at the root, as the kernel has it. Returns the length, or
 * UINT32_MAX when it does not fit `cap`. */
uint32_t csn_path_plain(csn_span path, csn_span cwd, csn_span home, uint8_t *out, uint32_t cap);

/* Whether the list, words with one blank between them, has the word. An empty word is in none. */
bool csn_word_in(csn_span word, const char *list);

#endif
