"""The loop of a review on a terminal: draw, read a key, store what it decides."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from arbiter import protocol
from arbiter.cli.common import put_in_force
from arbiter.cli.reviewcards import Line, draw, many
from arbiter.cli.reviewkeys import Keys, plain, terminal
from arbiter.cli.reviewstate import Effect, Keep, Mark, Quit, Review, TakeBack
from arbiter.cli.rulestore import boot_id
from arbiter.store import Author, Store, StoreError, Wanted

GUARD = 0.2
"""Seconds after another proposal is shown in which keys do not count: nobody can have read it."""
_CLEAR = "\x1b[H\x1b[2J"
_STYLES: dict[str, dict[str, Any]] = {
    "bold": {"bold": True},
    "dim": {"dim": True},
    "warn": {"fg": "yellow"},
}


def run(review: Review, store: Store, author: Author, socket_path: Path) -> None:
    """Let a person decide, key by key. Each decision is stored, as a step of its own that can be
    undone, and in force before the next is shown."""
    try:
        with terminal(sys.stdin.fileno()) as keys:
            _loop(keys, review, store, author, socket_path)
    except KeyboardInterrupt:
        pass  # as `q`: what was decided is stored
    click.echo(summary(review))


def _loop(keys: Keys, review: Review, store: Store, author: Author, socket_path: Path) -> None:
    shown, size = None, None
    while True:
        place = (review.card_at, review.item_at)
        if size != (size := shutil.get_terminal_size()):
            _show(draw(review, size.columns, size.lines))
        if shown != place:
            time.sleep(GUARD)
            keys.forget()
            shown = place
        key = keys.read()
        if not key:
            continue
        size = None
        effect = review.key(key)
        if isinstance(effect, Quit):
            return
        if effect is not None:
            _carry_out(effect, review, store, author, socket_path)


def _carry_out(
    effect: Effect, review: Review, store: Store, author: Author, socket_path: Path
) -> None:
    now = time.time()
    try:
        if isinstance(effect, Keep):
            wanted = [Wanted(rule) for rule in effect.rules]
            done = store.import_rules(wanted, author=author, created=now, boot=boot_id())
            review.kept([one.same or one.id for one in done])
        elif isinstance(effect, TakeBack):
            store.retire(
                (effect.id,),
                "removed",
                now,
                by=author.by,
                by_uid=author.by_uid,
                frontend=author.frontend,
            )
            review.taken_back()
    except StoreError as error:
        review.message = f"nothing was remembered: {error}"
        return
    problem = put_in_force(socket_path)
    if problem:
        review.message = f"it is stored, and not in force yet: {problem}"


def _show(lines: list[Line]) -> None:
    colour = not plain() and "NO_COLOR" not in os.environ
    out = "\n" if plain() else _CLEAR
    for line in lines:
        text = protocol.clean(line.text, len(line.text) + 1)
        style = _STYLES.get(line.style, {}) if colour else {}
        out += (click.style(text, **style) if style else text) + "\n"
    sys.stdout.write(out)
    sys.stdout.flush()


def summary(review: Review) -> str:
    """What came of it, and the next step."""
    count = review.count
    made = count(Mark.ALLOWED) + count(Mark.DENIED)
    text = (
        f"{count(Mark.ALLOWED)} allowed, {count(Mark.DENIED)} denied, "
        f"{count(Mark.SKIPPED)} skipped; {many(count(Mark.OPEN), 'proposal')} left"
    )
    return text + ("; `arbiter rules undo` takes the last step back" if made else "")
