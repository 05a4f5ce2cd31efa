#!/bin/sh
# setup.sh: install what is missing: Debian packages through apt, a virtual environment, and
# arbiter in it with its Python packages. Says what it does; does nothing when nothing is missing.
# `setup.sh vm`: also what only `make test-vm` needs.
set -eu
PYTHON=${PYTHON:-python3} VENV=${VENV:-.venv} more=${1:-}
stamp=$VENV/.arbiter-setup

# Package, and the file or command that shows it is there.
debian_missing() {
	while read -r package needed; do
		case $needed in
		/*) [ -e "$needed" ] || echo "$package" ;;
		*) PATH=$PATH:/usr/sbin:/sbin command -v "$needed" >/dev/null || echo "$package" ;;
		esac
	done <<-END
		gcc gcc
		libc6-dev /usr/include/stdio.h
		libnetfilter-queue-dev /usr/include/libnetfilter_queue/libnetfilter_queue.h
		iptables iptables
		nftables nft
		iproute2 ip
		conntrack conntrack
		procps ps
		curl curl
		wget wget
		iputils-ping ping
		dnsutils dig
		tmux tmux
		jq jq
		dbus dbus-daemon
		python3-dbusmock /usr/lib/python3/dist-packages/dbusmock
		chromium chromium
		chromium-driver chromedriver
		fonts-dejavu-core /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
	END
	if [ "$more" = vm ]; then
		command -v qemu-system-x86_64 >/dev/null || echo qemu-system-x86
		PATH=$PATH:/usr/sbin:/sbin command -v depmod >/dev/null || echo kmod
	fi
	command -v "$PYTHON" >/dev/null || { echo python3; echo python3-venv; echo python3-dev; return; }
	# A Python of one's own (pyenv, say) brings its venv and headers; Debian's has them apart.
	"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
	"$PYTHON" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || echo python3-dev
}

missing=$(debian_missing | tr '\n' ' ')
if [ -n "$missing" ]; then
	if ! command -v apt-get >/dev/null; then
		echo "setup: missing, and no apt-get here to install it: $missing" >&2
		exit 1
	fi
	echo "setup: installing Debian packages: $missing"
	install="export DEBIAN_FRONTEND=noninteractive; apt-get -qq update &&
		apt-get -qq install -y --no-install-recommends $missing >/dev/null"
	if [ "$(id -u)" = 0 ]; then
		sh -c "$install"
	elif command -v sudo >/dev/null; then
		sudo sh -c "$install"
	else
		echo "setup: that needs root: run as root: apt-get install $missing" >&2
		exit 1
	fi
fi

if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
	echo "setup: arbiter needs Python 3.11 or newer, and $PYTHON is $("$PYTHON" -V 2>&1);" >&2
	echo "       name another with make PYTHON=python3.12 ..." >&2
	exit 1
fi
if [ ! -x "$VENV/bin/python" ] || ! "$VENV/bin/python" -c '' 2>/dev/null; then
	echo "setup: making the virtual environment $VENV"
	rm -rf "$VENV"
	# A distribution's own pip can be years old, and takes half as long again to choose the packages.
	"$PYTHON" -m venv --upgrade-deps "$VENV"
fi
wanted=$(cksum pyproject.toml arbiter/kernel/native/*) # what is built from these is built anew
if [ ! -e "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
	echo "setup: installing arbiter and its Python packages into $VENV"
	# compat: a path, and no code that each start of Python has to run.
	# Without what setuptools has to say to who packages it.
	PYTHONWARNINGS=ignore "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
		--config-settings editable_mode=compat -e '.[all,dev]'
	echo "$wanted" >"$stamp"
fi
