"""`arbiter rules restore`: the rules of one profile, network or SIM are those of a file again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import click
import msgspec

from arbiter import protocol
from arbiter.cli.common import (
    db_option,
    fail,
    in_force,
    json_option,
    person,
    show_json,
    socket_option,
)
from arbiter.cli.importwords import (
    doubts,
    outcome_object,
    passed_over,
    planned_objects,
    profiles_there,
    show_planned,
    show_remarks,
)
from arbiter.cli.profilewords import no_profile
from arbiter.cli.rulesfiles import UnreadableError, read_sources
from arbiter.cli.rulesimport import one_place
from arbiter.cli.rulestore import boot_id, open_store, stoppable
from arbiter.exchange import (
    Remark,
    RemarkKind,
    Source,
    belongs,
    of_place,
    other_place,
    read,
    settle,
)
from arbiter.rules import Entry, Layer, LifetimeKind, format_rule
from arbiter.store import Author, Planned, Wanted

_HEAD = 4096
"""Bytes of a file in which its header is."""


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--profile", callback=one_place, metavar="NAME", help="The rules of this profile.")
@click.option("--network", callback=one_place, metavar="…", help="The rules of this network.")
@click.option("--sim", callback=one_place, metavar="ICCID", help="The rules of this SIM.")
@click.option("--force", is_flag=True, help="Though FILES are empty, or name another place on top.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@db_option
@socket_option
@json_option
def restore(
    files: tuple[Path, ...],
    profile: str,
    network: str,
    sim: str,
    force: bool,
    dry_run: bool,
    db: Path,
    socket_path: Path,
    as_json: bool,
) -> None:
    """Make the rules of one place those of FILES, as `rules export` wrote them with that place.

    What is missing is added, what is there already stays, and what is not in FILES is removed, in
    one step that `rules undo` takes back. Rules that end by themselves stay. A rule of another
    place, or one that cannot be read, is listed, and then nothing is changed; nor is it where the
    header of a file names another place, or where FILES hold no rule and some would be removed.
    """
    places = [("profile", profile), ("network", network), ("sim", sim)]
    given = [(key, value) for key, value in places if value]
    if len(given) != 1:
        fail("give one of --profile, --network and --sim: whose rules are these?", 2)
    now = time.time()
    with stoppable(db, "restore", now):
        try:
            sources, passed = read_sources(files)
        except UnreadableError as error:
            fail(protocol.clean(str(error)))
        batch = of_place(settle(read(sources), now=now), given[0])
        strange = list(_other_places(sources, given[0], force=force))
        batch = msgspec.structs.replace(batch, remarks=(*strange, *batch.remarks))
        remarks = [*batch.remarks, *passed_over(passed)]
        remarks += doubts(batch.items, profiles_there(batch, db))
        stop = bool(batch.cannot() or batch.policies)
        wanted = [Wanted(item.rule, item.expires) for item in batch.items]
        by, uid = person()
        with open_store(db, readonly=dry_run or stop, create=True) as store:
            boot, author = boot_id(), Author(by, uid, "restore")
            planned = store.import_rules(
                wanted, author=author, created=now, boot=boot, only_plan=True
            )
            gone = _gone(store.rules(now, boot, None), planned, given[0])
            unknown = profile if profile and profile not in store.profiles.names() else ""
            empty = bool(not batch.items and gone and not (force or dry_run or stop))
            if not (dry_run or stop or empty):
                ends = [entry.id for entry in gone]
                planned = store.import_rules(
                    wanted, author=author, created=now, boot=boot, ends=ends
                )
        if not (dry_run or stop or empty):
            in_force(socket_path, db)
        if as_json:
            said = [outcome_object(one.kind.value, one.place, text=one.text) for one in remarks]
            removed = [_removed(entry) for entry in gone]
            show_json([*planned_objects(planned, batch.items), *removed, *said])
        else:
            show_remarks(remarks)
            if not stop:
                show_planned(planned, batch.items, dry_run=dry_run or empty, removed=gone)
        if unknown:
            click.echo(f"arbiter: note: {no_profile(unknown)}", err=True)
        if stop:
            fail("nothing was restored: what is listed as `cannot` is not of that place")
        if empty:
            fail("nothing was restored: the file holds no rule; if all are to be removed: --force")


def _other_places(
    sources: Sequence[Source], place: tuple[str, str], *, force: bool
) -> Iterable[Remark]:
    """Remarks on files whose header names another place."""
    kind = RemarkKind.WARNING if force else RemarkKind.CANNOT
    for source in sources:
        said = other_place(source.data[:_HEAD].decode("utf-8-sig", "replace"), place)
        if said:
            text = f"its header says that its rules are those of {said}"
            yield Remark(kind, source.origin, text + ("" if force else "; --force overrides it"))


def _gone(
    entries: Sequence[Entry], planned: Sequence[Planned], place: tuple[str, str]
) -> list[Entry]:
    """The rules of the place that are not wanted. What replaces one ends it by itself."""
    kept = {id for one in planned for id in (one.same, *one.replaces)}
    return [
        entry
        for entry in entries
        if entry.layer is Layer.REMEMBERED
        and entry.rule.lifetime.kind is LifetimeKind.FOREVER
        and entry.id not in kept
        and belongs(entry.rule, place)
    ]


def _removed(entry: Entry) -> dict[str, object]:
    return outcome_object("remove", "", rule=format_rule(entry.rule), id=entry.id)
