#include "csn/dialect.h"
static const csn_json_node nodes[] = {{0, CSN_JS_KEY, 0, 0, 0, ""}};
const csn_dialect csn_opencode_dialect = {.table = {nodes, 1}};
