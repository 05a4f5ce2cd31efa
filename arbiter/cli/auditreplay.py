"""`arbiter audit replay`: what other rules would have decided of what was recorded, or captured."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from arbiter.cases import COLUMNS, PROCESS_COLUMNS, Case, of_row
from arbiter.cli.auditfilters import filter_options, wanted_by
from arbiter.cli.common import COUNT, config_option, db_option, fail, json_option, socket_option
from arbiter.cli.explainask import Rules, note
from arbiter.cli.progress import progress
from arbiter.cli.replayrules import Others, layer_of, tried, undecided
from arbiter.cli.replayshow import Shown, show_change, show_json_result, show_result
from arbiter.cli.rulestore import open_store
from arbiter.judge import Context
from arbiter.kernel.users import user_groups
from arbiter.model import address_text, proto_name
from arbiter.protocol import clean
from arbiter.questions import Answer
from arbiter.replay import CHANGES, Outcome, Replay
from arbiter.rules import shown_name
from arbiter.store import Store
from arbiter.store.filters import Wanted

STEP = 10_000
"""Records between two looks at how far it is."""
_OF_RECORDS = (
    *("since", "until", "host", "port", "proto", "link", "decision", "rule", "by", "reason"),
)
_Told = Callable[[int, float, Case, Outcome], None]


@click.command()
@click.option(
    *("--rules", "files"),
    multiple=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="A file of rules, or a directory of them; repeatable. Without: the rules in force.",
)
@click.option(
    "--layer",
    type=click.Choice(["auto", "remembered", "admin"]),
    default="auto",
    show_default=True,
    help="In whose place they stand; auto is admin for what is of a folder policy.d.",
)
@click.option("--and-current", is_flag=True, help="Beside the rules of that layer, not in place.")
@click.option("--alone", is_flag=True, help="No other rule of this machine counts.")
@filter_options()
@click.option(
    *("--pcap", "captures"),
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="Not of records: of what begins in a capture, --app and --user say whose; repeatable.",
)
@click.option(
    *("--from", "openers"),
    multiple=True,
    help="With --pcap: only connections that this address opened; repeatable.",
)
@click.option("--top", type=COUNT, default=100, show_default=True, help="Lines of the table.")
@click.option("--check", is_flag=True, help="Exit with 1 where anything is decided otherwise.")
@click.option("--nl", "as_lines", is_flag=True, help="Each one that differs, an object a line.")
@config_option("The directory of arbiter.toml and policy.d.")
@db_option
@socket_option
@json_option
def replay(
    files: tuple[Path, ...],
    layer: str,
    and_current: bool,
    alone: bool,
    captures: tuple[Path, ...],
    openers: tuple[str, ...],
    top: int,
    check: bool,
    as_lines: bool,
    config: Path,
    db: Path,
    socket_path: Path,
    as_json: bool,
    **filters: Any,
) -> None:
    """Say what other rules would have decided of the recorded connections, and each difference.

    FILE is what `rules import` reads (lines, TOML, JSON, other firewalls' rules), and stands in the
    place of the remembered rules; policy files stay as they are. A policy file, or a folder of
    them, stands in the place of the administrator's, and the remembered rules stay.

    Each record is asked again with all that was known then: the program, names, networks, SIMs,
    metered, roaming, the profile, and the time. Filters choose the records, as in `arbiter audit`.
    With --pcap the connections of captures are asked, and compared with the rules in force.

    Exit code 0; with --check 1 where anything would be decided otherwise.
    """
    if as_json and as_lines:
        fail("give one of --json and --nl", 2)
    if alone and (and_current or not files):
        fail("--alone is about the rules of files: give --rules, and not --and-current", 2)
    _check_source(captures, openers, files)
    wanted = None if captures else wanted_by(**filters)
    with open_store(db, readonly=True) as store, _interruptible():
        rules = Rules(store, config, socket_path)
        asked = tried(rules, files, layer_of(layer, files), Others(and_current, alone))
        made = Replay(asked.entries, rules.zone, undecided(rules.otherwise))
        told: _Told = show_change if as_lines else _silent
        if wanted is None:
            shown = Shown("packet", files, asked, ())
            who = (filters["app"] or "", filters["user"] or "")
            for path in captures:
                _of_capture(rules, made, store, path, who, openers, told)
        else:
            gaps = store.records.gaps(wanted.since or 0.0, wanted.until)
            shown = Shown("record", files, asked, tuple(gaps))
            _of_records(made, store, wanted, told)
    result = made.result()
    if as_json:
        show_json_result(result, shown)
    else:
        show_result(result, shown, top, lines=as_lines)
    differ = result.untold + sum(result.totals[kind] for kind in CHANGES)
    sys.exit(1 if check and differ else 0)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted: the sums would be of a part")


def _silent(_: int, __: float, ___: Case, ____: Outcome) -> None:
    """The sums alone are wanted."""


def _check_source(
    captures: tuple[Path, ...], openers: tuple[str, ...], files: tuple[Path, ...]
) -> None:
    if openers and not captures:
        fail("--from is about a capture: give it with --pcap", 2)
    if captures and not files:
        fail(
            "--pcap compares other rules with those in force: give --rules; what the rules in force"
            " say of a capture: arbiter explain --pcap",
            2,
        )
    ctx = click.get_current_context()
    for name in _OF_RECORDS if captures else ():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            fail(f"--{name} is about records, and does not go with --pcap", 2)


# --- records --------------------------------------------------------------------------------


def _of_records(made: Replay, store: Store, wanted: Wanted, told: _Told) -> None:
    columns = (*COLUMNS, *(PROCESS_COLUMNS if made.by_process else ()))
    found = store.records.values(wanted, columns)
    with contextlib.closing(found):  # before the database is, also after Ctrl-C
        first = next(found, None)
        if first is None:
            return
        began = first[1]
        span = (wanted.until or time.time()) - began
        with progress("asking again", span, silent=told is show_change) as done:
            for number, (id, at, *row) in enumerate(itertools.chain((first,), found)):
                key = tuple(row)
                outcome = made.feed(id, at, key, partial(of_row, key, user_groups))
                if outcome.kind in CHANGES:
                    told(id, at, made.case(key, at), outcome)
                if number % STEP == 0:
                    done(at - began)


# --- captures -------------------------------------------------------------------------------


def _of_capture(
    rules: Rules,
    made: Replay,
    store: Store,
    path: Path,
    who: tuple[str, str],
    openers: tuple[str, ...],
    told: _Told,
) -> None:
    # The other commands of `audit` need nothing of captures.
    from arbiter.cli.explain import address_option, user_option
    from arbiter.cli.explaincapture import Reading, Who

    app, user = who
    uid, name = user_option(user)
    owner = Who(app, (), uid, name, *(user_groups(uid) if uid is not None else ((), ())))
    context = Context(profile=store.profiles.book().standing.active)
    hosts = tuple(address_option("--from", text) for text in openers)
    reading = Reading(rules, path, owner, context, hosts)
    for found, answer in reading:
        case = _case(rules, answer, app)
        key = (answer.question.queries, answer.question.older, case.was, case.by)
        outcome = made.feed(found.number, found.time, key, partial(_itself, case))
        if outcome.kind in CHANGES:
            told(found.number, found.time, case, outcome)
    if reading.problem:
        fail(clean(reading.problem))
    if made.entries and not app:
        note("no rule for a single app was looked at: say whose it is with --app")


def _itself(case: Case) -> Case:
    return case


def _case(rules: Rules, answer: Answer, app: str) -> Case:
    query, judgement = answer.query, answer.judgement
    entry = judgement.entry if judgement is not None else None
    names = [shown_name(name) for name in query.names]
    return Case(
        answer.question,
        rules.decision(answer),
        entry.called if entry is not None else "no rule",
        entry is not None,
        False,
        app=app,
        user=query.user,
        host=names[0] if names else address_text(query.daddr),
        dport=query.dport,
        proto=proto_name(query.proto),
        nameless=not names,
    )
