"""Which bytes are a host's name that may be shown and compared with a rule. Pure, floor 0."""

from __future__ import annotations

import re

_HOST = re.compile(rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_NUMBER_AT_END = re.compile(rb"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


def host_name(name: bytes) -> str | None:
    """The text of lower-case labels joined by dots; None for what no rule could ever match.

    Letters, digits, `-` and `_` only: a space or a control character would be shown as something
    that it is not. So would a name whose last label is a number: people and URL parsers (WHATWG
    URL 3.5) read it as an address. 253 bytes at most (RFC 1035 2.3.4, without the root).
    """
    if not name or len(name) > 253 or not _HOST.fullmatch(name) or _NUMBER_AT_END.fullmatch(name):
        return None
    return name.decode("ascii")
