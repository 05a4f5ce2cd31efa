"""Rules from files and into files, arbiter's own forms and other firewalls'. Pure.

items.py what reading gives; own.py lines, TOML and JSON (words.py, jsontext.py); settle.py what
lies between reading and storing; formats.py which format a file has. OpenSnitch: opensnitch.py, a
rule's file (snitchfile.py), its words (snitchwords.py, regexps.py), its order (snitchorder.py,
meet.py). littlesnitch.py Internet Access Policies.

Every reader is total: whatever the bytes, it gives a Batch. A rule is imported as it is written, or
not at all: what cannot be expressed is a remark with its place and reason, and nothing is widened.
"""

from arbiter.exchange.formats import FORMATS, Format, Source, detect, read
from arbiter.exchange.items import MAX_FILE, Batch, Item, Remark, RemarkKind
from arbiter.exchange.own import WRITERS, about, other_place
from arbiter.exchange.settle import Binding, belongs, of_place, read_binding, select, settle

__all__ = [
    "FORMATS",
    "MAX_FILE",
    "WRITERS",
    "Batch",
    "Binding",
    "Format",
    "Item",
    "Remark",
    "RemarkKind",
    "Source",
    "about",
    "belongs",
    "detect",
    "of_place",
    "other_place",
    "read",
    "read_binding",
    "select",
    "settle",
]
