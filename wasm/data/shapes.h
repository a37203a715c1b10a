/* shapes.h - what keys of well-known services look like.
 *
 * prefix, class of the bytes behind it, least number of those bytes, what it is. A key ends before the first
 * byte that is not of its class. docs/SECURITY.md has the same table; tests/worker/redact-doc.test.ts
 * compares.
 *
 * Classes: ALNUM A-Z a-z 0-9; WORD these and `_`; SLUG these and `_` `-`; UPPER A-Z 0-9; DOT these of SLUG
 * and
 * `.`; B64 ALNUM and `+` `/` `=`; DIGIT ALNUM with a digit among the least number (a long word is no key);
 * JWT a part of SLUG, a dot, a part that begins `eyJ`; PEM what stands between the fences of a PEM file.
 *
 * Sources: the vendors' documentation of token formats (GitHub "About authentication to GitHub", GitLab
 * "Token overview", Slack "Token types", Stripe "API keys", AWS "Unique identifiers", npm "About access
 * tokens"), RFC 7519 and RFC 7468; lengths are the shortest in use, less a margin. */
#ifndef CSN_SHAPES_H
#define CSN_SHAPES_H

#define CSN_SHAPE_TABLE(X)                                                                                   \
  X("sk-ant-", SLUG, 20, "Anthropic")                                                                        \
  X("sk-proj-", SLUG, 20, "OpenAI, project")                                                                 \
  X("sk-svcacct-", SLUG, 20, "OpenAI, service account")                                                      \
  X("sk-admin-", SLUG, 20, "OpenAI, administrator")                                                          \
  X("sk-or-v1-", ALNUM, 32, "OpenRouter")                                                                    \
  X("sk-", DIGIT, 32, "OpenAI and services alike")                                                           \
  X("ghp_", ALNUM, 30, "GitHub, personal")                                                                   \
  X("gho_", ALNUM, 30, "GitHub, OAuth")                                                                      \
  X("ghu_", ALNUM, 30, "GitHub, user to server")                                                             \
  X("ghs_", ALNUM, 30, "GitHub, server to server")                                                           \
  X("ghr_", ALNUM, 30, "GitHub, refresh")                                                                    \
  X("github_pat_", WORD, 22, "GitHub, fine-grained")                                                         \
  X("glpat-", SLUG, 20, "GitLab, personal")                                                                  \
  X("gldt-", SLUG, 20, "GitLab, deploy")                                                                     \
  X("glrt-", SLUG, 20, "GitLab, runner")                                                                     \
  X("AKIA", UPPER, 16, "AWS, access key id")                                                                 \
  X("ASIA", UPPER, 16, "AWS, temporary access key id")                                                       \
  X("AIza", SLUG, 35, "Google, API key")                                                                     \
  X("GOCSPX-", SLUG, 24, "Google, OAuth client secret")                                                      \
  X("ya29.", SLUG, 30, "Google, OAuth access token")                                                         \
  X("xoxb-", SLUG, 20, "Slack, bot")                                                                         \
  X("xoxp-", SLUG, 20, "Slack, user")                                                                        \
  X("xoxa-", SLUG, 20, "Slack, app")                                                                         \
  X("xoxr-", SLUG, 20, "Slack, refresh")                                                                     \
  X("xoxs-", SLUG, 20, "Slack, session")                                                                     \
  X("xapp-", SLUG, 20, "Slack, app level")                                                                   \
  X("npm_", ALNUM, 36, "npm")                                                                                \
  X("pypi-AgE", SLUG, 50, "PyPI")                                                                            \
  X("sk_live_", ALNUM, 16, "Stripe, secret")                                                                 \
  X("rk_live_", ALNUM, 16, "Stripe, restricted")                                                             \
  X("sk_test_", ALNUM, 16, "Stripe, secret, test mode")                                                      \
  X("rk_test_", ALNUM, 16, "Stripe, restricted, test mode")                                                  \
  X("whsec_", B64, 24, "webhook signing secret")                                                             \
  X("SG.", DOT, 60, "SendGrid")                                                                              \
  X("hf_", ALNUM, 30, "Hugging Face")                                                                        \
  X("dop_v1_", ALNUM, 60, "DigitalOcean")                                                                    \
  X("eyJ", JWT, 10, "JSON Web Token")                                                                        \
  X("BEGIN PRIVATE KEY-----", PEM, 32, "private key, PKCS 8")                                                \
  X("BEGIN ENCRYPTED PRIVATE KEY-----", PEM, 32, "private key, PKCS 8, encrypted")                           \
  X("BEGIN RSA PRIVATE KEY-----", PEM, 32, "private key, RSA")                                               \
  X("BEGIN EC PRIVATE KEY-----", PEM, 32, "private key, elliptic curve")                                     \
  X("BEGIN DSA PRIVATE KEY-----", PEM, 32, "private key, DSA")                                               \
  X("BEGIN OPENSSH PRIVATE KEY-----", PEM, 32, "private key, OpenSSH")                                       \
  X("BEGIN PGP PRIVATE KEY BLOCK-----", PEM, 32, "private key, OpenPGP")

#endif
