"""The lab as text: `ip -batch` lines, sysctls and files. Pure: a config in, lines out.

Only veth pairs and namespaces are used, because a small kernel may have nothing else.
"""

from __future__ import annotations

from arbiter.lab.config import DNS4, DNS6, PUBLIC4, PUBLIC6, LabConfig, LinkConfig

FAR_END = "access0"
"""The internet's end of each link."""


def create(config: LabConfig) -> list[str]:
    """The veth pairs, made in place: nothing ever appears in the caller's namespace.

    After the sysctls: a link takes its namespace's defaults when it is born.
    """
    host = config.namespace("host")
    return [
        f"link add {link.interface} netns {host} type veth "
        f"peer name {FAR_END} netns {config.namespace(link.name)}"
        for link in config.links
    ]


def host_lines(config: LabConfig) -> list[str]:
    """Addresses and routes of the person's machine; default routes in the order of metrics."""
    lines = ["link set lo up"]
    for link in config.links:
        lines += link_lines(link)
    return lines


def link_lines(link: LinkConfig) -> list[str]:
    """One link of `host`. `replace` throughout: repeating them mends a link that went down."""
    dev = link.interface
    lines = [*_device(link, dev), f"addr replace {link.host4}/24 dev {dev}"]
    if link.ipv6:
        lines += [f"addr replace {a}/64 dev {dev} nodad" for a in (link.host6, link.host_ula) if a]
    lines += [f"link set {dev} up"]
    if not link.default_route:
        return lines
    lines += [f"route replace default via {link.gateway4} dev {dev} metric {link.metric}"]
    if link.ipv6:
        lines += [f"route replace ::/0 via {link.gateway6} dev {dev} metric {link.metric}"]
    return lines


def internet_lines(link: LinkConfig) -> list[str]:
    """A link's gateway and the public servers behind it.

    Any other destination answers "unreachable", so that a try at the real internet fails at once.
    """
    lines = ["link set lo up"]
    lines += [f"addr add {a}/32 dev lo" for a in PUBLIC4]
    lines += [f"addr add {a}/128 dev lo nodad" for a in PUBLIC6]
    lines += [f"addr add {a} dev lo nodad" for a in link.resolvers()]
    lines += [*_device(link, FAR_END), f"addr add {link.gateway4}/24 dev {FAR_END}"]
    if link.peer4:
        lines += [f"addr add {link.peer4}/24 dev {FAR_END}"]
    if link.ipv6:
        near6 = (link.gateway6, link.peer6)
        lines += [f"addr add {a}/64 dev {FAR_END} nodad" for a in near6 if a]
    lines += [f"link set {FAR_END} up"]
    return [*lines, "route add unreachable default", "route add unreachable ::/0 metric 4096"]


def _device(link: LinkConfig, dev: str) -> list[str]:
    lines = [f"link set {dev} mtu {link.mtu}"]
    if not link.ipv6 and link.mtu >= 1280:
        # A bearer without IPv6 has no link-local address either. Below 1280 bytes the kernel
        # takes IPv6 off the device altogether, and refuses to speak of it (net/ipv6/addrconf.c).
        lines += [f"link set {dev} addrgenmode none"]
    return lines


def host_sysctls(groups: tuple[int, int]) -> dict[str, str]:
    """Files under /proc/sys/net and their values; `groups` is who may ping without privilege."""
    return {"ipv4/ping_group_range": f"{groups[0]} {groups[1]}", **_NO_DAD}


def internet_sysctls() -> dict[str, str]:
    """Forwarding only so that the unreachable routes are told to the sender by ICMP."""
    return {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", **_NO_DAD}


# Duplicate address detection (RFC 4862 5.4) would leave fe80 addresses unusable for a second.
# On `default` and before the links exist, so that they are born with it.
_NO_DAD = {"ipv6/conf/default/accept_dad": "0", "ipv6/conf/default/dad_transmits": "0"}


def ping_groups(gid_map: str) -> tuple[int, int]:
    """The widest ping_group_range that /proc/self/gid_map (user_namespaces(7)) lets us write.

    The kernel refuses groups without a mapping, so in a user namespace it is the first extent.
    """
    inside, _, count = (int(word) for word in gid_map.split("\n", 1)[0].split())
    return inside, min(inside + count - 1, 2147483647)


def etc_files(config: LabConfig, nsswitch: str) -> dict[str, str]:
    """Files of /etc/netns/<host namespace>, which `ip netns exec` binds over /etc.

    `nsswitch` is the machine's own: only its hosts line changes, because nss-resolve and mdns
    would carry the question by a Unix socket to a resolver outside the lab.
    """
    lines = [line for line in nsswitch.splitlines() if not line.split("#")[0].startswith("hosts:")]
    return {
        "resolv.conf": f"nameserver {DNS4}\nnameserver {DNS6}\noptions timeout:2 attempts:2\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
        "nsswitch.conf": "\n".join([*lines, "hosts: files dns"]) + "\n",
    }
