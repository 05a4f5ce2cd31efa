#!/bin/sh
# install.sh install | uninstall | purge: arbiter as a service of this machine, from these sources.
#
# PREFIX   /usr/local, or /usr for a package
# DESTDIR  a root to put it below instead of /: then nothing outside of it is touched or started
# PYTHON   the interpreter that will run it, 3.11 or newer, with venv and headers
#
# The Python packages are arbiter's own, in PREFIX/lib/arbiter: no other program sees them, and what
# is installed for others cannot change what a root service imports. Everything that was put
# elsewhere is listed in PREFIX/lib/arbiter/manifest, and the directories that were made for it in
# manifest.directories: exactly that is taken away again.
# Settings (/etc/arbiter), rules and records (/var/lib/arbiter) stay until `purge`.
set -eu
cd "$(dirname "$0")/.."
PREFIX=${PREFIX:-/usr/local} DESTDIR=${DESTDIR:-}
lib=$PREFIX/lib/arbiter
umask 022

say() { echo "install: $*"; }
fail() {
	echo "install: $*" >&2
	exit 1
}

for place in "PREFIX=$PREFIX" "DESTDIR=$DESTDIR"; do
	case $place in
	*=/* | DESTDIR=) ;;
	*) fail "$place: it must be a path from the root on, such as /usr/local; nothing was done" ;;
	esac
done

usable() { # an interpreter that can run arbiter, and be built for
	"$1" -c 'import ensurepip, pathlib, sys, sysconfig, venv
good = sys.version_info >= (3, 11)
sys.exit(not good or not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' 2>/dev/null
}

choose_python() {
	if [ -z "${PYTHON:-}" ]; then
		for PYTHON in /usr/bin/python3 "$(command -v python3)" ''; do
			[ -n "$PYTHON" ] && usable "$PYTHON" && break
		done
	fi
	[ -n "$PYTHON" ] && usable "$PYTHON" ||
		fail "needs Python 3.11 or newer with venv and headers: apt install python3-venv python3-dev"
	# The file itself: what it is called by may be a shim of somebody's home.
	PYTHON=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(sys._base_executable))')
}

# put MODE SOURCE TARGET: a file below PREFIX, with the prefix it speaks of made ours.
put() {
	mkdir -p "$tree$(dirname "$3")"
	case $2 in
	*.service | *.desktop | *.md)
		sed -e "s|/usr/bin/arbiter|$PREFIX/bin/arbiter|g" -e "s|/usr/share/doc|$PREFIX/share/doc|g" \
			-e "s|^Exec=arbiter|Exec=$PREFIX/bin/arbiter|" -e "s|^TryExec=arbiter|TryExec=$PREFIX/bin/arbiter|" \
			-e "s|^ExecStart=arbiter|ExecStart=$PREFIX/bin/arbiter|" "$2" >"$tree$3"
		;;
	*) cp "$2" "$tree$3" ;;
	esac
	chmod "$1" "$tree$3"
}

build() {
	stage=$(mktemp -d) tree=$stage/tree
	trap 'rm -rf "$stage"' EXIT
	choose_python
	version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	site=$lib/lib/python$version/site-packages
	say "building for $PYTHON ($version)"
	mkdir -p "$stage/source" "$tree$lib/bin" "$tree$site"
	# A copy: building writes beside the sources.
	cp -a arbiter prompts packaging schema.sql pyproject.toml README.md "$stage/source"
	"$PYTHON" -m venv "$stage/pip"
	PYTHONWARNINGS=ignore "$stage/pip/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
		--target "$tree$site" "$stage/source[all]"
	rm -rf "$tree$site/bin" "$tree$site/share" # commands and pages have their own places
	ln -s "$PYTHON" "$tree$lib/bin/python"
	printf 'home = %s\ninclude-system-site-packages = false\nversion = %s\n' \
		"$(dirname "$PYTHON")" "$version" >"$tree$lib/pyvenv.cfg"
	"$PYTHON" -m compileall -q -s "$tree" "$tree$site"
	mkdir -p "$tree$PREFIX/bin"
	cat >"$tree$PREFIX/bin/arbiter" <<-END
		#!$lib/bin/python -I
		import sys

		from arbiter.__main__ import main

		sys.exit(main())
	END
	chmod 755 "$tree$PREFIX/bin/arbiter"

	put 644 packaging/system/arbiter.service "$PREFIX/lib/systemd/system/arbiter.service"
	put 644 packaging/system/sysusers.conf "$PREFIX/lib/sysusers.d/arbiter.conf"
	put 644 packaging/system/tmpfiles.conf "$PREFIX/lib/tmpfiles.d/arbiter.conf"
	put 644 packaging/share/desktop/arbiter-notify.service \
		"$PREFIX/lib/systemd/user/arbiter-notify.service"
	put 644 packaging/share/desktop/arbiter-notify.desktop \
		"$PREFIX/share/applications/arbiter-notify.desktop"
	put 644 packaging/share/completions/arbiter "$PREFIX/share/bash-completion/completions/arbiter"
	put 644 packaging/share/completions/_arbiter "$PREFIX/share/zsh/site-functions/_arbiter"
	put 644 packaging/share/completions/arbiter.fish \
		"$PREFIX/share/fish/vendor_completions.d/arbiter.fish"
	for page in packaging/share/man/man1/*.1; do
		put 644 "$page" "$PREFIX/share/man/man1/${page##*/}"
		gzip -9n "$tree$PREFIX/share/man/man1/${page##*/}"
	done
	for page in README.md CHANGELOG.md schema.sql docs/*.md docs/*.json docs/*.svg docs/*.png; do
		put 644 "$page" "$PREFIX/share/doc/arbiter/$page"
	done
	(cd "$tree" && find . \( -type f -o -type l \) -not -path ".$lib/*" | sed 's|^\.||' | sort) \
		>"$stage/manifest"
	mv "$stage/manifest" "$tree$lib/manifest"
}

install_() {
	[ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || fail 'installing needs root: sudo make install'
	build
	remove_files # an older one may have files that this one has not
	mkdir -p "$DESTDIR/"
	(cd "$tree" && find . -mindepth 1 -type d -not -path ".$lib/*" | sed 's|^\.||') |
		while read -r path; do [ -d "$DESTDIR$path" ] || echo "$path"; done >"$stage/directories"
	mv "$stage/directories" "$tree$lib/manifest.directories"
	cp -a --no-preserve=ownership "$tree/." "$DESTDIR/"
	say "installed in $DESTDIR$PREFIX"
	[ -z "$DESTDIR" ] || return 0
	if command -v systemd-sysusers >/dev/null; then
		systemd-sysusers "$PREFIX/lib/sysusers.d/arbiter.conf"
		systemd-tmpfiles --create "$PREFIX/lib/tmpfiles.d/arbiter.conf"
	fi
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		systemctl try-restart arbiter.service
	fi
	say 'nothing is decided yet: systemctl enable --now arbiter starts it'
}

remove_files() {
	[ -e "$DESTDIR$lib/manifest" ] || return 0
	while read -r path; do
		rm -f "$DESTDIR$path"
	done <"$DESTDIR$lib/manifest"
	made=$(sort -r "$DESTDIR$lib/manifest.directories")
	rm -rf "${DESTDIR:-}$lib"
	for path in $made; do # ours have no spaces; what others use by now stays
		rmdir "$DESTDIR$path" 2>/dev/null || true
	done
}

uninstall() {
	[ -e "$DESTDIR$lib/manifest" ] || fail "no arbiter in $DESTDIR$PREFIX; PREFIX says where it is"
	if [ -z "$DESTDIR" ]; then
		[ "$(id -u)" = 0 ] || fail 'uninstalling needs root: sudo make uninstall'
		if [ -d /run/systemd/system ]; then systemctl disable --now arbiter.service; fi
		"$PREFIX/bin/arbiter" rescue
	fi
	remove_files
	if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	say "removed; /etc/arbiter and /var/lib/arbiter stay (make purge removes them, too)"
}

purge() {
	if [ -e "$DESTDIR$lib/manifest" ]; then uninstall; fi
	rm -rf "$DESTDIR/etc/arbiter" "$DESTDIR/var/lib/arbiter" "$DESTDIR/var/log/arbiter" \
		"$DESTDIR/run/arbiter"
	if [ -z "$DESTDIR" ] && getent group arbiter >/dev/null; then groupdel arbiter; fi
	say 'settings, rules and records are gone'
}

case ${1:-} in
install) install_ ;;
uninstall) uninstall ;;
purge) purge ;;
*) fail "usage: $0 install | uninstall | purge" ;;
esac
