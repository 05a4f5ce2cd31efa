"""The reasons of the rules, in words: why one does not match, and why one beats another.

Total for every rule and query. Text that a process, a file or a person chose is quoted as in a
rule line, so that what is returned can be printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, tzinfo

from arbiter.model import PORT_PROTOS, address_text, proto_name
from arbiter.rules.hosts import format_host, shown_host
from arbiter.rules.line import format_ports
from arbiter.rules.names import shown_name
from arbiter.rules.rank import (
    HOST_FAMILY,
    HOST_SCOPE,
    NO_CONTEXT,
    NO_HOST,
    NO_PORT,
    NOT_SET,
    ONE_PORT,
    rank,
    specificity,
)
from arbiter.rules.rule import (
    Address,
    Domain,
    Entry,
    Host,
    Layer,
    Name,
    Network,
    Query,
    Rule,
    is_number,
    plain,
)
from arbiter.rules.scopes import scope_of
from arbiter.rules.times import format_times, shown_minute
from arbiter.rules.week import Times, holds, minute_of_week
from arbiter.rules.words import quote

_LAYERS = {
    Layer.ADMIN: "admin files",
    Layer.REMEMBERED: "remembered rules",
    Layer.SHIPPED: "files shipped by packages",
}


_NAMED = 3
"""Names that a reason repeats; an address may have hundreds."""


# --- does it match --------------------------------------------------------------------------


def why_not(
    rule: Rule | Entry, query: Query, now: float | None = None, zone: tzinfo = UTC
) -> str | None:
    """The first condition that does not match `query`, in words; None if all of them match.

    For an Entry, the process it was made for counts too. Its expiry and `time=` count with `now`
    (epoch seconds) only; `zone` is the one in which people here read clocks. This is the definition
    of matching; the index is only faster.
    """
    return next(reasons(rule, query, now, zone), None)


def reasons(
    rule: Rule | Entry, query: Query, now: float | None = None, zone: tzinfo = UTC
) -> Iterator[str]:
    """The same for every kind of condition that does not match, in the order of a rule line."""
    conditions = rule.rule if isinstance(rule, Entry) else rule
    if reason := _app(conditions, query):
        yield reason
    if reason := _user(conditions.user, query):
        yield reason
    if reason := _host(conditions.host, query):
        yield reason
    if reason := _ports(conditions.ports, query):
        yield reason
    if reason := _proto_and_hook(conditions, query):
        yield reason
    if reason := _place(conditions, query):
        yield reason
    if reason := _default_link(conditions, query):
        yield reason
    if (
        now is not None
        and conditions.times
        and (reason := _times(conditions.times, minute_of_week(now, zone)))
    ):
        yield reason
    if isinstance(rule, Entry) and (reason := _ended(rule, query, now)):
        yield reason


def host_matches(host: Host, daddr: bytes, names: tuple[str, ...] = ()) -> bool:
    """Whether `host=` covers a packed destination address that was looked up by these names."""
    if isinstance(host, Name):
        return host.name in names
    if isinstance(host, Domain):
        return any(name.endswith(f".{host.name}") for name in names)
    daddr = plain(daddr)
    if isinstance(host, Address):
        return host.packed == daddr
    if isinstance(host, Network):
        if len(host.packed) != len(daddr):
            return False
        shift = 8 * len(daddr) - host.prefixlen
        return int.from_bytes(host.packed) >> shift == int.from_bytes(daddr) >> shift
    return scope_of(daddr) is host


def _app(rule: Rule, query: Query) -> str | None:
    if not query.app and (rule.app or rule.parent):
        named = "app" if rule.app else "parent"
        return f"it names the {named} {quote(rule.app or rule.parent)}, the flow has no owner"
    if rule.app and rule.app != query.app:
        return f"its app is {quote(rule.app)}, not {quote(query.app)}"
    if rule.parent and rule.parent not in query.parents:
        return f"its parent {quote(rule.parent)} is none of the program's ancestors"
    return None


def _user(user: str, query: Query) -> str | None:
    if not user:
        return None
    if user.startswith("@"):
        return _group(user[1:], query)
    # A name that is all digits can only be meant by uid, or two users would share a rule.
    if is_number(user):
        if query.uid is not None and str(query.uid) == user:
            return None
    elif user == query.user:
        return None
    given = "unknown"
    if query.user or query.uid is not None:
        given = quote(query.user or str(query.uid))
    return f"its user is {quote(user)}, the process's is {given}"


def _group(group: str, query: Query) -> str | None:
    known = map(str, query.gids) if is_number(group) else query.groups
    if group in known:
        return None
    who = query.user or (str(query.uid) if query.uid is not None else "")
    whose = f"the user {quote(who)} is not in it" if who else "whose process it is, nobody knows"
    return f"it is for group {quote(group)}, and {whose}"


def _host(host: Host | None, query: Query) -> str | None:
    if host is None or host_matches(host, query.daddr, query.names):
        return None
    destination = address_text(plain(query.daddr))
    if isinstance(host, Name | Domain):
        names = ", ".join(quote(shown_name(name)) for name in query.names[:_NAMED])
        more = len(query.names) - _NAMED
        names += f" and {more} more" if more > 0 else ""
        known = f"was looked up as {names}" if names else "was not looked up by any name"
        return f"its host is {shown_host(host)}, {destination} {known}"
    return f"its host is {format_host(host)}, the destination {destination}"


def _ports(ports: tuple[tuple[int, int], ...], query: Query) -> str | None:
    if not ports:
        return None
    if query.proto not in PORT_PROTOS:
        return f"it names ports, {proto_name(query.proto)} has none"
    if any(low <= query.dport <= high for low, high in ports):
        return None
    return f"its port is {format_ports(ports)}, not {query.dport}"


def _proto_and_hook(rule: Rule, query: Query) -> str | None:
    if rule.proto is not None and rule.proto != query.proto:
        return f"its protocol is {proto_name(rule.proto)}, not {proto_name(query.proto)}"
    if rule.hook is not None and rule.hook is not query.hook:
        return f"its hook is {rule.hook.value}, not {query.hook.value}"
    return None


def _place(rule: Rule, query: Query) -> str | None:
    if rule.profile and rule.profile != query.profile:
        active = f"profile {query.profile} is" if query.profile else "no profile is"
        return f"it is of profile {rule.profile}, and {active} active"
    if rule.network and rule.network not in query.networks:
        return f"this machine is not on network {quote(rule.network)}"
    if rule.sim and rule.sim not in query.sims:
        return f"the SIM {rule.sim} is not in use"
    return None


def _default_link(rule: Rule, query: Query) -> str | None:
    """What is not known is neither yes nor no."""
    if rule.roaming is not None and rule.roaming is not query.roaming:
        if query.roaming is None:
            return "nobody knows whether the link it would leave over is roaming"
        return f"the link it would leave over is {'' if query.roaming else 'not '}roaming"
    if rule.metered is not None and rule.metered is not query.metered:
        if query.metered is None:
            return "nobody knows whether the link it would leave over is metered"
        return f"it would {'' if query.metered else 'not '}leave over a metered link"
    return None


def _times(times: Times, minute: int) -> str | None:
    if holds(times, minute):
        return None
    return f"it holds {format_times(times)}, and here it is {shown_minute(minute)}"


def _ended(entry: Entry, query: Query, now: float | None) -> str | None:
    if entry.process is not None and entry.process not in query.processes:
        return f"it was made for process {entry.process[0]}, which does not hold this socket"
    if now is not None and entry.expires is not None and entry.expires <= now:
        return f"it expired {now - entry.expires:.0f} s ago"
    return None


# --- why it wins ----------------------------------------------------------------------------


def why(winner: Entry, beaten: Entry | None) -> str:
    """One sentence: the winner, its provenance, and what decided against the best one beaten."""
    if beaten is None:
        return f"{described(winner)} is the only rule that matches"
    return f"{described(winner)} wins over {described(beaten)}: {_difference(winner, beaten)}"


def described(entry: Entry) -> str:
    """`rule 7 (remembered rules, by alice, terminal)`."""
    parts = [_LAYERS[entry.layer], f"by {quote(entry.by)}"]
    if entry.frontend:
        parts.append(quote(entry.frontend))
    return f"{entry.called} ({', '.join(parts)})"


_APPS = ("the app and a parent", "the app", "a parent", "no app")
_USERS = ("the user", "a group", "no user")
_FLAGS = {4: "protocol", 6: "hook"}


def _difference(winner: Entry, beaten: Entry) -> str:
    ours, theirs = specificity(winner), specificity(beaten)
    for place, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if our != their:
            return _specific(place, our, their, winner, beaten)
    if rank(winner)[1] != rank(beaten)[1]:
        one, other = winner.rule.decision.action.value, beaten.rule.decision.action.value
        return f"they are equally specific, and {one} wins over {other}"
    if winner.created != beaten.created:
        return "they are equally specific, and it is newer"
    return "they are equally specific and of the same time, and its number is higher"


def _specific(place: int, our: int, their: int, winner: Entry, beaten: Entry) -> str:
    if place == 0:
        return f"{_LAYERS[winner.layer]} come before {_LAYERS[beaten.layer]}"
    if place == 1:
        return f"it names {_APPS[our]}, the other {_APPS[their]}"
    if place == 2:
        return f"it names {_host_words(our, winner)}, the other {_host_words(their, beaten)}"
    if place == 3:
        return f"it names {_port_words(our)}, the other {_port_words(their)}"
    if place == 5:
        return f"it names {_USERS[our]}, the other {_USERS[their]}"
    if place == 7:
        return f"it names {_context_words(our)} of context, the other {_count(their)}"
    named = (our, their) == (NOT_SET - 1, NOT_SET)
    assert named, "the winner has the smaller rank"
    return f"it names the {_FLAGS[place]}, the other does not"


def _context_words(value: int) -> str:
    return f"{_count(value)} condition{'' if value == NO_CONTEXT - 1 else 's'}"


def _count(context: int) -> str:
    return ("none", "one", "two", "three", "four", "five", "six")[NO_CONTEXT - context]


def _host_words(value: int, entry: Entry) -> str:
    if value == NO_HOST:
        return "no host"
    if value == HOST_FAMILY:
        return "only an address family"
    if value == HOST_SCOPE:
        return "a scope"
    host = entry.rule.host
    if isinstance(host, Network):
        return f"a network of /{host.prefixlen}"
    if isinstance(host, Domain):
        return f"the domain {shown_host(host)}"
    return "a name" if isinstance(host, Name) else "one address"


def _port_words(value: int) -> str:
    if value == NO_PORT:
        return "no port"
    return "one port" if value == ONE_PORT else f"{value} ports"
