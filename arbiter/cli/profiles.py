"""`arbiter profiles`: sets of rules that hold in some places, daemon running or not."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import click

from arbiter.cli.common import db_option, fail, json_option, show_json, table
from arbiter.cli.lazy import Lazy
from arbiter.cli.profilewords import listed
from arbiter.cli.rulestore import boot_id, open_store
from arbiter.cli.ruleswords import when
from arbiter.profiles import Switch, word
from arbiter.protocol import clean
from arbiter.rules.words import quote

ELSEWHERE = {
    "add": (
        "arbiter.cli.profileschange:add",
        "Make a profile, bound to networks or not yet.",
    ),
    "bind": (
        "arbiter.cli.profileschange:bind",
        "Bind networks to a profile: gateway:MAC, ssid:NAME or sim:ICCID.",
    ),
    "remove": ("arbiter.cli.profileschange:remove", "Remove a profile and its bindings."),
    "unbind": (
        "arbiter.cli.profileschange:unbind",
        "Let networks switch nothing any more; the active profile stays.",
    ),
    "undo": (
        "arbiter.cli.profilesuse:undo",
        "Go back to the profile before the last switch, whoever or whatever made it.",
    ),
    "use": ("arbiter.cli.profilesuse:use", "Make a profile the active one, or none."),
}


@click.group(cls=Lazy, elsewhere=ELSEWHERE)
def profiles() -> None:
    """Sets of rules (`profile=NAME`) bound to networks or SIMs, and which one is active.

    The daemon switches when the machine comes onto a network that is bound to another profile than
    the last such network was; an unknown network switches nothing. Only new connections go by it.
    """


@profiles.command("list")
@db_option
@json_option
def show(db: Path, as_json: bool) -> None:
    """List the profiles: which is active, what brings each, and how many rules it has."""
    with open_store(db, readonly=True) as store:
        book = store.profiles.book()
        entries = store.rules(time.time(), boot_id(), None)
    counts = Counter(entry.rule.profile for entry in entries)
    active = book.standing.active
    if as_json:
        show_json(
            [
                {
                    "name": one.name,
                    "active": one.name == active,
                    "networks": list(map(quote, one.networks)),
                    "rules": counts[one.name],
                }
                for one in book.profiles
            ]
        )
    elif not book.profiles:
        click.echo("there are no profiles; `arbiter profiles add NAME` makes one")
    else:
        rows = (
            (
                one.name,
                "active" if one.name == active else "",
                listed(one.networks) or "no network",
                str(counts[one.name]),
            )
            for one in book.profiles
        )
        table(("profile", "now", "comes with", "rules"), rows)
    if book.unreadable:
        fail("\n".join(map(clean, book.unreadable)))


@profiles.command()
@click.option(
    "--last", "count", type=click.IntRange(1), default=20, show_default=True, help="Switches."
)
@click.option("--all", "everything", is_flag=True, help="All switches there are.")
@db_option
@json_option
def history(count: int, everything: bool, db: Path, as_json: bool) -> None:
    """Show which profile was active when, and why: switch by switch, the newest last."""
    with open_store(db, readonly=True) as store:
        switches = store.profiles.history()
    shown = switches if everything else switches[-count:]
    if as_json:
        show_json([_object(switch) for switch in shown])
    elif not shown:
        click.echo("no profile was ever active")
    else:
        rows = (
            (
                str(s.id),
                when(s.time),
                f"{word(s.before)} → {word(s.after)}",
                s.why + (" (undone)" if s.undone else ""),
                s.by,
                s.frontend,
            )
            for s in shown
        )
        table(("switch", "when", "profile", "why", "by", "from"), rows)


def _object(switch: Switch) -> dict[str, object]:
    return {
        "switch": switch.id,
        "time": switch.time,
        "before": switch.before or None,
        "after": switch.after or None,
        "why": clean(switch.why),
        "by": switch.by,
        "uid": switch.by_uid,
        "frontend": switch.frontend,
        "undoes": switch.undoes,
        "undone": switch.undone,
    }
