"""`arbiter rules`: the remembered rules, daemon running or not."""

from __future__ import annotations

import time
from pathlib import Path

import click

from arbiter.cli import complete
from arbiter.cli.common import (
    STATE,
    config_option,
    db_option,
    fail,
    fail_rule,
    in_force,
    json_option,
    one_line,
    person,
    show_json,
    socket_option,
    table,
)
from arbiter.cli.lazy import Lazy
from arbiter.cli.profilewords import profile_name
from arbiter.cli.rulesmachine import Machine
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.cli.ruleswords import beside, rule_object, when, with_letters
from arbiter.protocol import clean
from arbiter.rules import (
    Entry,
    LifetimeKind,
    RuleError,
    format_rule,
    never_decided,
    never_matches,
    over_broad,
    parse,
)

ELSEWHERE = {
    "check": (
        "arbiter.cli.rulescheck:check",
        "Check policy files, or folders of them; neither daemon nor root is needed.",
    ),
    "export": (
        "arbiter.cli.rulesexport:export",
        "Write the rules in force to stdout, oldest first; `rules import` reads them back.",
    ),
    "history": (
        "arbiter.cli.ruleshistory:history",
        "Show how the rules changed: step by step, who did it and when, the newest last.",
    ),
    "import": (
        "arbiter.cli.rulesimport:import_",
        "Add the rules of FILES (or of a directory, or - for stdin): all of them, or none.",
    ),
    "restore": (
        "arbiter.cli.rulesrestore:restore",
        "Make the rules of one place those of FILES, as `rules export` wrote them.",
    ),
    "review": (
        "arbiter.cli.rulesreview:review",
        "Propose rules for what was seen and nobody decided, program by program.",
    ),
    "undo": (
        "arbiter.cli.ruleshistory:undo",
        "Take the last change of the rules back, or STEP of `arbiter rules history`.",
    ),
}


@click.group(cls=Lazy, elsewhere=ELSEWHERE)
def rules() -> None:
    """Add, list and remove remembered rules; the daemon need not run."""


@rules.command()
@click.argument("line", nargs=-1, required=True, callback=one_line, shell_complete=complete.line)
@click.option(
    "--instead-of",
    type=click.IntRange(1, 2**63 - 1),
    metavar="ID",
    shell_complete=complete.rules,
    help="In place of this rule, in one step: an edit.",
)
@config_option("The directory of links.d: whether there are the links that the rule names.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, readable=False),
    default=STATE,
    envvar="ARBITER_STATE",
    show_default=True,
    show_envvar=True,
    help="The daemon's state directory: it keeps which links there were.",
)
@db_option
@socket_option
@json_option
def add(
    line: str,
    instead_of: int | None,
    config: Path,
    state: Path,
    db: Path,
    socket_path: Path,
    as_json: bool,
) -> None:
    """Remember a rule: 'allow app=/usr/bin/curl host=192.0.2.0/24 port=443 for=1h'."""
    try:
        rule = parse(line)
    except RuleError as error:
        fail_rule(error, line)
    kind = rule.lifetime.kind
    if kind in (LifetimeKind.ONCE, LifetimeKind.PROCESS, LifetimeKind.SESSION):
        fail(
            f"for={kind.value} belongs to an answer, which knows the connection, the program and "
            "the run it is about; give a time span, boot or forever",
            2,
        )
    useless = never_matches(rule)
    if useless:
        fail(f"this rule would never match: {useless}", 2)
    by, uid = person()
    with open_store(db, create=True) as store:
        machine = Machine(config, state, db)
        doubts = (never_decided(rule), over_broad(rule), *machine.doubts(rule, store))
        for doubt in filter(None, doubts):
            click.echo(f"arbiter: note: {clean(doubt)}", err=True)
        done = store.remember(
            rule,
            by=by,
            by_uid=uid,
            frontend="cli",
            created=time.time(),
            boot=boot_id(),
            instead_of=instead_of,
        )
    in_force(socket_path, db)
    if as_json:
        show_json([rule_object(done.entry)])
        return
    replaced = f", in place of rule {', '.join(map(str, done.replaced))}" if done.replaced else ""
    shown = click.style(beside(done.entry.rule), dim=True) if beside(done.entry.rule) else ""
    click.echo(f"rule {done.entry.id}{replaced}: {format_rule(done.entry.rule)}{shown}")


@rules.command("list")
@click.option("--profile", callback=profile_name, help="Only rules with this profile=.")
@db_option
@json_option
def show(profile: str | None, db: Path, as_json: bool) -> None:
    """List the rules in force, those of profiles that are not active too."""
    with open_store(db, readonly=True) as store:
        entries = store.rules(time.time(), boot_id(), None)
        unreadable = store.unreadable
    entries = [entry for entry in entries if profile in (None, entry.rule.profile)]
    if as_json:
        show_json([rule_object(entry) for entry in entries])
    elif not entries:
        click.echo("no rules are remembered" + (f" with profile={profile}" if profile else ""))
    else:
        plain = (
            (str(e.id), format_rule(e.rule), e.by, e.frontend, when(e.created), _ends(e))
            for e in entries
        )
        heads, rows = with_letters([entry.rule for entry in entries], plain)
        table(("id", "rule", "by", "from", "since", "ends", *heads), rows)
    if unreadable:
        fail("\n".join(unreadable))


@rules.command()
@click.argument("ids", type=int, nargs=-1, required=True, shell_complete=complete.rules)
@db_option
@socket_option
def remove(ids: tuple[int, ...], db: Path, socket_path: Path) -> None:
    """Remove rules by their ids: all of them, or none if one is not in force."""
    by, uid = person()
    with open_store(db) as store:
        known = {
            entry.id: format_rule(entry.rule) for entry in store.rules(time.time(), boot_id(), None)
        }
        known |= dict.fromkeys(store.unread, "it could not be read")
        missing = [id for id in dict.fromkeys(ids) if id not in known]
        if missing:
            names = ", ".join(map(str, missing))
            fail(f"no rule {names} is in force, nothing was removed; see `arbiter rules list`")
        store.retire(dict.fromkeys(ids), "removed", time.time(), by=by, by_uid=uid, frontend="cli")
    in_force(socket_path, db)
    for id in dict.fromkeys(ids):
        click.echo(f"removed rule {id}: {known[id]}")


def _ends(entry: Entry) -> str:
    if entry.expires is not None:
        return when(entry.expires)
    if entry.process is not None:
        return f"with process {entry.process[0]}"
    kind = entry.rule.lifetime.kind
    return {LifetimeKind.SESSION: "when arbiter stops", LifetimeKind.BOOT: "at reboot"}.get(
        kind, "never"
    )
