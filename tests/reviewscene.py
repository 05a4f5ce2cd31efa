"""A week of observing, small, and its review: what the tests of `arbiter rules review` look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arbiter.cli.reviewcards import draw, short
from arbiter.cli.reviewstate import Card, Keep, Quit, Review, TakeBack, denials
from arbiter.records import Record, json_list
from arbiter.rules import Entry, Layer, format_rule, parse
from arbiter.rules.propose import propose
from arbiter.rules.seen import programs
from arbiter.store import Store
from arbiter.store.sightings import Unreadable

CURL = "/usr/bin/curl"
FIREFOX = "/usr/lib/firefox/firefox"
BEGAN = 1795000000.0
NARROW = {
    f"allow app={CURL} host=deb.debian.org port=443 proto=tcp": 34,
    f"allow app={FIREFOX} host=internet port=443 proto=tcp": 30,
    f"allow app={CURL} host=www.debian.org port=443 proto=tcp": 4,
    f"allow app={CURL} host=192.168.1.1 port=53 proto=udp": 3,
    "allow app=unit:systemd-timesyncd.service host=192.0.2.123 port=123 proto=udp": 1,
}
"""What is proposed of that week, and how many connections each covers."""
DEB, WWW, DNS = (line for line in NARROW if CURL in line)


def record(
    app: str, to: str, port: int, *names: str, at: float = 0.0, proto: str = "tcp", **more: Any
) -> Record:
    fields: dict[str, Any] = {
        "user": "alice", "uid": 1000, "parents": json_list(["/usr/bin/bash"]),
        "decision": "allow", "reason": "observe",
    } | more  # fmt: skip
    decision, reason = fields.pop("decision"), fields.pop("reason")
    return Record(
        BEGAN + at,
        decision,
        reason,
        app=app,
        daddr=to,
        dport=port,
        proto=proto,
        names=json_list(names),
        **fields,
    )


def week() -> Iterator[Record]:
    """curl to three destinations, one of which was refused; a browser; and an ntp client."""
    for n in range(34):
        yield record(CURL, "198.51.100.10", 443, "deb.debian.org", at=n)
    for n in range(4):
        yield record(CURL, "198.51.100.11", 443, "www.debian.org", at=n)
    refused: dict[str, Any] = {"decision": "deny", "reason": "deadline"}
    for n in range(3):
        yield record(CURL, "192.168.1.1", 53, at=60.0 * n, proto="udp", **refused)
    for n in range(30):
        yield record(FIREFOX, f"203.0.113.{n}", 443, f"h{n}.example", at=3600.0 * n)
    time: dict[str, Any] = {"user": "systemd-timesync", "uid": 998, "parents": "[]"}
    yield record("unit:systemd-timesyncd.service", "192.0.2.123", 123, proto="udp", **time)


def store_week(path: Path, *others: Record) -> Path:
    """A database with the week in it."""
    with Store.open(path) as store:
        store.record([*week(), *others])
    return path


class Scene:
    """A review and its store: `press` carries out what a key wants."""

    def __init__(self, path: Path, *records: Record, denying: str = "") -> None:
        self.store = Store.open(path)
        self.store.record(records or week())
        found = self.store.undecided()
        sightings = [one for one in found if not isinstance(one, Unreadable)]
        shown = programs(sightings, lambda _, __: False)
        entries = [Entry(9, parse(denying), Layer.REMEMBERED, 1.0, "bob")] if denying else []
        self.review = Review([Card(p, propose(p)) for p in shown], denials(entries))
        self.kept: list[list[str]] = []
        self.ids = 0
        self.quit = False

    def press(self, keys: str) -> Scene:
        for key in keys:
            effect = self.review.key({"\r": "enter"}.get(key, key))
            if isinstance(effect, Keep):
                self.kept.append([format_rule(rule) for rule in effect.rules])
                self.ids += len(effect.rules)
                self.review.kept(range(self.ids - len(effect.rules) + 1, self.ids + 1))
            elif isinstance(effect, TakeBack):
                self.kept.append([f"- {effect.id}"])
                self.review.taken_back()
            elif isinstance(effect, Quit):
                self.quit = True
        return self

    def screen(self, width: int = 80, height: int = 24) -> str:
        return "\n".join(line.text.rstrip() for line in draw(self.review, width, height))

    @property
    def here(self) -> str:
        return short(self.review.item.rule)
