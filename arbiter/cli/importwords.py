"""What `arbiter rules import` and `restore` say: remarks, and what becomes of each rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click
from msgspec import Struct

from arbiter import protocol
from arbiter.cli.profilewords import unknown_profile
from arbiter.cli.rulestore import open_store, unknown_user
from arbiter.exchange import Batch, Item, Remark, RemarkKind
from arbiter.rules import Entry, format_rule, never_decided, over_broad
from arbiter.store import Planned

MOST_SHOWN = 50
"""Remarks of one kind that are printed; --json has all."""

# --- remarks --------------------------------------------------------------------------------


def passed_over(names: Sequence[str]) -> Iterable[Remark]:
    """Remarks on files of a directory that were not read."""
    for name in names:
        yield Remark(RemarkKind.LEFT_OUT, name, "its name is not that of a file of rules")


def profiles_there(batch: Batch, db: Path) -> frozenset[str]:
    """The profiles there are, where a rule is of one."""
    if not any(item.rule.profile for item in batch.items) or not db.exists():
        return frozenset()
    with open_store(db, readonly=True) as store:
        return store.profiles.names()


def doubts(items: Sequence[Item], profiles: frozenset[str]) -> Iterable[Remark]:
    """Remarks on rules that may not be what was meant; `profiles`: those there are."""
    users: dict[str, str] = {}
    for item in items:
        user = item.rule.user
        if user not in users:
            users[user] = unknown_user(user)
        unknown = unknown_profile(item.rule.profile, profiles)
        doubts = (never_decided(item.rule), over_broad(item.rule), users[user], unknown)
        for doubt in filter(None, doubts):
            yield Remark(RemarkKind.WARNING, item.place, doubt)


def show_remarks(remarks: Sequence[Remark]) -> None:
    """On stderr, kind by kind."""
    for kind in RemarkKind:
        of_kind = [remark for remark in remarks if remark.kind is kind]
        for remark in of_kind[:MOST_SHOWN]:
            text = protocol.clean(f"{kind.value}: {remark.place}: {remark.text}")
            click.echo(text, err=True)
        if len(of_kind) > MOST_SHOWN:
            more = len(of_kind) - MOST_SHOWN
            click.echo(f"{kind.value}: and {more} more; --json has all of them", err=True)


# --- what was done --------------------------------------------------------------------------


class _Done(Struct, frozen=True):
    """How many rules had which outcome."""

    added: int
    replaced: int
    same: int


def _outcome(one: Planned) -> str:
    if one.same:
        return "same"
    return "replace" if one.replaces else "add"


def _counts(planned: Sequence[Planned]) -> _Done:
    outcomes = [_outcome(one) for one in planned]
    return _Done(outcomes.count("add"), outcomes.count("replace"), outcomes.count("same"))


def show_planned(
    planned: Sequence[Planned],
    items: Sequence[Item],
    *,
    dry_run: bool,
    removed: Sequence[Entry] | None = None,
) -> None:
    """What becomes, or would become, of each rule; `removed` where some can be."""
    done = _counts(planned)
    if dry_run:
        for one, item in zip(planned, items, strict=True):
            ids = ", ".join(map(str, (one.same,) if one.same else one.replaces))
            word = f"{_outcome(one)} {ids}".strip()
            place = protocol.clean(item.place)
            click.echo(f"{word}: {format_rule(item.rule)}  # {place}")
        for entry in removed or ():
            click.echo(f"remove {entry.id}: {format_rule(entry.rule)}")
    elif removed:
        for entry in removed[:MOST_SHOWN]:
            click.echo(f"removed rule {entry.id}: {format_rule(entry.rule)}")
        if len(removed) > MOST_SHOWN:
            click.echo(f"… and {len(removed) - MOST_SHOWN} more; `arbiter rules history --full`")
    would = "would be " if dry_run else ""
    click.echo(
        f"{counted(done.added, 'rule')} {would}added, {done.replaced} {would}changed, "
        f"{done.same} there already"
        + (f", {len(removed)} {would}removed" if removed is not None else "")
    )


def counted(number: int, what: str) -> str:
    """`1 rule`, `2 rules`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def planned_objects(planned: Sequence[Planned], items: Sequence[Item]) -> list[dict[str, object]]:
    """What becomes of each rule, as JSON."""
    return [
        outcome_object(
            _outcome(one),
            item.place,
            rule=format_rule(item.rule),
            expires=item.expires,
            id=one.same or one.id or None,
            replaces=list(one.replaces),
        )
        for one, item in zip(planned, items, strict=True)
    ]


def outcome_object(outcome: str, place: str, **more: object) -> dict[str, object]:
    """One outcome as JSON: always the same keys."""
    empty: dict[str, object] = {"rule": None, "expires": None, "id": None, "replaces": []}
    return {"outcome": outcome, "place": place, **empty, "text": "", **more}
