"""Names of hosts: one spelling, compared by label, and shown to people only where that is safe.

The one spelling is what DNS answers carry: ASCII, lower case, A-labels (`xn--...`) for what is not
ASCII, no final dot. Names in other scripts are mapped as UTS 46 says and must be valid in IDNA 2008
(RFC 5891). A label may hold underscores (`_xmpp._tcp`, Windows hosts). Pure.
"""

from __future__ import annotations

import functools
import re
import unicodedata

import idna

MAX_NAME = 253
"""Characters of a name: 255 bytes on the wire (RFC 1035 2.3.4), without a length and the root."""
MAX_LABEL = 63
"""RFC 1035 2.3.4."""

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
"""The last label is a number: what inet_aton and browsers take for an IPv4 address, such as
127.1, 0x7f.1 or 010.1.1.1 (WHATWG URL, "ends in a number")."""


def name_fault(name: str) -> str:
    """What keeps `name` from being a name in its one spelling, in one clause; "" if nothing."""
    if len(name) <= MAX_NAME and _NAME.match(name) and not _NUMBER.match(name):
        return ""
    if len(name) > MAX_NAME:
        return f"a name has at most {MAX_NAME} characters, not {len(name)} (RFC 1035)"
    for label in name.split("."):
        if not label:
            return "a label is empty: labels are joined by single dots"
        if len(label) > MAX_LABEL:
            return f"a label has at most {MAX_LABEL} characters, not {len(label)} (RFC 1035)"
        if not _NAME.match(label):
            return "a label has a-z, 0-9, - and _, and neither starts nor ends with -"
    return "the last label is a number, so that it would be taken for an address"


def canonical_name(text: str) -> str:
    """The one spelling of a name that a person, a file or DNS wrote. ValueError if it is none.

    Case is folded, one final dot is dropped, other scripts become A-labels.
    """
    name = text.lower() if text.isascii() else _a_labels(text)
    name = name.removesuffix(".")
    fault = name_fault(name)
    if fault:
        raise ValueError(fault)
    return name


def _a_labels(text: str) -> str:
    """ASCII labels stay what they are: DNS has many that IDNA would refuse (`r3---sn-x`)."""
    if len(text) > 4 * MAX_NAME:  # before the mapping, which costs more than its length
        raise ValueError(f"a name has at most {MAX_NAME} characters, not {len(text)} (RFC 1035)")
    try:
        mapped = idna.uts46_remap(text, std3_rules=False, transitional=False)
        labels = mapped.split(".")
        return ".".join(
            label if label.isascii() else idna.alabel(label).decode("ascii") for label in labels
        )
    except UnicodeError as error:  # idna.IDNAError is one
        why = "".join(c if c.isprintable() else "?" for c in str(error)).rstrip(".")
        raise ValueError(f"it is not valid in IDNA 2008: {why}") from None


def suffix(name: str, labels: int) -> str:
    """The last `labels` labels of a name that has more of them; "" of one that has not."""
    at = len(name)
    for _ in range(labels):
        at = name.rfind(".", 0, at)
        if at < 0:
            return ""
    return name[at + 1 :]


# --- for people -----------------------------------------------------------------------------

_TOGETHER = (
    frozenset({"LATIN"}),
    frozenset({"GREEK"}),
    frozenset({"CYRILLIC"}),
    frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}),
    frozenset({"CJK", "HANGUL"}),
    frozenset({"DEVANAGARI"}),
    frozenset({"THAI"}),
)
"""Scripts that one label may mix (UTS 39, "single script" with the sets of Japanese and Korean).
Right-to-left scripts are left out: they would turn round what stands beside them."""
_LOOKALIKES = frozenset(
    "асԁеһіјӏорԛѕԝхуүѵԍьгпштмкнвꙅ"  # Cyrillic that reads as Latin
    "ανορυχτκιηωγε"  # Greek
    "丶ノー一〆エト口ロニ二八ハ工丨"  # as / - . = and letters
    "0123456789-_"
)


@functools.lru_cache(maxsize=1024)
def shown_name(name: str) -> str:
    """A name in its one spelling as people read it: U-labels, but only those that deceive nobody.

    A label stays `xn--...` where it is not valid in IDNA 2008, is written right to left, mixes
    scripts, or is made of letters that look like others only.
    """
    if "xn--" not in name:
        return name
    return ".".join(_shown_label(label) for label in name.split("."))


def _shown_label(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        text = idna.ulabel(label)
        same = idna.alabel(text).decode("ascii") == label
    except UnicodeError:
        return label
    return text if same and text.isprintable() and _honest(text) else label


def _honest(text: str) -> bool:
    scripts = set()
    for char in text:
        if char in "-0123456789":
            continue
        # Beyond Latin Extended-A, Latin has turned, small and dotless twins of plain letters.
        if "\u0180" <= char <= "\u036f" or char in "ıĸŀ":
            return False
        scripts.add(unicodedata.name(char, "?").split(" ")[0])
    one_script = any(scripts <= together for together in _TOGETHER)
    return one_script and not all(char in _LOOKALIKES for char in text)
