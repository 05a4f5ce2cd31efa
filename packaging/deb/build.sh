#!/bin/sh
# build.sh: dist/arbiter_VERSION_ARCH.deb, for the Debian release that it is built on.
#
# The Python packages are in it, in /usr/lib/arbiter, and not taken from Debian: bookworm has no
# msgspec and no NetfilterQueue, and its dbus-fast and Textual are older than what arbiter needs.
# What Debian has and arbiter does not bring: the interpreter, libraries, nft, iptables.
#
# REVISION   the Debian revision, 1
set -eu
cd "$(dirname "$0")/../.."
missing=
for need in dpkg-deb:dpkg dpkg-shlibdeps:dpkg-dev gcc:gcc; do
	command -v "${need%:*}" >/dev/null || missing="$missing ${need#*:}"
done
[ -e /usr/include/libnetfilter_queue/libnetfilter_queue.h ] || missing="$missing libnetfilter-queue-dev"
/usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ -e "$(/usr/bin/python3 -c 'import sysconfig
print(sysconfig.get_path("include"))' 2>/dev/null)/Python.h" ] || missing="$missing python3-dev"
if [ -n "$missing" ]; then
	echo "deb: installing Debian packages:$missing"
	sh packaging/as-root.sh sh -c "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update &&
		apt-get -qq install -y --no-install-recommends $missing >/dev/null"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
PREFIX=/usr DESTDIR=$work/root PYTHON=/usr/bin/python3 sh packaging/install.sh install
# dpkg keeps the list of files itself.
rm "$work/root/usr/lib/arbiter/manifest"*

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)-${REVISION:-1}
arch=$(dpkg --print-architecture)
python=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
next=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % (sys.version_info[0], sys.version_info[1] + 1))')
mkdir "$work/debian"
echo 'Source: arbiter' >"$work/debian/control"
libraries=$(cd "$work" && find root -name '*.so*' -type f -exec dpkg-shlibdeps -O --ignore-missing-info \
	--warnings=0 {} + 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
mkdir "$work/root/DEBIAN"
cat >"$work/root/DEBIAN/control" <<END
Package: arbiter
Version: $version
Architecture: $arch
Maintainer: ${DEBFULLNAME:-The Arbiter authors} <${DEBEMAIL:-arbiter@localhost}>
Installed-Size: $(du -sk "$work/root/usr" | cut -f1)
Depends: $libraries, python3 (>= $python), python3 (<< $next), python$python,
 nftables | iptables, procps, passwd, init-system-helpers, systemd | systemd-standalone-sysusers
Recommends: nftables, iptables
Section: net
Priority: optional
Description: interactive firewall and link chooser, per program
 Arbiter decides, connection by connection, which program may connect, where to,
 and over which link. It asks once, remembers the answer, and lets the kernel
 carry it out.
END
for script in postinst prerm postrm; do
	install -m 755 "packaging/deb/$script" "$work/root/DEBIAN/$script"
done
(cd "$work/root" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums)
mkdir -p dist
dpkg-deb --root-owner-group -Zxz -z2 --build "$work/root" "dist/arbiter_${version}_$arch.deb" >/dev/null
echo "deb: dist/arbiter_${version}_$arch.deb"
