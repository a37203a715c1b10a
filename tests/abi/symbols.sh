#!/bin/sh
# The core's own objects may use nothing of libc but the four memory functions. Prints TAP.
#   symbols.sh NM OBJECT...
nm=$1
shift
"$nm" -u "$@" 2>/dev/null | sed -n 's/^.* U //p' | sort -u \
  | grep -vxE 'mem(cpy|move|set|cmp)|csn_[a-z0-9_]*|cJSON_[A-Za-z]*|br_[a-z0-9_]*|__stack_pointer|__indirect_function_table|__memory_base|__table_base' >"${TMPDIR:-/tmp}/symbols.$$"
if [ -s "${TMPDIR:-/tmp}/symbols.$$" ]; then
  echo "not ok 1 - undefined symbols: $(tr '\n' ' ' <"${TMPDIR:-/tmp}/symbols.$$")"
else
  echo "ok 1 - the core uses memcpy, memmove, memset and memcmp only"
fi
rm -f "${TMPDIR:-/tmp}/symbols.$$"
echo "1..1"
