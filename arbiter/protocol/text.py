"""Text of processes, DNS and peers, made fit to be shown. Pure."""

from __future__ import annotations

import unicodedata

MAX_TEXT = 4096
"""Characters kept of one string by `clean`."""

_BAD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """`text` fit to be shown: control, bidi and other invisible characters become U+FFFD.

    Lone surrogates (undecodable bytes of a path, PEP 383) do too. Longer text is cut, visibly.
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c) in _BAD_CATEGORIES else c for c in text)
