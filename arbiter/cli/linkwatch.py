"""`arbiter links --watch`: what changes about links, as it does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import click

from arbiter.cli.common import fail
from arbiter.cli.linklook import Look, Money, link_object
from arbiter.linkkeeper import link_of
from arbiter.linknews import news
from arbiter.links import FoundLink
from arbiter.model import Link


def follow(look: Callable[[], Look], db: Path, as_json: bool) -> None:
    """Say each change until Ctrl-C: a sentence, or with `as_json` all links in one line."""
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(_follow(look, db, as_json))
        except OSError as error:
            fail(f"the kernel's links cannot be watched: {error.strerror or error}")


async def _follow(make: Callable[[], Look], db: Path, as_json: bool) -> None:
    async with make() as look:
        before: dict[str, Link] | None = None
        while True:
            found = await look.next()
            now = _by_name(found)
            if as_json:
                money = Money(db)
                click.echo(json.dumps([link_object(link, money) for link in found]))
            elif before is not None:
                for text in news(before, now):
                    click.echo(f"{time.strftime('%H:%M:%S')} {text}")
            before = now


def _by_name(found: tuple[FoundLink, ...]) -> dict[str, Link]:
    return {link.name: link_of(link, None) for link in found}
