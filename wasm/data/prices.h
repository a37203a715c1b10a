/* prices.h - list prices of models, for agents that report no cost.
 *
 * Dollars of the standard tier, in micro-dollars for a million tokens: $1.25 / MTok is 1250000. Columns:
 * name, input, cache read, cache write, output, and the prompt length above which the row counts (0: always).
 * A cache write is the shortest-lived kind (5 minutes at Anthropic); where a vendor has none, it costs what
 * input costs. Batch, flex, priority and regional prices are not in it.
 *
 * Read on the date below from the vendors' pages: platform.claude.com/docs/en/about-claude/pricing,
 * developers.openai.com/api/docs/pricing and /models, ai.google.dev/gemini-api/docs/pricing. What Claude Code
 * 2.1.329 computes for claude-opus-5-5 agrees with its row. Raise the version with every change. */
#define CSN_PRICE_TABLE_VERSION "2026-11-21"

#define CSN_PRICE_TABLE(X)                                                                                   \
  X("claude-fable-5-1", 10000000, 250000, 12500000, 50000000, 0)                                             \
  X("claude-mythos-5-1", 10000000, 250000, 12500000, 50000000, 0)                                            \
  X("claude-fable-5", 10000000, 1000000, 12500000, 50000000, 0)                                              \
  X("claude-mythos-5", 10000000, 1000000, 12500000, 50000000, 0)                                             \
  X("claude-opus-5-5", 4000000, 200000, 5000000, 20000000, 0)                                                \
  X("claude-opus-5", 5000000, 500000, 6250000, 25000000, 0)                                                  \
  X("claude-opus-4-8", 5000000, 500000, 6250000, 25000000, 0)                                                \
  X("claude-opus-4-7", 5000000, 500000, 6250000, 25000000, 0)                                                \
  X("claude-opus-4-6", 5000000, 500000, 6250000, 25000000, 0)                                                \
  X("claude-opus-4-5", 5000000, 500000, 6250000, 25000000, 0)                                                \
  X("claude-opus-4-1", 15000000, 1500000, 18750000, 75000000, 0)                                             \
  X("claude-opus-4", 15000000, 1500000, 18750000, 75000000, 0)                                               \
  X("claude-sonnet-5-5", 2000000, 100000, 2500000, 10000000, 0)                                              \
  X("claude-sonnet-5", 2000000, 200000, 2500000, 10000000, 0)                                                \
  X("claude-sonnet-4-6", 3000000, 300000, 3750000, 15000000, 0)                                              \
  X("claude-sonnet-4-5", 3000000, 300000, 3750000, 15000000, 0)                                              \
  X("claude-sonnet-4", 3000000, 300000, 3750000, 15000000, 0)                                                \
  X("claude-haiku-5-5", 100000, 10000, 125000, 500000, 0)                                                    \
  X("claude-haiku-5-5", 500000, 50000, 625000, 2500000, 100000)                                              \
  X("claude-haiku-4-5", 1000000, 100000, 1250000, 5000000, 0)                                                \
  X("gpt-6-astra", 10000000, 1000000, 12500000, 50000000, 0)                                                 \
  X("gpt-6-astra", 20000000, 2000000, 25000000, 75000000, 272000)                                            \
  X("gpt-6.1-sol", 2000000, 100000, 2500000, 10000000, 0)                                                    \
  X("gpt-6.1-sol", 4000000, 200000, 5000000, 15000000, 272000)                                               \
  X("gpt-6.1-terra", 1000000, 50000, 1250000, 5000000, 0)                                                    \
  X("gpt-6-sol", 2000000, 200000, 2500000, 10000000, 0)                                                      \
  X("gpt-6-sol", 4000000, 400000, 5000000, 15000000, 272000)                                                 \
  X("gpt-6-luna", 100000, 10000, 125000, 500000, 0)                                                          \
  X("gpt-6-luna", 200000, 20000, 250000, 750000, 272000)                                                     \
  X("gpt-5.6-sol", 4000000, 400000, 5000000, 20000000, 0)                                                    \
  X("gpt-5.6-sol", 8000000, 800000, 10000000, 30000000, 272000)                                              \
  X("gpt-5.6", 4000000, 400000, 5000000, 20000000, 0)                                                        \
  X("gpt-5.6", 8000000, 800000, 10000000, 30000000, 272000)                                                  \
  X("gpt-5.6-terra", 2000000, 200000, 2500000, 12000000, 0)                                                  \
  X("gpt-5.6-terra", 4000000, 400000, 5000000, 18000000, 272000)                                             \
  X("gpt-5.6-luna", 200000, 20000, 250000, 1200000, 0)                                                       \
  X("gpt-5.6-luna", 400000, 40000, 500000, 1800000, 272000)                                                  \
  X("gpt-5.5", 5000000, 500000, 5000000, 30000000, 0)                                                        \
  X("gpt-5.5", 10000000, 1000000, 10000000, 45000000, 272000)                                                \
  X("gpt-5.4", 2500000, 250000, 2500000, 15000000, 0)                                                        \
  X("gpt-5.4", 5000000, 500000, 5000000, 22500000, 272000)                                                   \
  X("gpt-5.4-mini", 750000, 75000, 750000, 4500000, 0)                                                       \
  X("gpt-5.4-nano", 200000, 20000, 200000, 1250000, 0)                                                       \
  X("gpt-5.3-codex", 1750000, 175000, 1750000, 14000000, 0)                                                  \
  X("gpt-5.2-codex", 1750000, 175000, 1750000, 14000000, 0)                                                  \
  X("gpt-5.2", 1750000, 175000, 1750000, 14000000, 0)                                                        \
  X("gpt-5-codex", 1250000, 125000, 1250000, 10000000, 0)                                                    \
  X("gpt-5", 1250000, 125000, 1250000, 10000000, 0)                                                          \
  X("gpt-5-mini", 250000, 25000, 250000, 2000000, 0)                                                         \
  X("gemini-3.7-flash", 750000, 75000, 750000, 3750000, 0)                                                   \
  X("gemini-3.6-flash", 750000, 75000, 750000, 3750000, 0)                                                   \
  X("gemini-3.5-flash", 1500000, 150000, 1500000, 9000000, 0)                                                \
  X("gemini-3.1-pro", 2000000, 200000, 2000000, 12000000, 0)                                                 \
  X("gemini-3.1-pro", 4000000, 400000, 4000000, 18000000, 200000)                                            \
  X("gemini-3.1-pro-preview", 2000000, 200000, 2000000, 12000000, 0)                                         \
  X("gemini-3.1-pro-preview", 4000000, 400000, 4000000, 18000000, 200000)                                    \
  X("gemini-2.5-pro", 1250000, 125000, 1250000, 10000000, 0)                                                 \
  X("gemini-2.5-pro", 2500000, 250000, 2500000, 15000000, 200000)                                            \
  X("gemini-2.5-flash", 300000, 30000, 300000, 2500000, 0)                                                   \
  X("gemini-2.5-flash-lite", 100000, 10000, 100000, 400000, 0)
