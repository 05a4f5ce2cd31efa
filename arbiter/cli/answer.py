"""`arbiter answer`: one answer, exactly once."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import structs

from arbiter import protocol
from arbiter.cli import complete
from arbiter.cli.common import (
    Daemon,
    daemon,
    fail,
    fail_rule,
    json_option,
    one_line,
    show_json,
    socket_option,
)
from arbiter.rules import RuleError, parse


@click.command()
@click.argument("ask", type=click.IntRange(1, 2**63 - 1), shell_complete=complete.asks)
@click.argument(
    "decision", nargs=-1, required=True, callback=one_line, shell_complete=complete.decision
)
@click.option(
    "--scope",
    default="",
    show_default="the narrowest",
    shell_complete=complete.scopes,
    help="What the rule covers: one of the ask's scopes, see `arbiter pending`.",
)
@click.option(
    "--for",
    "lifetime",
    default="once",
    show_default=True,
    shell_complete=complete.lifetimes,
    help="once, process, a time span (15m, 2h), session, boot, forever.",
)
@socket_option
@json_option
def answer(
    ask: int, decision: str, scope: str, lifetime: str, socket_path: Path, as_json: bool
) -> None:
    """Answer one ask: allow, deny, or 'route via=LINK'.

    Exit code 0 if it was carried out, 1 if it was refused (answered already, gone, not yours).
    """
    message = _message(ask, decision, scope or "connection", lifetime)
    with daemon(socket_path, "answer") as connection:
        for shown in connection.asks():  # all come first
            if shown.id == ask and shown.scopes and not scope:
                message = structs.replace(message, scope=shown.scopes[0].id)
        connection.send(message)
        reply = _result(connection, ask)
    if isinstance(reply, protocol.Refused):
        if as_json:
            show_json(reply)
        fail(reply.text)
    if as_json:
        show_json(reply)
    else:
        click.echo(_words(reply))
    if reply.problem:
        fail(f"it could not be remembered: {reply.problem}")


def _words(reply: protocol.Decided) -> str:
    kept = f"; rule {reply.rule_id}: {reply.rule}" if reply.rule_id is not None else ""
    count, one = reply.released, reply.released == 1
    packets = "1 waiting packet" if one else f"{count} waiting packets"
    if reply.decision == protocol.Choice.DENY:
        became = "was refused" if one else "were refused"
    else:
        became = "went its way" if one else "went their way"
    return f"{reply.decision}: {packets} {became}{kept}"


def _result(connection: Daemon, ask: int) -> protocol.Decided | protocol.Refused:
    """What became of our answer.

    `decided` goes to everybody, so one that comes may be about another's answer, a moment
    before ours. A refusal is sent as soon as an answer is read: the reply to a query sent
    behind it says that there is none.
    """
    connection.send(protocol.Query())
    decided, accepted = None, False
    while decided is None or not accepted:
        reply = connection.receive()
        if isinstance(reply, protocol.Refused) and reply.ask in (ask, None):
            return reply
        if isinstance(reply, protocol.Decided) and reply.ask == ask:
            decided = reply
        accepted = accepted or isinstance(reply, protocol.Status)
    return decided


def _message(ask: int, decision: str, scope: str, lifetime: str) -> protocol.Answer:
    try:
        parsed = parse(decision)
    except RuleError as error:
        fail_rule(error, decision)
    if parsed != type(parsed)(parsed.decision):
        fail("an answer is allow, deny or 'route via=LINK'; what it covers is --scope", 2)
    said = parsed.decision
    choice = protocol.Choice(said.action.value)
    return protocol.Answer(ask, choice, scope, lifetime, said.via, traffic=said.traffic)
