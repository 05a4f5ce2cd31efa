#!/bin/sh
# check.sh TYPES TESTS COLLECT: run the commands TYPES and TESTS; fails when one of them does.
#
# mypy is one process. From nothing it takes half a minute, in which another CPU would do nothing:
# COLLECT writes what pytest makes of the new test files (else each process of TESTS does that by
# itself, as all read them at once), and then TESTS begin. With mypy's cache TYPES end before that,
# and what they find ends this at once.
set -u
words=$(mktemp -d) || exit
trap 'rm -rf "$words"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# In one piece, between the lines of the tests.
{
	$1 >"$words/said" 2>&1
	code=$?
	cat "$words/said"
	echo "$code" >"$words/code.new"
	mv "$words/code.new" "$words/code"
} 2>/dev/null &
types=$!
$3 >/dev/null 2>&1 # what is wrong with them, TESTS will say
if [ -e "$words/code" ] && [ "$(cat "$words/code")" != 0 ]; then
	exit 1
fi
$2
tests=$?
wait "$types"
if [ "$(cat "$words/code")" != 0 ]; then
	cat "$words/said"
	exit 1
fi
exit "$tests"
