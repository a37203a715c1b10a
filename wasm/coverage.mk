# Lines of the core that its tests reach, by clang's source-based coverage. Everything runs natively and without sanitizers.
CORE_COV := -O1 -g -Wno-frame-larger-than -fprofile-instr-generate -fcoverage-mapping
$(eval $(call core_objects,coverage,$(CLANG),$(CORE_COV)))
$(eval $(call core_tests,coverage,$(CLANG),$(CORE_COV)))

$(BUILD)/coverage/fuzz_%: tests/fuzz/fuzz_%.c $(wildcard tests/unit/*.h) $(coverage_OBJ) $(BUILD)/coverage/scan_scalar.o $(CORE_HEADERS)
	$(CLANG) -std=gnu11 $(CORE_COV) -fsanitize=fuzzer -Wall -Wextra -Werror $(CORE_INC) -Itests/unit -o $@ $< \
	  $(coverage_OBJ) $(BUILD)/coverage/scan_scalar.o

$(CORE_FUZZ_DIALECTS:%=$(BUILD)/coverage/fuzz_%): $(BUILD)/coverage/fuzz_%: tests/fuzz/fuzz_agent.c $(wildcard tests/unit/*.h) $(coverage_OBJ) $(CORE_HEADERS)
	$(CLANG) -std=gnu11 $(CORE_COV) -fsanitize=fuzzer -Wall -Wextra -Werror -DFUZZ_AGENT='"$*"' $(CORE_INC) -Itests/unit -o $@ $< \
	  $(coverage_OBJ)

CORE_COV_BIN := $(CORE_UNIT:%=$(BUILD)/coverage/%_test) $(CORE_FUZZ:%=$(BUILD)/coverage/fuzz_%) $(BUILD)/coverage/replay \
  $(addprefix $(BUILD)/coverage/,$(notdir $(CORE_TOOLS)))

.PHONY: coverage-report
coverage-report: core $(CORE_COV_BIN)
	@rm -f $(filter-out $(CORE_COV_BIN),$(wildcard $(BUILD)/coverage/fuzz_* $(BUILD)/coverage/*_test)) # of sources that are no more
	@$(CORE_NODE) tests/coverage.mjs $(BUILD)/coverage
