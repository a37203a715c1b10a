/* policy.c - the compiled table and its questions. */
#include "csn/policy.h"

#include "csn/glob.h"
#include "policy_table.h"

_Static_assert(sizeof(csn_policy) <= 112u * 1024,
               "2 KB hash, 1 KB order, 20 KB net, 2 KB inject, 4 KB tools, 48 KB text");

void csn_policy_init(csn_policy *p) {
  memset(p, 0, sizeof *p);
  p->websockets = 1;
}

csn_span csn_policy_text(const csn_policy *p, csn_text_ref ref) {
  CSN_INVARIANT(ref.off <= p->text_len && ref.len <= p->text_len - ref.off);
  return csn_span_of(p->text + ref.off, ref.len);
}

uint32_t csn_policy_hash(uint32_t h, uint8_t c) { /* FNV-1a */
  return (h ^ c) * 16777619u;
}

uint32_t csn_policy_hash_name(csn_span name) {
  uint32_t h = CSN_POLICY_HASH_SEED;
  for (uint32_t i = name.len; i > 0; i--)
    h = csn_policy_hash(h, name.ptr[i - 1]);
  return h;
}

static bool port_fits(const csn_net_rule *r, uint16_t port) {
  return r->port == 0 || r->port == port;
}

/* Of two rules for the same host: one with a port before one without, then deny before allow. */
static bool beats(const csn_net_rule *a, const csn_net_rule *b) {
  if ((a->port != 0) != (b->port != 0)) return a->port != 0;
  return a->action < b->action;
}

/* The best rule of `kind` for exactly this name in its hash chain; CSN_POLICY_NO_RULE when there is none. */
static uint16_t best_in_chain(const csn_policy *p, uint32_t hash, uint8_t kind, csn_span name,
                              uint16_t port) {
  uint16_t best = CSN_POLICY_NO_RULE;
  for (uint16_t at = p->slots[hash % CSN_POLICY_SLOTS]; at != 0; at = p->net[at - 1].next) {
    const csn_net_rule *r = &p->net[at - 1];
    csn_span host = csn_policy_text(p, r->host);
    if (r->kind != kind || host.len != name.len || !port_fits(r, port)) continue;
    if (memcmp(host.ptr, name.ptr, name.len) != 0) continue;
    if (best == CSN_POLICY_NO_RULE || beats(r, &p->net[best])) best = (uint16_t)(at - 1);
  }
  return best;
}

static uint16_t best_any(const csn_policy *p, uint16_t port) {
  uint16_t best = CSN_POLICY_NO_RULE;
  for (uint16_t at = p->any; at != 0; at = p->net[at - 1].next) {
    const csn_net_rule *r = &p->net[at - 1];
    if (port_fits(r, port) && (best == CSN_POLICY_NO_RULE || beats(r, &p->net[best])))
      best = (uint16_t)(at - 1);
  }
  return best;
}

/* The rule for a name: the name itself, then the longest suffix that follows a "*.". */
static uint16_t rule_for_name(const csn_policy *p, const csn_host *h, uint16_t port) {
  uint32_t hashes[CSN_HOST_MAX / 2 + 1];
  uint8_t starts[CSN_HOST_MAX / 2 + 1];
  uint32_t count = 0, hash = CSN_POLICY_HASH_SEED;
  for (uint32_t i = h->len; i > 0; i--) {
    if (h->name[i - 1] == '.') {
      hashes[count] = hash;
      starts[count++] = (uint8_t)i;
    }
    hash = csn_policy_hash(hash, h->name[i - 1]);
  }
  uint16_t found = best_in_chain(p, hash, CSN_NET_NAME, csn_span_of(h->name, h->len), port);
  while (found == CSN_POLICY_NO_RULE && count > 0) {
    count--;
    csn_span suffix = csn_span_of(h->name + starts[count], h->len - starts[count]);
    found = best_in_chain(p, hashes[count], CSN_NET_WILD, suffix, port);
  }
  return found;
}

static uint16_t rule_for_addr(const csn_policy *p, const csn_addr *addr, uint16_t port) {
  for (uint32_t i = 0; i < p->cidr_count; i++) {
    const csn_net_rule *r = &p->net[p->cidr[i]];
    if (port_fits(r, port) && csn_addr_within(addr, &r->net, r->bits)) return p->cidr[i];
  }
  return CSN_POLICY_NO_RULE;
}

static csn_verdict by_rule(const csn_policy *p, uint16_t slot, csn_addr_class class) {
  const csn_net_rule *r = &p->net[slot];
  uint8_t list = r->action == CSN_ALLOW ? CSN_LIST_NET_ALLOW : CSN_LIST_NET_DENY;
  return (csn_verdict){r->action, CSN_WHY_RULE, (uint8_t) class, list, r->rule, slot};
}

csn_verdict csn_policy_net(const csn_policy *p, const csn_host *host, uint16_t port, const csn_addr *addr) {
  csn_verdict v = {CSN_DENY,          CSN_WHY_DEFAULT,    CSN_ADDR_PUBLIC,
                   CSN_LIST_NET_DENY, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
  if (port == 0 || (!host->is_addr && host->len == 0)) {
    v.why = CSN_WHY_BAD_HOST;
    return v;
  }
  if (host->is_addr) addr = &host->addr; /* a name's address is the caller's word; an address is its own */
  uint8_t block = 0;                     /* bits of the special block that the address lies in */
  csn_addr_class class = addr != NULL ? csn_addr_block(addr, &block) : CSN_ADDR_PUBLIC;
  uint16_t by_name = host->is_addr ? CSN_POLICY_NO_RULE : rule_for_name(p, host, port);
  uint16_t by_addr = addr != NULL ? rule_for_addr(p, addr, port) : CSN_POLICY_NO_RULE;
  if (by_name != CSN_POLICY_NO_RULE && p->net[by_name].action == CSN_DENY) return by_rule(p, by_name, class);
  if (by_addr != CSN_POLICY_NO_RULE && p->net[by_addr].action == CSN_DENY) return by_rule(p, by_addr, class);
  /* Rebinding: an allowed name that resolves into a private network is refused here, on the address itself.
   */
  bool lax = p->private_allowed &&
             (class == CSN_ADDR_PRIVATE || class == CSN_ADDR_ULA || class == CSN_ADDR_LOOPBACK);
  /* A rule names a special block when it is that block or lies inside, not when it merely holds it. */
  if (class != CSN_ADDR_PUBLIC && !lax && (by_addr == CSN_POLICY_NO_RULE || p->net[by_addr].bits < block)) {
    v.why = CSN_WHY_RANGE;
    v.class = (uint8_t) class;
    return v;
  }
  uint16_t found = by_name != CSN_POLICY_NO_RULE ? by_name : by_addr;
  if (found == CSN_POLICY_NO_RULE) found = best_any(p, port);
  if (found != CSN_POLICY_NO_RULE) return by_rule(p, found, class);
  v.action = p->network_default;
  v.class = (uint8_t) class;
  return v;
}

bool csn_policy_rule_matches(const csn_policy *p, const csn_net_rule *r, const csn_host *host,
                             uint16_t port) {
  if (!port_fits(r, port)) return false;
  csn_span want = csn_policy_text(p, r->host);
  switch ((enum csn_net_kind)r->kind) {
  case CSN_NET_NAME:
    return !host->is_addr && host->len == want.len && memcmp(host->name, want.ptr, want.len) == 0;
  case CSN_NET_WILD:
    return !host->is_addr && host->len > want.len + 1 && host->name[host->len - want.len - 1] == '.' &&
           memcmp(host->name + host->len - want.len, want.ptr, want.len) == 0;
  case CSN_NET_CIDR:
    return host->is_addr && csn_addr_within(&host->addr, &r->net, r->bits);
  case CSN_NET_ANY:
    return true;
  }
  __builtin_trap();
}

uint32_t csn_policy_inject(const csn_policy *p, const csn_host *host, uint16_t port) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < p->inject_count; i++)
    if (csn_policy_rule_matches(p, &p->inject[i].match, host, port)) found |= 1u << i;
  return found;
}

/* The last rule that matches decides between include and exclude only by list: an exclude always wins. */
bool csn_policy_artifact(const csn_policy *p, csn_span path) {
  for (uint32_t i = 0; i < p->exclude_count; i++)
    if (csn_glob_path(csn_policy_text(p, p->exclude[i]), path)) return false;
  for (uint32_t i = 0; i < p->include_count; i++)
    if (csn_glob_path(csn_policy_text(p, p->include[i]), path)) return true;
  return p->include_count == 0;
}
