/* engine/namemap.h - the addresses that names get inside one sandbox.
 *
 * Every name that a sandbox looks up gets an address of a range that exists nowhere else. A connection to it
 * tells the engine which name was meant; the engine alone finds out, once, where that name really is, and
 * what it checks is what it connects to. */
#ifndef CAISSON_ENGINE_NAMEMAP_H
#define CAISSON_ENGINE_NAMEMAP_H

#include <stdbool.h>
#include <stdint.h>

#define NAMEMAP_FIRST 0xc6121000u /* 198.18.16.0; RFC 2544's range is nobody's */
#define NAMEMAP_COUNT 126976u     /* addresses: 31 times the names, so that one is not given again soon */
#define NAMEMAP_NAMES 4096u       /* kept at once; the oldest is forgotten */

typedef struct namemap namemap;

namemap *namemap_new(void);
void namemap_free(namemap *m);
/* The address of `name` (lower case, at most 253 bytes), host order; the same one as long as it is kept. */
uint32_t namemap_address(namemap *m, const char *name);
bool namemap_is_ours(uint32_t address);
/* The name behind an address, NULL when there is none any more. Valid until the next namemap_address. */
const char *namemap_name(const namemap *m, uint32_t address);

#endif
