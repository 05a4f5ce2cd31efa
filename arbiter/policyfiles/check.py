"""What `arbiter rules check` tells of a policy file: faults, and what only looks wrong. Pure.

Faults refuse the file. Warnings do not: they are for the packager, before anybody else sees them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from arbiter.model import ANY_LINK, Action
from arbiter.policyfiles import hosts
from arbiter.policyfiles.advice import entries
from arbiter.policyfiles.hosts import Name
from arbiter.policyfiles.values import Advice, PolicyFile, PolicyFileError, Relevance
from arbiter.rules import Entry, FindingKind, Here, check, conditions, dead, over_broad
from arbiter.tomlfile import shown

_KINDS_OF_LINKS = frozenset({"metered", "unmetered", ANY_LINK})


class Level(enum.StrEnum):
    """Whether the file is refused."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    """Nothing to mend."""


class Kind(enum.StrEnum):
    """What a finding is about; stable, for programs."""

    INVALID = "invalid"
    UNSAFE = "unsafe"
    OVER_BROAD = "over-broad"
    UNKNOWN_APP = "unknown-app"
    OTHER_NAME = "other-name"
    DUPLICATE = "duplicate"
    CONTRADICTION = "contradiction"
    REDUNDANT = "redundant"
    SHADOWED = "shadowed"
    DEAD = "dead"
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
    """Warnings on a file by itself, by line. `found`: the facts on each of `paths_of`."""
    findings = [*_rules(file, found), *_advice(file, found)]
    return sorted(findings, key=lambda finding: finding.line)


# --- rules ----------------------------------------------------------------------------------


def _rules(file: PolicyFile, found: Mapping[str, AppFacts]) -> Iterator[Finding]:
    for one in file.rules:
        if broad := over_broad(one.rule):
            yield _warning(file, one.line, Kind.OVER_BROAD, broad)
        for app in dict.fromkeys((one.rule.app, one.rule.parent)):
            if app in found:
                yield from _app(file, one.line, app, found[app])


_BESIDE = {
    FindingKind.REDUNDANT: Kind.REDUNDANT,
    FindingKind.CONTRADICTING: Kind.CONTRADICTION,
    FindingKind.SHADOWED: Kind.SHADOWED,
}
"""What is said of rules beside each other; the rest is said of each file by itself."""


def beside(files: Iterable[PolicyFile]) -> list[Finding]:
    """Warnings on the rules of all these files beside each other, as if all were in force."""
    found = []
    for odd in check(entries(files)[0]):
        if odd.other is None or odd.kind not in _BESIDE:
            continue
        kind = _BESIDE[odd.kind]
        if kind is Kind.REDUNDANT and conditions(odd.entry.rule) == conditions(odd.other.rule):
            kind = Kind.DUPLICATE
        found.append(_about(odd.entry, kind, odd.text))
    return sorted(found, key=lambda finding: (finding.file, finding.line))


def missing(files: Iterable[PolicyFile], here: Here) -> list[Finding]:
    """Warnings on what the rules of these files name, and one machine has not."""
    return [_about(odd.entry, Kind.DEAD, odd.text) for odd in dead(entries(files)[0], here)]


def _about(entry: Entry, kind: Kind, text: str) -> Finding:
    origin, _, line = entry.by.removeprefix("file:").rpartition(":")
    return Finding(origin, int(line), Level.WARNING, kind, text)


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
