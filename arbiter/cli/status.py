"""`arbiter status`: how the daemon is."""

from __future__ import annotations

from pathlib import Path

import click

from arbiter import protocol
from arbiter.cli.common import daemon, fail, json_option, show_json, socket_option
from arbiter.events import UNDECIDED, Reason
from arbiter.settings import Mode


@click.command()
@socket_option
@json_option
def status(socket_path: Path, as_json: bool) -> None:
    """Show how the daemon is: mode, rules, what waits, counts, problems."""
    with daemon(socket_path, "status") as connection:
        connection.send(protocol.Query())
        while not isinstance(reply := connection.receive(), protocol.Status):
            if isinstance(reply, protocol.Refused):
                fail(reply.text)
    if as_json:
        show_json(reply)
        return
    for name, value in _lines(reply):
        click.echo(f"{name:<12} {value}")
    for problem in reply.problems:
        click.echo(f"{'problem':<12} {problem}")


def _lines(status: protocol.Status) -> list[tuple[str, str]]:
    count = status.counters.get
    lost = count("dropped_full", 0) + count("dropped_socket", 0)
    return [
        ("mode", f"{status.mode}; {_otherwise(status)}"),
        ("firewall", f"{status.backend}, queue {status.queue}; absent: {status.when_absent}"),
        ("up", _span(status.uptime)),
        ("rules", str(status.rules)),
        ("profile", protocol.clean(status.profile) or "none"),
        (
            "waiting",
            f"asks {status.asks}, packets {status.held}; prompts connected: {status.prompts}",
        ),
        (
            "decided",
            f"{count('allow', 0)} allowed, {count('deny', 0)} denied, {count('route', 0)} routed",
        ),
        *_cut(count("cut", 0)),
        *_undecided(status),
        ("queued", f"{count('queued', 0)} packets, {lost} lost by the kernel"),
        *_repeated(count("repeated", 0)),
        ("records", f"{count('records_lost', 0)} lost"),
        *_put_back(count("repairs", 0)),
    ]


def _otherwise(status: protocol.Status) -> str:
    """What becomes of a connection that no rule decides."""
    if status.mode == Mode.OBSERVE:
        return "what no rule decides is let go, and recorded"
    if status.mode == Mode.ENFORCE:
        return f"without a rule: {status.fallback}"
    return f"without an answer: {status.fallback}"


def _repeated(repeated: int) -> list[tuple[str, str]]:
    """What the fast path did; nothing where there is none, or nothing was asked twice yet."""
    return [("fast path", f"{repeated} of them decided as before")] if repeated else []


def _cut(cut: int) -> list[tuple[str, str]]:
    """What began while nobody decided, and a rule denies; nothing if nothing did."""
    return [("cut", f"{cut} that began while nobody decided, and a rule denies")] if cut else []


def _put_back(repairs: int) -> list[tuple[str, str]]:
    """How often other programs changed arbiter's part of the ruleset; nothing if they did not."""
    if not repairs:
        return []
    times = "once" if repairs == 1 else f"{repairs} times"
    return [("ruleset", f"put back {times} after other programs changed it; the log has when")]


def _undecided(status: protocol.Status) -> list[tuple[str, str]]:
    """What a review would propose rules for; nothing where there is nothing to review."""
    counts = {reason: status.counters.get(f"by_{reason.value}", 0) for reason in UNDECIDED}
    passed = counts.pop(Reason.OBSERVE)
    rest = sum(counts.values())
    told = [f"{passed} let go"] if passed or status.mode == Mode.OBSERVE else []
    told += [f"{rest} without an answer"] if rest else []
    if not told:
        return []
    return [("undecided", f"{', '.join(told)}; `arbiter rules review` proposes rules for them")]


def _span(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
