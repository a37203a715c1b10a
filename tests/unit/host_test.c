#include "csn/host.h"

#include "tap.h"

static void host(const char *in, const char *want) { /* want NULL: refused */
  uint8_t text[CSN_HOST_MAX];
  csn_host h, again;
  uint32_t len = (uint32_t)strlen(in);
  uint8_t *p = guarded(in, len);
  csn_err err = csn_host_parse(csn_span_of(p, len), &h);
  unguard(p, len);
  if (want == NULL) {
    ok(err == CSN_ERR_BAD_VALUE, "refused: %s", in);
    return;
  }
  uint32_t n = err == CSN_ERR_OK ? csn_host_text(&h, text) : 0;
  bool right = err == CSN_ERR_OK && n == strlen(want) && memcmp(text, want, n) == 0;
  ok(right && csn_host_parse(csn_span_of(text, n), &again) == CSN_ERR_OK && csn_host_equal(&h, &again),
     "%s is %s", in, want);
}

static void class_of(const char *in, csn_addr_class want) {
  csn_host h;
  bool good =
      csn_host_parse(csn_span_str(in), &h) == CSN_ERR_OK && h.is_addr && csn_addr_classify(&h.addr) == want;
  ok(good, "%s is %s", in, csn_addr_class_text(want));
}

/* The special block that the address lies in: as a rule of a policy would have to name it. */
static void block_of(const char *in, const char *block) {
  csn_host h;
  csn_addr net;
  uint8_t want = 0, got = 255;
  bool good = csn_host_parse(csn_span_str(in), &h) == CSN_ERR_OK && h.is_addr;
  csn_addr_class class = csn_addr_block(&h.addr, &got);
  if (block == NULL) {
    ok(good && class == CSN_ADDR_PUBLIC && got == 0, "%s lies in no special block", in);
    return;
  }
  good = good && csn_cidr_parse(csn_span_str(block), &net, &want) == CSN_ERR_OK;
  ok(good && class != CSN_ADDR_PUBLIC && got == want && csn_addr_within(&h.addr, &net, want),
     "%s lies in %s: %u bits", in, block, got);
}

static void cidr(const char *in, const char *net, int bits) { /* bits < 0: refused */
  csn_addr a;
  uint8_t b = 0, text[CSN_HOST_TEXT_MAX];
  csn_err err = csn_cidr_parse(csn_span_str(in), &a, &b);
  if (bits < 0) {
    ok(err == CSN_ERR_BAD_VALUE, "refused: %s", in);
    return;
  }
  uint32_t n = err == CSN_ERR_OK ? csn_addr_text(&a, text) : 0;
  ok(err == CSN_ERR_OK && b == bits && n == strlen(net) && memcmp(text, net, n) == 0,
     "%s is %s, %d bits of 128", in, net, bits);
}

static void hostport(const char *in, const char *want, int port) { /* port < 0: refused */
  uint8_t text[CSN_HOST_MAX];
  csn_host h;
  uint16_t got = 0;
  csn_err err = csn_hostport_parse(csn_span_str(in), &h, &got);
  if (port < 0) {
    ok(err == CSN_ERR_BAD_VALUE, "refused: %s", in);
    return;
  }
  uint32_t n = err == CSN_ERR_OK ? csn_host_text(&h, text) : 0;
  ok(err == CSN_ERR_OK && got == port && n == strlen(want) && memcmp(text, want, n) == 0, "%s is %s port %d",
     in, want, port);
}

int main(void) {
  char name[300];
  host("Example.COM", "example.com");
  host("example.com.", "example.com");
  host("xn--bcher-kva.example", "xn--bcher-kva.example");
  host("_dmarc.example", "_dmarc.example");
  host("a-b.c1", "a-b.c1");
  host("1a.example", "1a.example");
  host("0x7f.example", "0x7f.example");
  host("", NULL);
  host(".", NULL);
  host("..", NULL);
  host("a..b", NULL);
  host(".a", NULL);
  host("a.b..", NULL);
  host("-a.b", NULL);
  host("a-.b", NULL);
  host("a.b-", NULL);
  host("a b", NULL);
  host("a%00b", NULL);
  host("b\xc3\xbc"
       "cher.example",
       NULL);
  host("a/b", NULL);
  host("user@host", NULL);
  /* a label of 63 bytes is the longest, a name of 253 */
  memset(name, 'a', 63);
  strcpy(name + 63, ".b");
  host(name, name);
  memset(name, 'a', 64);
  strcpy(name + 64, ".b");
  host(name, NULL);
  for (int i = 0; i < 253; i++)
    name[i] = i % 2 ? '.' : 'a';
  name[253] = 0;
  host(name, name);
  for (int i = 0; i < 254; i++)
    name[i] = i % 3 == 2 ? '.' : 'a';
  name[254] = 0;
  host(name, NULL);

  static const char *const loopback[] = {"127.0.0.1",        "127.1",           "0x7f.1",       "0177.0.0.01",
                                         "2130706433",       "0x7f000001",      "017700000001", "127.0.1",
                                         "::ffff:127.0.0.1", "[::ffff:7f00:1]", "127.0.0.1."};
  for (unsigned i = 0; i < sizeof loopback / sizeof *loopback; i++)
    host(loopback[i], "127.0.0.1");
  static const char *const no_v4[] = {"256.0.0.1",  "1.2.3.256",   "1.2.3.4.5", "1.256.3",
                                      "4294967296", "0x100000000", "08.1.1.1",  "1..2",
                                      "1.2.3.0x",   "1.2.3.a4.5",  "a.1",       "a.0x1f"};
  for (unsigned i = 0; i < sizeof no_v4 / sizeof *no_v4; i++)
    host(no_v4[i], strcmp(no_v4[i], "1.2.3.0x") == 0 ? "1.2.3.0" : NULL);

  host("::", "::");
  host("::1", "::1");
  host("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1");
  host("2001:db8::1:0:0:1", "2001:db8::1:0:0:1");
  host("[2001:db8::]", "2001:db8::");
  host("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8");
  host("1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304");
  host("1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7");
  host("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8");
  static const char *const no_v6[] = {":",
                                      ":::",
                                      "1:2:3:4:5:6:7",
                                      "1:2:3:4:5:6:7:8:9",
                                      "1::2::3",
                                      "12345::",
                                      "::1%eth0",
                                      "[::1",
                                      "::1]",
                                      "::1.2.3",
                                      "::1.2.3.256",
                                      "::01.2.3.4",
                                      "1:2:3:4:5:6:7:1.2.3.4",
                                      "1:",
                                      ":1",
                                      "::g",
                                      "1:2:3:4:5:6:7:8::",
                                      "::1.2.3.4:5",
                                      "[]"};
  for (unsigned i = 0; i < sizeof no_v6 / sizeof *no_v6; i++)
    host(no_v6[i], NULL);

  class_of("8.8.8.8", CSN_ADDR_PUBLIC);
  class_of("10.255.255.255", CSN_ADDR_PRIVATE);
  class_of("172.31.0.1", CSN_ADDR_PRIVATE);
  class_of("172.32.0.1", CSN_ADDR_PUBLIC);
  class_of("192.168.1.1", CSN_ADDR_PRIVATE);
  class_of("100.64.0.1", CSN_ADDR_PRIVATE);
  class_of("100.128.0.1", CSN_ADDR_PUBLIC);
  class_of("100.100.100.200", CSN_ADDR_METADATA);
  class_of("169.254.169.254", CSN_ADDR_METADATA);
  class_of("169.254.1.1", CSN_ADDR_LINK_LOCAL);
  class_of("224.0.0.1", CSN_ADDR_MULTICAST);
  class_of("255.255.255.255", CSN_ADDR_RESERVED);
  class_of("0.0.0.0", CSN_ADDR_RESERVED);
  class_of("198.19.255.255", CSN_ADDR_RESERVED);
  class_of("::", CSN_ADDR_RESERVED);
  class_of("::1", CSN_ADDR_LOOPBACK);
  class_of("::10.0.0.1", CSN_ADDR_PRIVATE);
  class_of("::ffff:10.0.0.1", CSN_ADDR_PRIVATE);
  class_of("64:ff9b::7f00:1", CSN_ADDR_LOOPBACK);
  class_of("2002:a9fe:a9fe::1", CSN_ADDR_METADATA);
  class_of("fe80::1", CSN_ADDR_LINK_LOCAL);
  class_of("fec0::1", CSN_ADDR_ULA);
  class_of("fd00::1", CSN_ADDR_ULA);
  class_of("fd00:ec2::254", CSN_ADDR_METADATA);
  class_of("ff02::1", CSN_ADDR_MULTICAST);
  class_of("2001:db8::1", CSN_ADDR_RESERVED);
  class_of("2001::1", CSN_ADDR_RESERVED);
  class_of("2606:4700::1", CSN_ADDR_PUBLIC);
  class_of("4000::1", CSN_ADDR_RESERVED);

  block_of("8.8.8.8", NULL);
  block_of("2606:4700::1", NULL);
  block_of("::8.8.8.8", NULL);
  block_of("2002:808:808::1", NULL);
  block_of("10.255.0.1", "10.0.0.0/8");
  block_of("169.254.1.1", "169.254.0.0/16");
  block_of("169.254.169.254", "169.254.169.254/32");
  block_of("100.100.100.200", "100.100.100.200/32");
  block_of("0.0.0.0", "0.0.0.0/8");
  block_of("255.255.255.255", "240.0.0.0/4");
  block_of("::", "::/128");
  block_of("::1", "::1/128");
  block_of("::10.1.1.1", "::a00:0/104");
  block_of("64:ff9b::1", "64:ff9b::/104");
  block_of("2002:a01:203::1", "2002:a00::/24");
  block_of("fd12::1", "fc00::/7");
  block_of("fd00:ec2::254", "fd00:ec2::254/128");
  block_of("fe80::1", "fe80::/10");
  block_of("2001:db8::1", "2001:db8::/32");
  block_of("2001:1::1", "2001::/23");
  block_of("1:2::1", "::/8");
  block_of("64:ff9b:1::1", "::/8");
  block_of("5f00::1", "4000::/3");
  block_of("fe00::1", "fe00::/9");
  cidr("10.0.0.0/8", "10.0.0.0", 104);
  cidr("10.0.0.1", "10.0.0.1", 128);
  cidr("0.0.0.0/0", "0.0.0.0", 96);
  cidr("::ffff:10.0.0.0/104", "10.0.0.0", 104);
  cidr("fd00::/8", "fd00::", 8);
  cidr("[fd00::]/8", "fd00::", 8);
  cidr("::/0", "::", 0);
  cidr("10.0.0.1/8", NULL, -1);
  cidr("10.0.0.0/33", NULL, -1);
  cidr("fd00::/129", NULL, -1);
  cidr("10.0.0.0/", NULL, -1);
  cidr("10.0.0.0/8/8", NULL, -1);
  cidr("10.0.0.0/-1", NULL, -1);
  cidr("a.b/8", NULL, -1);
  cidr("fd00::1/8", NULL, -1);

  hostport("a.b:443", "a.b", 443);
  hostport("a.b", "a.b", 0);
  hostport("[::1]:65535", "::1", 65535);
  hostport("[::1]", "::1", 0);
  hostport("::1", "::1", 0);
  hostport("a.b:", NULL, -1);
  hostport("a.b:0", NULL, -1);
  hostport("a.b:65536", NULL, -1);
  hostport("a.b:080000", NULL, -1);
  hostport("a.b:+80", NULL, -1);
  hostport(":80", NULL, -1);
  hostport("[::1]:", NULL, -1);
  hostport("[::1]x:80", NULL, -1);
  hostport("[a.b]:80", NULL, -1);
  return done();
}
