"""What is odd about one rule by itself: it can never match, or it lets everything go. Pure."""

from __future__ import annotations

import posixpath

from arbiter.model import Action, AppKind, Hook
from arbiter.rules.relate import scope_around
from arbiter.rules.rule import Address, Domain, Network, Rule, ScopeName
from arbiter.rules.words import quote, shown

_KINDS = tuple(kind.value for kind in AppKind if kind is not AppKind.PATH)
_ICMP, _ICMPV6 = 1, 58
_LONGEST = 4095
"""Bytes of the longest path (PATH_MAX of linux/limits.h, without the final NUL)."""
_LONGEST_ID = 1 << 17
"""Bytes of the longest word that a program is started with (MAX_ARG_STRLEN, linux/binfmts.h)."""

_PASSES = {
    ScopeName.LOOPBACK: "what stays on this machine always passes",
    ScopeName.MULTICAST: "what is sent to many at once always passes",
}
"""The scopes that the ruleset asks nobody about."""


def never_matches(rule: Rule) -> str:
    """Why no connection can ever match, with the next step; "" if one can."""
    return (
        _app("app", rule.app)
        or _app("parent", rule.parent)
        or _family(rule)
        or _hook(rule.hook)
        or _network(rule.network)
    )


def never_decided(rule: Rule) -> str:
    """Why arbiter decides no connection that the rule is about; "" if it decides some.

    Not a fault: other firewalls' rules say such things, too, and no harm comes of them.
    """
    host = rule.host
    scope = scope_around(host) if isinstance(host, Address | Network) else host
    passes = _PASSES.get(scope) if isinstance(scope, ScopeName) else None
    return f"it decides nothing: {passes}, whatever the rules say" if passes else ""


def over_broad(rule: Rule) -> str:
    """Why a rule says more than people mean: it has no condition, or none that says anything, or
    a whole top-level domain.

    "" for others.
    """
    if isinstance(rule.host, Domain) and "." not in rule.host.name:
        return f"host=*.{rule.host.name} is every name below a top-level domain, whoever owns it"
    every = isinstance(rule.host, Network) and rule.host.prefixlen == 0
    if rule != Rule(rule.decision, host=rule.host if every else None, lifetime=rule.lifetime):
        return ""
    family = ""
    if isinstance(rule.host, Network):
        family = "IPv4 " if len(rule.host.packed) == 4 else "IPv6 "
    words = {Action.ALLOW: "allows", Action.DENY: "denies", Action.ROUTE: "routes"}
    does = words[rule.decision.action]
    return f"it {does} every {family}connection of every program that no other rule names"


def _app(key: str, id: str) -> str:
    kind, colon, rest = id.partition(":")
    if not id:
        return ""
    if id.startswith("/") and "," in id:
        return f"{key}={quote(shown(id))} is one path with a comma in it; write one rule a program"
    if id.startswith("/"):
        return _path(key, "", id)
    if colon and kind in _KINDS:
        return _form(key, kind, rest) or _long(key, kind, rest)
    forms = ", ".join(f"{kind}:" for kind in _KINDS)
    if id.startswith("~"):
        path = f"~ is not expanded: give the whole path (/home/NAME/{quote(id[2:22])})"
    elif "/" in id:
        path = "give a whole path, which begins with /"
    else:
        path = f"give a whole path (/usr/bin/{quote(id[:20])})"
    return f"{key}={quote(shown(id))} is no app: {path}, or {forms}..."


def _path(key: str, prefix: str, path: str) -> str:
    """The kernel names an executable by its shortest path (d_path), and no longer than that."""
    if _size(path) > _LONGEST:
        return f"{key}={quote(shown(path))} is too long: a path has at most {_LONGEST} bytes"
    if path.endswith("/"):
        return f"{key}={quote(shown(path))} is a folder: give the path of a program"
    short = "/" + posixpath.normpath(path).lstrip("/")
    if short != path:
        right = f"{key}={quote(prefix + short)}"
        return f"{quote(shown(path))} is not how a program's path is spelt: write {right}"
    return ""


def _long(key: str, kind: str, rest: str) -> str:
    if kind == AppKind.APPIMAGE.value:
        return _path(key, f"{kind}:", rest)
    script = rest.partition(":")[2]
    if kind == AppKind.SCRIPT.value and script.startswith("/") and ":" not in script:
        return _path(key, f"{kind}:{rest.partition(':')[0]}:", script)
    most = _LONGEST_ID if kind == AppKind.SCRIPT.value else 3 * _LONGEST
    long = _size(rest) > most
    return f"{key}={quote(shown(rest))} is too long: it has at most {most} bytes" if long else ""


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


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
