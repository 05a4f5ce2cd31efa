"""What an interface is made of: from rtnetlink's driver name, from sysfs, at last from its name.

sysfs shows the network namespace that it was mounted in, which need not be ours: it is believed
only of an interface that has the same name, index and address there.
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from arbiter.links import LinkKind

SYSFS = Path("/sys/class/net")


class Hardware(Struct, frozen=True):
    """What /sys/class/net/NAME says of an interface."""

    wireless: bool = False
    """It has `wireless` or `phy80211`."""
    devtype: str = ""
    """DEVTYPE in `uevent`: wlan, wwan, bluetooth, bridge, vlan ..."""
    bus: str = ""
    """Where `device/subsystem` points: usb, pci, virtio ...; "" without a device."""


_VPN_DRIVERS = "tun wireguard ovpn amneziawg ipip ip6tnl sit gre gretap ip6gre vti vti6 xfrm fou"
_DRIVERS = {
    **dict.fromkeys(_VPN_DRIVERS.split(), LinkKind.VPN),
    "ppp": LinkKind.DIALUP,
    "wwan": LinkKind.CELLULAR,
    "rmnet": LinkKind.CELLULAR,
}
_DEVTYPES = {
    "wlan": LinkKind.WIFI,
    "wwan": LinkKind.CELLULAR,
    "bluetooth": LinkKind.BLUETOOTH,
    "ppp": LinkKind.DIALUP,
    "wireguard": LinkKind.VPN,
}
_ARPHRDS = {512: LinkKind.DIALUP, 519: LinkKind.CELLULAR}  # ARPHRD_PPP, ARPHRD_RAWIP
_PREFIXES = {
    "wl": LinkKind.WIFI,
    "ww": LinkKind.CELLULAR,
    "rmnet": LinkKind.CELLULAR,
    "ppp": LinkKind.DIALUP,
    "bnep": LinkKind.BLUETOOTH,
    "usb": LinkKind.USB,
    "tun": LinkKind.VPN,
    "tap": LinkKind.VPN,
    "wg": LinkKind.VPN,
    "vpn": LinkKind.VPN,
}


def kind_of(
    name: str, driver: str = "", arphrd: int = 1, hardware: Hardware | None = None
) -> LinkKind:
    """The kind, by the surest fact there is. Pure.

    `driver` is IFLA_INFO_KIND, `arphrd` the ARPHRD_ type (linux/if_arp.h), `hardware` what sysfs
    says if it shows this interface. The name counts only where none of these knows.
    """
    if driver in _DRIVERS:
        return _DRIVERS[driver]
    if hardware is not None and hardware.wireless:
        return LinkKind.WIFI
    if hardware is not None and hardware.devtype in _DEVTYPES:
        return _DEVTYPES[hardware.devtype]
    if arphrd in _ARPHRDS:
        return _ARPHRDS[arphrd]
    if hardware is not None and hardware.bus:
        return LinkKind.USB if hardware.bus == "usb" else LinkKind.ETHERNET
    starts = (kind for start, kind in _PREFIXES.items() if name.startswith(start))
    return next(starts, LinkKind.ETHERNET)


def read_hardware(name: str, index: int, address: str, sysfs: Path = SYSFS) -> Hardware | None:
    """What sysfs says; None if it does not show the interface of that index and address.

    `address` is the current one (IFLA_ADDRESS), lower case with colons; "" where it has none.
    """
    at = sysfs / name
    try:
        if int((at / "ifindex").read_text()) != index:
            return None
        if (at / "address").read_text().strip() != address:
            return None
        uevent = (at / "uevent").read_text()
    except (OSError, ValueError):
        return None  # no sysfs, another namespace's, or the interface is just going
    devtype = re.search(r"^DEVTYPE=(\S+)$", uevent, re.MULTILINE)
    subsystem = at / "device" / "subsystem"
    return Hardware(
        wireless=(at / "wireless").exists() or (at / "phy80211").exists(),
        devtype=devtype.group(1) if devtype else "",
        bus=subsystem.resolve().name if subsystem.exists() else "",
    )
