"""`arbiter pending`: the asks that wait."""

from __future__ import annotations

import time
from pathlib import Path

import click

from arbiter import protocol
from arbiter.cli.common import daemon, json_option, show_json, socket_option, table


@click.command()
@socket_option
@json_option
def pending(socket_path: Path, as_json: bool) -> None:
    """List the asks that wait for an answer, oldest first; all that you may answer."""
    with daemon(socket_path, "pending") as connection:
        asks = list(connection.asks())
    if as_json:
        show_json(asks)
    elif not asks:
        click.echo("nothing waits for an answer")
    else:
        columns = ("id", "who", "user", "where", "waiting", "scopes")
        table(columns, ([*_row(ask)] for ask in asks))


def _row(ask: protocol.Ask) -> tuple[str, ...]:
    where = ask.destination
    address = f"[{where.address}]" if ":" in where.address else where.address
    port = f":{where.port}" if where.port else ""
    scopes = " ".join(scope.id for scope in ask.scopes)
    return (str(ask.id), _who(ask), ask.user, f"{where.proto} {address}{port}", _left(ask), scopes)


def _who(ask: protocol.Ask) -> str:
    if not ask.processes:
        return f"({ask.no_owner})"
    first = ask.processes[0]
    parent = f", from {protocol.quoted(first.parents[0].name)}" if first.parents else ""
    return f"{protocol.quoted(first.app.name)} ({first.pid}{parent})"


def _left(ask: protocol.Ask) -> str:
    if ask.stale:
        return "nothing now"
    left = max(0, round(ask.deadline - time.time()))
    return f"{ask.waiting}, then {ask.fallback.value} in {left} s"
