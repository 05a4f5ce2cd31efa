#!/bin/bash
# test-deb.sh: the Debian package in a clean root under a real init: install, run, reload, hang, crash,
# upgrade, remove, purge. Minutes, not seconds: not part of `make test`. As root; it installs debootstrap
# and systemd-container. Everything happens in network namespaces and in build/: the machine's own network,
# services and users are not touched.
#
# DEB=FILE  tests this package, instead of building one
# KEEP=1    keeps the root after a failure, in build/deb-test, and says how to look into it.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then exec sh packaging/as-root.sh bash "$0" "$@"; fi

missing=
for need in debootstrap:debootstrap systemd-nspawn:systemd-container ip:iproute2 nsenter:util-linux; do
	command -v "${need%:*}" >/dev/null || missing="$missing ${need#*:}"
done
if [ -n "$missing" ]; then
	echo "test-deb: installing Debian packages:$missing"
	DEBIAN_FRONTEND=noninteractive
	export DEBIAN_FRONTEND
	apt-get -qq update
	# shellcheck disable=SC2086 # several words
	apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
base=build/debian-$release work=build/deb-test name=arbdeb$$
packages=systemd,systemd-sysv,dbus,python3,nftables,iptables,iproute2,libnetfilter-queue1,procps,passwd
if [ ! -e "$base/.whole" ]; then
	echo "test-deb: making a clean $release in $base"
	rm -rf "$base"
	mkdir -p "$base"
	debootstrap --variant=minbase --include="$packages" "$release" "$base" >"$base.log"
	touch "$base/.whole"
fi
if [ -z "${DEB:-}" ]; then
	sh packaging/deb/build.sh
	DEB=$(ls -t dist/arbiter_*.deb | head -n 1)
fi

nspawn='' leader='' passed=0
down() {
	if [ -n "$leader" ]; then
		kill -s RTMIN+4 "$leader" 2>/dev/null || true # poweroff, as systemd(1) says
		for _ in $(seq 100); do
			kill -0 "$nspawn" 2>/dev/null || break
			sleep 0.2
		done
		kill -9 "$nspawn" 2>/dev/null || true
	fi
	[ -z "${server:-}" ] || kill "$server" 2>/dev/null || true
	umount "$work/root" 2>/dev/null || true
	ip netns del "$name" 2>/dev/null || true
	ip netns del "$name-far" 2>/dev/null || true
}
ended() {
	code=$?
	if [ "$code" != 0 ]; then
		echo "test-deb: FAILED after $passed steps" >&2
		if [ -n "$leader" ]; then
			inside journalctl --no-pager -n 60 -u arbiter.service >&2 || true
			if [ -n "${KEEP:-}" ]; then
				echo "test-deb: kept: nsenter -t $leader -a" >&2
				exit "$code"
			fi
		else
			tail -n 30 "$work/console" >&2 || true
		fi
	fi
	down
	exit "$code"
}
trap 'echo "test-deb: line $LINENO: $BASH_COMMAND" >&2' ERR
trap ended EXIT
rm -rf "$work"
mkdir -p "$work/up" "$work/tmp" "$work/root"
mount -t overlay -o "lowerdir=$base,upperdir=$work/up,workdir=$work/tmp" overlay "$work/root"
cp "$DEB" "$work/root/opt/first.deb"
# The next version is the same but for its number.
dpkg-deb -R "$DEB" "$work/next"
sed -i 's/^Version: .*/&+next/' "$work/next/DEBIAN/control"
dpkg-deb -Zgzip -z1 --root-owner-group --build "$work/next" "$work/root/opt/next.deb" >/dev/null
rm -r "$work/next"

# A network of its own, and somebody at the other end who answers on port 80.
ip netns add "$name"
ip netns add "$name-far"
ip -n "$name" link add out0 type veth peer name out0 netns "$name-far"
ip -n "$name" link set lo up
ip -n "$name" addr add 192.0.2.1/24 dev out0
ip -n "$name" link set out0 up
ip -n "$name" route add default via 192.0.2.2
ip -n "$name-far" addr add 192.0.2.2/24 dev out0
ip -n "$name-far" addr add 198.51.100.10/32 dev out0
ip -n "$name-far" link set out0 up
ip netns exec "$name-far" /usr/bin/python3 -m http.server 80 >/dev/null 2>&1 &
server=$!

systemd-nspawn --quiet --directory="$work/root" --network-namespace-path="/run/netns/$name" \
	--capability=CAP_NET_ADMIN --register=no --keep-unit --boot </dev/null >"$work/console" 2>&1 &
nspawn=$!
for _ in $(seq 100); do
	leader=$(cat "/proc/$nspawn/task/$nspawn/children" 2>/dev/null | tr -d ' ')
	[ -n "$leader" ] && [ -e "/proc/$leader/root/run/systemd/private" ] && break
	sleep 0.2
done
inside() {
	nsenter -t "$leader" -m -u -i -n -p --root --wd -- env -i LC_ALL=C.UTF-8 TERM=dumb \
		PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"
}
step() {
	passed=$((passed + 1))
	echo "test-deb: $passed. $*"
}
is() { # is WANTED COMMAND...: its output
	local wanted=$1 found
	shift
	found=$(inside "$@" 2>&1) || true
	[ "$found" = "$wanted" ] || {
		echo "test-deb: $*: wanted '$wanted', found '$found'" >&2
		return 1
	}
}
has() { # has PATTERN COMMAND...: its output, read to the end: `| grep -q` breaks the pipe of who writes on
	local pattern=$1 found
	shift
	found=$("$@" 2>&1) || true
	grep -qE -e "$pattern" <<<"$found" || {
		echo "test-deb: $*: no '$pattern' in '$found'" >&2
		return 1
	}
}
eventually() { # eventually SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || {
			echo "test-deb: in vain: $*" >&2
			"$@"
			return 1
		}
		sleep 0.2
	done
}
connects() { inside timeout 8 bash -c 'exec 3<>/dev/tcp/198.51.100.10/80'; }
refused() { if connects 2>/dev/null; then return 1; fi; }
member() { # member GROUP: what a user who is in it reads
	inside setpriv --reuid=65534 --regid="$1" --clear-groups arbiter rules list
}
main_pid() { inside systemctl show -p MainPID --value arbiter.service; }
other_pid() {
	[ "$(main_pid)" != "$1" ] && [ "$(main_pid)" != 0 ] && is active systemctl is-active arbiter.service
}
active() { is active systemctl is-active arbiter.service; }
# Whatever of arbiter could be in the kernel.
traces() {
	inside sh -c 'nft list tables 2>/dev/null | grep -i arbiter
		for t in iptables ip6tables iptables-legacy ip6tables-legacy; do $t-save 2>/dev/null | grep -i arbiter; done
		ip rule show | grep -vE "^(0|32766|32767):"; ip -6 rule show | grep -vE "^(0|32766|32767):"
		ip route show table all | grep -E "table 70[0-9][0-9]"; true'
}
# All that a package may leave; no logs and caches, and nothing that dpkg, the boot and timers keep themselves.
files() {
	inside find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /opt -o -path /var/log \
		-o -path /var/lib/dpkg -o -path /var/cache -o -path /var/backups -o -path /var/lib/apt -o -path /root \) -prune -o -print | grep -v __pycache__ |
		grep -vE '^/(etc/(passwd|group|shadow|gshadow)-|var/tmp/systemd-private.*|var/lib/systemd/.*|etc/\.pwd\.lock)$' | sort
}
booted() { has '^(running|degraded)$' inside systemctl is-system-running; }
eventually 90 booted
files >"$work/before"
inside ip rule show >"$work/rules-before"

step 'installs; decides nothing by itself'
inside dpkg -i /opt/first.deb >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; false; }
is inactive systemctl is-active arbiter.service
is disabled systemctl is-enabled arbiter.service
inside getent group arbiter >/dev/null
is '2750 root:arbiter' stat -c '%a %U:%G' /var/lib/arbiter
is '755 root:root' stat -c '%a %U:%G' /etc/arbiter/policy.d
connects

step 'starts, and is started when its rules are in force'
inside sh -c 'printf "mode = \"enforce\"\n" >/etc/arbiter/arbiter.toml'
inside arbiter rules add 'deny app=/usr/bin/nothing' >/dev/null # before there is a daemon
inside systemctl enable --now arbiter.service 2>/dev/null
active
[ -n "$(traces)" ]
has 'mode enforce; 0 asks open, 0 held' inside systemctl show -p StatusText --value arbiter.service
refused
is '2750 root:arbiter' stat -c '%a %U:%G' /var/lib/arbiter
for file in arbiter.db arbiter.db-wal arbiter.db-shm; do
	is '640 root:arbiter' stat -c '%a %U:%G' "/var/lib/arbiter/$file"
done
has 'deny app=/usr/bin/nothing' member arbiter
if member nogroup >/dev/null 2>&1; then false; fi

step 'knows programs from inside its own view of the file system, replaced ones too'
inside arbiter rules add 'allow app=/usr/bin/bash port=80' >/dev/null
connects
inside sh -c 'cp /usr/bin/bash /usr/bin/shell && mkfifo /tmp/go'
inside timeout 30 /usr/bin/shell -c 'read x </tmp/go; exec 3<>/dev/tcp/198.51.100.10/80' &
shell=$!
sleep 1
inside arbiter rules add 'allow app=/usr/bin/shell port=80' >/dev/null
inside sh -c 'cp /usr/bin/bash /usr/bin/shell.new && mv /usr/bin/shell.new /usr/bin/shell && echo go >/tmp/go'
wait "$shell"
inside rm /usr/bin/shell /tmp/go

step 'has four capabilities, no way to more, and its files are its own'
kept=0000000000083004
is "$kept" sh -c "sed -n 's/^CapEff:\t//p' /proc/\$(systemctl show -p MainPID --value arbiter)/status"
is "$kept" sh -c "sed -n 's/^CapBnd:\t//p' /proc/\$(systemctl show -p MainPID --value arbiter)/status"
is 1 sh -c "sed -n 's/^NoNewPrivs:\t//p' /proc/\$(systemctl show -p MainPID --value arbiter)/status"
is 0027 sh -c "sed -n 's/^Umask:\t//p' /proc/\$(systemctl show -p MainPID --value arbiter)/status"
inside arbiter status >"$work/status"
has '"problems": \[\]' inside arbiter status --json || { cat "$work/status" >&2; false; }

step 'reads its settings again'
inside sh -c 'printf "mode = \"observe\"\nqueue_num = 20\n" >/etc/arbiter/arbiter.toml'
inside systemctl reload arbiter.service
eventually 10 sh -c "true"
observing() { has 'mode observe' inside systemctl show -p StatusText --value arbiter.service; }
eventually 10 observing
inside timeout 8 python3 -c 'import socket; socket.create_connection(("198.51.100.10", 80), 5)'
has 'queue_num has changed and counts from the next start' inside arbiter status
inside sh -c 'printf "mode = \"enforce\"\n" >/etc/arbiter/arbiter.toml'
inside systemctl reload arbiter.service

step 'is restarted when it hangs'
inside sh -c 'mkdir -p /run/systemd/system/arbiter.service.d
	printf "[Service]\nWatchdogSec=4\n" >/run/systemd/system/arbiter.service.d/t.conf; systemctl daemon-reload'
inside systemctl restart arbiter.service
was=$(main_pid)
sleep 9 # twice the interval: a daemon that works is left alone
is "$was" systemctl show -p MainPID --value arbiter.service
inside kill -STOP "$was"
eventually 30 other_pid "$was"
inside rm -r /run/systemd/system/arbiter.service.d
inside systemctl daemon-reload

step 'is restarted when it is killed; meanwhile what is undecided stays refused'
was=$(main_pid)
inside sh -c 'mkdir -p /run/systemd/system/arbiter.service.d
	printf "[Service]\nRestartSec=6\n" >/run/systemd/system/arbiter.service.d/t.conf; systemctl daemon-reload'
inside kill -KILL "$was"
sleep 2
is activating systemctl is-active arbiter.service
[ -n "$(traces)" ]
if inside timeout 2 bash -c 'exec 3<>/dev/tcp/198.51.100.10/80' 2>/dev/null; then false; fi
eventually 30 other_pid "$was"
connects

step 'with when_absent = "pass" nothing of a killed daemon stays in the kernel'
inside sh -c 'printf "mode = \"enforce\"\nwhen_absent = \"pass\"\n" >/etc/arbiter/arbiter.toml'
inside systemctl restart arbiter.service
was=$(main_pid)
inside kill -KILL "$was"
clean() { [ -z "$(traces)" ]; }
eventually 5 clean
connects
eventually 30 other_pid "$was"
inside sh -c 'printf "mode = \"enforce\"\n" >/etc/arbiter/arbiter.toml; rm -r /run/systemd/system/arbiter.service.d
	systemctl daemon-reload; systemctl restart arbiter.service'

step 'lets members of the group read with the daemon down, too'
inside systemctl stop arbiter.service
clean
has 'deny app=/usr/bin/nothing' member arbiter
inside systemctl start arbiter.service

step 'upgrades with its rules kept, and decides on'
was=$(main_pid)
inside dpkg -i /opt/next.deb >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; false; }
eventually 30 other_pid "$was"
is "$(dpkg-deb -f "$DEB" Version)+next" dpkg-query -W -f '${Version}' arbiter
has 'allow app=/usr/bin/bash port=80' inside arbiter rules list
connects

step 'is removed: nothing in the kernel; settings and rules stay'
inside dpkg -r arbiter >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; false; }
[ -z "$(traces)" ]
inside ip rule show | diff "$work/rules-before" -
inside test -e /var/lib/arbiter/arbiter.db -a -e /etc/arbiter/arbiter.toml
if inside test -e /usr/bin/arbiter -o -e /usr/lib/arbiter; then false; fi
connects

step 'is purged: nothing at all'
inside dpkg -P arbiter >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; false; }
files | diff "$work/before" -
if inside getent group arbiter; then false; fi
is '' sh -c 'ls -d /run/arbiter 2>/dev/null'
is '' sh -c 'systemctl list-units --all --plain --no-legend "arbiter*"'
echo "test-deb: $passed steps passed"
