"""`arbiter explain --pcap`: what the rules say of every connection that begins in a capture."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import click

from arbiter.capturefile import CaptureError, CaptureFile
from arbiter.captures import Capture, Captured
from arbiter.cli.common import fail, table
from arbiter.cli.explainask import Rules, names_text, note
from arbiter.flowtext import flow_text
from arbiter.judge import Context, query
from arbiter.protocol import clean
from arbiter.questions import Answer, Question

MAX_ROWS = 10_000
"""Lines of the table: a person reads no more. JSON has every connection."""
STEP = 2000
"""Packets between two looks at how far it is."""


class Who(NamedTuple):
    """What the options say of the program that opened the connections."""

    app: str = ""
    parents: tuple[str, ...] = ()
    uid: int | None = None
    user: str = ""
    groups: tuple[str, ...] = ()
    gids: tuple[int, ...] = ()


class Reading:
    """The new connections of a file, each with what the rules say; iterate it once."""

    def __init__(
        self, rules: Rules, path: Path, who: Who, context: Context, openers: tuple[bytes, ...]
    ) -> None:
        self._rules, self._path, self._context = rules, path, context
        self.who = who
        self.capture = Capture(openers)
        self.decisions: Counter[str] = Counter()
        self.undecided = 0
        self.silent = False
        """Without a progress bar."""
        self.problem = ""
        """Why the file could not be read to its end."""

    def __iter__(self) -> Iterator[tuple[Captured, Answer]]:
        try:
            with CaptureFile(self._path) as file, _progress(file, self.silent) as progress:
                for frame in file:
                    found = self.capture.feed(*frame)
                    if found is not None:
                        yield found, self._ask(found)
                    if frame.number % STEP == 0:
                        progress(file.position)
        except CaptureError as error:
            self.problem = str(error)

    def _ask(self, found: Captured) -> Answer:
        """What the rules say of it, at its own time for `time=`."""
        flow, who = found.packet.flow, self.who
        context = self._context._replace(names=found.names)
        asked = query(
            flow,
            found.packet.hook,
            context,
            who.app,
            who.parents,
            who.uid,
            who.user,
            groups=who.groups,
            gids=who.gids,
        )
        no_owner = "" if who.app else "a capture does not tell"
        question = Question(flow, (asked,), found.packet.hook, found.midstream, no_owner)
        answer = self._rules.ask(question, found.time)
        self.decisions[self._rules.decision(answer)] += 1
        self.undecided += answer.judgement is None
        return answer


def ask_capture(rules: Rules, reading: Reading, as_json: bool) -> bool:
    """Every new connection in the file. Whether rules decide all of them."""
    if as_json:
        reading.silent = sys.stdout is not None and sys.stdout.isatty()  # it would run into it
        _json(rules, reading)
    else:
        _table(rules, reading)
    capture = reading.capture
    lines = [*_left_out(capture)]
    if capture.flows and not reading.who.app:
        lines.append("no rule for a single app was looked at: say whose it is with --app")
    for line in lines:
        if as_json:
            note(line)
        else:
            click.echo(line)
    if reading.problem:
        fail(clean(reading.problem))
    if capture.packets and not capture.read:
        fail(f"{_number(capture.packets, 'packet')}, and none that could be read")
    return not reading.undecided


def _json(rules: Rules, reading: Reading) -> None:
    """An array, written as it is found: there may be millions."""
    before = "["
    for found, answer in reading:
        told = {"packet": found.number, "time": found.time, "midstream": found.midstream}
        made = rules.object(answer, near=False, capture=told)
        click.echo(before + json.dumps(made, indent=2, ensure_ascii=False), nl=False)
        before = ",\n"
    click.echo("[]" if before == "[" else "]")


def _table(rules: Rules, reading: Reading) -> None:
    rows: list[tuple[str, ...]] = []
    for found, answer in reading:
        if len(rows) < MAX_ROWS:
            rows.append(_row(rules, found, answer, found.time - (reading.capture.began or 0.0)))
    if rows:
        table(("packet", "seconds", "connection", "names", "decision", "why"), rows)
    capture = reading.capture
    if reading.problem and not capture.packets:
        return  # no capture, and nothing to sum up
    if capture.flows > len(rows):
        click.echo(f"and {capture.flows - len(rows)} more, which --json lists")
    counts = ", ".join(f"{count} {what}" for what, count in reading.decisions.most_common())
    begin = f"{_number(capture.flows, 'connection')} in {_number(capture.packets, 'packet')}"
    click.echo(f"{begin}{': ' if counts else ''}{counts}")


def _row(rules: Rules, found: Captured, answer: Answer, since: float) -> tuple[str, ...]:
    flow = flow_text(found.packet.flow) + (" (midstream)" if found.midstream else "")
    names = names_text(found.names)
    why = rules.why(answer)
    return (str(found.number), f"{since:.3f}", flow, names, rules.decision(answer), why)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _left_out(capture: Capture) -> Iterator[str]:
    for counter, what in ((capture.passed, "connection"), (capture.unread, "packet")):
        for why, count in counter.most_common():
            where = f"{'the first is ' * (count > 1)}packet {capture.first[why]}"
            yield f"left out: {_number(count, what)}: {why} ({where})"
    if capture.forgotten:
        yield (
            f"{capture.forgotten} connections were forgotten while others came: "
            "those that went on after a pause count twice"
        )


@contextmanager
def _progress(file: CaptureFile, silent: bool) -> Iterator[Callable[[int], object]]:
    """How far it is, on a terminal's stderr."""
    if silent or sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=file.size or None)
        yield lambda at: shown.update(task, completed=at)
