"""What `arbiter rules check` tells of a policy file: faults, and what only looks wrong. Pure.

Faults refuse the file. Warnings do not: they are for the packager, before anybody else sees them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from arbiter.model import ANY_LINK, DENY, Action
from arbiter.policyfiles import hosts
from arbiter.policyfiles.hosts import Name
from arbiter.policyfiles.values import Advice, FileRule, PolicyFile, PolicyFileError, Relevance
from arbiter.rules import Rule, conditions, over_broad
from arbiter.tomlfile import shown

_KINDS_OF_LINKS = frozenset({"metered", "unmetered", ANY_LINK})


class Level(enum.StrEnum):
    """Whether the file is refused."""

    ERROR = "error"
    WARNING = "warning"


class Kind(enum.StrEnum):
    """What a finding is about; stable, for programs."""

    INVALID = "invalid"
    UNSAFE = "unsafe"
    OVER_BROAD = "over-broad"
    UNKNOWN_APP = "unknown-app"
    OTHER_NAME = "other-name"
    DUPLICATE = "duplicate"
    CONTRADICTION = "contradiction"
    NAMED_LINK = "named-link"
    NO_CONSEQUENCE = "no-consequence"
    NO_CONNECTION = "no-connection"


class Finding(Struct, frozen=True):
    """One thing to mend or to think about, and where."""

    file: str
    line: int
    """From 1; 0 is the whole file."""
    level: Level
    kind: Kind
    text: str


class AppFacts(Struct, frozen=True):
    """What was found on disk at the path of an app."""

    exists: bool = True
    resolved: str = ""
    """Its path without symbolic links; "" if that is not known."""
    script: bool = False
    """It begins with `#!`: the kernel starts an interpreter in its place."""


def of_errors(errors: Iterable[PolicyFileError], kind: Kind = Kind.INVALID) -> list[Finding]:
    """Faults as findings."""
    return [Finding(e.origin, e.line, Level.ERROR, kind, e.text) for e in errors]


def paths_of(file: PolicyFile) -> frozenset[str]:
    """The executables that a file speaks of, to be looked at on disk."""
    apps = {path for rule in file.rules for path in (rule.rule.app, rule.rule.parent)}
    if file.application is not None:
        apps.add(file.application.path)
    # A stable path (identity.stable_path) with a "*" is many files: none of them need be there.
    return frozenset(app for app in apps if app.startswith("/") and "*" not in app)


def of_file(file: PolicyFile, found: Mapping[str, AppFacts]) -> list[Finding]:
    """Warnings on a file that can be used, by line. `found`: the facts on each of `paths_of`."""
    findings = [*_rules(file, found), *_advice(file, found)]
    return sorted(findings, key=lambda finding: finding.line)


# --- rules ----------------------------------------------------------------------------------


def _rules(file: PolicyFile, found: Mapping[str, AppFacts]) -> Iterator[Finding]:
    seen: dict[Rule, FileRule] = {}
    for one in file.rules:
        if broad := over_broad(one.rule):
            yield _warning(file, one.line, Kind.OVER_BROAD, broad)
        for app in dict.fromkeys((one.rule.app, one.rule.parent)):
            if app in found:
                yield from _app(file, one.line, app, found[app])
        bare = one.rule.replace(decision=DENY)
        other = seen.setdefault(bare, one)
        if other is one:
            continue
        about = conditions(one.rule) or "every connection"
        if other.rule == one.rule:
            text = f"line {other.line} is the same rule"
            yield _warning(file, one.line, Kind.DUPLICATE, text)
        else:
            text = f"line {other.line} decides otherwise about the same: {shown(about)}"
            yield _warning(file, one.line, Kind.CONTRADICTION, text)


# --- advice ---------------------------------------------------------------------------------


def _advice(file: PolicyFile, found: Mapping[str, AppFacts]) -> Iterator[Finding]:
    if file.application is None:
        return
    path = file.application.path
    if path in found:
        yield from _app(file, file.application.line, path, found[path])
    if not file.advice:
        yield _warning(
            file, 0, Kind.NO_CONNECTION, "there is no [[connection]]: the file says nothing"
        )
    seen: dict[tuple[object, ...], Advice] = {}
    for advice in file.advice:
        if broad := _broad(advice):
            yield _warning(file, advice.line, Kind.OVER_BROAD, broad)
        other = seen.setdefault((advice.host, advice.ports, advice.proto), advice)
        if other is not advice:
            where = hosts.text_of(advice.host)
            text = f"line {other.line} is about the same connections to {where}, and counts"
            yield _warning(file, advice.line, Kind.DUPLICATE, text)
    yield from _connections(file)


def _connections(file: PolicyFile) -> Iterator[Finding]:
    """What is to be said once a [[connection]], however many destinations it has."""
    for advice in {advice.line: advice for advice in file.advice}.values():
        if advice.relevance is Relevance.ESSENTIAL and not advice.if_denied:
            text = "it is essential: say in if_denied what does not work without it"
            yield _warning(file, advice.line, Kind.NO_CONSEQUENCE, text)
        named = [link for link in _via(advice) if link not in _KINDS_OF_LINKS]
        if file.shipped and named:
            text = (
                f"no package knows what links are called on other machines ({', '.join(named)}): "
                "use unmetered, metered and any"
            )
            yield _warning(file, advice.line, Kind.NAMED_LINK, text)


def _via(advice: Advice) -> tuple[str, ...]:
    return advice.suggest.via if advice.suggest is not None else ()


def _broad(advice: Advice) -> str:
    host = advice.host
    allows = advice.suggest is not None and advice.suggest.action is not Action.DENY
    if isinstance(host, Name) and host.below and "." not in host.name:
        return f"*.{host.name} is a whole top-level domain: name the domains that are meant"
    if host is None and not advice.ports:
        what = "suggests to let it go anywhere" if allows else "is about every destination"
        return f'host = "*" without a port {what}: say less'
    if host is None and allows:
        return 'host = "*" suggests to let it go anywhere on these ports: name hosts if you can'
    return ""


# --- apps -----------------------------------------------------------------------------------


def _app(file: PolicyFile, line: int, app: str, facts: AppFacts) -> Iterator[Finding]:
    if not facts.exists:
        text = f"{shown(app)} is not there: is it spelt right, and where the package puts it?"
        yield _warning(file, line, Kind.UNKNOWN_APP, text)
    elif facts.resolved not in ("", app):
        text = f"{shown(app)} is a link: its processes are known as {shown(facts.resolved)}"
        yield _warning(file, line, Kind.OTHER_NAME, f"{text}, and this never matches")
    elif facts.script:
        text = f"{shown(app)} is a script: its processes are known by their interpreter, as"
        yield _warning(file, line, Kind.OTHER_NAME, f"{text} script:INTERPRETER:{shown(app)}")


def _warning(file: PolicyFile, line: int, kind: Kind, text: str) -> Finding:
    return Finding(file.origin, line, Level.WARNING, kind, text)
