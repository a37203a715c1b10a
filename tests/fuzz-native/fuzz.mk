# tests/fuzz-native/fuzz.mk - fuzzers of what the native programs parse. Paths are relative to the repository root.
#   fuzz-native-smoke  each of FUZZ_NATIVE for FUZZ_NATIVE_SECONDS

FUZZ_NATIVE := frames jsonin http texts wire start
FUZZ_NATIVE_SECONDS ?= 6
FUZZ_CC = clang -std=gnu11 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
          -isystem $(CJSON_DIR) -isystem $(HTTP_PARSER_DIR) -isystem $(BEARSSL_DIR)/inc
FUZZ_GUEST := $(addprefix $(NATIVE_DIR)/,common/buf.c guest/dispatch.c guest/exchange.c guest/http.c guest/jsonin.c \
              guest/ws.c guest/ws_api.c guest/ws_frame.c)
$(FUZZ_NATIVE:%=build/fuzz-native/fuzz_%): tests/fuzz-native/fuzz.h
build/fuzz-native/fuzz_frames: tests/fuzz-native/fuzz_frames.c $(NATIVE_WIRE_UNITS) $(NATIVE_HDRS)
build/fuzz-native/fuzz_jsonin: tests/fuzz-native/fuzz_jsonin.c $(NATIVE_WIRE_UNITS) $(NATIVE_HDRS) build/native/cjson.o
build/fuzz-native/fuzz_http: tests/fuzz-native/fuzz_http.c $(FUZZ_GUEST) $(NATIVE_HDRS) build/native/cjson.o build/native/http_parser.o build/native/bearssl.a
build/fuzz-native/fuzz_http: FUZZ_LIBS := -levent_core -Wl,--wrap=csn_wall_ms
build/fuzz-native/fuzz_texts: tests/fuzz-native/fuzz_texts.c $(addprefix $(NATIVE_DIR)/,common/buf.c guest/backup_names.c guest/git_url.c guest/interp_event.c) $(NATIVE_HDRS) build/native/cjson.o
build/fuzz-native/fuzz_wire: tests/fuzz-native/fuzz_wire.c $(addprefix $(NATIVE_DIR)/,common/buf.c common/link.c engine/addr.c engine/dnsmsg.c engine/hello.c engine/http1.c engine/names.c engine/packet.c) $(NATIVE_HDRS)
# All of the engine but its main program.
build/fuzz-native/fuzz_start: tests/fuzz-native/fuzz_start.c $(filter-out %/main.c,$(NATIVE_ENGINE)) $(NATIVE_COMMON) $(NATIVE_HDRS) build/native/cjson.o build/native/bearssl.a
build/fuzz-native/fuzz_start: FUZZ_LIBS := -levent_extra -levent_core -lseccomp -lm -lpthread
build/fuzz-native/fuzz_%:
	@mkdir -p $(@D)
	$(FUZZ_CC) -o $@ $(filter %.c %.o %.a,$^) $(FUZZ_LIBS)

.PHONY: fuzz-native-smoke
fuzz-native-smoke: $(FUZZ_NATIVE:%=build/fuzz-native/fuzz_%)
	@mkdir -p build/test-results; for f in $(FUZZ_NATIVE); do \
	  mkdir -p build/fuzz-native/found/$$f; log=build/test-results/fuzz_$$f.log; \
	  if build/fuzz-native/fuzz_$$f -max_total_time=$(FUZZ_NATIVE_SECONDS) -max_len=4096 -timeout=20 -verbosity=0 -print_final_stats=1 \
	    -artifact_prefix=build/fuzz-native/$$f- build/fuzz-native/found/$$f tests/fuzz-native/corpus/$$f >$$log 2>&1; \
	  then echo "ok - fuzz_$$f: $$(grep -o 'number_of_executed_units: *[0-9]*' $$log | tr -s ' ')"; \
	  else tail -40 $$log; echo "not ok - fuzz_$$f"; exit 1; fi; \
	done
