"""The wording of decision records and their sums, for frontends that read them. Pure.

Records come as the daemon sends them: objects with the keys of `arbiter audit --nl`. Every text
is one line, cleaned (`render.tidy`); what is not as expected is left out, whoever sent it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from prompts import livewords
from prompts.linkwords import size_words
from prompts.render import NAME_LIMIT, seconds_words, tidy

Record = Mapping[str, Any]
STATES = {
    "open": "open",
    "closed": "closed",
    "unknown": "gone, nobody saw when",
}
_HOOKS = {"out": "", "in": "incoming", "forward": "forwarded"}


def text(record: Record, key: str, limit: int = 4096) -> str:
    """A text or number as one line; "" where there is none."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return tidy(str(value), limit)


def number(record: Record, key: str) -> int | None:
    """A whole number; None where there is none."""
    value = record.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def texts(record: Record, key: str, limit: int = 4096) -> list[str]:
    """The texts of a list; none where there is no list."""
    value = record.get(key)
    return [tidy(str(one), limit) for one in value] if isinstance(value, list) else []


def called(app: str) -> str:
    """An app by the last part of its id: `curl` for `/usr/bin/curl`."""
    return tidy(re.split("[/:]", app)[-1] or app, NAME_LIMIT)


def program(record: Record) -> str:
    """`curl`, or `(kernel socket)` where no program is known."""
    app = record.get("app")
    if isinstance(app, str) and app:
        return called(app)
    return f"({text(record, 'no_owner', NAME_LIMIT) or 'no known program'})"


def target(record: Record) -> str:
    """`deb.example:443`, `192.0.2.7 icmp`: by the newest name where there is one."""
    proto, port = text(record, "proto", NAME_LIMIT), number(record, "dport")
    if not proto:
        return "a packet that cannot be read"
    names = texts(record, "names", NAME_LIMIT)
    host = names[0] if names else text(record, "daddr", NAME_LIMIT)
    if not port:
        return f"{host} {proto}"
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" + ("" if proto == "tcp" else f"/{proto}")


def why(record: Record) -> str:
    """`rule 12 of alice`; `an answer by bob with tui`; `nobody was there to ask`."""
    reason, rule, by = text(record, "reason"), number(record, "rule_id"), text(record, "by_user")
    if reason == "rule" and rule is not None and rule > 0:
        said = f"rule {rule}" + (f" of {by}" if by else "")
    elif reason == "rule":
        said = f"the rule at {by.removeprefix('file:')}" if by else "a rule"
    else:
        said = livewords.reason(reason)
        said += f" by {by}" if by else ""
        frontend = text(record, "frontend", NAME_LIMIT)
        said += f" with {frontend}" if by and frontend else ""
    return said


def rule_filter(record: Record) -> str:
    """The rule that decided as the filter `rule` has it: `12`, `FILE:LINE`; "" for none."""
    rule, by = number(record, "rule_id"), record.get("by_user")
    if rule is not None and rule > 0:
        return str(rule)
    if isinstance(by, str) and by.startswith("file:"):
        return by.removeprefix("file:")
    return ""


def moment(seconds: object) -> str:
    """A local time of the calendar, with its second; "" for none."""
    if not isinstance(seconds, int | float):
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"


def carried(record: Record) -> str:
    """`612 bytes in 7 packets sent, 4.2 kB in 8 packets received`; "" where nobody counted."""
    parts = []
    for way, verb in (("out", "sent"), ("in", "received")):
        size, packets = number(record, f"{way}_bytes"), number(record, f"{way}_packets")
        if size is not None:
            count = f" in {packets} packets" if packets is not None else ""
            parts.append(f"{size_words(size)}{count} {verb}")
    return ", ".join(parts)


def facts(record: Record) -> list[tuple[str, str]]:
    """(label, text) of everything that a record knows."""
    source, sport = text(record, "saddr"), number(record, "sport")
    to, dport = text(record, "daddr"), number(record, "dport")
    waited = record.get("waited")
    user, uid = text(record, "user"), number(record, "uid")
    known = {True: "yes", False: "no"}
    metered, roaming = record.get("metered"), record.get("roaming")
    out = [
        ("record", text(record, "id")),
        ("decided at", moment(record.get("time"))),
        ("program", text(record, "app") or program(record)),
        ("kind", text(record, "app_kind")),
        ("executable", text(record, "exe")),
        ("command", " ".join(texts(record, "argv"))),
        ("started by", " ← ".join(texts(record, "parents"))),
        ("pid", text(record, "pid")),
        ("user", f"{user} ({uid})" if user and uid is not None else user or text(record, "uid")),
        ("no program", text(record, "no_owner")),
        ("direction", _HOOKS.get(text(record, "hook"), text(record, "hook"))),
        ("from", f"{source} port {sport}" if sport else source),
        ("to", f"{to} port {dport}" if dport else to),
        ("protocol", text(record, "proto")),
        ("looked up", ", ".join(texts(record, "names"))),
        ("decision", text(record, "decision")),
        ("why", why(record)),
        ("note", text(record, "note")),
        ("waited", seconds_words(waited) if isinstance(waited, float) and waited >= 0.5 else ""),
        ("packets", text(record, "count") if number(record, "count") != 1 else ""),
        ("link", text(record, "link") or "none of a name: the default route, or no way out"),
        ("SIMs", ", ".join(texts(record, "sims"))),
        ("networks", ", ".join(texts(record, "networks"))),
        ("metered", known.get(metered, "") if isinstance(metered, bool) else ""),
        ("roaming", known.get(roaming, "") if isinstance(roaming, bool) else ""),
        ("profile", text(record, "profile")),
        ("state", STATES.get(text(record, "state"), text(record, "state"))),
        ("first reply", moment(record.get("replied"))),
        ("closed", moment(record.get("closed"))),
        ("carried", carried(record)),
    ]
    return [(label, said) for label, said in out if said]


def sizes(sums: Record) -> tuple[str, str]:
    """What sums say was sent and received."""
    return size_words(number(sums, "sent") or 0), size_words(number(sums, "received") or 0)


def rule_words(sums: Iterable[Record]) -> list[tuple[str, str, int]]:
    """Of sums by rule, those of rules: (as the filter has it, in words, connections)."""
    out = []
    for one in sums:
        name = rule_filter(one)
        if name:
            words = f"rule {name}" if name.isdigit() else f"the rule at {tidy(name)}"
            out.append((name, words, number(one, "connections") or 0))
    return out
