"""What a page may ask for, decoded strictly. Pure: bytes in, a value out, or RequestError."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from arbiter.protocol import Choice, RecordFilters

MAX_BODY = 16384
"""Bytes of a request's body."""

Text = Annotated[str, Meta(max_length=4096)]
Number = Annotated[int, Meta(ge=0, le=2**53)]


class RequestError(Exception):
    """A request that is not carried out; its text says why, for the person."""


class Login(Struct, frozen=True, forbid_unknown_fields=True):
    """The token of the printed URL."""

    token: Text


class Preview(Struct, frozen=True, forbid_unknown_fields=True):
    """What would these choices mean?"""

    ask: Number
    scope: Text
    lifetime: Text
    via: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()


class Answered(Struct, frozen=True, forbid_unknown_fields=True):
    """A person pressed a button. `rule` is the line they were shown; it must be what is sent."""

    ask: Number
    decision: Choice
    scope: Text
    lifetime: Text
    rule: Text
    via: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()


class Snoozing(Struct, frozen=True, forbid_unknown_fields=True):
    """One of the snoozes that were offered, by its key; "0" ends it."""

    key: Annotated[str, Meta(max_length=1)]


class Undoing(Struct, frozen=True, forbid_unknown_fields=True):
    """Take an answer back."""

    rule_id: Number


class Disturb(Struct, frozen=True, forbid_unknown_fields=True):
    """Do not disturb, or do again."""

    away: bool


class Filter(Struct, frozen=True, forbid_unknown_fields=True):
    """Connections with these words, of this app; "" for all."""

    words: Text = ""
    app: Text = ""
    any_app: bool = True
    """False: of `app` only, even if that is "", the app of what has no owner."""


class AppOf(Struct, frozen=True, forbid_unknown_fields=True):
    """One app, by its id."""

    id: Text


class Audit(Struct, frozen=True, forbid_unknown_fields=True):
    """Decision records: the newest, those before one, or those written after one."""

    filters: RecordFilters
    before: Number | None = None
    after: Number | None = None


class AppRecords(Struct, frozen=True, forbid_unknown_fields=True):
    """What an app did since some time, added up, and its last records."""

    id: Text
    since: Text | None = None


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """A rule to remember, in place of another or not."""

    line: Text
    instead_of: Number | None = None


class RuleId(Struct, frozen=True, forbid_unknown_fields=True):
    """A rule to remove."""

    id: Number


class AllApps(Struct, frozen=True, forbid_unknown_fields=True):
    """Every app that was seen."""


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """`{}`."""


T = TypeVar("T", bound=Struct)


def decode(body: bytes, type: type[T]) -> T:
    """The request. Raises RequestError."""
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(f"not a request of this console: {error}") from error
