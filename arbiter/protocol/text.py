"""Text of processes, DNS and peers, made fit to be shown. Pure."""

from __future__ import annotations

import re
import unicodedata

MAX_TEXT = 4096
"""Characters kept of one string by `clean`."""

_BAD_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_OWN_WORDS = re.compile(r'[\s,"<>]')
"""What a name needs to pass for words of the sentence that it stands in."""


def quoted(name: str) -> str:
    """A cleaned name as it stands in a sentence: in quotes where it could pass for more of that."""
    if name and not _OWN_WORDS.search(name):
        return name
    return '"' + name.replace('"', "'") + '"'


def clean(text: str, limit: int = MAX_TEXT) -> str:
    r"""`text` fit to be shown: control, bidi and other invisible characters become U+FFFD.

    Lone surrogates (undecodable bytes of a path, PEP 383) become `\udcXX`, as in records. Longer
    text is cut, visibly.
    """
    cut = len(text) > limit
    text = text[:limit]
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    if cut or len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(c) in _BAD_CATEGORIES else c for c in text)
