# Tests of the core. Each program prints TAP; tests/unit/tally.mjs adds them up.
CORE_UNIT := base scan json gap request price budget transcript session feed host policy dialect guard identity wire agent redact watch
CORE_TEST_DIR := $(BUILD)/test-results/core

# The string scanner without SIMD, under names of its own, for the tests to hold against the one with it.
SCAN_SCALAR := -DCSN_NO_SIMD -Dcsn_scan_long=scalar_scan_long -Dcsn_scan_bytes=scalar_scan_bytes -Dcsn_splats=scalar_splats

# $(1) set of objects, $(2) compiler, $(3) flags
define core_tests
$(BUILD)/$(1)/%_test: tests/unit/%_test.c $$(wildcard tests/unit/*.h) $$($(1)_OBJ) $(BUILD)/$(1)/scan_scalar.o $$(CORE_HEADERS)
	$(2) -std=gnu11 $(3) -Wall -Wextra -Werror -Wno-missing-braces $$(CORE_INC) -Itests/unit -o $$@ $$< $$($(1)_OBJ) $(BUILD)/$(1)/scan_scalar.o
$(BUILD)/$(1)/scan_scalar.o: wasm/src/json_scan.c $$(CORE_HEADERS)
	$(2) -std=c11 $$(CORE_WARN) $(3) $$(CORE_INC) $(SCAN_SCALAR) -c -o $$@ $$<
$(BUILD)/$(1)/caisson-%: wasm/tools/caisson_%.c wasm/tools/error_text.h $$($(1)_OBJ) $$(CORE_HEADERS)
	$(2) -std=gnu11 $(3) -Wall -Wextra -Werror $$(CORE_INC) -o $$@ $$< $$($(1)_OBJ)
$(BUILD)/$(1)/replay: tests/golden/replay.c $$(wildcard tests/unit/*.h) $$($(1)_OBJ) $$(CORE_HEADERS)
	$(2) -std=gnu11 $(3) -Wall -Wextra -Werror -Wno-missing-braces $$(CORE_INC) -Itests/unit -o $$@ $$< $$($(1)_OBJ)
endef
# The build that users have: scripts/arm64.sh runs its tests on a processor where no sanitizer goes.
$(eval $(call core_tests,native,$(CC),-O2 -g))
$(eval $(call core_tests,scalar,$(CC),-O2 -DCSN_NO_SIMD))
$(eval $(call core_tests,san-gcc,$(GCC),$(CORE_SAN)))
$(eval $(call core_tests,san-clang,$(CLANG),$(CORE_SAN)))
$(eval $(call core_tests,san-memory,$(CLANG),-O1 -g -Wno-frame-larger-than -fsanitize=memory -fno-sanitize-recover=all))
CORE_SETS := san-gcc san-clang san-memory

# --- fuzzers --------------------------------------------------------------------------------------------------------

# One of fuzz_agent.c for each dialect: half as long each, as they share most of their code.
CORE_FUZZ_DIALECTS := claude-code codex gemini opencode shell
CORE_FUZZ := $(CORE_FUZZ_DIALECTS) json budget event load policy address guard token transcript wire redact
FUZZ_SECONDS ?= 12
$(BUILD)/fuzz/scan_scalar.o: wasm/src/json_scan.c $(CORE_HEADERS)
	@mkdir -p $(@D)
	$(CLANG) -std=c11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all $(CORE_INC) $(SCAN_SCALAR) -c -o $@ $<
$(BUILD)/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(wildcard tests/unit/*.h) $(fuzz_OBJ) $(BUILD)/fuzz/scan_scalar.o $(CORE_HEADERS)
	$(CLANG) -std=gnu11 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Wall -Wextra -Werror \
	  $(CORE_INC) -Itests/unit -o $@ $< $(fuzz_OBJ) $(BUILD)/fuzz/scan_scalar.o
$(CORE_FUZZ_DIALECTS:%=$(BUILD)/fuzz/fuzz_%): $(BUILD)/fuzz/fuzz_%: tests/fuzz/fuzz_agent.c $(wildcard tests/unit/*.h) $(fuzz_OBJ) $(CORE_HEADERS)
	$(CLANG) -std=gnu11 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Wall -Wextra -Werror \
	  -DFUZZ_AGENT='"$*"' $(CORE_INC) -Itests/unit -o $@ $< $(fuzz_OBJ)

fuzz-smoke: $(CORE_FUZZ:%=$(BUILD)/fuzz/fuzz_%)
	@mkdir -p $(CORE_TEST_DIR)
	@for f in $(CORE_FUZZ); do \
	  mkdir -p $(BUILD)/fuzz/found/$$f; seconds=$(FUZZ_SECONDS); \
	  case " $(CORE_FUZZ_DIALECTS) " in *" $$f "*) seconds=$$((($(FUZZ_SECONDS) + 1) / 2)) ;; esac; \
	  if $(BUILD)/fuzz/fuzz_$$f -max_total_time=$$seconds -max_len=8192 -timeout=20 -dict=tests/fuzz/dict -verbosity=0 \
	    -print_final_stats=1 -artifact_prefix=$(BUILD)/fuzz/$$f- $(BUILD)/fuzz/found/$$f tests/fuzz/corpus/$$f \
	    >$(CORE_TEST_DIR)/fuzz_$$f.log 2>&1; \
	  then echo "ok - fuzz_$$f: $$(grep -o 'number_of_executed_units: *[0-9]*' $(CORE_TEST_DIR)/fuzz_$$f.log | tr -s ' ')"; \
	  else tail -40 $(CORE_TEST_DIR)/fuzz_$$f.log; echo "not ok - fuzz_$$f"; exit 1; fi; \
	done

# --- all of it ------------------------------------------------------------------------------------------------------

CORE_UNIT_BIN := $(foreach c,$(CORE_SETS),$(CORE_UNIT:%=$(BUILD)/$(c)/%_test))
CORE_TAP := $(foreach c,$(CORE_SETS),$(foreach t,$(CORE_UNIT),$(c)-$(t))) table outcomes golden rows long-lines transcripts policy identity diff redact shell smoke abi symbols abi-check

# What the tests run besides the unit tests.
CORE_TEST_PROGRAMS := $(BUILD)/gen_abi_ts \
  $(BUILD)/scalar/caisson-events \
  $(BUILD)/san-gcc/caisson-events \
  $(BUILD)/san-gcc/replay \
  $(BUILD)/san-clang/caisson-events \
  $(BUILD)/san-gcc/caisson-policy \
  $(BUILD)/san-gcc/caisson-token \
  $(BUILD)/san-gcc/caisson-audit \
  $(BUILD)/san-gcc/caisson-redact

test-core: core $(CORE_UNIT_BIN) $(CORE_TEST_PROGRAMS)
	@rm -rf $(CORE_TEST_DIR) && mkdir -p $(CORE_TEST_DIR)
	@for c in $(CORE_SETS); do for t in $(CORE_UNIT); do \
	  $(BUILD)/$$c/$${t}_test >$(CORE_TEST_DIR)/$$c-$$t.tap 2>&1 || true; done; done
	@$(BUILD)/san-gcc/session_test --table | diff -u tests/golden/transitions.txt - >$(CORE_TEST_DIR)/table.diff 2>&1 \
	  && echo 'ok 1 - tests/golden/transitions.txt is current' >$(CORE_TEST_DIR)/table.tap \
	  || { echo 'not ok 1 - tests/golden/transitions.txt differs'; sed 's/^/  # /' $(CORE_TEST_DIR)/table.diff; } >$(CORE_TEST_DIR)/table.tap
	@echo 1..1 >>$(CORE_TEST_DIR)/table.tap
	@$(CORE_NODE) tests/golden/outcomes.mjs $(BUILD)/san-clang/caisson-events >$(CORE_TEST_DIR)/outcomes.tap 2>&1 || true
	@$(CORE_NODE) tests/golden/golden.mjs $(BUILD)/san-gcc/caisson-events $(BUILD)/core.wasm $(BUILD)/san-gcc/replay >$(CORE_TEST_DIR)/golden.tap 2>&1 || true
	@$(CORE_NODE) tests/golden/rows.mjs >$(CORE_TEST_DIR)/rows.tap 2>&1 || true
	@$(CORE_NODE) tests/golden/long-lines.mjs $(BUILD)/caisson-events $(BUILD)/core.wasm >$(CORE_TEST_DIR)/long-lines.tap 2>&1 || true
	@$(CORE_NODE) tests/golden/transcripts.mjs $(BUILD)/san-gcc/caisson-events $(BUILD)/core.wasm >$(CORE_TEST_DIR)/transcripts.tap 2>&1 || true
	@$(CORE_NODE) tests/golden/policy.mjs $(BUILD)/san-gcc/caisson-policy >$(CORE_TEST_DIR)/policy.tap 2>&1 || true
	@$(CORE_NODE) tests/golden/identity.mjs $(BUILD)/san-gcc/caisson-token $(BUILD)/san-gcc/caisson-audit >$(CORE_TEST_DIR)/identity.tap 2>&1 || true
	@$(CORE_NODE) tests/diff/diff.mjs $(BUILD)/caisson-events $(BUILD)/core.wasm $(BUILD)/scalar/caisson-events >$(CORE_TEST_DIR)/diff.tap 2>&1 || true
	@$(CORE_NODE) tests/diff/shell.mjs $(BUILD)/san-gcc/caisson-policy >$(CORE_TEST_DIR)/shell.tap 2>&1 || true
	@$(CORE_NODE) tests/diff/redact.mjs $(BUILD)/san-gcc/caisson-redact $(BUILD)/redact.wasm $(CORE_TEST_DIR)/redact-host.mjs >$(CORE_TEST_DIR)/redact.tap 2>&1 || true
	@$(CORE_NODE) tests/diff/smoke.mjs $(BUILD)/core.wasm >$(CORE_TEST_DIR)/smoke.tap 2>&1 || true
	@$(CORE_NODE) tests/abi/abi.mjs $(BUILD)/core.wasm >$(CORE_TEST_DIR)/abi.tap 2>&1 || true
	@sh tests/abi/symbols.sh $(NM_WASM) $(CORE_NAMES:%=$(BUILD)/wasm/%.o) >$(CORE_TEST_DIR)/symbols.tap 2>&1 || true
	@$(MAKE) -s -f $(firstword $(MAKEFILE_LIST)) abi-check >$(CORE_TEST_DIR)/abi-check.log 2>&1 \
	  && echo 'ok 1 - worker/src/core/abi.gen.ts is current' >$(CORE_TEST_DIR)/abi-check.tap \
	  || { echo 'not ok 1 - worker/src/core/abi.gen.ts is stale'; sed 's/^/  # /' $(CORE_TEST_DIR)/abi-check.log; } >$(CORE_TEST_DIR)/abi-check.tap
	@echo 1..1 >>$(CORE_TEST_DIR)/abi-check.tap
	@$(CORE_NODE) tests/unit/tally.mjs $(BUILD)/test-results/core.txt $(foreach t,$(CORE_TAP),$(t)=$(CORE_TEST_DIR)/$(t).tap)
