"""The words that messages choose from. Pure."""

from __future__ import annotations

import enum


class Role(enum.StrEnum):
    """What a client is: a prompt shows asks to a person; a command asks once and leaves; a watch
    hears what a prompt hears, and answers nothing: nobody is there to ask."""

    PROMPT = "prompt"
    COMMAND = "command"
    WATCH = "watch"


class Choice(enum.StrEnum):
    """The decision in an answer."""

    ALLOW = "allow"
    DENY = "deny"
    ROUTE = "route"


class WithdrawReason(enum.StrEnum):
    """Why an ask is gone without an answer."""

    EXITED = "exited"
    RULE = "rule"
    EXPIRED = "expired"
    STOPPING = "stopping"


class RefusedReason(enum.StrEnum):
    """What is wrong with a message."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    VERSION = "version"
    ORDER = "order"
    RIGHT = "right"
    GONE = "gone"
    ANSWERED = "answered"
    INVALID = "invalid"
    BUSY = "busy"
    TOO_LONG = "too_long"
