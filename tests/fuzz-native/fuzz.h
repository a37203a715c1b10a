/* fuzz.h - what the fuzzers of the native programs share. */
#ifndef CAISSON_TESTS_FUZZ_H
#define CAISSON_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* libFuzzer's entry point. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An oracle: ends the run, and says which one was broken. */
#define REQUIRE(x)                                                                                           \
  do {                                                                                                       \
    if (!(x)) {                                                                                              \
      fprintf(stderr, "oracle: %s\n", #x);                                                                   \
      abort();                                                                                               \
    }                                                                                                        \
  } while (0)

#endif
