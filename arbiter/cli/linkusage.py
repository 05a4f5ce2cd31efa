"""`arbiter links usage`: a month's bytes, by link, SIM and program, and what they cost."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import click

from arbiter.budgets import size_text, summed
from arbiter.cli import complete
from arbiter.cli.common import (
    config_option,
    db_option,
    fail,
    json_option,
    show_json,
    table,
)
from arbiter.linkstate import read_files
from arbiter.localtime import local_zone
from arbiter.records import from_utf8
from arbiter.recordwords import said
from arbiter.store import Store, StoreError
from arbiter.tariff import Price, cost
from arbiter.usage import Used, day_of

BY = ("link", "sim", "app", "user", "day")
_MONTH = re.compile(r"[12][0-9]{3}-(0[1-9]|1[0-2])\Z")


@click.command()
@click.option("--month", metavar="YYYY-MM", help="Which month; this one, unless given.")
@click.option(
    "--by",
    "fields",
    default="link,app",
    show_default=True,
    help=f"What to add up by: any of {', '.join(BY)}, with commas between.",
)
@click.option("--app", default="", shell_complete=complete.apps, help="Only this app's id.")
@click.option("--link", default="", shell_complete=complete.links, help="Only this link.")
@config_option("The directory of links.d, for prices.")
@db_option
@json_option
def usage(
    month: str | None,
    fields: str,
    app: str,
    link: str,
    config: Path,
    db: Path,
    as_json: bool,
) -> None:
    """Show what was used in a month, the most first, and its cost at the links' prices of now.

    Bytes are those of IP packets, headers included, as operators bill them; connections that run
    are counted up to ten seconds ago. What was refused is not in it.
    """
    by = tuple(word.strip() for word in fields.split(","))
    wrong = [word for word in by if word not in BY]
    if wrong or len(set(by)) < len(by):
        fail(f"--by {fields}: give {', '.join(BY)}, each once", 2)
    if month is not None and not _MONTH.match(month):
        fail(f"--month {month!r} is no month: write it as 2026-07", 2)
    since = f"{month}-01" if month else day_of(time.time(), local_zone())[:8] + "01"
    start = date.fromisoformat(since)
    until = date(start.year + start.month // 12, start.month % 12 + 1, 1).isoformat()
    try:
        with Store.open(db, readonly=True) as store:
            rows = store.usage(since, until)
    except StoreError as error:
        fail(str(error))
    wanted = [
        row
        for row in rows
        if (not app or row.account.app == from_utf8(app)) and (not link or row.account.link == link)
    ]
    files, _ = read_files(config / "links.d")
    prices = {file.name: file.price for file in files if file.price is not None}
    found = summed(wanted, *by)
    if as_json:
        show_json([_object(since[:7], by, key, used, prices) for key, used in found.items()])
    elif not found:
        click.echo(f"nothing was used in {since[:7]}" + (", as asked" if app or link else ""))
    else:
        columns = [*by, "sent", "received", "connections"]
        columns += ["cost"] if prices and "link" in by else []
        table(columns, (_row(by, key, used, prices) for key, used in found.items()))


def _row(
    by: tuple[str, ...], key: tuple[str, ...], used: Used, prices: Mapping[str, Price]
) -> list[str]:
    row = [said(text) or "?" for text in key]
    row += [size_text(used.out_bytes), size_text(used.in_bytes), str(used.connections)]
    if prices and "link" in by:
        row.append(_cost(key[by.index("link")], used, prices))
    return row


def _cost(link: str, used: Used, prices: Mapping[str, Price]) -> str:
    price = prices.get(link)
    return f"{cost(used.size, price):.2f} {price.currency}" if price else ""


def _object(
    month: str,
    by: tuple[str, ...],
    key: tuple[str, ...],
    used: Used,
    prices: Mapping[str, Price],
) -> dict[str, object]:
    price = prices.get(key[by.index("link")]) if "link" in by else None
    return {
        "month": month,
        **dict(zip(by, map(said, key), strict=True)),
        "sent_bytes": used.out_bytes,
        "received_bytes": used.in_bytes,
        "sent_packets": used.out_packets,
        "received_packets": used.in_packets,
        "connections": used.connections,
        "cost": f"{cost(used.size, price):f}" if price else None,
        "currency": price.currency if price else None,
    }
