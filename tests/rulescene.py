"""Rules and a connection that they are asked about: what the tests of which rule decides share."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from arbiter.model import Hook
from arbiter.rules import Entry, Layer, LifetimeKind, Query, parse, rank, why_not

NOW = 150.0
SIM, OTHER_SIM = "89430123456789012345", "89430123456789099999"
GATEWAY = "gateway:02:00:5e:10:00:0a"


def entry(
    id: int,
    line: str,
    layer: Layer = Layer.REMEMBERED,
    created: float = 1.0,
    process: tuple[int, int] | None = None,
) -> Entry:
    """An entry from its line; a span counts from `created`."""
    parsed = parse(line)
    span = parsed.lifetime.kind is LifetimeKind.SPAN
    expires = created + parsed.lifetime.seconds if span else None
    return Entry(id, parsed, layer, created, "alice", "cli", expires=expires, process=process)


def query(
    app: str = "/usr/bin/curl",
    host: str = "10.1.2.3",
    port: int = 443,
    proto: int = 6,
    *,
    parents: tuple[str, ...] = ("/bin/sh", "/bin/login"),
    uid: int | None = 1000,
    user: str = "alice",
    hook: Hook = Hook.OUT,
    processes: tuple[tuple[int, int], ...] = ((7, 70),),
    sims: tuple[str, ...] = (SIM,),
    networks: tuple[str, ...] = ("ssid:Home", f"sim:{SIM}"),
    metered: bool | None = True,
    roaming: bool | None = False,
    profile: str = "home",
    names: tuple[str, ...] = ("www.deb.example.org", "mirror.example.net"),
) -> Query:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host)
    return Query(
        *(app, parents, uid, user, packed, port, proto, hook, processes),
        sims=sims,
        networks=networks,
        metered=metered,
        roaming=roaming,
        profile=profile,
        names=names,
        groups=("netdev", "alice"),
        gids=(108, 1000),
    )


def naive(entries: Iterable[Entry], asked: Query, now: float) -> list[Entry]:
    """The definition: all that match, by rank."""
    return sorted((each for each in entries if why_not(each, asked, now) is None), key=rank)
