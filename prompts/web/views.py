"""What a page shows, as plain values: worded by `prompts.render` and cleaned. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from arbiter.model import ANY_LINK
from arbiter.protocol import Answer, Ask, Choice, LinkState
from prompts import choices, linkwords, livewords, render, snoozing
from prompts.cards import Card
from prompts.feed import Entry, Feed, Live
from prompts.render import tidy
from prompts.uses import NOBODY, AppUse, Flow

View = dict[str, Any]
CHART_SECONDS = 120
"""How far back a link's chart goes."""
MAX_ROWS = 500
"""Connections on a page: more is a matter for the filter."""


def ask_view(ask: Ask, lifetime: str, sent: Answer | None) -> View:
    """One question, with the choices it begins with; `lifetime` is the last one answered with."""
    place, lifetime = choices.first_scope(ask), choices.default_lifetime(ask, lifetime)
    advice = ask.advice
    return {
        "id": ask.id,
        "subject": subject(ask),
        "program": render.who(ask),
        "where": render.endpoint(ask),
        "question": render.question(ask),
        "warnings": render.warnings(ask),
        "facts": render.facts(ask),
        "details": [*render.details(ask), *linkwords.link_details(ask)],
        "app": ask.processes[0].app.id if ask.processes else None,
        "suggests": tidy(advice.suggest) if advice is not None else "",
        "over": linkwords.default_link(ask),
        "obstacle": ask.obstacle,
        "stale": not render.waits(ask),
        "sent": None if sent is None else render.decision_text(sent.decision, sent.via),
        "scopes": [
            {
                "id": scope.id,
                "words": render.scope_words(scope),
                "conditions": tidy(scope.conditions) or "every connection",
            }
            for scope in render.scopes(ask)
        ],
        "lifetimes": [
            {"id": each, "words": render.lifetime_words(each)} for each in render.lifetimes(ask)
        ],
        "links": link_choices(ask),
        "first": preview(ask, place, lifetime, ()),
    }


def link_choices(ask: Ask) -> list[View]:
    """What route may name here, and what to know of it."""
    words = {link.name: linkwords.link_words(ask, link) for link in ask.links}
    up = {link.name: link.up for link in ask.links}
    return [
        {
            "id": name,
            "name": tidy(name),
            "words": words.get(name) or render.LINK_WORDS.get(name, ""),
            "up": up.get(name, True),
        }
        for name in (Card(ask, "once").links if ask.links else ())
    ]


def preview(ask: Ask, place: int, lifetime: str, via: tuple[str, ...]) -> View:
    """What each answer would remember, and mean, with these choices."""
    scope = render.scopes(ask)[place]
    out: View = {"scope": scope.id, "lifetime": lifetime, "via": via}
    for choice in Choice:
        if choice is Choice.ROUTE and not via:
            continue
        meant, over = choices.meant(ask, choice, via)
        out[choice.value] = {
            "rule": render.rule_line(scope, lifetime, meant, over),
            "means": render.means(ask, scope, lifetime, meant, over),
        }
    return out


def ordered(via: tuple[str, ...]) -> tuple[str, ...]:
    """Links in the order of the choice, the default route last: after it comes nothing."""
    names = tuple(dict.fromkeys(name for name in via if name != ANY_LINK))
    return (*names, ANY_LINK) if ANY_LINK in via else names


def subject(ask: Ask) -> str:
    """What was read: when it changes, it is another question, and must be read again."""
    return hashlib.sha256(repr(choices.subject(ask)).encode("utf-8", "replace")).hexdigest()[:16]


QUIET = "do not disturb: nobody counts as there to ask, until you switch it off"


def me_view(feed: Feed, now: float, quiet: bool) -> View:
    """Who we are to the daemon, and how it is."""
    welcome, status = feed.welcome, feed.status
    snoozes = [livewords.snooze_words(each, now) for each in feed.snoozed(now)]
    quiet_words = QUIET if quiet else ""
    problems = [tidy(text) for text in (status.problems if status else ())]
    return {
        "connected": feed.connected,
        "state": _state(feed) if feed.connected else f"no connection: {feed.problem}; trying again",
        "admin": bool(welcome and welcome.admin),
        "learning": feed.mode == "observe",
        "snoozed": bool(snoozes),
        "snoozes": snoozing.keys(bool(welcome and welcome.admin)),
        "quiet": quiet,
        "alerts": [text for text in (livewords.mode_words(feed.mode), quiet_words) if text]
        + snoozes
        + problems,
    }


def _state(feed: Feed) -> str:
    welcome, status = feed.welcome, feed.status
    if welcome is None:
        return ""
    scope = "for all users" if welcome.admin else "for your own programs"
    fallback = tidy(status.fallback if status else welcome.fallback)
    how = f"mode {tidy(feed.mode)}, fallback {fallback}"
    return f"connected as {tidy(welcome.user)}, deciding {scope}; {how}"


def entry_view(feed: Feed, entry: Entry) -> View:
    """A line of what happened."""
    return {
        "id": entry.id,
        "time": entry.time,
        "kind": entry.kind,
        "text": tidy(entry.text),
        "by": tidy(entry.by),
        "undo": entry.rule_id if feed.may_undo(entry) else None,
        "undone": entry.undone,
    }


def connection_view(live: Live, now: float) -> View:
    """A row of the table of connections."""
    told = live.told
    out, back = live.rate(now)
    return {
        "id": told.id,
        "time": told.time,
        "program": livewords.program(told),
        "app": told.app.id if told.app else "",
        "where": livewords.target(told.destination),
        "done": livewords.done(told),
        "passes": told.passes,
        "runs": live.runs,
        "link": tidy(told.link),
        "why": livewords.why(told),
        "user": tidy(told.user),
        "sent": linkwords.size_words(live.sent),
        "received": linkwords.size_words(live.received),
        "rate": livewords.rate_words(out + back),
        "facts": livewords.facts(told, live.sent, live.received),
    }


def connections_view(feed: Feed, now: float, words: str, app: str | None) -> View:
    """The newest connections that have all these words; `app` None: of every app."""
    wanted = tidy(words).lower().split()
    rows: list[View] = []
    found = 0
    for live in reversed(feed.connections.values()):
        told = live.told
        if app is not None and (told.app or NOBODY).id != app:
            continue
        if all(word in live.words for word in wanted):
            found += 1
            if len(rows) < MAX_ROWS:
                rows.append(connection_view(live, now))
    return {"rows": rows, "found": found, "known": len(feed.connections)}


def app_row(use: AppUse) -> View:
    """A row of the table of apps."""
    return {
        "id": use.app.id,
        "name": tidy(use.app.name, render.NAME_LIMIT) or tidy(use.app.id) or "no known program",
        "shown": tidy(use.app.id),
        "running": use.running,
        "connections": use.connections,
        "refused": use.refused,
        "sent": linkwords.size_words(use.sent),
        "received": linkwords.size_words(use.received),
        "last": use.last,
    }


def app_view(use: AppUse) -> View:
    """An app with the places it connected to, the last one first."""
    places = [
        {
            "where": livewords.target(place.to),
            "link": tidy(place.link),
            "connections": place.connections,
            "refused": place.refused,
            "sent": linkwords.size_words(place.sent),
            "received": linkwords.size_words(place.received),
            "last": place.last,
        }
        for place in reversed(use.places.values())
    ]
    return app_row(use) | {"places": places}


def link_view(link: LinkState) -> View:
    """A link by itself."""
    known = {True: "yes", False: "no", None: "nobody knows"}
    left = "" if link.left is None else linkwords.size_words(link.left)
    facts = [
        ("interface", f"{tidy(link.interface)}, {tidy(link.kind)}"),
        ("default route", "yes" if link.default else "no"),
        ("metered", known[link.metered]),
        ("roaming", known[link.roaming]),
        ("price", tidy(link.price)),
        ("budget", f"{left} left of {tidy(link.budget)}" if left else tidy(link.budget)),
        ("this month", linkwords.size_words(link.month)),
    ]
    return {
        "name": tidy(link.name),
        "up": link.up,
        "facts": [(label, text) for label, text in facts if text],
    }


def flow_view(link: str, flow: Flow, now: float) -> View:
    """What a link carried: bytes a second, the last CHART_SECONDS seconds, the newest last."""
    sent, received = flow.series(now, CHART_SECONDS, 1)
    label = tidy(link) or "no link of a name"
    return {"name": label, "end": int(now) - 1, "sent": sent, "received": received}


# --- what commands told ---------------------------------------------------------------------


def rule_view(rule: View) -> View:
    """A row of `arbiter rules list --json`."""
    line = str(rule["rule"])
    found = dict(word.partition("=")[::2] for word in render.words(line))
    return {
        "id": rule["id"],
        "rule": tidy(line),
        "app": _unquoted(found.get("app", "")),
        "by": tidy(str(rule["by"])),
        "frontend": tidy(str(rule["frontend"])),
        "created": rule["created"],
        "expires": rule["expires"],
    }


def _unquoted(word: str) -> str:
    """A value of a rule's line without its quotes, as in docs/rules.md."""
    if len(word) < 2 or word[0] != '"':
        return word
    return re.sub(r"\\(.)", r"\1", word[1:-1])


def usage_view(row: View) -> View:
    """A row of `arbiter links usage --json`."""
    return {key: tidy(value) if isinstance(value, str) else value for key, value in row.items()}
