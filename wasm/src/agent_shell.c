#include "csn/dialect.h"

static void spec(csn_fx *fx, const csn_spec_in *in) {
  static const char *const fixed[] = {NULL};
  csn_put_str(fx, "{\"argv\":[\"/bin/bash\",\"-c\"");
  csn_spec_arg(fx, in->command);
  csn_put_str(fx, "],\"env\":{");
  csn_spec_env(fx, in->env, fixed, true);
  csn_put_str(fx, "}");
  csn_spec_tail(fx, in, false);
  csn_put_str(fx, "}");
}

static const csn_json_node nodes[] = {{0, CSN_JS_KEY, 0, 0, 0, ""}};
const csn_dialect csn_shell_dialect = {.spec = spec, .table = {nodes, 1}};
