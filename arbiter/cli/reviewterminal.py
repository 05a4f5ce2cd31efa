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
from arbiter.rules import Entry, RuleError
from arbiter.store import Author, Store, StoreError, Wanted

GUARD = 0.2
"""Seconds after another proposal is shown in which keys do not count: nobody can have read it."""
_CLEAR = "\x1b[H\x1b[2J"
_STYLES: dict[str, dict[str, Any]] = {
    "bold": {"bold": True},
    "dim": {"dim": True},
    "warn": {"fg": "yellow"},
}


class News:
    """What changed of the rules since the change `after`: here, or in another terminal."""

    def __init__(self, store: Store, after: int) -> None:
        self._store = store
        self._after = after

    def tell(self, review: Review) -> bool:
        """Let the review know; whether there was anything. Raises StoreError."""
        if self._store.last_change() == self._after:
            return False
        changes = self._store.changes(self._after)
        gone = {change.rule_id for change in changes if change.change == "retired"}
        added = [change.rule_id for change in changes if change.change == "added"]
        found = [self._get(id, review) for id in added if id not in gone]
        review.changed(gone, [entry for entry in found if entry])
        self._after = max((change.id for change in changes), default=self._after)
        return True

    def _get(self, id: int, review: Review) -> Entry | None:
        try:
            return self._store.get(id)
        except RuleError as error:  # such a rule is in force for nobody
            review.message = f"cannot read rule {id}: {error}"
            return None


def run(review: Review, store: Store, author: Author, socket_path: Path, after: int) -> None:
    """Let a person decide, key by key. Each decision is stored, as a step of its own that can be
    undone, and in force before the next is shown. The review is of the rules as they were after
    the change `after`. Raises StoreError where they cannot be read any more."""
    news = News(store, after)
    try:
        with terminal(sys.stdin.fileno()) as keys:
            _loop(keys, review, store, author, socket_path, news)
    except KeyboardInterrupt:
        pass  # as `q`: what was decided is stored
    news.tell(review)
    click.echo(summary(review))


def _loop(
    keys: Keys, review: Review, store: Store, author: Author, socket_path: Path, news: News
) -> None:
    shown, size = None, None
    while True:
        if news.tell(review):
            size = None
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
        if key != "q" and news.tell(review):
            review.message = "rules were changed elsewhere just now: look again, then press a key"
            continue
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
    problem = put_in_force(socket_path, store.path)
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
