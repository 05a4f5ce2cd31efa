"""What this kernel and machine can do, for `arbiter doctor`: each check by trying, with its fix.

Leaves nothing: the firewall probe makes and deletes its rules in one transaction. Where only
iptables-legacy works, its empty tables stay registered: the kernel cannot delete them.
"""

from __future__ import annotations

import enum
import importlib.util
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from arbiter.kernel import fastpath, rights
from arbiter.kernel.conntrack import open_netfilter
from arbiter.kernel.firewall import installed, overlap, probe, why_no_classes
from arbiter.kernel.firewall.plan import Plan
from arbiter.kernel.netlink import ack_request, pack_attribute
from arbiter.kernel.procevents import listen
from arbiter.routeplan import RoutePlan

_NETLINK_SOCK_DIAG = 4
_QUEUES = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
_QUEUE_CONFIG = 3 << 8 | 2  # NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG (linux/netfilter/nfnetlink*.h)
_CFG_CMD, _PF_BIND = 1, 3  # NFQA_CFG_CMD, NFQNL_CFG_CMD_PF_BIND


class Level(enum.StrEnum):
    """ok; warn: arbiter runs, with less; fail: it cannot do its work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(Struct, frozen=True):
    """One finding. `next_step` is "" where there is nothing to do."""

    name: str
    level: Level
    text: str
    next_step: str = ""


def examine(plan: Plan) -> list[Check]:
    """Every check. One that fails never stops the others."""
    able = rights.has("CAP_NET_ADMIN")
    found: list[Check] = []
    for check, needs in _CHECKS:
        if needs and not able:
            found.append(Check(needs, Level.WARN, "not looked at: that needs CAP_NET_ADMIN"))
        else:
            found.append(check(plan))
    return found


def _rights(_: Plan) -> Check:
    lacking = [name for name in ("CAP_NET_ADMIN", "CAP_SYS_PTRACE") if not rights.has(name)]
    if "CAP_NET_ADMIN" in lacking:
        text = "without CAP_NET_ADMIN neither rules nor queue can be opened"
        return Check("rights", Level.FAIL, text, "run as root")
    if lacking:
        text = "without CAP_SYS_PTRACE other users' processes cannot be identified"
        return Check("rights", Level.WARN, text, "run as root")
    return Check("rights", Level.OK, f"uid {os.geteuid()} with CAP_NET_ADMIN and CAP_SYS_PTRACE")


def _library(_: Plan) -> Check:
    if importlib.util.find_spec("netfilterqueue") is None:
        return Check(
            "queue library",
            Level.FAIL,
            "the Python module netfilterqueue is not installed",
            "apt install build-essential python3-dev libnetfilter-queue-dev, "
            "then pip install NetfilterQueue",
        )
    return Check("queue library", Level.OK, "NetfilterQueue is installed")


def _backend(_: Plan) -> Check:
    bad: list[str] = []
    for backend in (probe.NFT, *probe.IPTABLES):
        # In the order of `auto`, and no further: asking legacy registers its tables for good.
        reason = probe.why_not(backend)
        if reason is None:
            text = f"{backend.name} can carry the rules"
            return Check("firewall", Level.OK, f"{text} ({'; '.join(bad)})" if bad else text)
        bad.append(f"{backend.name}: {reason}")
    step = "apt install nftables iptables; a kernel with nft_queue or xt_NFQUEUE; run as root"
    return Check("firewall", Level.FAIL, f"no backend works: {'; '.join(bad)}", step)


def _classes(_: Plan) -> Check:
    """Less without them, not nothing: packets go out as the program sent them."""
    for backend in (probe.NFT, *probe.IPTABLES):
        if probe.why_not(backend) is None:
            why = why_no_classes(backend)
            if why is None:
                return Check("traffic classes", Level.OK, f"{backend.name} can mark connections")
            text = f"class= in a rule has no effect: {why}"
            return Check("traffic classes", Level.WARN, text, "see docs/classes.md")
    return Check("traffic classes", Level.WARN, "no backend works to try them with")


def _queue(plan: Plan) -> Check:
    try:
        if not _QUEUES.exists():
            _load_queues()
        lines = _QUEUES.read_text("ascii")
    except OSError as error:
        return Check(
            "packet queue",
            Level.FAIL,
            f"the kernel's nfnetlink_queue cannot be reached: {error}",
            "modprobe nfnetlink_queue; if there is none, use a kernel with "
            "CONFIG_NETFILTER_NETLINK_QUEUE",
        )
    taken = {int(line.split()[0]): line.split()[1] for line in lines.splitlines() if line.strip()}
    if plan.queue in taken and _are_in_force():
        return Check("packet queue", Level.OK, f"queue {plan.queue} is in use, by arbiter itself")
    if plan.queue in taken:
        return Check(
            "packet queue",
            Level.WARN,
            f"queue {plan.queue} has a listener (port id {taken[plan.queue]})",
            "if `arbiter status` answers, it is arbiter without its rules: restart it; else choose "
            "another with --queue-num, or end that program",
        )
    return Check("packet queue", Level.OK, f"queue {plan.queue} is free")


def _are_in_force() -> bool:
    try:
        return bool(installed())
    except probe.FirewallError:
        return False  # "in force" says why


def _load_queues() -> None:
    """The kernel loads the module for whoever configures a queue (nfnetlink_rcv_msg), which is what
    a start does. This configures none: PF_BIND does nothing any more. Raises OSError."""
    body = bytes(4) + pack_attribute(_CFG_CMD, struct.pack("!BxH", _PF_BIND, socket.AF_INET))
    with open_netfilter() as sock:
        ack_request(sock, _QUEUE_CONFIG, 0, body, "asking for packet queues")


def _listens(queue: int) -> bool:
    try:
        lines = _QUEUES.read_text("ascii")
    except OSError:
        return False
    return any(int(line.split()[0]) == queue for line in lines.splitlines() if line.strip())


def _conntrack(_: Plan) -> Check:
    sysctl = Path("/proc/sys/net/netfilter")
    if not (sysctl / "nf_conntrack_max").exists():
        text = "connection tracking is not loaded; the rules load it"
        return Check("conntrack", Level.WARN, text, "if starting fails: modprobe nf_conntrack")
    try:
        count = int((sysctl / "nf_conntrack_count").read_text("ascii"))
        most = int((sysctl / "nf_conntrack_max").read_text("ascii"))
    except OSError as error:
        return Check("conntrack", Level.WARN, f"its counters cannot be read: {error}")
    if count > most * 0.9:
        text = f"{count} of {most} connections are tracked; when full, the kernel drops new ones"
        step = f"sysctl net.netfilter.nf_conntrack_max={most * 2}"
        return Check("conntrack", Level.WARN, text, step)
    return Check("conntrack", Level.OK, f"{count} of {most} connections tracked")


def _sock_diag(_: Plan) -> Check:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG).close()
    except OSError as error:
        return Check(
            "owner look-up",
            Level.FAIL,
            f"the kernel has no sock_diag: {error}",
            "modprobe inet_diag tcp_diag udp_diag",
        )
    return Check("owner look-up", Level.OK, "sock_diag answers")


def _processes(_: Plan) -> Check:
    """hidepid hides other users' processes, even from root without CAP_SYS_PTRACE."""
    if not Path("/proc/1/stat").exists():
        return Check(
            "processes",
            Level.FAIL,
            "/proc does not show process 1: it is mounted with hidepid, or not at all",
            "mount -o remount,hidepid=0 /proc, or run as root",
        )
    return Check("processes", Level.OK, "/proc shows every process")


def _fast_path(_: Plan) -> Check:
    if not fastpath.compiled():
        return Check(
            "fast path",
            Level.WARN,
            "it was not compiled: deciding a connection again takes two to three times as long",
            "apt install gcc python3-dev, and install arbiter anew",
        )
    events = listen()
    if events is None:
        text = "the kernel tells of no processes here (not root, or a container): there is none"
        return Check("fast path", Level.WARN, text, "run arbiter outside of the container, as root")
    events.close()
    return Check("fast path", Level.OK, "what was decided is decided again without Python")


def _ipv6(_: Plan) -> Check:
    if "ip6" in probe.families():
        return Check("ipv6", Level.OK, "IPv6 is there and filtered too")
    return Check("ipv6", Level.OK, "this kernel has no IPv6; only IPv4 is filtered")


def _overlaps(plan: Plan) -> Check:
    try:
        found = overlap.overlaps(plan, *overlap.look(), own_prefs=RoutePlan().preferences)
    except probe.FirewallError as error:
        return Check("marks", Level.WARN, f"cannot look for overlaps: {error}", "run as root")
    if found:
        text = " | ".join(one.text for one in found)
        return Check("marks", Level.FAIL, text, "set mark_base in arbiter.toml")
    return Check("marks", Level.OK, f"nobody else uses mark bits {plan.mask:#010x}")


def _notrack(_: Plan) -> Check:
    try:
        found = overlap.notracks(overlap.look()[1])
    except probe.FirewallError as error:
        return Check("notrack", Level.WARN, f"cannot look for notrack rules: {error}")
    if found:
        return Check(
            "notrack",
            Level.WARN,
            f"untracked packets carry no decision and are asked about one by one: {found[0]}",
            "remove the notrack rule, or add a lasting rule for the program it concerns",
        )
    return Check("notrack", Level.OK, "no rule takes packets out of connection tracking")


def left_alone(plan: Plan) -> bool:
    """Whether rules are in force and nobody decides: their daemon was killed. Raises
    FirewallError."""
    return bool(installed()) and not _listens(plan.queue)


def _in_force(plan: Plan) -> Check:
    try:
        now = installed()
    except probe.FirewallError as error:
        return Check("in force", Level.WARN, f"cannot look for arbiter's rules: {error}")
    if now.problems:
        text, step = " | ".join(now.problems), "restart arbiter, or run `arbiter rescue`"
        return Check("in force", Level.FAIL, text, step)
    if now and not _listens(plan.queue):
        return Check(
            "in force",
            Level.FAIL,
            f"rules are in force, but no daemon listens on queue {plan.queue}: new connections "
            "are blocked, or pass undecided",
            "start arbiter again, or run `arbiter rescue`",
        )
    text = f"rules are in force by {now.backends[0]}" if now else "no rules of arbiter's"
    return Check("in force", Level.OK, text)


_CHECKS: tuple[tuple[Callable[[Plan], Check], str], ...] = (
    (_rights, ""),
    (_library, ""),
    (_backend, "firewall"),
    (_classes, "traffic classes"),
    (_queue, "packet queue"),
    (_conntrack, ""),
    (_sock_diag, ""),
    (_processes, ""),
    (_fast_path, ""),
    (_ipv6, ""),
    (_overlaps, "marks"),
    (_notrack, "notrack"),
    (_in_force, "in force"),
)
"""In the order of a packet's path; with its name each that only an administrator may look at."""
