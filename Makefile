# Caisson. `make demo` shows it, `make dev` serves it on http://localhost:8787, `make test` tests it, `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
BUILD := build
PORT ?= 8787
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)
export WRANGLER_SEND_METRICS := false
export PORT PROMPT NAME FROM REMOVE

# `make V=1 …` shows every command.
ifndef V
.SILENT:
endif
.SECONDARY:

.PHONY: analyze fuzz template help setup agents build demo dev test check coverage bench fmt clean worker-types test-all test-worker test-e2e lint

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: ## install what is missing: distribution packages, npm packages, C sources, the agent CLI
	@scripts/setup.sh all

agents: setup ## install Codex, Gemini CLI and OpenCode as well (about 850 MB)
	@scripts/setup.sh agents codex gemini opencode

# The recipes below start make anew after set-up, so that what set-up brings is there when the rules are read.
build: setup ## core.wasm, the native programs, the Worker's types
	@$(MAKE) --no-print-directory -q core engine worker-types 2>/dev/null || echo "build: core.wasm and the native programs"
	@$(MAKE) --no-print-directory -j2 core engine worker-types

demo: build ## the real agent in a real sandbox through the Worker, start to end
	@node scripts/demo.mjs

dev: build ## the local server on :8787 until Ctrl-C
	@node scripts/dev.mjs

test: build ## every test; the last line is "N passed, N failed"
	@$(MAKE) --no-print-directory test-all

template: ## a root for sandboxes: make template NAME=debian FROM=rootfs.tar (or a directory); REMOVE=name removes one
	@if [ -n "$$REMOVE" ]; then scripts/template.py remove "$$REMOVE"; \
	elif [ -n "$$NAME" ] && [ -n "$$FROM" ]; then scripts/template.py add "$$NAME" "$$FROM"; \
	else echo "usage: make template NAME=<a-z 0-9 _ -> FROM=<directory or tarball of a root file system>" >&2; \
	  echo "       make template REMOVE=<name>" >&2; echo "there are:" >&2; scripts/template.py list; exit 2; fi

check: build ## lint, formatting, types, generated files; no network
	@$(MAKE) --no-print-directory lint abi-check

coverage: build ## lines of the core that its tests reach; fails below 95 %
	@$(MAKE) --no-print-directory -j2 coverage-report

fuzz: build ## every fuzzer with its corpus, for FUZZ_SECONDS and FUZZ_NATIVE_SECONDS each
	@$(MAKE) --no-print-directory fuzz-smoke fuzz-native-smoke

analyze: build ## static analysis of the C sources (cppcheck, which this installs); fails on any finding
	@scripts/setup.sh analyze
	@cppcheck -q -j2 $(ANALYZE) -DCSN_NO_SIMD -Iwasm/include -I$(BUILD) -I$(CJSON_DIR) -I$(BEARSSL_DIR)/inc wasm/src wasm/abi
	@cppcheck -q -j2 $(ANALYZE) -I$(CJSON_DIR) -I$(BEARSSL_DIR)/inc sandbox-sdk-shim/engine sandbox-sdk-shim/guest sandbox-sdk-shim/common
	@echo "analyze: no findings"
# Third-party headers are read for their types only. Exceptions stand beside the code, each with its reason.
ANALYZE := --std=c11 --language=c --enable=warning,performance,portability --inline-suppr --error-exitcode=1 --suppress=missingIncludeSystem \
           --suppress='*:$(BUILD)/deps/*' --template='{file}:{line}: {severity}: {id}: {message}'

bench: build ## measures, prints, and writes build/bench.json
	@$(MAKE) --no-print-directory build/policy_bench
	@node tests/bench/bench.mjs

clean: ## removes what was built; keeps downloads (build/agents, build/deps, build/.setup) and templates
	@find $(BUILD) -mindepth 1 -maxdepth 1 ! -name agents ! -name deps ! -name .setup ! -name templates -exec rm -rf {} + 2>/dev/null || true
	@rm -rf .wrangler

include wasm/wasm.mk
include sandbox-sdk-shim/native.mk
include tests/fuzz-native/fuzz.mk

worker-types: worker/worker-configuration.d.ts
worker/worker-configuration.d.ts: wrangler.toml package-lock.json
	@wrangler types $@ --include-env=false >$(BUILD)/types.log 2>&1 || { cat $(BUILD)/types.log; exit 1; }

test-all:
	@node scripts/test.mjs

lint: worker-types
	@biome check --error-on-warnings .
	@tsc --noEmit -p tsconfig.json
	@git ls-files '*.c' '*.h' | xargs -r clang-format --dry-run -Werror
	@scripts/lint-tree.sh

fmt: setup ## formats C and TypeScript
	@biome check --write . >/dev/null || true
	@git ls-files -co --exclude-standard '*.c' '*.h' | xargs -r clang-format -i
