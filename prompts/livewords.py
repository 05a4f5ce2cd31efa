"""The wording of connections, and of what became of asks, for frontends that follow. Pure.

Every function gives one line, cleaned (`render.tidy`).
"""

from __future__ import annotations

from arbiter.protocol import Ask, Connection, Decided, Destination, SnoozeView, Undone
from prompts import render
from prompts.linkwords import size_words
from prompts.render import NAME_LIMIT, tidy


def program(told: Connection) -> str:
    """`curl`, or `(kernel socket)` where no program is known."""
    if told.app is None:
        return f"({tidy(told.no_owner, NAME_LIMIT) or 'no owner'})"
    return tidy(told.app.name, NAME_LIMIT) or tidy(told.app.id, NAME_LIMIT)


def target(to: Destination) -> str:
    """`deb.example:443`, `[2001:db8::1]:53/udp`, `192.0.2.7 icmp`: by name where there is one."""
    if not to.proto:
        return "a packet that cannot be read"
    host = tidy(to.name or to.address, NAME_LIMIT)
    if not to.port:
        return f"{host} {tidy(to.proto)}"
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{to.port}" + ("" if to.proto == "tcp" else f"/{tidy(to.proto)}")


def done(told: Connection) -> str:
    """`allow`, `deny`, `route via=lte`; what was to go on and could not is `refused`."""
    decision = tidy(told.decision)
    return decision if told.passes or decision == "deny" else f"refused ({decision})"


_REASONS = {
    "rule": "a rule",
    "answer": "an answer",
    "deadline": "nobody answered in time: the fallback",
    "unattended": "nobody was there to ask",
    "enforce": "no rule, and nobody is asked: mode enforce",
    "observe": "no rule; learning: it passes, and is recorded",
    "overflow": "too much waited already",
    "undecodable": "the packet cannot be read",
    "snooze": "a snooze",
    "older": "it began before arbiter did",
    "exited": "its program has exited",
    "stopping": "arbiter was stopping",
    "unrecorded": "its record could not be written first",
}


def reason(word: str) -> str:
    """A record's reason in words."""
    return _REASONS.get(word) or tidy(word)


def why(told: Connection) -> str:
    """Why it was decided so: `rule 12 of alice: allow app=…`; `nobody answered in time: …`."""
    if told.rule_id is not None or told.rule:
        number = "a rule" if told.rule_id is None else f"rule {told.rule_id}"
        text = number + (f" of {tidy(told.by)}" if told.by else "")
        text += f": {tidy(told.rule)}" if told.rule else ""
        text = f"answered: {text}" if told.reason == "answer" else text
    else:
        text = reason(told.reason)
        text += f" by {tidy(told.by)}" if told.by else ""
    return text + (f"; {tidy(told.note)}" if told.note else "")


def brief(told: Connection) -> str:
    """Why, for a narrow column: `rule 12 of alice`, `a snooze`."""
    if told.rule_id is not None:
        return f"rule {told.rule_id}" + (f" of {tidy(told.by, NAME_LIMIT)}" if told.by else "")
    return reason(told.reason)


def facts(told: Connection, sent: int, received: int) -> list[tuple[str, str]]:
    """(label, text) of everything that is known of a connection."""
    app, to = told.app, told.destination
    names = ", ".join(tidy(name) for name in (to.name, *to.names) if name)
    source = f"[{tidy(told.source)}]" if ":" in told.source else tidy(told.source)
    user = tidy(told.user) or ("unknown" if told.uid is None else str(told.uid))
    out = [
        ("program", tidy(app.id) if app is not None else program(told)),
        ("pid", "" if told.pid is None else str(told.pid)),
        ("user", user),
        ("from", source + (f":{told.sport}" if told.sport else "")),
        ("to", render.place(to)),
        ("looked up", f"{names} (hints, from DNS)" if names else ""),
        ("decided", done(told)),
        ("why", why(told)),
        ("link", tidy(told.link) or "none of a name: the default route, or no way out"),
        ("carried", f"{size_words(sent)} sent, {size_words(received)} received"),
    ]
    return [(label, text) for label, text in out if text]


def search(told: Connection) -> str:
    """What a filter looks at: who, where, over what, how; in lower case."""
    app, to = told.app, told.destination
    parts = (
        app.name if app is not None else told.no_owner,
        app.id if app is not None else "",
        to.address,
        to.name,
        " ".join(to.names),
        f"port={to.port}",
        target(to),
        to.proto,
        to.service,
        f"link={told.link}",
        done(told),
        told.reason,
        f"user={told.user}",
        told.rule,
    )
    return tidy(" ".join(parts)).lower()


def rate_words(rate: float) -> str:
    """`1.5 MB/s`; "" for nothing."""
    return f"{size_words(int(rate))}/s" if rate >= 1 else ""


def decided(ask: Ask | None, message: Decided) -> str:
    """What was decided on an ask, and the rule that is remembered."""
    if ask is not None:
        return render.result(ask, message)
    rule = f"; rule {message.rule_id}: {tidy(message.rule)}" if message.rule else ""
    return f"{tidy(message.decision)}{rule}"


def undone(message: Undone) -> str:
    """`rule 12 is gone; in force again: deny app=/usr/bin/curl`."""
    text = f"taken back: rule {message.rule_id} is gone"
    if message.restored:
        text += f"; in force again: {' | '.join(map(tidy, message.restored))}"
    return text


def snooze_words(snooze: SnoozeView, now: float) -> str:
    """`what is new of alice is denied unasked for 4 min`."""
    return f"{snooze_what(snooze)} for {render.seconds_words(snooze.until - now + 0.999)}"


def snooze_what(snooze: SnoozeView) -> str:
    """`what is new of alice is denied unasked`."""
    whose = f" of {tidy(snooze.user) or snooze.uid}" if snooze.uid is not None else ""
    verb = {"allow": "allowed", "deny": "denied"}.get(snooze.decision, tidy(snooze.decision))
    return f"what is new{whose} is {verb} unasked"


_MODES = {
    "observe": "arbiter is learning: what is new is allowed and recorded, and nobody is asked",
    "enforce": "mode enforce: what no rule decides gets the fallback, and nobody is asked",
}


def mode_words(mode: str) -> str:
    """What is to be known of a mode in which nobody is asked; "" for mode ask."""
    return _MODES.get(mode, "")
