/* caisson-redact - masks secrets in standard input, as the Worker does with what a run prints.
 *
 *   caisson-redact [--secrets FILE] [--values-only] [--chunk BYTES] <in >out
 *   caisson-redact --shapes
 *
 * FILE: one value a line. What was found is told on standard error as one JSON object, by form. --shapes
 * lists the key shapes: prefix, class, least length, separated by tabs. */
#include "csn/redact.h"

#include <stdio.h>
#include <stdlib.h>

static csn_redact_set set;
static csn_redact_stream stream;

static int usage(FILE *to) {
  fputs("usage: caisson-redact [--secrets FILE] [--values-only] [--chunk BYTES] <in >out\n"
        "       caisson-redact --shapes\n\n"
        "Masks secrets in standard input; what was found is told on standard error as one JSON object, by "
        "form.\n\n"
        "  --secrets FILE  values to mask, one a line\n"
        "  --values-only   those alone, and not what has the shape of a well-known key\n"
        "  --chunk BYTES   read so many at a time, 1 to 65536 (default 65536)\n"
        "  --shapes        list the shapes of keys: prefix, class, least length\n"
        "  --help          this text\n\n"
        "Exit status: 0, 64 for a bad call, 65 for a value that is refused, 66 when FILE cannot be read, 74 "
        "for a\n"
        "read or write error.\n",
        to);
  return to == stdout ? 0 : 64;
}

static int list_shapes(void) {
  for (uint32_t i = 0; i < csn_redact_shape_count(); i++)
    printf("%s\t%s\t%u\n", csn_redact_shape_prefix(i), csn_redact_shape_class(i), csn_redact_shape_min(i));
  return 0;
}

static int add_values(const char *path) {
  char line[CSN_REDACT_VALUE_MAX + 8];
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    fprintf(stderr, "caisson-redact: cannot open %s\n", path);
    return 66;
  }
  for (unsigned n = 1; fgets(line, sizeof line, file) != NULL; n++) {
    csn_err err = csn_redact_add(&set, csn_span_of(line, (uint32_t)strcspn(line, "\n")));
    if (err == CSN_ERR_OK) continue;
    fprintf(stderr, "caisson-redact: %s:%u: refused (%d): a value has %u to %u bytes\n", path, n, err,
            CSN_REDACT_VALUE_MIN, CSN_REDACT_VALUE_MAX);
    fclose(file);
    return 65;
  }
  fclose(file);
  return 0;
}

int main(int argc, char **argv) {
  const char *secrets = NULL;
  bool values_only = false;
  unsigned long chunk = CSN_REDACT_IN_MAX;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--shapes") == 0) return list_shapes();
    if (strcmp(argv[i], "--help") == 0) return usage(stdout);
    if (strcmp(argv[i], "--values-only") == 0)
      values_only = true;
    else if (strcmp(argv[i], "--secrets") == 0 && i + 1 < argc)
      secrets = argv[++i];
    else if (strcmp(argv[i], "--chunk") == 0 && i + 1 < argc)
      chunk = strtoul(argv[++i], NULL, 10);
    else
      return usage(stderr);
  }
  if (chunk < 1 || chunk > CSN_REDACT_IN_MAX) return usage(stderr);
  csn_redact_init(&set);
  if (secrets != NULL) {
    int status = add_values(secrets);
    if (status != 0) return status;
  }
  csn_redact_build(&set);
  csn_redact_begin(&stream, values_only);
  static uint8_t in[CSN_REDACT_IN_MAX], out[CSN_REDACT_IN_MAX + CSN_REDACT_HELD_MAX];
  for (size_t n; (n = fread(in, 1, chunk, stdin)) > 0;)
    fwrite(out, 1, csn_redact_push(&set, &stream, csn_span_of(in, (uint32_t)n), out), stdout);
  fwrite(out, 1, csn_redact_flush(&stream, out), stdout);
  if (ferror(stdin) || fflush(stdout) != 0 || ferror(stdout)) {
    perror("caisson-redact");
    return 74;
  }
#define FOUND(name, value, text)  value == 0 ? "{" : ",", #name, stream.found[value],
#define FORMAT(name, value, text) "%s\"%s\":%u"
  fprintf(stderr, CSN_REDACT_FORM_TABLE(FORMAT) "}\n%s", CSN_REDACT_FORM_TABLE(FOUND) "");
  return 0;
}
