"""Profiles: which rules with `profile=` hold, by where the machine is. Pure.

A profile is a name that rules carry, and the networks that bring it. The *place* is the profile of
the network that the machine came onto last, of those that are bound: only when it becomes another
one is a profile switched by itself. So an unknown network switches nothing, nor does being on none,
and what a person chose holds while the place stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from msgspec import Struct

from arbiter.model import Link
from arbiter.protocol import clean
from arbiter.rules import RuleError, parse
from arbiter.rules.places import NO_PROFILE
from arbiter.rules.words import quote

MAX_OTHERS = 3
"""Other networks that a reason names."""


class Profile(Struct, frozen=True):
    """A profile, and the networks bound to it as a rule's `network=` says them, sorted."""

    name: str
    networks: tuple[str, ...] = ()


class Standing(Struct, frozen=True):
    """Which profile is active, and the place."""

    active: str = ""
    """"" for none."""
    place: str | None = ""
    """"" before the first; None where a person chose the profile, and nobody has looked since."""


class Switch(Struct, frozen=True):
    """One change of the active profile. Ids grow."""

    id: int
    time: float
    before: str
    after: str
    why: str
    by: str
    by_uid: int | None
    frontend: str
    undoes: int | None = None
    """The switch that it took back."""
    undone: bool = False
    """A later one took it back."""


class Book(Struct, frozen=True):
    """All profiles, with the last word on which is active."""

    profiles: tuple[Profile, ...] = ()
    standing: Standing = Standing()
    last: Switch | None = None
    back: bool = False
    """There is a switch that `undo` would take back now."""
    unreadable: tuple[str, ...] = ()
    """What could not be read of them, each with its next step."""

    def bound(self) -> Mapping[str, str]:
        """Network → its profile."""
        pairs = {n: profile.name for profile in self.profiles for n in profile.networks}
        return MappingProxyType(pairs)


class Look(Struct, frozen=True):
    """The standing now; `why` the active profile is another one, "" if it is not."""

    standing: Standing
    why: str = ""


def look(bound: Mapping[str, str], standing: Standing, links: Iterable[Link]) -> Look:
    """What follows from the links there are, the most preferred first. The same for the same.

    The first link that is up and on a bound network says the place: with several networks bound of
    one link, its gateway before its SSID before its SIM (the order of Link.networks). While it is
    not known where a link before it is, nothing changes: a gateway that is silent for a moment
    must not let a SIM that is always there say the place.
    """
    here: list[tuple[str, str]] = []
    for link in links:
        found = [(n, bound[n]) for n in link.networks if n in bound and link.up]
        if link.up and link.finding and not found and not here:
            return Look(standing)
        here += found
    if standing.place is None:  # a person has chosen, knowing where the machine is
        return Look(Standing(standing.active, here[0][1] if here else ""))
    if not here or here[0][1] == standing.place:
        return Look(standing)
    network, name = here[0]
    if name == standing.active:
        return Look(Standing(name, name))
    others = [f"{shown(n)} of {other}" for n, other in here[1:] if other != name]
    why = f"on {shown(network)}"
    if others:
        several = ", ".join(dict.fromkeys(others[:MAX_OTHERS]))
        why += f", which comes before {several}"
    return Look(Standing(name, name), why)


def word(name: str) -> str:
    """What commands call a profile, and where there is none."""
    return name or NO_PROFILE


def shown(network: str) -> str:
    """A network for everybody to read: of a SIM's number no more than tells one's cards apart."""
    if network.startswith("sim:"):
        return f"sim:…{network[-5:]}"
    return clean(quote(network), 200)


def read_bound(text: str) -> str:
    """The network that `quote` made a text of. Raises RuleError."""
    network = parse(f"allow network={text}").network
    if quote(network) != text:
        raise RuleError(f"it is written {quote(network)}", 0, text, quote(network))
    return network


def undoable(switches: Sequence[Switch]) -> Switch | None:
    """The last switch that none took back and that takes none back; `switches` in order."""
    return next((s for s in reversed(switches) if s.undoes is None and not s.undone), None)
