"""`arbiter audit report`: what was decided in a span of time, as one HTML file or as Markdown."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from arbiter.budgets import summed
from arbiter.cli.common import (
    COUNT,
    STATE,
    config_option,
    db_option,
    fail,
    json_option,
    show_json,
    sudo_uid,
)
from arbiter.cli.progress import progress
from arbiter.cli.ruleslint import Looked, look
from arbiter.cli.rulestore import open_store
from arbiter.cli.ruleswords import when
from arbiter.cli.times import moment
from arbiter.events import Reason
from arbiter.linkstate import read_files
from arbiter.localtime import local_zone
from arbiter.protocol import clean
from arbiter.recordwords import THEN
from arbiter.report import (
    Carried,
    Cost,
    Day,
    Report,
    RuleChange,
    as_html,
    as_markdown,
    document,
    risks,
)
from arbiter.rules.stale import DAY
from arbiter.store.figures import STEPS, Figures
from arbiter.store.history import Step
from arbiter.tariff import Price, cost
from arbiter.usage import Used, day_of

SPAN = 30 * DAY
UNUSED_DAYS = 30
STDOUT = "-"
INSTANT = 1e-3
"""Seconds: what ends at midnight does not touch the day that begins then."""
_FILE = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.command()
@click.option("--since", callback=moment, metavar="TIME", help="From then on; 30d unless given.")
@click.option("--until", callback=moment, metavar="TIME", help="Before then; now unless given.")
@click.option("--html", "html", type=_FILE, metavar="FILE", help="One self-contained HTML file.")
@click.option(
    "--markdown",
    "markdown",
    type=_FILE,
    is_flag=False,
    flag_value=STDOUT,
    metavar="[FILE]",
    help="Markdown; on stdout without FILE, and that is what is made unless told otherwise.",
)
@click.option("--top", type=COUNT, default=20, show_default=True, help="Rows of each list.")
@config_option("The directory of links.d, for prices, and of policy.d.")
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
@json_option
def report(
    since: float | None,
    until: float | None,
    html: Path | None,
    markdown: Path | None,
    top: int,
    config: Path,
    state: Path,
    db: Path,
    as_json: bool,
) -> None:
    """Write a report: connections, programs, destinations, cost, what was denied, risky rules,
    changes of rules, new destinations, changed executables, and what is missing.

    The HTML file has charts, loads nothing and runs no script: it can be kept, mailed and printed.
    It is readable by you only. - as FILE is stdout.
    """
    if [as_json, html == Path(STDOUT), markdown == Path(STDOUT)].count(True) > 1:
        fail("only one of --json, --html and --markdown can go to stdout: name a file", 2)
    now = time.time()
    until = now if until is None else until
    since = until - SPAN if since is None else since
    if since >= until:
        fail(f"--since {when(since)} is not before --until {when(until)}", 2)
    made = _report(db, config, state, (since, until), now, top)
    if as_json:
        show_json(made)
    if html is None and markdown is None and not as_json:
        markdown = Path(STDOUT)
    pages = document(made, when) if html or markdown else None
    if pages is not None and html is not None:
        _write(html, as_html(pages))
    if pages is not None and markdown is not None:
        _write(markdown, as_markdown(pages))


def _report(
    db: Path, config: Path, state: Path, span: tuple[float, float], now: float, top: int
) -> Report:
    since, until = span
    with open_store(db, readonly=True) as store, progress("adding up", STEPS) as shown:
        steps = iter(range(1, STEPS + 1))
        found = store.records.figures(since, until, top, _why, lambda: shown(next(steps, STEPS)))
        used = store.usage(*_days(since, until))
        history = store.history()
    looked = look(db, config, state, UNUSED_DAYS)
    files, problems = read_files(config / "links.d")
    prices = {file.name: file.price for file in files if file.price is not None}
    changed = {one.app for one in found.executables}
    risky = risks(looked.rules, looked.findings, changed)
    changes = tuple(_changes(history, since, until))
    beyond = dict(found.beyond)
    for name, count in (("risks", len(risky)), ("changes", len(changes))):
        if count > top:
            beyond[name] = count - top
    return _made(
        found,
        Report(
            since=since,
            until=until,
            made=now,
            database=clean(str(db)),
            top=top,
            recorded=found.recorded,
            summed=found.summed,
            carried=_carried(used),
            costs=tuple(_costs(used, prices)),
            risks=risky[:top],
            changes=changes[:top],
            beyond=beyond,
            notes=tuple(_notes(looked, problems)),
        ),
    )


def _made(found: Figures, report: Report) -> Report:
    """The report with the figures of the records."""
    fields = msgspec.structs.asdict(found)
    del fields["recorded"], fields["summed"], fields["beyond"]
    fields["days"] = _filled(found.days, report)
    return msgspec.structs.replace(report, **fields)


def _filled(days: tuple[Day, ...], report: Report) -> tuple[Day, ...]:
    """Every day of the span from the first record on, also those without a connection."""
    if not days:
        return ()
    known = {day.day: day for day in days}
    first = datetime.fromisoformat(days[0].day).date()
    if report.recorded is not None and report.recorded < report.since:
        first = datetime.fromtimestamp(report.since).date()
    last = datetime.fromtimestamp(min(report.until, report.made) - INSTANT).date()
    every = (first + timedelta(n) for n in range((last - first).days + 1))
    return tuple(known.get(text := day.isoformat(), Day(text, 0, 0)) for day in every) or days


def _days(since: float, until: float) -> tuple[str, str]:
    """The days that a span touches, as `Store.usage` wants them: from the first to before the
    one after the last."""
    zone = local_zone()
    last = datetime.fromtimestamp(until - INSTANT, zone).date()
    return day_of(since, zone), (last + timedelta(1)).isoformat()


def _why(reason: str, rule: int | None, by: str) -> str:
    if reason != Reason.RULE:
        return THEN.get(reason, reason)
    if rule is not None and rule > 0:
        return f"rule {rule}" + (f" by {by}" if by else "")
    return f"the rule at {by.removeprefix('file:')}"


# --- usage ----------------------------------------------------------------------------------


def _carried(used: list[Used]) -> tuple[Carried, ...]:
    return tuple(
        Carried(day, clean(link), one.size)
        for (day, link), one in sorted(summed(used, "day", "link").items())
    )


def _costs(used: list[Used], prices: Mapping[str, Price]) -> list[Cost]:
    found = []
    for (link, sim), one in summed(used, "link", "sim").items():
        price = prices.get(link)
        found.append(
            Cost(
                clean(link),
                clean(sim),
                one.out_bytes,
                one.in_bytes,
                one.connections,
                str(price) if price is not None else "",
                f"{cost(one.size, price):.2f} {price.currency}" if price is not None else "",
            )
        )
    return found


# --- rules ----------------------------------------------------------------------------------


def _changes(history: list[Step], since: float, until: float) -> list[RuleChange]:
    """The newest first."""
    return [
        RuleChange(
            change.time,
            clean(change.by, 64),
            clean(change.frontend, 64),
            change.change,
            clean(change.reason, 100),
            change.rule_id,
            clean(change.line, 500),
        )
        for step in reversed(history)
        for change in step.changes
        if since <= change.time < until
    ]


def _notes(looked: Looked, problems: tuple[str, ...]) -> list[str]:
    notes = [*looked.faults, *problems]
    if looked.problem:
        notes.append(looked.problem)
    return [clean(note, 500) for note in dict.fromkeys(notes)]


# --- files ----------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    """Write it at once, for who runs this only: what stood there is replaced whole, and a link
    there is not followed."""
    if str(path) == STDOUT:
        click.echo(text, nl=False)
        return
    if _is_special(path):
        fail(f"{clean(str(path))} is not written: it is no plain file; - is stdout")
    try:
        descriptor, name = tempfile.mkstemp(prefix=".arbiter-", dir=path.absolute().parent)
    except OSError as error:
        _cannot(path, error)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            uid = sudo_uid()
            if uid is not None:
                os.fchown(file.fileno(), uid, -1)
        os.replace(name, path)  # noqa: PTH105  # names, as mkstemp gives them
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        _cannot(path, error)
    click.echo(f"wrote {clean(str(path))}", err=True)


def _is_special(path: Path) -> bool:
    """Whether a device or a pipe is there, or a link to one: replacing it would break other
    programs. /dev/stdout, too, is one, wherever it leads to."""
    folder = path.absolute().parent.resolve()
    if any(folder.is_relative_to(special) for special in ("/dev", "/proc", "/sys")):
        return path.is_symlink() or (path.exists() and not path.is_file())
    return path.exists() and not path.is_file()


def _cannot(path: Path, error: OSError) -> NoReturn:
    why = error.strerror or str(error)
    fail(f"{clean(str(path))} cannot be written: {why}; check: ls -ld '{path.absolute().parent}'")
