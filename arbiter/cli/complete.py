"""What the shell offers when Tab is pressed: ids of asks and rules, links, apps, words of a rule.

Nothing here may fail aloud or take long: without a daemon, or without the right to read, there is
nothing to offer. All texts are cleaned; the shell's script quotes what it inserts.
"""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from arbiter import protocol
from arbiter.cli import common

DECISIONS = ("allow", "deny", "route")
LIFETIMES = ("once", "process", "15m", "1h", "session", "boot", "forever")
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def names(values: dict[str, str], incomplete: str) -> list[CompletionItem]:
    """Those that begin so, each with its explanation."""
    return [
        CompletionItem(protocol.clean(value), help=protocol.clean(words, 80) or None)
        for value, words in values.items()
        if value.startswith(incomplete)
    ]


def asks(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the open asks, with who and where."""
    return names({str(ask.id): _ask_words(ask) for ask in _asks(ctx)}, incomplete)


def scopes(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The scopes of the ask that is answered; those of all where it is not given yet."""
    # Click parses nothing of a line that ends in an option without its value: look at its words.
    words = os.environ.get("COMP_WORDS", "").split()
    wanted = next(
        (int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 19), None
    )
    found = [ask for ask in _asks(ctx) if wanted in (None, ask.id)]
    offered = {scope.id: scope.conditions for ask in found for scope in ask.scopes}
    return names(offered, incomplete)


def lifetimes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """How long an answer may hold."""
    return names(dict.fromkeys(LIFETIMES, ""), incomplete)


def links(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of links, with their state."""
    return names(_links(ctx), incomplete)


def rules(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of the rules in force, with their lines."""
    return names({str(id): line for id, (line, _) in _rules(ctx).items()}, incomplete)


def apps(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Apps that rules speak of."""
    return names({app: "" for _, app in _rules(ctx).values() if app}, incomplete)


def decision(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`allow`, `deny`, `route`, and for route its links."""
    said = ctx.params.get("decision") or ()
    if not said:
        return names(dict.fromkeys(DECISIONS, ""), incomplete)
    words = said if isinstance(said, tuple) else tuple(said.split())
    return _via(ctx, incomplete) if words[0] == "route" else []


def line(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The next word of a rule: a decision, then `key=`, and the values that are known."""
    from arbiter.rules.line import KEYS

    said = ctx.params.get("line") or ()
    words = said if isinstance(said, tuple) else tuple(said.split())
    if not words:
        return names(dict.fromkeys(DECISIONS, ""), incomplete)
    key, equals, _value = incomplete.partition("=")
    if not equals:
        used = {word.partition("=")[0] for word in words}
        keys = [k for k in KEYS if k not in used and (k != "via" or words[0] == "route")]
        return names({f"{k}=": "" for k in keys}, incomplete)
    if key == "via":
        return _via(ctx, incomplete)
    known = {"for": dict.fromkeys(LIFETIMES, "")}
    if key in ("app", "parent"):
        known[key] = {app: "" for _, app in _rules(ctx).values() if app}
    return names({f"{key}={v}": words for v, words in known.get(key, {}).items()}, incomplete)


def _via(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """`via=lte`, and after a comma the next link."""
    before, comma, _ = incomplete.rpartition(",")
    start = before + comma if comma else "via="
    used = start.removeprefix("via=").split(",")
    known = _links(ctx) | {"any": "the default route"}
    return names({f"{start}{n}": words for n, words in known.items() if n not in used}, incomplete)


# --- what is there --------------------------------------------------------------------------


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without a word and without an end: there is just nothing to offer."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit, OSError):
        yield


def _asks(ctx: click.Context) -> list[protocol.Ask]:
    path = ctx.params.get("socket_path") or common.SOCKET
    with _quietly(), common.daemon(Path(path), "completion") as connection:
        return list(connection.asks())
    return []


def _ask_words(ask: protocol.Ask) -> str:
    who = ask.processes[0].app.name if ask.processes else ask.no_owner
    to = ask.destination
    return f"{who} to {to.name or to.address} {to.port or ''} {to.proto}"


def _links(ctx: click.Context) -> dict[str, str]:
    path = ctx.params.get("socket_path") or common.SOCKET
    with _quietly(), common.daemon(Path(path), "completion") as connection:
        for _ in connection.asks():
            pass  # they come first
        connection.send(protocol.Follow())
        while not isinstance(told := connection.receive(), protocol.Links):
            pass
        return {
            link.name: "up" if link.up else "down"
            for link in sorted(told.links, key=lambda link: link.name)
        }
    return {}


def _rules(ctx: click.Context) -> dict[int, tuple[str, str]]:
    """Line and app of each rule in force, by id; the newest first."""
    from arbiter.cli.rulestore import boot_id
    from arbiter.rules import format_rule
    from arbiter.store import Store, StoreError

    path: Any = ctx.params.get("db") or common.STATE / "arbiter.db"
    with _quietly(), contextlib.suppress(StoreError, sqlite3.Error):
        with Store.open(Path(path), readonly=True, create=False) as store:
            entries = store.rules(time.time(), boot_id(), None)
        return {e.id: (format_rule(e.rule), e.rule.app) for e in reversed(entries)}
    return {}
