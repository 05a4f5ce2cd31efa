"""Looking advice up, and the rules that policy files put in force."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from arbiter.model import PORT_PROTOS, PROTO_NAMES
from arbiter.policyfiles import hosts
from arbiter.policyfiles.values import Advice, PolicyFile
from arbiter.rules import Entry, Layer, Rule, RuleError, format_decision, parse
from arbiter.rules.line import format_ports
from arbiter.rules.rank import NO_PORT
from arbiter.rules.words import quote

_Rank = tuple[tuple[int, int], int, bool]
_Key = tuple[_Rank, bool, str, int]


class AdviceBook:
    """The advice of all files, found by app: what others ship costs a look-up nothing."""

    def __init__(self, files: Iterable[PolicyFile] = ()) -> None:
        found: defaultdict[str, list[tuple[_Key, Advice]]] = defaultdict(list)
        for file in files:
            for advice in file.advice:
                # An administrator's advice before a package's, where both are as specific.
                key = (_rank(advice), file.shipped, advice.origin, advice.line)
                found[advice.app].append((key, advice))
        self._apps = {
            app: tuple(advice for _, advice in sorted(pairs, key=lambda pair: pair[0]))
            for app, pairs in found.items()
        }

    def advice_for(
        self, app: str, names: Collection[str], address: bytes, port: int, proto: int
    ) -> Advice | None:
        """The most specific advice on a connection, or None.

        `app` is its id, `names` the canonical names that it looked `address` (packed) up by;
        `port` counts for protocols that have ports.
        """
        for advice in self._apps.get(app, ()):
            if (
                (advice.proto is None or advice.proto == proto)
                and (not advice.ports or _port_in(advice.ports, port, proto))
                and hosts.meets(advice.host, names, address)
            ):
                return advice
        return None


def _rank(advice: Advice) -> _Rank:
    """As arbiter.rules.rank compares rules of one app: host, ports, protocol."""
    width = sum(high - low + 1 for low, high in advice.ports) or NO_PORT
    return hosts.rank(advice.host), width, advice.proto is None


def _port_in(ports: Iterable[tuple[int, int]], port: int, proto: int) -> bool:
    return proto in PORT_PROTOS and any(low <= port <= high for low, high in ports)


# --- rules in force -------------------------------------------------------------------------


def entries(
    files: Iterable[PolicyFile], *, decide: bool = False
) -> tuple[tuple[Entry, ...], tuple[Advice, ...]]:
    """The entries that files put in force, and suggestions that no rule can say.

    Administrators' rules are layer 1. Packages' suggestions are layer 3: those of the apps that
    some administrator's file adopts, with `decide` those of all. Ids are negative: the store's
    are positive. They hold until the files are read again.
    """
    files = tuple(files)
    adopted = {app for file in files if not file.shipped for app in file.adopt}
    made: list[Entry] = []
    unsaid: list[Advice] = []

    def enter(rule: Rule, layer: Layer, origin: str, line: int) -> None:
        made.append(Entry(-1 - len(made), rule, layer, 0.0, f"file:{origin}:{line}"))

    for file in files:
        for rule in file.rules:
            enter(rule.rule, Layer.ADMIN, file.origin, rule.line)
        for advice in file.advice:
            if advice.suggest is None or not (decide or advice.app in adopted):
                continue
            rule_said = as_rule(advice)
            if rule_said is None:
                unsaid.append(advice)
            else:
                enter(rule_said, Layer.SHIPPED, file.origin, advice.line)
    return tuple(made), tuple(unsaid)


def as_rule(advice: Advice) -> Rule | None:
    """The rule that a suggestion is; None if there is none, or the language cannot say it."""
    if advice.suggest is None:
        return None
    words = [format_decision(advice.suggest), f"app={quote(advice.app)}"]
    if advice.host is not None:
        words.append(f"host={hosts.text_of(advice.host)}")
    if advice.ports:
        words.append(f"port={format_ports(advice.ports)}")
    if advice.proto is not None:
        words.append(f"proto={PROTO_NAMES.get(advice.proto) or advice.proto}")
    try:
        return parse(" ".join(words))
    except RuleError:
        return None  # a name, until rules take names: it stays advice, which asks
