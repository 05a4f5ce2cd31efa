"""Where records go besides the database: lines of JSON, journald, syslog.

`items` is what is told, each form has a pure half (`*_text`) and a target that takes it, and a
`Sink` is the thread between: a target that is slow or dead delays nobody but itself.
"""

from __future__ import annotations

from arbiter.sinks.items import Decided, Ended, Item, Lost
from arbiter.sinks.journald import Journald
from arbiter.sinks.jsonlines import JsonLines
from arbiter.sinks.sink import Sink, Target
from arbiter.sinks.syslog import Syslog

__all__ = [
    "Decided",
    "Ended",
    "Item",
    "Journald",
    "JsonLines",
    "Lost",
    "Sink",
    "Syslog",
    "Target",
]
