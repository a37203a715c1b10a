#include "csn/agent.h"

void csn_shell_spec(csn_fx *fx, const csn_spec_in *in) {
  static const char *const fixed[] = {NULL};
  csn_put_str(fx, "{\"argv\":[\"/bin/bash\",\"-c\",\"");
  csn_put_escaped(fx, in->command);
  csn_put_str(fx, "\"],\"env\":{");
  csn_spec_env(fx, in->env, fixed, true);
  csn_put_str(fx, "}");
  csn_spec_tail(fx, in, false);
  csn_put_str(fx, "}");
}
