"""Which rules `arbiter audit replay` asks: those of files in the place of a layer, and others."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import click
from msgspec import structs

from arbiter.cases import ASK
from arbiter.cli.common import fail
from arbiter.cli.explainask import Rules
from arbiter.cli.importwords import passed_over, show_remarks
from arbiter.cli.rulesfiles import UnreadableError, read_sources
from arbiter.exchange import read, settle
from arbiter.model import ALLOW
from arbiter.policyfiles import PolicyFile, PolicyFileError, load
from arbiter.policyfiles import entries as of_files
from arbiter.policystate import policy_files, read_text
from arbiter.protocol import clean
from arbiter.questions import Otherwise
from arbiter.rules import Entry, Layer, conditions, format_decision

_FIRST = -1_000_000_001
"""Ids of rules from files count down from here: those of this machine's files begin at -1."""
POLICY_FOLDER = "policy.d"


class Others(NamedTuple):
    """Which rules of this machine count beside those of the files."""

    current: bool
    """Those of the same layer, too."""
    alone: bool
    """None at all."""


class Tried(NamedTuple):
    """The rules to be asked."""

    entries: tuple[Entry, ...]
    given: frozenset[int]
    """Ids of those of the files; of all, where no file was given."""
    layer: Layer
    """In which the files stand."""


def layer_of(word: str, paths: Iterable[Path]) -> Layer:
    """`remembered` or `admin`; auto is admin for what lies in a folder called policy.d."""
    folders = {part for path in paths for part in (path.name, path.absolute().parent.name)}
    if word == "admin" or (word == "auto" and POLICY_FOLDER in folders):
        return Layer.ADMIN
    return Layer.REMEMBERED


def tried(rules: Rules, paths: tuple[Path, ...], layer: Layer, others: Others) -> Tried:
    """What is asked. Ends the program where a file, or one of its rules, cannot be read."""
    if not paths:
        return Tried(tuple(rules.entries), frozenset(e.id for e in rules.entries), layer)
    made = _policies(paths) if layer is Layer.ADMIN else _lines(paths)
    given = [structs.replace(entry, id=_FIRST - n) for n, entry in enumerate(made)]
    said = {(entry.layer, conditions(entry.rule)) for entry in given}
    kept = [
        entry
        for entry in (() if others.alone else rules.entries)
        if (entry.layer is not layer or others.current)
        # As an import does: what has the same conditions is replaced.
        and (entry.layer, conditions(entry.rule)) not in said
    ]
    return Tried((*given, *kept), frozenset(entry.id for entry in given), layer)


def _lines(paths: tuple[Path, ...]) -> list[Entry]:
    now = time.time()
    try:
        sources, passed = read_sources(paths)
    except UnreadableError as error:
        fail(clean(str(error)))
    batch = settle(read(sources), now=now)
    show_remarks([*batch.remarks, *passed_over(passed)])
    if cannot := batch.cannot():
        many = f"{len(cannot)} rule{'s' * (len(cannot) != 1)}"
        hint = f"; a policy file stands in --layer admin ({POLICY_FOLDER})"
        fail(f"nothing was replayed: {many} cannot be read (listed as `cannot`){hint}")
    return [
        Entry(
            -1 - number,
            item.rule,
            Layer.REMEMBERED,
            now,
            f"file:{item.place}",
            expires=_expiry(item.rule.lifetime.seconds, item.expires, now),
        )
        for number, item in enumerate(batch.items)
    ]


def _expiry(seconds: int, expires: float | None, now: float) -> float | None:
    return now + seconds if seconds and expires is None else expires


def _policies(paths: tuple[Path, ...]) -> list[Entry]:
    """The rules of administrators' files, and what packages' files suggest, as if adopted."""
    files: list[PolicyFile] = []
    try:
        for path in paths:
            named = policy_files(path) if path.is_dir() else [path]
            if not named:
                fail(f"{clean(str(path))} holds no policy file: their names end in .toml")
            files += [load(read_text(one), str(one)) for one in named]
    except PolicyFileError as error:
        fail(clean(str(error)))
    found, unsaid = of_files(files, decide=True)
    for advice in unsaid:
        place = f"{advice.origin}:{advice.line}"
        click.echo(clean(f"arbiter: note: {place}: no rule can say this advice"), err=True)
    return list(found)


def undecided(other: Otherwise | None) -> str:
    """What happens without a rule: ASK, or what the mode does at once."""
    if other is None or other.deadline:
        return ASK
    return "allow" if other.decision == ALLOW else format_decision(other.decision)
