"""Which number of the mark a link has, and what it is called: the same for as long as it is
remembered. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from arbiter.model import RESERVED_LINKS

FIRST_NUMBER, LAST_NUMBER = 1, 31
"""Link numbers fit the five bits of model.MARK_LINK; 0 there is the default route."""


class Numbers:
    """The assignment of numbers 1-31 to identities. It keeps nothing: state goes in and out."""

    @staticmethod
    def assign(
        identities: Iterable[str],
        known: Mapping[str, int],
        fixed: Mapping[str, int] | None = None,
    ) -> dict[str, int]:
        """Number every identity that is present, and go on remembering the absent ones.

        `known` is the earlier result, in its order, which tells who is absent the longest: absent
        ones stand first. A known identity keeps its number; a new one gets the lowest free one;
        when all are taken, that of the identity absent longest; when 31 are present, none: it
        is not in the result. `fixed` numbers come from files and are the one thing that moves
        somebody else. Entries of `known` that cannot be true (no number of 1-31, or somebody
        else's) are forgotten.
        """
        wanted = list(dict.fromkeys(identities))
        pins = {name: n for name, n in (fixed or {}).items() if FIRST_NUMBER <= n <= LAST_NUMBER}
        taken: dict[int, str] = {}
        for name, number in pins.items():
            taken.setdefault(number, name)
        for name, number in known.items():
            if FIRST_NUMBER <= number <= LAST_NUMBER and name not in taken.values():
                taken.setdefault(number, name)
        numbers = {name: number for number, name in taken.items()}
        absent = [name for name in known if name in numbers and name not in wanted]
        leavers = (name for name in absent if name not in pins)
        free = (n for n in range(FIRST_NUMBER, LAST_NUMBER + 1) if n not in taken)
        for name in wanted:
            if name in numbers:
                continue
            number = next(free, 0)
            if not number and (leaver := next(leavers, None)) is not None:
                number = numbers.pop(leaver)
            if number:
                numbers[name] = number
        order = dict.fromkeys([*absent, *wanted])
        return {name: numbers[name] for name in order if name in numbers}


# --- names ----------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_DEFAULT_NAMES = {"cellular": "lte"}
"""Other kinds are called what they are."""


def valid_name(name: str) -> bool:
    """Whether a rule can name a link so: [A-Za-z0-9_.-]{1,15}, and no word of `via=`."""
    return _NAME.fullmatch(name) is not None and name.lower() not in RESERVED_LINKS


def link_names(links: Sequence[tuple[int, str, str, str]]) -> dict[int, str]:
    """The names of links (number, identity, kind, interface), by number.

    A file's name, else the kind's, else the interface's; the lower number first: of two wifis the
    one that was there first stays `wifi`, over restarts too.
    """
    names: dict[int, str] = {}
    for number, identity, _, _ in links:
        if identity.startswith("file "):
            names[number] = identity.removeprefix("file ")
    for number, _, kind, interface in links:
        if number not in names:
            taken = set(names.values())
            wishes = _wishes(number, kind, interface)
            names[number] = next(n for n in wishes if valid_name(n) and n not in taken)
    return names


def names_had(known: Mapping[str, int]) -> frozenset[str]:
    """Every name that the links of `Numbers.assign` surely may have had, present or not.

    An interface's own name is among them only where nothing else identifies the link.
    """
    names: set[str] = set()
    for identity, number in known.items():
        kind, _, rest = identity.partition(" ")
        names |= {rest} if kind in ("file", "interface") else {_DEFAULT_NAMES.get(kind, kind)}
        names.add(f"link{number}")
    return frozenset(names)


def _wishes(number: int, kind: str, interface: str) -> Iterator[str]:
    yield _DEFAULT_NAMES.get(kind, kind)
    yield interface
    yield f"link{number}"
    # Only where somebody called another interface link5.
    yield from (f"link{number}-{again}" for again in itertools.count(2))
