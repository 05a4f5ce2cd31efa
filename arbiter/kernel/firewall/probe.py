"""The tools, and which backend this kernel really has: asked by trying, never by version.

Tools run without a shell, by a path from a fixed list (never PATH: root runs this), with a
minimal environment and a time limit.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from msgspec import Struct

from arbiter.kernel.firewall import iptables, nft, nftables
from arbiter.kernel.firewall.plan import Family, Plan
from arbiter.protocol import clean

DIRECTORIES = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
TIMEOUT = 30.0
"""Seconds a tool may take: loading modules on a slow machine included."""
LOCK_SECONDS = 10
"""Seconds to wait for the xtables lock (iptables-legacy only; the nft-backed ones ignore it)."""
Variant = Literal["nft", "legacy"]
VARIANTS: tuple[Variant, ...] = ("nft", "legacy")
Made = tuple[tuple[str, str], ...]
"""(table, built-in chain) each, chain TABLE for the table: see `missing`."""
_PACKAGES = {"nft": "nftables", "ip": "iproute2"}
_NAMES = {"ip": "iptables", "ip6": "ip6tables"}


class FirewallError(RuntimeError):
    """The ruleset could not be read, put in force or removed: what, why and the next step."""


class Backend(Struct, frozen=True):
    """Who carries the ruleset. `variant` is "" for nft."""

    kind: Literal["nft", "iptables"]
    variant: Literal["", "nft", "legacy"] = ""

    @property
    def name(self) -> str:
        """`nft`, `iptables-nft` or `iptables-legacy`."""
        return f"{self.kind}-{self.variant}" if self.variant else self.kind


NFT = Backend("nft")
IPTABLES = tuple(Backend("iptables", variant) for variant in VARIANTS)


@functools.cache
def find_tool(name: str) -> str | None:
    """The absolute path of a program, looked for once in DIRECTORIES."""
    for directory in DIRECTORIES:
        path = Path(directory, name)
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def need_tool(name: str) -> str:
    """Like `find_tool`; raises FirewallError naming the Debian package."""
    path = find_tool(name)
    if path is None:
        package = _PACKAGES.get(name, "iptables")
        raise FirewallError(
            f"{name} is not in {', '.join(DIRECTORIES)}; install it: apt install {package}"
        )
    return path


def run(argv: list[str], text: str | None = None) -> str:
    """The tool's stdout; `text` is its stdin. Raises FirewallError on any failure."""
    try:
        done = subprocess.run(
            argv,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT,
            check=False,
            env={"LC_ALL": "C", "PATH": ":".join(DIRECTORIES)},
            process_group=0,  # Ctrl-C in the daemon's terminal is not meant for it
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FirewallError(f"{argv[0]} did not run: {clean(str(error))}") from error
    if done.returncode:
        said = "; ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
        hint = ""
        if "ermission denied" in said or "ermitted" in said:
            hint = "; it needs CAP_NET_ADMIN: run as root"
        elif "xtables lock" in said:
            hint = "; another program holds the lock: try again"
        raise FirewallError(
            f"{' '.join(argv)} failed ({done.returncode}): {clean(said, 600) or 'silently'}{hint}"
        )
    return done.stdout


def tool(family: Family, variant: Variant, action: str = "") -> str | None:
    """iptables/ip6tables of one variant: `action` is "", "save" or "restore".

    Where the distribution has no suffixed names, the plain one if it is of that variant.
    """
    suffix = f"-{action}" if action else ""
    if path := find_tool(f"{_NAMES[family]}-{variant}{suffix}"):
        return path
    plain = find_tool(f"{_NAMES[family]}{suffix}")
    if plain is not None and _variant_of(plain) == variant:
        return plain
    return None


@functools.cache
def _variant_of(path: str) -> Variant:
    return "nft" if "nf_tables" in run([path, "--version"]) else "legacy"


def families() -> tuple[Family, ...]:
    """The families this kernel speaks: without IPv6 there is nothing to filter for it."""
    return ("ip", "ip6") if Path("/proc/sys/net/ipv6").is_dir() else ("ip",)


def save(family: Family, variant: Variant) -> str:
    """The `iptables-save` text, without creating a table by looking. "" where there is none."""
    path = tool(family, variant, "save")
    if path is None:
        return ""
    if variant == "legacy":
        # Naming a table would register it for good; this file lists those there are.
        names = Path(f"/proc/thread-self/net/{family}_tables_names")
        if not names.exists() or not names.read_text(encoding="ascii").strip():
            return ""
    return run([path])


def restore(family: Family, variant: Variant, text: str) -> None:
    """Load rules, keeping everybody else's."""
    path = tool(family, variant, "restore")
    if path is None:
        raise FirewallError(
            f"{_NAMES[family]}-{variant}-restore is not in {', '.join(DIRECTORIES)}; "
            "install it: apt install iptables"
        )
    if text:
        run([path, "--noflush", "-w", str(LOCK_SECONDS)], text)


def nft_chains() -> nftables.Chains:
    """As `nftables.chains`; raises FirewallError."""
    try:
        return nftables.chains()
    except OSError as error:
        raise FirewallError(_refused("the ruleset of nftables cannot be read", error)) from error


def nft_generation() -> bytes | None:
    """As `nftables.generation`; raises FirewallError."""
    try:
        return nftables.generation()
    except OSError as error:
        raise FirewallError(_refused("the ruleset of nftables cannot be read", error)) from error


def _refused(what: str, error: OSError) -> str:
    hint = "; it needs CAP_NET_ADMIN: run as root" if isinstance(error, PermissionError) else ""
    return f"{what}: {error}{hint}"


def nft_table(name: str) -> str:
    """What `nft -j list table inet NAME` shows; no items if it is not there."""
    try:
        return run([need_tool("nft"), "-j", "list", "table", "inet", name])
    except FirewallError:
        if ("inet", name) in nft_chains():
            raise
        return '{"nftables": []}'


def probe_backend(prefer: str = "auto") -> Backend:
    """The first backend that takes every rule a plan may need.

    `prefer`: auto (nft, then iptables-nft, then iptables-legacy), iptables (those two), or one
    by name. Raises FirewallError with each one's reason; ValueError for an unknown name.
    """
    choices: dict[str, tuple[Backend, ...]] = {
        backend.name: (backend,) for backend in (NFT, *IPTABLES)
    }
    choices |= {"auto": (NFT, *IPTABLES), "iptables": IPTABLES}
    if prefer not in choices:
        raise ValueError(f"unknown backend {prefer!r}; one of {', '.join(sorted(choices))}")
    reasons = []
    for backend in choices[prefer]:
        reason = why_not(backend)
        if reason is None:
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise FirewallError(
        "no firewall backend works here. "
        + " | ".join(reasons)
        + ". Install nftables or iptables (apt install nftables iptables) and a kernel with "
        "nft_queue or xt_NFQUEUE; run as root"
    )


def why_not(backend: Backend) -> str | None:
    """Why the backend cannot be used, None if it can. Leaves no rule, chain or nft table."""
    plan = Plan(links=((1, "arbiter-probe"),), tunnels=("arbiter-probe1",), dns_queue=1)
    try:
        if backend.variant == "":
            return _why_not_nft(need_tool("nft"), plan)
        with leaving_none(backend.variant):
            for family in families():
                restore(family, backend.variant, iptables.render_probe(plan, family))
    except FirewallError as error:
        return str(error)
    return None


def _why_not_nft(path: str, plan: Plan) -> str | None:
    queue = f"table inet {nft.PROBE_TABLE} {{\n chain c {{\n  queue num 0\n }}\n}}\n"
    try:
        run([path, "-f", "-"], f"{queue}delete table inet {nft.PROBE_TABLE}\n")
    except FirewallError as error:
        if "No such file or directory" in str(error):
            return "the kernel has no nft queue expression (CONFIG_NFT_QUEUE)"
        return f"nft does not take a queue rule: {error}"
    run([path, "-f", "-"], nft.render_probe(plan))
    return None


def missing(family: Family, there: nftables.Chains | None) -> Made:
    """(table, chain or TABLE) that iptables-nft would make on first use of a plan's tables.

    `there` is what `nft_chains` gives; None for legacy, whose tables can never be deleted.
    """
    if there is None:
        return ()
    used = iptables.used(Plan(links=((1, "a"),)))
    return tuple(
        [(name, "TABLE") for name in iptables.TABLES if (family, name) not in there]
        + [(name, chain) for name, chain in used if chain not in there.get((family, name), {})]
    )


@contextlib.contextmanager
def leaving_none(variant: Variant) -> Iterator[None]:
    """What is done in here, with rules that are gone at its end, makes no built-in chain."""
    there = nft_chains() if variant == "nft" else None
    made = {family: missing(family, there) for family in families()}
    try:
        yield
    finally:
        sweep(made)


def sweep(made: Mapping[Family, Made]) -> None:
    """Delete the built-in chains and tables that our use of iptables-nft made, where still empty:
    one that somebody uses by now stays. Raises FirewallError."""
    items = [
        nftables.Item(family, name, "" if chain == "TABLE" else chain)
        for family, of_family in made.items()
        for name, chain in of_family
    ]
    try:
        nftables.delete_empty(items)
    except OSError as error:
        raise FirewallError(_refused("empty chains stay", error)) from error
