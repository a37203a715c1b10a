/* guest/interp_scripts.c - the drivers' source, inside the server: a template needs none of our files. */
#include "interp.h"

#define EMBED(name, path)                                                                                    \
  __asm__(".section .rodata\n.balign 1\n" #name "_start:\n.incbin \"" path "\"\n" #name                      \
          "_end:\n.previous\n");                                                                             \
  extern const char name##_start[], name##_end[];

EMBED(driver_py, "sandbox-sdk-shim/guest/interp/driver.py")
EMBED(driver_mjs, "sandbox-sdk-shim/guest/interp/driver.mjs")

const char *interp_script(enum interp_language language, size_t *len) {
  bool python = language == LANGUAGE_PYTHON;
  /* cppcheck-suppress comparePointers ; the assembler puts both labels of a script into one section */
  *len = python ? (size_t)(driver_py_end - driver_py_start) : (size_t)(driver_mjs_end - driver_mjs_start);
  return python ? driver_py_start : driver_mjs_start;
}
