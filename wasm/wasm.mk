# The core: build/core.wasm, build/caisson-events, the host's constants and every test of the C side.
# Included by the Makefile; also runs alone: make -f wasm/wasm.mk core
BUILD ?= build
CLANG ?= clang
GCC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
CC ?= gcc
NM_WASM ?= llvm-nm
CORE_NODE ?= $(firstword $(wildcard node_modules/.bin/node) node)

.PHONY: core abi abi-check test-core fuzz-smoke
.DEFAULT_GOAL ?= core

CORE_WARN := -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Wvla -Wcast-align -Wstrict-prototypes \
  -Wmissing-prototypes -Wswitch-enum -Wimplicit-fallthrough -Wundef -Wformat=2 -Wframe-larger-than=1024 -Werror
CORE_CJSON := -Dmalloc=csn_cjson_malloc -Drealloc=csn_cjson_realloc -Dfree=csn_cjson_free -Dstrtod=csn_cjson_strtod
CORE_INC := -Iwasm/include -Iwasm/data -isystem $(BUILD)/deps/cjson -isystem $(BUILD)/deps/bearssl/inc -I$(BUILD)
CORE_NAMES := $(basename $(notdir $(wildcard wasm/src/*.c)))
CORE_HEADERS := $(wildcard wasm/include/csn/*.h wasm/data/*.h wasm/src/*.h)
CORE_BEARSSL := hash/sha2small codec/dec32be codec/enc32be mac/hmac kdf/hkdf symcipher/chacha20_ct symcipher/poly1305_ctmul
CORE_DEPS := $(BUILD)/deps/.stamp

$(CORE_DEPS): scripts/fetch-deps.sh
	@BUILD=$(BUILD) sh scripts/fetch-deps.sh
	@touch $@

# --- the wire ---------------------------------------------------------------------------------------------------

$(BUILD)/gen_abi_ts: wasm/abi/gen_abi_ts.c wasm/include/csn/abi.h
	@mkdir -p $(@D)
	$(CC) -std=c11 -O1 -Wall -Wextra -Werror -Iwasm/include -o $@ $<

$(BUILD)/abi_digest.h: $(BUILD)/gen_abi_ts
	$(BUILD)/gen_abi_ts digest > $@.tmp && mv $@.tmp $@

abi: $(BUILD)/gen_abi_ts
	@mkdir -p worker/src/core
	$(BUILD)/gen_abi_ts ts > $(BUILD)/abi.gen.ts
	@cmp -s $(BUILD)/abi.gen.ts worker/src/core/abi.gen.ts || cp $(BUILD)/abi.gen.ts worker/src/core/abi.gen.ts

abi-check: $(BUILD)/gen_abi_ts
	@$(BUILD)/gen_abi_ts ts > $(BUILD)/abi.gen.ts
	@diff -u worker/src/core/abi.gen.ts $(BUILD)/abi.gen.ts \
	  || { echo 'abi-check: worker/src/core/abi.gen.ts is stale, run `make abi`' >&2; exit 1; }

# --- one set of objects per compiler and set of flags: $(1) name, $(2) compiler, $(3) flags ----------------------

define core_objects
$(1)_OBJ := $$(CORE_NAMES:%=$(BUILD)/$(1)/%.o) $(BUILD)/$(1)/cJSON.o $$(addprefix $(BUILD)/$(1)/,$$(addsuffix .o,$$(notdir $$(CORE_BEARSSL))))
$(BUILD)/$(1)/%.o: wasm/src/%.c $$(CORE_HEADERS) $$(CORE_DEPS) wasm/wasm.mk
	@mkdir -p $$(@D)
	$(2) -std=c11 $$(CORE_WARN) $(3) $$(OPT_$(1)_$$*) $$(CORE_INC) -c -o $$@ $$<
$(BUILD)/$(1)/cJSON.o: $$(CORE_DEPS) wasm/wasm.mk
	@mkdir -p $$(@D)
	$(2) -std=c11 $(3) -w $$(CORE_CJSON) -c -o $$@ $(BUILD)/deps/cjson/cJSON.c
$$(addprefix $(BUILD)/$(1)/,$$(addsuffix .o,$$(notdir $$(CORE_BEARSSL)))): $$(CORE_DEPS)
	@mkdir -p $$(@D)
	$(2) -std=c11 $(3) -w -I$(BUILD)/deps/bearssl/inc -I$(BUILD)/deps/bearssl/src -DBR_LE_UNALIGNED=0 -DBR_BE_UNALIGNED=0 -c -o $$@ \
	  $(BUILD)/deps/bearssl/src/$$(filter %/$$(basename $$(notdir $$@)),$$(CORE_BEARSSL)).c
endef

# A transcript is written on demand: size counts for more than speed there.
$(foreach f,transcript transcript_diff transcript_json transcript_markdown transcript_write,$(eval OPT_wasm_$(f) := -Oz))
# Redzones make every frame large.
CORE_SAN := -O1 -g -Wno-frame-larger-than -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# Optimized as one program when linked, except what holds keys and secrets: there the optimizer is to see no more than a file.
WASM_APART := audit b64 guard redact redact_forms redact_set redact_shapes seal token
WASM_FLAGS := --target=wasm32-wasi -O2 -msimd128 -mbulk-memory -fvisibility=hidden -fno-exceptions -ffunction-sections -fdata-sections
$(eval $(call core_objects,native,$(CC),-O2 -g))
$(eval $(call core_objects,scalar,$(CC),-O2 -DCSN_NO_SIMD))
$(eval $(call core_objects,san-gcc,$(GCC),$(CORE_SAN)))
$(eval $(call core_objects,san-clang,$(CLANG),$(CORE_SAN)))
$(eval $(call core_objects,san-memory,$(CLANG),-O1 -g -Wno-frame-larger-than -fsanitize=memory -fno-sanitize-recover=all -fno-omit-frame-pointer))
$(eval $(call core_objects,fuzz,$(CLANG),-O1 -g -Wno-frame-larger-than -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all))
$(eval $(call core_objects,wasm,$(CLANG),$(WASM_FLAGS) $$(WASM_SIZE) $$(WASM_WHOLE)))
# Only the bytes of an agent's output and of an answer are many: everything else is built for size. Most of the time that a
# short line takes goes into its event: what writes that is built for speed, too, and what is small in it is put in its place
# by the linker, which saves more than it takes.
WASM_FAST := json_follow json_scan json_gap json_fast utf16 base sha2small redact redact_set session_feed agent agent_view agent_run \
  agent_claude_code agent_gemini agent_opencode price usage
$(filter-out $(WASM_FAST:%=$(BUILD)/wasm/%.o),$(wasm_OBJ)): WASM_SIZE := -Oz
$(filter-out $(WASM_APART:%=$(BUILD)/wasm/%.o),$(CORE_NAMES:%=$(BUILD)/wasm/%.o)): WASM_WHOLE := -flto

# --- core.wasm and caisson-events ---------------------------------------------------------------------------------

WASM_MEMORY := 2097152
WASM_LINK := --target=wasm32-wasi -mexec-model=reactor -Wl,--no-entry -Wl,--fatal-warnings -Wl,--strip-all \
  -Wl,-mllvm,-inline-threshold=30 -Wl,--stack-first -Wl,-z,stack-size=65536 -Wl,--initial-memory=$(WASM_MEMORY) -Wl,--max-memory=$(WASM_MEMORY) -Wl,--gc-sections

# Optimized once more over the linked module, which makes it an eighth smaller; not those that hold keys and secrets. Linking with -O
# must stay off: clang 14 would then run a wasm-opt of the distribution's, which refuses SIMD.
WASM_OPT := node_modules/.bin/wasm-opt
WASM_OPT_FLAGS := -O3 --mvp-features --enable-simd --enable-bulk-memory --enable-bulk-memory-opt --enable-sign-ext --enable-mutable-globals
# Whoever begins with `make core` has no npm packages yet.
$(WASM_OPT):
	@scripts/setup.sh npm

# $(1) link flags, $(2) objects
define wasm_module
	$(CLANG) $(1) -o $@.linked $(2)
	$(WASM_OPT) $(WASM_OPT_FLAGS) -o $@ $@.linked
	@rm $@.linked
endef

$(BUILD)/wasm/exports/%.o: wasm/abi/%.c wasm/abi/boxes.h $(CORE_HEADERS) $(BUILD)/abi_digest.h $(CORE_DEPS)
	@mkdir -p $(@D)
	$(CLANG) -std=c11 $(WASM_FLAGS) $(CORE_WARN) -Wno-missing-prototypes $(CORE_INC) -c -o $@ $<

# The guard is smaller: its boxes, 448 KiB of scratch memory, 140 KiB of policy and keys, 144 KiB for a model's answer.
GUARD_MEMORY := 1441792
$(BUILD)/guard.wasm: $(wasm_OBJ) $(BUILD)/wasm/exports/guard_exports.o
	$(CLANG) $(subst $(WASM_MEMORY),$(GUARD_MEMORY),$(WASM_LINK)) -o $@ $^

$(BUILD)/transcript.wasm: $(wasm_OBJ) $(BUILD)/wasm/exports/transcript_exports.o | $(WASM_OPT)
	$(call wasm_module,$(WASM_LINK),$^)

# The automaton's 2.5 MiB, eight streams with what they hold, two boxes.
REDACT_MEMORY := 3145728
$(BUILD)/redact.wasm: $(wasm_OBJ) $(BUILD)/wasm/exports/redact_exports.o
	$(CLANG) $(subst $(WASM_MEMORY),$(REDACT_MEMORY),$(WASM_LINK)) -o $@ $^

$(BUILD)/core.wasm: $(wasm_OBJ) $(BUILD)/wasm/exports/wasm_exports.o | $(WASM_OPT)
	$(call wasm_module,$(WASM_LINK),$^)

# The tokenizer alone, for tests/bench.
$(BUILD)/bench.wasm: wasm/tools/bench_core.c $(wasm_OBJ) $(CORE_HEADERS) | $(WASM_OPT)
	$(CLANG) -std=c11 $(WASM_FLAGS) -Wall -Wextra -Werror $(CORE_INC) -c -o $(BUILD)/wasm/bench_core.o $<
	$(call wasm_module,$(WASM_LINK),$(BUILD)/wasm/bench_core.o $(wasm_OBJ))

CORE_TOOLS := $(patsubst caisson_%,$(BUILD)/caisson-%,$(basename $(notdir $(wildcard wasm/tools/caisson_*.c))))
$(CORE_TOOLS): $(BUILD)/caisson-%: wasm/tools/caisson_%.c wasm/tools/error_text.h $(native_OBJ) $(CORE_HEADERS)
	$(CC) -std=c11 -O2 -g -Wall -Wextra -Werror $(CORE_INC) -o $@ $< $(native_OBJ)

core: $(BUILD)/core.wasm $(BUILD)/guard.wasm $(BUILD)/transcript.wasm $(BUILD)/redact.wasm $(BUILD)/bench.wasm $(CORE_TOOLS)

$(BUILD)/policy_bench: tests/bench/policy_bench.c $(native_OBJ) $(CORE_HEADERS)
	$(CC) -std=c11 -O2 -g -Wall -Wextra -Werror $(CORE_INC) -o $@ $< $(native_OBJ)

include wasm/test.mk
include wasm/coverage.mk
