"""`arbiter rules check` without files: what is odd about the rules that are in force."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
from msgspec import Struct

from arbiter.cli.common import show_json
from arbiter.cli.rulesmachine import Machine
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.cli.ruleswords import when
from arbiter.policyfiles import entries as of_files
from arbiter.policyfiles.check import Level
from arbiter.policystate import read_policies
from arbiter.protocol import clean
from arbiter.rules import Entry, Finding, FindingKind, Uses, dead, unused
from arbiter.rules import check as odd
from arbiter.rules.stale import DAY

MANY = 5000
"""Rules from which on a terminal shows how far the check is."""


class Shown(Struct, frozen=True):
    """A finding as --json shows it."""

    kind: FindingKind
    level: Level
    rule: int | None
    """Its id; None for one of a policy file."""
    place: str | None
    """FILE:LINE of one of a policy file."""
    other: int | None
    """The id of the rule that it is odd beside; None where there is none, or it is of a file."""
    other_place: str | None
    removable: bool
    """Without it, the same would be decided."""
    last_used: float | None
    """For kind unused: epoch seconds."""
    text: str


class Looked(Struct, frozen=True):
    """What was found about the rules in force."""

    rules: tuple[Entry, ...]
    findings: tuple[Finding, ...]
    uses: Uses
    faults: tuple[str, ...]
    """What could not be read."""
    problem: str
    """Why nothing is said of links; "" where it is."""


def look(db: Path, config: Path, state: Path, days: int) -> Looked:
    """What is odd about the rules in force; unused are those that decided nothing for so long."""
    now = time.time()
    with open_store(db, readonly=True) as store:
        remembered = store.rules(now, boot_id(), None)
        faults = list(store.unreadable)
        uses = store.uses((entry.id for entry in remembered), now - days * DAY, now)
        profiles = store.profiles.names()
    files, errors = read_policies(config / "policy.d")
    faults += [clean(str(error)) for error in errors]
    rules = (*remembered, *of_files(files)[0])
    machine = Machine(config, state, db)
    with _progress(len(rules)) as looked:
        findings = odd(rules, now, looked)
    findings += unused(remembered, uses, days, now)
    findings += dead(rules, machine.here(profiles))
    return Looked(rules, tuple(findings), uses, tuple(faults), clean(machine.problem))


def check_rules(
    db: Path, config: Path, state: Path, days: int, as_json: bool
) -> tuple[int, Sequence[str]]:
    """Show it; gives how many warnings there are, and what could not be read.

    A finding is advice: nothing is changed.
    """
    found = look(db, config, state, days)
    shown = [_shown(finding, found.uses) for finding in found.findings] + _expired(found.uses)
    if found.problem:
        click.echo(f"arbiter: note: {found.problem}", err=True)
    if as_json:
        show_json(shown)
    else:
        for one in shown:
            click.echo(clean(f"{one.text} [{one.kind}]"))
        click.echo(_summary(len(found.rules), shown))
    return sum(one.level is Level.WARNING for one in shown), found.faults


def _shown(finding: Finding, uses: Uses) -> Shown:
    rule, place = _named(finding.entry)
    other, other_place = _named(finding.other)
    unused_one = finding.kind is FindingKind.UNUSED and rule is not None
    return Shown(
        kind=finding.kind,
        level=Level.WARNING,
        rule=rule,
        place=place,
        other=other,
        other_place=other_place,
        removable=finding.removable,
        last_used=uses.last.get(rule) if unused_one and rule is not None else None,
        text=finding.text,
    )


def _named(entry: Entry | None) -> tuple[int | None, str | None]:
    if entry is None:
        return None, None
    return (entry.id, None) if entry.id > 0 else (None, clean(entry.by.removeprefix("file:")))


def _expired(uses: Uses) -> list[Shown]:
    """What ended by itself is no fault: it is listed, for whoever misses it."""
    return [
        Shown(
            kind=FindingKind.EXPIRED,
            level=Level.NOTE,
            rule=id,
            place=None,
            other=None,
            other_place=None,
            removable=True,
            last_used=None,
            text=clean(f"rule {id} ({line}) expired {when(expires)}"),
        )
        for id, line, expires in uses.expired
    ]


def _summary(count: int, shown: Sequence[Shown]) -> str:
    expired = sum(one.level is Level.NOTE for one in shown)
    found = len(shown) - expired
    text = f"{count} rule{'s' * (count != 1)}, {found} finding{'s' * (found != 1)}"
    return f"{text}, {expired} expired" if expired else text


@contextlib.contextmanager
def _progress(count: int) -> Iterator[Callable[[], object]]:
    """What to call after each of `count` rules: a terminal shows it, where they are many."""
    if count < MANY or sys.stderr is None or not sys.stderr.isatty():
        yield lambda: None
        return
    with click.progressbar(
        length=count, label="checking rules", file=sys.stderr, update_min_steps=count // 100
    ) as bar:
        yield lambda: bar.update(1)
