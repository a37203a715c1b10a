# sandbox-sdk-shim/native.mk - the native programs under the shim: engine, guest, runner.
# Paths are relative to the repository root. Included by the Makefile there.
#   engine       build/caisson-engine, build/caisson-guest, build/caisson-run
#   test-engine  unit and system tests, TAP; the totals go to build/test-results/engine.txt

NATIVE_CC     ?= gcc
NATIVE_AR     ?= ar
NATIVE_STRIP  ?= strip
NATIVE_BUILD  ?= build
CJSON_DIR     ?= build/deps/cjson
HTTP_PARSER_DIR ?= build/deps/http-parser
BEARSSL_DIR   ?= build/deps/bearssl
NATIVE_DIR    := sandbox-sdk-shim
NATIVE_WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wconversion \
                 -Wno-sign-conversion -Wundef -Wimplicit-fallthrough -Werror
NATIVE_FLAGS  := -std=gnu11 -O2 -g -ffunction-sections -fdata-sections -fstack-protector-strong -D_FORTIFY_SOURCE=2 \
                 $(NATIVE_WARN) -isystem $(CJSON_DIR) -isystem $(HTTP_PARSER_DIR) -isystem $(BEARSSL_DIR)/inc
NATIVE_STATIC := -static -Wl,--gc-sections -Wl,-z,relro,-z,now -Wl,-z,noexecstack

NATIVE_COMMON := $(addprefix $(NATIVE_DIR)/common/,buf.c tree.c link.c)
NATIVE_RUNNER := $(wildcard $(NATIVE_DIR)/guest/runner*.c)
NATIVE_GUEST  := $(filter-out $(NATIVE_RUNNER),$(wildcard $(NATIVE_DIR)/guest/*.c))
NATIVE_ENGINE := $(wildcard $(NATIVE_DIR)/engine/*.c)
NATIVE_HDRS   := $(wildcard $(NATIVE_DIR)/*/*.h)
native_objs    = $(patsubst $(NATIVE_DIR)/%.c,$(NATIVE_BUILD)/native/%.o,$(1)) 

.PHONY: engine test-engine
engine: $(NATIVE_BUILD)/caisson-engine $(NATIVE_BUILD)/caisson-guest $(NATIVE_BUILD)/caisson-run

$(CJSON_DIR)/cJSON.c $(HTTP_PARSER_DIR)/http_parser.c $(BEARSSL_DIR)/inc/bearssl.h &:
	sh scripts/fetch-deps.sh

# Everything is written under a name of its own and then moved: two makes in one tree do no harm, and
# another program may be running the old file.
$(NATIVE_BUILD)/native/%.o: $(NATIVE_DIR)/%.c $(NATIVE_HDRS) $(NATIVE_DIR)/native.mk | $(CJSON_DIR)/cJSON.c $(HTTP_PARSER_DIR)/http_parser.c $(BEARSSL_DIR)/inc/bearssl.h
	@mkdir -p $(@D)
	$(NATIVE_CC) $(NATIVE_FLAGS) -c $< -o $@.$$$$ && mv -f $@.$$$$ $@

# The interpreters' drivers are part of the object.
$(NATIVE_BUILD)/native/guest/interp_scripts.o: $(wildcard $(NATIVE_DIR)/guest/interp/*)

$(NATIVE_BUILD)/native/cjson.o: $(CJSON_DIR)/cJSON.c
	@mkdir -p $(@D)
	$(NATIVE_CC) -std=gnu11 -O2 -ffunction-sections -fdata-sections -w -c $< -o $@.$$$$ && mv -f $@.$$$$ $@

# What its own -Wextra would say of it does not matter here: it is third-party source.
$(NATIVE_BUILD)/native/http_parser.o: $(HTTP_PARSER_DIR)/http_parser.c
	@mkdir -p $(@D)
	$(NATIVE_CC) -std=gnu11 -O2 -ffunction-sections -fdata-sections -w -c $< -o $@.$$$$ && mv -f $@.$$$$ $@

# All of BearSSL; the linker takes what is used.
$(NATIVE_BUILD)/native/bearssl.a: $(BEARSSL_DIR)/inc/bearssl.h
	rm -rf $@.$$$$ && mkdir -p $@.$$$$ && cd $@.$$$$ && \
	  ls $(CURDIR)/$(BEARSSL_DIR)/src/*.c $(CURDIR)/$(BEARSSL_DIR)/src/*/*.c | xargs -P 2 -n 16 $(NATIVE_CC) -O2 -w -ffunction-sections \
	  -fdata-sections -I$(CURDIR)/$(BEARSSL_DIR)/inc -I$(CURDIR)/$(BEARSSL_DIR)/src -c && $(NATIVE_AR) rcs bearssl.a *.o && mv -f bearssl.a ../$(@F) && \
	  cd .. && rm -rf $(@F).$$$$

# The linker warns of look-ups in libevent that a static program cannot do. The guest does none, so its words are shown only when
# the link fails.
$(NATIVE_BUILD)/caisson-guest: $(call native_objs,$(NATIVE_GUEST) $(NATIVE_COMMON)) $(NATIVE_BUILD)/native/cjson.o $(NATIVE_BUILD)/native/http_parser.o $(NATIVE_BUILD)/native/bearssl.a
	{ $(NATIVE_CC) $(NATIVE_STATIC) -o $@.$$$$ $^ -levent_core -lm 2>$@.ld || { cat $@.ld >&2; exit 1; }; } && rm -f $@.ld && \
	  $(NATIVE_STRIP) $@.$$$$ && mv -f $@.$$$$ $@

$(NATIVE_BUILD)/caisson-run: $(call native_objs,$(NATIVE_RUNNER) $(NATIVE_COMMON)) $(NATIVE_BUILD)/native/cjson.o
	$(NATIVE_CC) $(NATIVE_STATIC) -o $@.$$$$ $^ -lm && $(NATIVE_STRIP) $@.$$$$ && mv -f $@.$$$$ $@

$(NATIVE_BUILD)/caisson-engine: $(call native_objs,$(NATIVE_ENGINE) $(NATIVE_COMMON)) $(NATIVE_BUILD)/native/cjson.o $(NATIVE_BUILD)/native/bearssl.a
	$(NATIVE_CC) -Wl,--gc-sections -Wl,-z,relro,-z,now -o $@.$$$$ $^ -l:libevent_extra.a -l:libevent_core.a \
	  -lseccomp -lm -lpthread && mv -f $@.$$$$ $@

# ---- tests ----
NATIVE_NODE  = $(firstword $(wildcard node_modules/.bin/node) node)
NATIVE_UNITS := $(addprefix $(NATIVE_DIR)/,common/buf.c common/link.c common/tree.c engine/names.c engine/limits.c)
NATIVE_SAN   := -std=gnu11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

$(NATIVE_BUILD)/native/unit_test: tests/engine/unit_test.c $(NATIVE_UNITS) $(NATIVE_HDRS) | $(CJSON_DIR)/cJSON.c
	@mkdir -p $(@D)
	$(NATIVE_CC) $(NATIVE_SAN) $(NATIVE_WARN) -isystem $(CJSON_DIR) -o $@ tests/engine/unit_test.c $(NATIVE_UNITS) $(CJSON_DIR)/cJSON.c -lm

NATIVE_GUEST_UNITS := $(addprefix $(NATIVE_DIR)/,common/buf.c guest/backup_names.c guest/git_url.c guest/interp_event.c)
$(NATIVE_BUILD)/native/unit_guest_test: tests/engine/unit_guest_test.c $(NATIVE_GUEST_UNITS) $(NATIVE_HDRS) $(NATIVE_BUILD)/native/cjson.o
	@mkdir -p $(@D)
	$(NATIVE_CC) $(NATIVE_SAN) $(NATIVE_WARN) -isystem $(CJSON_DIR) -o $@ tests/engine/unit_guest_test.c $(NATIVE_GUEST_UNITS) $(NATIVE_BUILD)/native/cjson.o

NATIVE_PUMP_UNITS := $(addprefix $(NATIVE_DIR)/,engine/pump.c engine/port_gate.c engine/http1.c engine/names.c common/buf.c)
$(NATIVE_BUILD)/native/unit_pump_test: tests/engine/unit_pump_test.c $(NATIVE_PUMP_UNITS) $(NATIVE_HDRS) | $(CJSON_DIR)/cJSON.c
	@mkdir -p $(@D)
	$(NATIVE_CC) $(NATIVE_SAN) $(NATIVE_WARN) -isystem $(CJSON_DIR) -o $@ tests/engine/unit_pump_test.c $(NATIVE_PUMP_UNITS) -levent_core

# What tries to get out of a sandbox, run inside one. Static: it needs nothing of the root that it is put into.
NATIVE_PROBE := $(wildcard tests/engine/probe*.c)
$(NATIVE_BUILD)/native/probe: $(NATIVE_PROBE) tests/engine/probe.h $(NATIVE_DIR)/native.mk
	@mkdir -p $(@D)
	$(NATIVE_CC) -std=gnu11 -O1 $(NATIVE_WARN) -static -o $@ $(NATIVE_PROBE)

NATIVE_WIRE_UNITS := $(addprefix $(NATIVE_DIR)/,common/buf.c guest/jsonin.c guest/watch_filter.c guest/ws_frame.c)
$(NATIVE_BUILD)/native/unit_wire_test: tests/engine/unit_wire_test.c $(NATIVE_WIRE_UNITS) $(NATIVE_HDRS)
	@mkdir -p $(@D)
	$(NATIVE_CC) $(NATIVE_SAN) $(NATIVE_WARN) -o $@ tests/engine/unit_wire_test.c $(NATIVE_WIRE_UNITS)

NATIVE_EGRESS_UNITS := $(addprefix $(NATIVE_DIR)/engine/,addr.c dnsmsg.c hello.c http1.c namemap.c names.c packet.c pem.c x509.c) $(NATIVE_DIR)/common/buf.c
$(NATIVE_BUILD)/native/unit_egress_test: tests/engine/unit_egress_test.c $(NATIVE_EGRESS_UNITS) $(NATIVE_HDRS) $(NATIVE_BUILD)/native/bearssl.a | $(CJSON_DIR)/cJSON.c
	@mkdir -p $(@D)
	$(NATIVE_CC) $(NATIVE_SAN) $(NATIVE_WARN) -isystem $(CJSON_DIR) -isystem $(BEARSSL_DIR)/inc -o $@ tests/engine/unit_egress_test.c \
	  $(NATIVE_EGRESS_UNITS) $(NATIVE_BUILD)/native/bearssl.a

$(NATIVE_BUILD)/native/unit_seccomp_test: tests/engine/unit_seccomp_test.c $(NATIVE_DIR)/engine/seccomp.c $(NATIVE_HDRS) | $(CJSON_DIR)/cJSON.c
	@mkdir -p $(@D)
	$(NATIVE_CC) $(NATIVE_SAN) $(NATIVE_WARN) -isystem $(CJSON_DIR) -o $@ tests/engine/unit_seccomp_test.c $(NATIVE_DIR)/engine/seccomp.c -lseccomp

NATIVE_OUT_UNITS := $(addprefix $(NATIVE_DIR)/engine/,addr.c http1.c names.c out.c) $(NATIVE_DIR)/common/buf.c
$(NATIVE_BUILD)/native/unit_out_test: tests/engine/unit_out_test.c $(NATIVE_OUT_UNITS) $(NATIVE_HDRS) | $(CJSON_DIR)/cJSON.c
	@mkdir -p $(@D)
	$(NATIVE_CC) $(NATIVE_SAN) $(NATIVE_WARN) -isystem $(CJSON_DIR) -o $@ tests/engine/unit_out_test.c $(NATIVE_OUT_UNITS) \
	  -levent_extra -levent_core

# The shell adds up both kinds of TAP; a file that fails outside its tests counts as one failure in node's own sum.
NATIVE_UNIT_TESTS := unit_test unit_guest_test unit_pump_test unit_wire_test unit_egress_test unit_out_test unit_seccomp_test
$(NATIVE_UNIT_TESTS:%=$(NATIVE_BUILD)/native/%): tests/engine/check.h tests/unit/tap.h
test-engine: engine $(NATIVE_UNIT_TESTS:%=$(NATIVE_BUILD)/native/%) $(NATIVE_BUILD)/native/probe
	@mkdir -p $(NATIVE_BUILD)/test-results; out=$(NATIVE_BUILD)/test-results; rc=0; \
	: > $$out/engine-unit.tap; for unit in $(NATIVE_UNIT_TESTS); do $(NATIVE_BUILD)/native/$$unit >> $$out/engine-unit.tap || rc=1; done; \
	cat $$out/engine-unit.tap; \
	$(NATIVE_NODE) --import=./tests/deadline.mjs --test --test-concurrency=1 --test-timeout=400000 --test-reporter=spec \
	  --test-reporter-destination=stdout --test-reporter=tap --test-reporter-destination=$$out/engine-system.tap tests/engine/*.test.mjs || rc=1; \
	unit_ok=$$(grep -c '^ok ' $$out/engine-unit.tap); unit_bad=$$(grep -c '^not ok ' $$out/engine-unit.tap); \
	sum() { sed -n "s/^# $$1 //p" $$out/engine-system.tap | tail -n 1; }; \
	pass=$$(sum pass); fail=$$(sum fail); cancelled=$$(sum cancelled); skipped=$$(sum skipped); \
	bad=$$((unit_bad + $${fail:-1} + $${cancelled:-0})); \
	[ $$rc -eq 0 ] || [ $$bad -gt 0 ] || bad=1; \
	text="$$((unit_ok + $${pass:-0})) passed, $$bad failed"; \
	echo "$$text" > $$out/engine.txt; \
	[ "$${skipped:-0}" -eq 0 ] || text="$$text, $$skipped skipped"; \
	echo "engine: $$text"; [ $$bad -eq 0 ]
