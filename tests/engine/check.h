/* check.h - TAP for the tests of the engine's and the guest's parts, whose words often come from a table. */
#ifndef CHECK_H
#define CHECK_H

#include "../unit/tap.h"

__attribute__((unused)) static void check(bool good, const char *what) {
  ok(good, "%s", what);
}

#endif
