/* json_table.h - a table of fields with every kind of node, for tests of the tokenizer. */
#ifndef CSN_TESTS_JSON_TABLE_H
#define CSN_TESTS_JSON_TABLE_H

#include "csn/json.h"

static const csn_json_node nodes[] = {
    {0, CSN_JS_KEY, 1, 0, 64, ""},       {0, CSN_JS_KEY, 2, 0, 8, "type"},
    {0, CSN_JS_KEY, 3, 0, 16, "text"},   {0, CSN_JS_KEY, 4, 1, 32, "raw"},
    {3, CSN_JS_KEY, 5, 0, 32, "in"},     {0, CSN_JS_KEY, 0, 0, 0, "list"},
    {5, CSN_JS_ANY_INDEX, 6, 0, 8, ""},  {6, CSN_JS_KEY, 7, 0, 300, "t"},
    {0, CSN_JS_KEY, 0, 0, 0, "models"},  {8, CSN_JS_ANY_KEY, 8, 1, 24, ""},
    {0, CSN_JS_KEY, 9, 0, 40, "a_long"}, {3, CSN_JS_ANY_KEY, 10, 0, 9, ""},
};
static const csn_json_table table = {nodes, sizeof nodes / sizeof nodes[0]};

#endif
