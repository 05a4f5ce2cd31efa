"""`arbiter rules import`: rules from files, all or nothing."""

from __future__ import annotations

import time
from pathlib import Path

import click

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
    counted,
    doubts,
    outcome_object,
    passed_over,
    planned_objects,
    profiles_there,
    show_planned,
    show_remarks,
)
from arbiter.cli.profilewords import profile_name
from arbiter.cli.rulesfiles import UnreadableError, read_sources
from arbiter.cli.rulestore import boot_id, open_store, stoppable
from arbiter.exchange import (
    FORMATS,
    Batch,
    Binding,
    Format,
    read,
    read_binding,
    settle,
)
from arbiter.model import ALLOW
from arbiter.rules import Rule, never_matches
from arbiter.store import Author, Planned, Store, Wanted

LAYER = click.Choice(["remembered"])
"""The layer that a database holds; the others are policy files."""


def _binding(
    _: click.Context, __: click.Parameter, words: tuple[str, ...]
) -> list[tuple[str, str]]:
    return [_bound(word) for word in words]


def _bound(word: str) -> tuple[str, str]:
    """`profile=…`, `sim=…` or `network=…`, or a usage error."""
    try:
        return read_binding(word)
    except Binding as error:
        raise click.BadParameter(f"{word!r}: {error}") from None


def one_place(_: click.Context, parameter: click.Parameter, word: str | None) -> str:
    """The value of an option that is called as the condition; "" where it is not given."""
    return "" if word is None else _bound(f"{parameter.name}={word}")[1]


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--format",
    "named",
    type=click.Choice(["auto", *FORMATS]),
    default="auto",
    show_default=True,
    help="What the files are; auto looks at each.",
)
@click.option("--layer", type=LAYER, default="remembered", show_default=True, help="Where to.")
@click.option(
    "--bind",
    "bindings",
    multiple=True,
    callback=_binding,
    metavar="profile=NAME|sim=ICCID|network=…",
    help="Give every rule this condition, too.",
)
@click.option("--profile", callback=profile_name, help="As --bind profile=NAME.")
@click.option("--app", default="", help="The program that an Internet Access Policy is about.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where policy files of Internet Access Policies go; stdout if it is not given.",
)
@click.option("--skip", is_flag=True, help="Import the rest where some rules cannot be imported.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@db_option
@socket_option
@json_option
def import_(
    files: tuple[Path, ...],
    named: str,
    layer: str,
    bindings: list[tuple[str, str]],
    profile: str | None,
    app: str,
    output: Path | None,
    skip: bool,
    dry_run: bool,
    db: Path,
    socket_path: Path,
    as_json: bool,
) -> None:
    """Add the rules of FILES (or of a directory, or - for stdin): all of them, or none.

    A rule takes the place of the one with the same conditions; what is there already stays as it
    is. What cannot be expressed as a rule is listed, and then nothing is imported (see --skip).
    The database is made if there is none. An Internet Access Policy becomes a policy file, never
    rules. docs/import.md describes the formats.
    """
    now = time.time()
    if useless := never_matches(Rule(ALLOW, app=app)):
        raise click.BadParameter(useless, param_hint="--app")
    with stoppable(db, "import", now):
        try:
            sources, passed = read_sources(files)
        except UnreadableError as error:
            fail(protocol.clean(str(error)))
        batch = read(sources, None if named == "auto" else Format(named), app)
        bindings += [("profile", profile)] if profile else []
        batch = settle(batch, bindings, now=now)
        remarks = [*batch.remarks, *passed_over(passed)]
        remarks += doubts(batch.items, profiles_there(batch, db))
        stop = bool(batch.cannot()) and not skip
        planned: list[Planned] = []
        if batch.items:
            planned = _carry_out(batch, db, now, only_plan=dry_run or stop)
        if batch.items and not (dry_run or stop):
            in_force(socket_path, db)
        if as_json:
            policies = [outcome_object("policy", name, text=text) for name, text in batch.policies]
            said = [outcome_object(one.kind.value, one.place, text=one.text) for one in remarks]
            show_json([*planned_objects(planned, batch.items), *policies, *said])
        else:
            show_remarks(remarks)
            if not stop and (batch.items or not batch.policies):
                show_planned(planned, batch.items, dry_run=dry_run)
        if not stop:
            _give_policies(batch, None if dry_run else output, quiet=as_json)
        if stop:
            many = len(batch.cannot())
            fail(
                f"nothing was imported: {counted(many, 'rule')} cannot be (listed as `cannot`); "
                "mend the file, or leave them out with --skip"
            )


def _carry_out(batch: Batch, db: Path, now: float, *, only_plan: bool) -> list[Planned]:
    wanted = [Wanted(item.rule, item.expires) for item in batch.items]
    if only_plan and not db.exists():
        return [Planned(one) for one in wanted]
    by, uid = person()
    with open_store(db, readonly=only_plan, create=True) as store:
        return _import(store, wanted, Author(by, uid, "import"), now, only_plan)


def _import(
    store: Store, wanted: list[Wanted], author: Author, now: float, only_plan: bool
) -> list[Planned]:
    return store.import_rules(
        wanted, author=author, created=now, boot=boot_id(), only_plan=only_plan
    )


# --- what is advice ---------------------------------------------------------------------------


def _give_policies(batch: Batch, output: Path | None, *, quiet: bool) -> None:
    """Write policy files, or show them; a file of that name is never overwritten."""
    for name, text in batch.policies:
        if output is None:
            if not quiet:
                click.echo(text, nl=False)
            continue
        path = output / name
        try:
            output.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            fail(f"{path} is there already: move it away, or give another --output")
        except OSError as error:
            fail(f"{path}: {error.strerror}; check: ls -ld '{output}'")
        if not quiet:
            click.echo(f"wrote {path}; `arbiter rules check` looks at it")
