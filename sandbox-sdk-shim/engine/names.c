/* engine/names.c - checks of names that come from outside. Pure. */
#include "engine.h"

#include <string.h>

/* A name becomes a directory name: no dot and no slash, so it cannot leave its parent. */
bool name_ok(const char *name) {
  size_t n = strlen(name);
  if (n == 0 || n > ENGINE_NAME_MAX) return false;
  for (size_t i = 0; i < n; i++) {
    char c = name[i];
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-')) return false;
  }
  return true;
}

bool port_ok(const char *text, unsigned *port) {
  unsigned v = 0;
  size_t n = strlen(text);
  if (n == 0 || n > 5 || text[0] == '0') return false;
  for (size_t i = 0; i < n; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    v = v * 10 + (unsigned)(text[i] - '0');
  }
  if (v > 65535) return false;
  *port = v;
  return true;
}

bool host_split(const char *text, char out[ENGINE_HOST_MAX + 1], unsigned *port) {
  const char *end;
  if (text[0] == '[') {
    end = strchr(text, ']');
    if (end == NULL) return false;
    end++;
  } else {
    end = text + strcspn(text, ":");
  }
  size_t n = (size_t)(end - text);
  if (n == 0 || n > ENGINE_HOST_MAX) return false;
  /* A closed set of characters: the host is copied into a header and compared with rules, and
   * one that reads differently in two places would pass the wrong rule. */
  for (size_t i = 0; i < n; i++) {
    char c = text[i];
    if (c >= 'A' && c <= 'Z') c = (char)(c + 32);
    bool bracketed = text[0] == '[' && (c == '[' || c == ']' || c == ':');
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' || bracketed))
      return false;
    out[i] = c;
  }
  /* A name with a final dot is the same host. */
  if (n > 1 && out[n - 1] == '.') n--;
  out[n] = '\0';
  *port = 0;
  return *end == '\0' || (*end == ':' && port_ok(end + 1, port));
}

bool host_matches(const char *pattern, const char *host) {
  const char *star = NULL, *again = NULL;
  while (*host != '\0') {
    if (*pattern == '*') {
      star = pattern++;
      again = host;
    } else if (*pattern == *host) {
      pattern++;
      host++;
    } else if (star != NULL) {
      /* The last star takes one more. Earlier ones never need to: no more than length times length. */
      pattern = star + 1;
      host = ++again;
    } else {
      return false;
    }
  }
  while (*pattern == '*')
    pattern++;
  return *pattern == '\0';
}
