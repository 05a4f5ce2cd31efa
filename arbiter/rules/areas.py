"""The areas of the address space that rules in force ask for, counted by app and port: outside of
all that may concern a connection, its address does not matter. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from arbiter.rules.rule import Address, Host, Network, Rule, ScopeName
from arbiter.rules.scopes import LAN, LOOPBACK, MULTICAST
from arbiter.rules.tally import Tally

MOST = 1024
"""Of rules for all apps, and as many of others: they take a quarter of a kilobyte each. Of what is
beyond them only app and port are kept."""
Area = tuple[bytes, int]
"""The addresses that start with so many bits of the packed one."""
_NEAR = {ScopeName.LAN: LAN, ScopeName.LOOPBACK: LOOPBACK, ScopeName.MULTICAST: MULTICAST}


class Areas:
    """Counts entries that ask for a host by its address. Of the hashes that are kept of what is
    beyond MOST, one in 2**60 may be taken for another: more is said to matter then, never less."""

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, int | None], Counter[Host]] = {}
        """By app and port of the rules; None for more than one port."""
        self._room = {True: MOST, False: MOST}
        self._beyond = Tally()

    def add(self, rule: Rule) -> None:
        """A rule with such a host is in force."""
        assert rule.host is not None
        where, everybody = where_of(rule), not rule.app
        hosts = self._hosts.get(where)
        if hosts is None or rule.host not in hosts:
            if not self._room[everybody]:
                self._beyond.add(where)
                return
            self._room[everybody] -= 1
            hosts = self._hosts.setdefault(where, Counter())
        hosts[rule.host] += 1

    def remove(self, rule: Rule) -> None:
        """One that was added is in force no more."""
        assert rule.host is not None
        where = where_of(rule)
        hosts = self._hosts.get(where)
        if hosts is None or rule.host not in hosts:
            self._beyond.remove(where)
            return
        hosts[rule.host] -= 1
        if not hosts[rule.host]:
            del hosts[rule.host]
            self._room[not rule.app] += 1
        if not hosts:
            del self._hosts[where]

    def of(self, app: str, port: int) -> list[Area] | None:
        """Outside of these the address of what an app sends to a port does not matter. None: there
        are too many to tell."""
        found: set[Area] = set()
        for where in keys(app, port):
            if where in self._beyond:
                return None
            for host in self._hosts.get(where, ()):
                found.update(areas_of(host))
        return sorted(found)


def where_of(rule: Rule) -> tuple[str, int | None]:
    """The app and the port that a rule asks for; None for more than one port."""
    (first, last), *more = rule.ports or ((0, 65535),)
    return rule.app, first if first == last and not more else None


def keys(app: str, port: int) -> tuple[tuple[str, int | None], ...]:
    """`where_of` rules that may concern what an app sends to a port."""
    return (app, port), (app, None), ("", port), ("", None)


def areas_of(host: Host) -> Iterable[Area]:
    """At their borders a rule with this host begins or ends to match; () for a name."""
    if isinstance(host, Address):
        return ((host.packed, 8 * len(host.packed)),)
    if isinstance(host, Network):
        return ((host.packed, host.prefixlen),)
    if isinstance(host, ScopeName):
        return _NEAR.get(host) or (*LAN, *LOOPBACK, *MULTICAST)
    return ()
