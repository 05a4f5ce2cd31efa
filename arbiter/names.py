"""Which names were looked up for an address: a bounded memory of answers that were really seen.

A name is a hint: it says what somebody on this host asked for and was told, not whom a packet
goes to. So nothing is ever looked up in reverse, all names of an address are kept and told,
newest first, and what is ambiguous stays ambiguous.

Names are kept for all apps alike. An answer's socket would tell its uid cheaply, but not the app,
and it is a program of the same user that would gain by lying; with a resolver of the system the
asker is the resolver. What a hostile program can do is have a resolver of this host say an
address for a name of the program's own domain: then a rule for *that* name speaks of the address,
a rule that denies it as well. It cannot make an address carry a name of somebody else's domain.

Bounds: MAX_ADDRESSES, MAX_NAMES of each, MAX_BYTES in all. What goes first is what was answered
or used longest ago, and no name that a rule in force speaks of (*wanted*) while another can go:
else a program could push out the name that denies it, by looking up others. A name that is
forgotten too early costs a question to a person, or the fallback; a rule that denies by it and is
behind one that allows more no longer matches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from arbiter.rules import Spoken

MAX_ADDRESSES: Final = 8192
MAX_NAMES: Final = 16
"""Names of one address; large content networks serve thousands of names from one, but no host
looks up many of them within a day."""
MAX_TARGETS: Final = 512
MAX_ORIGINS: Final = 4
"""Service hosts remembered (HTTPS records), and for how many names each of them serves."""
MAX_BYTES: Final = 6 << 20
"""Memory of all entries, by `_cost`, which tests compare with what the interpreter allocates."""
GRACE: Final = 3600.0
"""Seconds that a name outlives its TTL, from the answer and from each use: programs keep
addresses longer than they may, and a browser comes back to an open page's host."""
MAX_AGE: Final = 86400.0
"""Seconds after its answer when a name is forgotten, however it is used: by then the address may
be somebody else's, and every program that restarts asks again."""

FORGET_EVERY: Final = 300.0
"""Seconds between two looks through all for what has expired, while answers come."""

_ADDRESS_COST, _NAME_COST = 260, 260
_NO_HOSTS: Mapping[bytes, tuple[str, ...]] = {}


class _Known(Struct, gc=False):
    name: str
    answered: float
    until: float


class NameCache:
    """Addresses are packed, IPv4-mapped ones as IPv4; names as `hostname.host_name` gives them.
    Times are seconds of one clock that never goes back (`Now.mono`)."""

    def __init__(self, wanted: Spoken | None = None) -> None:
        """`wanted` are the names that rules in force speak of, whenever it is asked."""
        # Of both the longest unused address first.
        self._known: dict[bytes, list[_Known]] = {}
        self._wanted: dict[bytes, list[_Known]] = {}  # those with a wanted name, as of `_sorted`
        self._spoken = wanted if wanted is not None else Spoken()
        self._sorted = self._spoken.version
        self._targets: dict[str, dict[str, float]] = {}
        self._hosts = _NO_HOSTS
        self._bytes = 0
        self._forgot = -math.inf

    def __len__(self) -> int:
        """Addresses with a name from DNS; those that expired count until `forget`."""
        return len(self._known) + len(self._wanted)

    @property
    def size(self) -> int:
        """Bytes that the entries take, estimated high; MAX_BYTES at most."""
        return self._bytes

    # --- what comes in ------------------------------------------------------------------------

    def learn(
        self,
        name: str,
        addresses: Iterable[bytes],
        ttl: float,
        now: float,
        targets: Iterable[str] = (),
    ) -> None:
        """An answer was seen: `name` has these addresses for `ttl` seconds; the hosts `targets`
        serve it, so what is looked up for them counts for it."""
        if now >= self._forgot + FORGET_EVERY:
            self.forget(now)
        until = now + min(max(ttl, 0.0) + GRACE, MAX_AGE)
        origins = [n for n, end in self._targets.get(name, {}).items() if now < end and n != name]
        for address in addresses:
            if _never_leaves(address):
                continue
            # The asked name last: it is the newest.
            for origin in origins:
                self._add(address, _Known(origin, now, until))
            self._add(address, _Known(name, now, until))
            self._shrink()
        for target in targets:
            self._serve(target, (*origins, name), until)

    def use_hosts(self, hosts: Mapping[bytes, tuple[str, ...]]) -> None:
        """The names of /etc/hosts from now on (`nametext.read_hosts`).

        They count like looked-up names, and come after them: root wrote them, a program that asks
        for such a name gets that address without any DNS answer, and there is no other way to
        write a rule for it.
        """
        self._hosts = hosts

    def keep(self, address: bytes, now: float) -> None:
        """A connection to `address` was decided: its names stay for another GRACE, within
        MAX_AGE of their answers."""
        known = self._of(address)
        if not known:
            return
        table = self._known if address in self._known else self._wanted
        table[address] = table.pop(address)  # now the newest there
        for one in known:
            if now < one.until:
                one.until = max(one.until, min(now + GRACE, one.answered + MAX_AGE))

    def forget(self, now: float) -> int:
        """Drop what has expired; gives how many addresses went. `learn` does it now and then: it
        walks all of them."""
        self._forgot = now
        before = len(self)
        for table in (self._known, self._wanted):
            for address, known in list(table.items()):
                left = [one for one in known if now < one.until]
                if len(left) < len(known):
                    self._bytes += _cost_of_all(left) - _cost_of_all(known)
                    table[address] = left
                if not left:
                    del table[address]
                    self._bytes -= _ADDRESS_COST
        self._sort()
        for target, origins in list(self._targets.items()):
            if not any(now < end for end in origins.values()):
                del self._targets[target]
        return before - len(self)

    # --- what is asked ------------------------------------------------------------------------

    def names_of(self, address: bytes, now: float) -> tuple[str, ...]:
        """Every name that was looked up and answered with `address`, the newest answer first;
        then those of /etc/hosts. () where none is known. What CNAMEs led over is not among them:
        nobody asked for it."""
        known = self._of(address)
        names = [one.name for one in reversed(known) if now < one.until]
        return (*names, *(n for n in self._hosts.get(address, ()) if n not in names))

    def until(self, address: bytes, now: float) -> float:
        """When the first of these names ends, if nothing keeps it; infinite without any."""
        return min((one.until for one in self._of(address) if now < one.until), default=math.inf)

    def told(self, name: str, addresses: Iterable[bytes], now: float) -> bool:
        """Whether these addresses have the name, and those that it serves, already."""
        origins = [n for n, end in self._targets.get(name, {}).items() if now < end]
        for address in addresses:
            known = {one.name for one in self._of(address) if now < one.until}
            if not known.issuperset((name, *origins)) and not _never_leaves(address):
                return False
        return True

    def speaks(self, name: str) -> bool:
        """Whether an address that is told for this name may get one that a rule speaks of."""
        return any(one in self._spoken for one in (name, *self._targets.get(name, ())))

    def spoken_of(self) -> list[bytes]:
        """The addresses that have a name that a rule speaks of, and maybe some that had one."""
        if self._sorted != self._spoken.version:
            self._sort()
        hosts = self._hosts.items()
        named = [address for address, names in hosts if any(one in self._spoken for one in names)]
        return [*self._wanted, *named]

    # --- bounds -------------------------------------------------------------------------------

    def _of(self, address: bytes) -> Sequence[_Known]:
        known = self._known.get(address)
        return self._wanted.get(address, ()) if known is None else known

    def _add(self, address: bytes, new: _Known) -> None:
        known = self._known.pop(address, None) or self._wanted.pop(address, None)
        if known is None:
            known = []
            self._bytes += _ADDRESS_COST
        for place, one in enumerate(known):
            if one.name == new.name:
                new.name = one.name  # one string for the whole life of an entry
                new.until = max(new.until, min(one.until, new.answered + MAX_AGE))
                self._bytes -= _cost(known.pop(place))
                break
        known.append(new)
        self._bytes += _cost(new)
        if len(known) > MAX_NAMES:
            self._bytes -= _cost(known.pop(self._first_to_go(known)))
        self._table_of(known)[address] = known

    def _first_to_go(self, known: list[_Known]) -> int:
        """The oldest that is over or not wanted, be it the new one; where all are, the oldest."""
        now = known[-1].answered
        for place, one in enumerate(known):
            if one.until <= now or one.name not in self._spoken:
                return place
        return 0

    def _table_of(self, known: list[_Known]) -> dict[bytes, list[_Known]]:
        return self._wanted if any(one.name in self._spoken for one in known) else self._known

    def _shrink(self) -> None:
        while len(self) > MAX_ADDRESSES or self._bytes > MAX_BYTES:
            if self._sorted != self._spoken.version:
                self._sort()
            table = self._known or self._wanted
            self._bytes -= _cost_of_all(table.pop(next(iter(table)))) + _ADDRESS_COST

    def _sort(self) -> None:
        """Rules have changed, or names have gone: which addresses have a wanted name now. Those
        that change tables count as just used: nothing says which of two tables was used when."""
        self._sorted = self._spoken.version
        for table in (self._known, self._wanted):
            for address, known in list(table.items()):
                right = self._table_of(known)
                if right is not table:
                    right[address] = table.pop(address)

    def _serve(self, target: str, names: Iterable[str], until: float) -> None:
        origins = self._targets.pop(target, {})
        for name in names:
            origins.pop(name, None)
            origins[name] = until
        while len(origins) > MAX_ORIGINS:
            del origins[next(iter(origins))]
        self._targets[target] = origins
        if len(self._targets) > MAX_TARGETS:
            del self._targets[next(iter(self._targets))]


def _cost(one: _Known) -> int:
    return _NAME_COST + len(one.name)


def _cost_of_all(known: list[_Known]) -> int:
    return sum(map(_cost, known))


def _never_leaves(address: bytes) -> bool:
    """Loopback, and the unspecified address that lists of unwanted names use: nobody is ever
    asked about them, and a million unwanted names must not push the others out."""
    if len(address) == 4:
        return address[0] == 127 or not any(address)
    return not any(address[:15]) and address[15] < 2
