"""What is odd about one rule by itself: it can never match, or it lets everything go. Pure."""

from __future__ import annotations

from arbiter.model import Action, AppKind, Hook
from arbiter.rules.rule import Address, Domain, Network, Rule
from arbiter.rules.words import quote

_KINDS = tuple(kind.value for kind in AppKind if kind is not AppKind.PATH)
_ICMP, _ICMPV6 = 1, 58


def never_matches(rule: Rule) -> str:
    """Why no connection can ever match, with the next step; "" if one can."""
    return (
        _app("app", rule.app)
        or _app("parent", rule.parent)
        or _family(rule)
        or _hook(rule.hook)
        or _network(rule.network)
    )


def over_broad(rule: Rule) -> str:
    """Why a rule says more than people mean: it has no condition, or a whole top-level domain.

    "" for others.
    """
    bare = Rule(rule.decision, lifetime=rule.lifetime)
    if isinstance(rule.host, Domain) and "." not in rule.host.name:
        return f"host=*.{rule.host.name} is every name below a top-level domain, whoever owns it"
    if rule != bare:
        return ""
    words = {Action.ALLOW: "allows", Action.DENY: "denies", Action.ROUTE: "routes"}
    does = words[rule.decision.action]
    return f"it {does} every connection of every program that no other rule names"


def _app(key: str, id: str) -> str:
    kind, colon, rest = id.partition(":")
    if not id or (id.startswith("/") and "," not in id):
        return ""
    if id.startswith("/"):
        return f"{key}={quote(id)} is one path with a comma in it; write one rule a program"
    if colon and kind in _KINDS:
        return _form(key, kind, rest)
    forms = ", ".join(f"{kind}:" for kind in _KINDS)
    return f"{key}={quote(id)} is no app: give a whole path (/usr/bin/{id[:20]}), or {forms}..."


def _form(key: str, kind: str, rest: str) -> str:
    needs = {
        AppKind.SCRIPT.value: ("/INTERPRETER:/SCRIPT", rest.startswith("/") and ":" in rest),
        AppKind.UNIT.value: ("NAME.service", "." in rest),
        AppKind.APPIMAGE.value: ("/FILE", rest.startswith("/")),
    }
    form, good = needs.get(kind, ("NAME", bool(rest)))
    return "" if good else f"{key}={kind}: needs {kind}:{form}; `arbiter pending --json` shows ids"


def _family(rule: Rule) -> str:
    if not isinstance(rule.host, Address | Network) or rule.proto not in (_ICMP, _ICMPV6):
        return ""
    four = len(rule.host.packed) == 4
    if four == (rule.proto == _ICMP):
        return ""
    right = "icmp" if four else "icmpv6"
    return f"that host's family has another protocol for this: write proto={right}"


def _hook(hook: Hook | None) -> str:
    if hook in (None, Hook.OUT):
        return ""
    return f"hook={hook}: only outgoing connections are decided in this version"


def _network(network: str) -> str:
    """Multicast addresses pass: clusters of routers have them, whatever RFC 1812 3.3.2 says."""
    if network not in ("gateway:00:00:00:00:00:00", "gateway:ff:ff:ff:ff:ff:ff"):
        return ""
    return f"network={network}: no gateway has that MAC address; `ip neigh` shows the right one"
