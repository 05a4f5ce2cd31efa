"""Decision records and their sums as a page shows them: plain values, cleaned. Pure."""

from __future__ import annotations

from typing import Any

from arbiter.protocol import Records, Sums
from prompts import recordwords
from prompts.linkwords import size_words
from prompts.recordwords import Record, number, text
from prompts.render import tidy
from prompts.web.views import View

APP_SUMS = ("destination", "link", "rule", "decision")
"""The lists of an app's page."""


def record_views(records: Records) -> list[View]:
    """Rows; what has no number is none."""
    return [record_view(one) for one in records.records if number(one, "id") is not None]


def record_view(record: Record) -> View:
    """A row with everything that is known beneath it, and the record itself, for a download."""
    decision = text(record, "decision")
    return {
        "id": number(record, "id"),
        "time": _seconds(record.get("time")),
        "program": recordwords.program(record),
        "app": _raw(record, "app"),
        "where": recordwords.target(record),
        "decision": decision,
        "denied": decision == "deny",
        "link": text(record, "link"),
        "state": text(record, "state"),
        "sent": _size(record, "out_bytes"),
        "received": _size(record, "in_bytes"),
        "why": recordwords.why(record),
        "facts": recordwords.facts(record),
        "more": {
            "host": _host(record),
            "user": _raw(record, "user"),
            "rule": recordwords.rule_filter(record),
        },
        "record": {key: _plain(value) for key, value in record.items()},
    }


def app_view(sums: Sums, last: Records) -> View:
    """What an app did: where to, over what, by which rules, and its last records."""
    found = {name: sums.sums.get(name, ()) for name in APP_SUMS}
    return {
        "places": [_place(one) for one in found["destination"]],
        "links": [
            _sum(one) | {"link": text(one, "link"), "cost": text(one, "cost")}
            for one in found["link"]
        ],
        "rules": recordwords.rule_words(found["rule"]),
        "decisions": [
            (text(one, "decision"), number(one, "connections") or 0) for one in found["decision"]
        ],
        "last": record_views(last),
        "more": last.more,
    }


def _place(one: Record) -> View:
    where = recordwords.target(one)
    return _sum(one) | {"where": where, "address": text(one, "daddr"), "host": _host(one)}


def _sum(one: Record) -> View:
    sent, received = recordwords.sizes(one)
    return {
        "connections": number(one, "connections") or 0,
        "refused": number(one, "denied") or 0,
        "sent": sent,
        "received": received,
        "last": _seconds(one.get("last")),
    }


def _host(record: Record) -> str:
    """What the filter `host` would say of where it went."""
    names = recordwords.texts(record, "names")
    return names[0] if names else text(record, "daddr")


def _raw(record: Record, key: str) -> str:
    """As the filters want it: what is shown beside it is tidied."""
    value = record.get(key)
    return value if isinstance(value, str) else ""


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _size(record: Record, key: str) -> str:
    size = number(record, key)
    return "" if size is None else size_words(size)


def _plain(value: Any) -> Any:
    """A value of a record, each text of it one harmless line."""
    if isinstance(value, str):
        return tidy(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if isinstance(value, int | float) else None
