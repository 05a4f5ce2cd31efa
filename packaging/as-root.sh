#!/bin/sh
# as-root.sh [--or-namespace PYTHON] COMMAND...: run COMMAND as root: as we are, or through sudo.
# With --or-namespace, where we are not root, as the root of namespaces of its own, which is enough
# for the tests that need a kernel; PYTHON is one that has arbiter.
set -eu
python=
if [ "$1" = --or-namespace ]; then python=$2; shift 2; fi
if [ "$(id -u)" = 0 ]; then exec "$@"; fi
private='unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc'
if [ -n "$python" ] && $private true 2>/dev/null; then
	echo 'as-root: not root: running in namespaces of its own, where we are'
	# In there pytest thinks it is root, whose temporary files are not ours to touch.
	PYTEST_DEBUG_TEMPROOT=/tmp/arbiter-test-$(id -u)
	export PYTEST_DEBUG_TEMPROOT
	mkdir -p "$PYTEST_DEBUG_TEMPROOT"
	exec $private "$python" -m arbiter.lab.private "$@"
fi
if command -v sudo >/dev/null; then exec sudo -- "$@"; fi
echo "as-root: this needs root, and there is no sudo: run it as root" >&2
exit 1
