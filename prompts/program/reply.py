"""What a program says of an ask: one decision, as words or as JSON. Pure.

    deny
    allow scope=host for=2h
    route via=lte,any for=session class=bulk
    {"decision": "route", "via": ["lte"], "scope": "app", "for": "1h"}

Nothing said is no answer. Everything else is nonsense, and answers nothing either.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from arbiter.model import TrafficClass
from arbiter.protocol import Answer, Ask, Choice
from prompts import choices, render
from prompts.render import tidy

SAID_LIMIT = 4096
"""Bytes of a reply."""
_SHOWN = 60


class ReplyError(Exception):
    """It is no decision, or none that this ask can have: `text` says why."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Reply(Struct, frozen=True, forbid_unknown_fields=True, rename={"lifetime": "for"}):
    """A decision as it was said; "" and () for what was not."""

    decision: Choice
    scope: str = ""
    lifetime: str = "once"
    via: tuple[str, ...] = ()
    traffic: TrafficClass | None = msgspec.field(default=None, name="class")


def read(data: bytes) -> Reply | None:
    """The decision in a program's output; None where it says nothing. Raises ReplyError."""
    if len(data) > SAID_LIMIT:
        raise ReplyError(f"it said more than {SAID_LIMIT} bytes")
    text = data.decode("utf-8", "replace").strip()
    if not text:
        return None
    if text.startswith("{"):
        try:
            return msgspec.json.decode(text, type=Reply)
        except msgspec.DecodeError as error:
            raise ReplyError(f"it said JSON that is no decision: {tidy(str(error))}") from error
    if "\n" in text:
        raise ReplyError(f"it said more than one line: {_quoted(text)}")
    return _words(text)


def _words(text: str) -> Reply:
    first, *rest = text.split()
    if first not in tuple(Choice):
        raise ReplyError(f"{_quoted(text)} is no decision: it begins with allow, deny or route")
    found = {"decision": first}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals or not value or key in found:
            raise ReplyError(f"{_quoted(word)} is not one of scope=, for=, via=, class=, each once")
        found[key] = value
    fields: dict[str, object] = {**found}
    if "via" in found:
        fields["via"] = found["via"].split(",")
    try:
        return msgspec.convert(fields, Reply)
    except msgspec.ValidationError as error:
        raise ReplyError(f"{_quoted(text)} is no decision: {tidy(str(error))}") from error


def _quoted(text: str) -> str:
    text = tidy(text)
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")


def answer(ask: Ask, reply: Reply) -> Answer:
    """The answer to this ask. Raises ReplyError where the ask has no such scope or link.

    Without a scope it is the narrowest, as for `arbiter answer`.
    """
    scopes = render.scopes(ask)
    ids = [scope.id for scope in scopes]
    if reply.scope and reply.scope not in ids:
        raise ReplyError(
            f"scope {_quoted(reply.scope)} is not offered: {', '.join(map(tidy, ids))}"
        )
    if (reply.decision is Choice.ROUTE) != bool(reply.via):
        raise ReplyError("route, and only route, says via=LINK")
    if reply.traffic is not None and reply.decision is Choice.DENY:
        raise ReplyError("what is denied has no class")
    place = ids.index(reply.scope) if reply.scope else 0
    made = choices.answer(ask, reply.decision, place, reply.lifetime, reply.via)
    return msgspec.structs.replace(made, traffic=reply.traffic)
