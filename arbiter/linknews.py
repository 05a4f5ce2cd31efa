"""What has changed between two states of the links, in sentences for a person. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from arbiter.model import Link
from arbiter.protocol import clean

TELL_AGAIN = 30.0
"""Seconds after which the same refusal is told again."""
MAX_TOLD = 1024
"""Refusals that are kept in mind: more of them, and each is told anew."""

_FAMILIES = {(True, True): "", (True, False): " for IPv4 only", (False, True): " for IPv6 only"}


def news(before: Mapping[str, Link], after: Mapping[str, Link]) -> tuple[str, ...]:
    """One sentence a change; new connections only go by it."""
    texts: list[str] = []
    for name, link in after.items():
        old = before.get(name)
        if old is None:
            texts.append(f"new link: {name} ({link.interface}){'' if link.up else ', down'}")
        else:
            texts += _changes(old, link)
    texts += [f"link {name} is gone" for name in before if name not in after]
    return tuple(clean(text, 300) for text in texts)


def _changes(old: Link, new: Link) -> Iterator[str]:
    name = new.name
    if (old.up, old.up4, old.up6) != (new.up, new.up4, new.up6):
        families = _FAMILIES.get((new.up4, new.up6), "")
        yield f"link {name} is up{families}" if new.up else f"link {name} is down"
    if old.sim != new.sim:
        yield f"link {name} has the SIM {_short(new.sim)}" if new.sim else f"link {name} has no SIM"
    if old.networks != new.networks and new.up:
        yield f"link {name} is on {', '.join(new.networks) or 'a network that is not known'}"
    if old.roaming != new.roaming and new.roaming is not None:
        yield f"link {name} is {'roaming' if new.roaming else 'not roaming any more'}"
    if old.metered != new.metered and new.metered is not None:
        yield f"link {name} is {'metered' if new.metered else 'not metered'} now"
    if (old.spent is None) != (new.spent is None):
        if new.spent is not None:
            yield f"link {name} is over its budget: {new.spent.text}"
        else:
            yield f"link {name} is within its budget again"


def _short(sim: str) -> str:
    """Enough to tell one's cards apart; the whole number is nobody else's business."""
    return f"…{sim[-5:]}"


class Refusals:
    """What was refused for its link's sake and told: a program that tries on is told of once."""

    def __init__(self) -> None:
        self._told: dict[tuple[tuple[str, ...], int | None, str], float] = {}
        """(ids of programs, uid, why) → monotonic second."""

    def worth_telling(self, apps: tuple[str, ...], uid: int | None, why: str, mono: float) -> bool:
        """Whether the user has not heard of it in the last `TELL_AGAIN` seconds; now they have."""
        key = (apps, uid, why)
        told = self._told.get(key)
        if told is not None and told > mono - TELL_AGAIN:
            return False
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[key] = mono
        return True
