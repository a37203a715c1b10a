/* error_text.h - the words of an error of the core, for its tools. */
#ifndef CSN_TOOLS_ERROR_TEXT_H
#define CSN_TOOLS_ERROR_TEXT_H

#include "csn/abi.h"

/* Never NULL. */
static inline const char *error_text(csn_err err) {
  switch (err) {
#define CSN_X_CASE(name, value, text)                                                                        \
  case CSN_ERR_##name:                                                                                       \
    return text;
    CSN_ERR_TABLE(CSN_X_CASE)
#undef CSN_X_CASE
  case CSN_ERR_END_:
    break;
  }
  return "unknown error";
}

#endif
