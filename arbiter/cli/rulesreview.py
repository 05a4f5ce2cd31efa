"""`arbiter rules review`: from what was seen and nobody decided to rules."""

from __future__ import annotations

import difflib
import pwd
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import msgspec

from arbiter import protocol
from arbiter.cli.common import (
    config_option,
    db_option,
    fail,
    json_option,
    on_terminal,
    person,
    show_json,
    socket_option,
    table,
)
from arbiter.cli.reviewcards import many
from arbiter.cli.reviewstate import Card, Review, denials
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.cli.ruleswords import when, with_letters
from arbiter.cli.times import moment
from arbiter.kernel.users import user_groups
from arbiter.localtime import local_zone
from arbiter.policyfiles import entries as of_files
from arbiter.policystate import read_policies
from arbiter.records import utf8
from arbiter.recordwords import said
from arbiter.rules import Entry, Index, Query, format_host, format_rule
from arbiter.rules.propose import Proposal, propose
from arbiter.rules.seen import Program, Sighting, programs, tally
from arbiter.rules.words import quote
from arbiter.store import Author, Store
from arbiter.store.sightings import Unreadable

_NO_APP = "`arbiter rules review` without --app has all that is left to review"


@click.command()
@click.option("--since", callback=moment, metavar="TIME", help="From then on: 7d, 2026-11-19, ...")
@click.option("--app", default=None, help="Only this app's id.")
@click.option("--each", is_flag=True, help="No sums: every destination by itself.")
@click.option(
    "--no-owner", is_flag=True, help="What no program is known of; its rules hold for every one."
)
@config_option("The directory of policy.d: what its rules decide is not proposed.")
@db_option
@socket_option
@json_option
def review(
    since: float | None,
    app: str | None,
    each: bool,
    no_owner: bool,
    config: Path,
    db: Path,
    socket_path: Path,
    as_json: bool,
) -> None:
    """Propose rules for what was seen and nobody decided, program by program.

    That is what passed in mode observe, and what got the fallback as nobody answered; unless rules
    in force decide it by now. On a terminal single keys allow, deny, widen or skip each proposal;
    else they are listed. docs/learning.md tells the way from observe to enforce.
    """
    asking = not as_json and on_terminal()
    if no_owner and app:
        fail("--no-owner is about what has no app; leave out --app", 2)
    with open_store(db, readonly=not asking) as store:
        after = store.last_change()  # before the rules are read: what comes later is looked at anew
        entries = _in_force(store, config)
        if asking:
            click.echo("reading what was decided ...", err=True)
        found, said = _look(store, entries, since or 0.0, "" if no_owner else app)
        nobody = [program for program in found if not program.app]
        shown = nobody if no_owner else [program for program in found if program.app]
        for text in (*said, *([] if no_owner else _nobody(nobody))):
            click.echo(f"arbiter: note: {text}", err=True)
        made = [(program, propose(program, each=each)) for program in shown]
        if app and not made:
            _check_app(store, app, as_json=as_json)
        if as_json:
            show_json([_object(*one) for one in _flat(made)])
        elif not made:
            click.echo("nothing is left to review: rules decide all that was seen, or nothing was")
        elif asking:
            from arbiter.cli.reviewterminal import run

            cards = [Card(program, proposals) for program, proposals in made]
            by, uid = person()
            author = Author(by, uid, "review")
            run(Review(cards, denials(entries)), store, author, socket_path, after)
        else:
            rules = [one.rule for _, one in _flat(made)]
            heads, rows = with_letters(rules, (_row(one) for _, one in _flat(made)))
            table(("seen", "refused", "last", "rule", *heads), rows)
            click.echo(
                "arbiter: to decide one by one, run this on a terminal; or choose among these: "
                "arbiter rules review --json | jq -r '.[].line' > new.rules, and then "
                "arbiter rules import new.rules",
                err=True,
            )


def _in_force(store: Store, config: Path) -> list[Entry]:
    """Remembered rules and those of policy files; what cannot be read is said."""
    entries = store.rules(time.time(), boot_id(), None)
    files, problems = read_policies(config / "policy.d")
    for problem in (*store.unreadable, *problems):
        click.echo(f"arbiter: {protocol.clean(str(problem))}", err=True)
    return [*entries, *of_files(files)[0]]


def _look(
    store: Store, entries: list[Entry], since: float, app: str | None
) -> tuple[list[Program], list[str]]:
    """The programs that nobody decided about, and what must be said of the rest."""
    index = Index(entries, local_zone())
    left_out = 0

    def decided(query: Query, at: float) -> bool:
        if query.uid is not None:
            groups, gids = user_groups(query.uid)
            query = msgspec.structs.replace(query, groups=groups, gids=gids)
        return index.lookup(query, at) is not None

    def readable(found: Iterable[Sighting | Unreadable]) -> Iterator[Sighting]:
        nonlocal left_out
        for one in found:
            if isinstance(one, Sighting):
                yield one
            else:
                left_out += one.count

    people = [user.pw_uid for user in pwd.getpwall()]
    shown = programs(readable(store.undecided(since=since, app=app)), decided, people)
    text = f"{many(left_out, 'connection')} left out: their records are not as arbiter writes them"
    return shown, [text] if left_out else []


def _check_app(store: Store, app: str, *, as_json: bool) -> None:
    """Say that nothing was ever seen of `app`, and which app may be meant."""
    apps = sorted(store.records.apps())
    if utf8(app) in apps:
        return
    short = {one.rpartition("/")[2]: one for one in apps}
    near = difflib.get_close_matches(app, [*short, *apps], 1)
    hint = f"did you mean {quote(short.get(near[0], near[0]))}?" if near else _NO_APP
    text = f"no app is called {quote(app)}; {hint}"
    if not as_json:
        fail(text)
    click.echo(f"arbiter: note: {text}", err=True)


def _nobody(found: list[Program]) -> list[str]:
    count = sum(tally(program.seen).count for program in found)
    if not count:
        return []
    return [
        f"of {many(count, 'connection')} nobody knew the program; --no-owner proposes rules for "
        "them, which hold for every program"
    ]


def _flat(made: list[tuple[Program, tuple[Proposal, ...]]]) -> list[tuple[Program, Proposal]]:
    return [(program, proposal) for program, proposals in made for proposal in proposals]


def _row(proposal: Proposal) -> tuple[str, ...]:
    found = tally(proposal.seen)
    return (str(found.count), str(found.refused), when(found.last), format_rule(proposal.rule))


def _object(program: Program, proposal: Proposal) -> dict[str, object]:
    """A proposal as JSON: stable keys, epoch seconds."""
    found = tally(proposal.seen)
    return {
        "app": said(program.app),
        "users": [said(user) for user in program.users],
        "line": format_rule(proposal.rule),
        "summary": proposal.summary,
        "covers": found.count,
        "refused": found.refused,
        "first": found.first,
        "last": found.last,
        "destinations": [format_host(host) for host in found.destinations],
        "widenings": [format_rule(rule) for rule in proposal.wider],
    }
