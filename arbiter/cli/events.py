"""`arbiter events`: everything that happens, as it happens."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import click

from arbiter import protocol
from arbiter.cli.common import Daemon, daemon, json_option, socket_option
from arbiter.cli.eventwords import Words


@click.command()
@socket_option
@json_option
def events(socket_path: Path, as_json: bool) -> None:
    """Follow what happens, until Ctrl-C: asks and answers, connections and links.

    You see what you may answer for: your own programs; root and group arbiter see all. With --json
    each line is a message of docs/protocol.md, those of what is there already first.
    """
    with (
        contextlib.suppress(KeyboardInterrupt),
        daemon(socket_path, "events", protocol.Role.WATCH) as connection,
    ):
        connection.send(protocol.Follow())
        connection.socket.settimeout(None)  # there may be nothing to tell for hours
        if as_json:
            _lines(connection)
        else:
            _words(connection)


def _lines(connection: Daemon) -> None:
    while True:
        click.echo(protocol.encode(connection.receive()), nl=False)


def _words(connection: Daemon) -> None:
    words = Words()
    while True:
        message = connection.receive()
        text = words.of(message)
        if text:
            at = getattr(message, "time", None) or time.time()
            click.echo(f"{time.strftime('%H:%M:%S', time.localtime(at))} {text}")
