"""`arbiter links --watch`: what changes about links, as it does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path

import click

from arbiter.cli.common import fail
from arbiter.cli.linklook import Look, Money, link_object
from arbiter.linkchange import link_of
from arbiter.linknews import news
from arbiter.links import FoundLink
from arbiter.model import Link


def follow(look: Look, shown: tuple[FoundLink, ...], db: Path, as_json: bool) -> None:
    """Say each change since the links were `shown`, until Ctrl-C: a sentence, or with `as_json`
    all links in one line, those of now first."""
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(_follow(look, shown, db, as_json))
        except OSError as error:
            fail(f"the kernel's links cannot be watched: {error.strerror or error}")


async def _follow(look: Look, shown: tuple[FoundLink, ...], db: Path, as_json: bool) -> None:
    await look.start(_trouble)
    try:
        before = _by_name(shown)
        while True:
            found = await look.next()
            now = _by_name(found)
            if as_json:
                money = Money(db)
                click.echo(json.dumps([link_object(link, money) for link in found]))
            else:
                for text in news(before, now):
                    click.echo(f"{time.strftime('%H:%M:%S')} {text}")
            before = now
    finally:
        await look.close()


def _trouble(problem: str) -> None:
    if problem:
        click.echo(f"arbiter: {problem}", err=True)


def _by_name(found: tuple[FoundLink, ...]) -> dict[str, Link]:
    return {link.name: link_of(link, None) for link in found}
