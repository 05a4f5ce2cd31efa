"""Which number of the mark a link has: the same for as long as it is remembered. Floor 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
