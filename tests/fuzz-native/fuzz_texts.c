/* tests/fuzz-native/fuzz_texts.c - addresses of repositories and their redaction, patterns of backups, lines
 * of interpreters.
 *
 * The first byte chooses. Oracles: no secret of an address survives redaction; an event is one line of ASCII
 * JSON; a pattern adds whole lines without control characters. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/guest/backup_names.h"
#include "../../sandbox-sdk-shim/guest/git_url.h"
#include "../../sandbox-sdk-shim/guest/interp_event.h"
#include "fuzz.h"

#include <cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *text_of(const uint8_t *data, size_t size) {
  char *s = malloc(size + 1);
  if (s == NULL) abort();
  memcpy(s, data, size);
  s[size] = '\0';
  return s;
}

static void fuzz_url(const char *s) {
  /* The address, and behind a line feed a text that may hold its secrets. */
  char *url = strdup(s);
  if (url == NULL) abort();
  char *text = strchr(url, '\n');
  if (text != NULL) *text++ = '\0';
  git_url u;
  csn_buf out = {0};
  if (git_url_parse(url, &u) == NULL) {
    REQUIRE(u.clean != NULL && u.clean[0] != '-' && u.name[0] != '\0' && strchr(u.name, '/') == NULL);
    REQUIRE((u.user == NULL) == (u.scope == NULL));
    const char *about = text == NULL ? url : text;
    git_redact(&out, &u, about, strlen(about));
    const char *shown = csn_buf_cstr(&out);
    if (u.pass != NULL && strlen(u.pass) >= 4 && strchr(u.pass, '*') == NULL)
      REQUIRE(strstr(shown, u.pass) == NULL && strstr(u.clean, "@") == strpbrk(u.clean, "@"));
  }
  (void)git_branch_check(url);
  (void)git_error_code(128, url);
  csn_buf_free(&out);
  git_url_free(&u);
  free(url);
}

static void require_event(csn_buf *out) {
  const char *text = csn_buf_cstr(out);
  REQUIRE(strncmp(text, "data: ", 6) == 0 && out->len > 8 && strcmp(text + out->len - 2, "\n\n") == 0);
  for (size_t i = 0; i + 2 < out->len; i++)
    REQUIRE((unsigned char)text[i] >= 0x20 && (unsigned char)text[i] < 0x80);
  cJSON *v = cJSON_ParseWithLength(text + 6, out->len - 8);
  REQUIRE(cJSON_IsObject(v));
  cJSON_Delete(v);
  csn_buf_free(out);
}

static void fuzz_line(const char *s, size_t len) {
  csn_buf out = {0};
  interp_line line = interp_read(s, len, 7);
  if (line.kind == INTERP_RESULT) {
    interp_add_result(&out, &line);
    /* cJSON lets bare control characters stand in strings; they are made spaces, which changes no structure.
     */
    require_event(&out);
  }
  interp_add_error(&out, &line, NULL, NULL);
  require_event(&out);
  interp_add_text(&out, 0, s, len, 1);
  require_event(&out);
}

static void require_lines(csn_buf *out) {
  const char *text = csn_buf_cstr(out);
  for (size_t i = 0; i < out->len; i++)
    REQUIRE((unsigned char)text[i] >= 0x20 || text[i] == '\n' || text[i] == '\t');
  REQUIRE(out->len == 0 || text[out->len - 1] == '\n');
  REQUIRE(strstr(text, "\n\n") == NULL && text[0] != '\n');
  csn_buf_free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  char *s = text_of(data + 1, size - 1);
  csn_buf out = {0};
  switch (data[0] % 3) {
  case 0:
    fuzz_url(s);
    break;
  case 1:
    fuzz_line(s, size - 1);
    break;
  case 2: {
    size_t len = 0;
    (void)backup_add_glob(&out, s);
    require_lines(&out);
    (void)backup_dir_check(s);
    (void)backup_archive_check(s);
    const char *lost = backup_left_out(s, &len);
    REQUIRE(lost == NULL || (lost >= s && lost + len <= s + strlen(s)));
    break;
  }
  default:
    break;
  }
  free(s);
  return 0;
}
