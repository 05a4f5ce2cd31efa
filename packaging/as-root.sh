#!/bin/sh
# as-root.sh [--or-namespace] COMMAND...: run COMMAND as root: as we are, or through sudo. With
# --or-namespace, where there is neither, as the root of a user namespace of its own, which is
# enough for the tests that need a kernel.
set -eu
namespace=
if [ "$1" = --or-namespace ]; then namespace=1; shift; fi
if [ "$(id -u)" = 0 ]; then exec "$@"; fi
if [ -n "$namespace" ]; then
	if unshare -Urnm true 2>/dev/null; then
		echo "as-root: not root: running in a user namespace (unshare -Urnm)"
		exec unshare -Urnm "$@"
	fi
fi
if command -v sudo >/dev/null; then exec sudo -- "$@"; fi
echo "as-root: this needs root, and there is no sudo: run it as root" >&2
exit 1
