"""The rules in force, and how they end: by their time, with their process, by a person. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from arbiter.judge import NOWHERE, Context, Judgement, judge, queries, subject
from arbiter.model import NoOwner, Owner, Packet, Process
from arbiter.rules import Entry, Index, format_rule, why_not

MAX_ENDED = 256
"""How many ended rules are kept, to say why something is asked again."""

ProcessId = tuple[int, int]
"""(pid, start)."""


class RuleBook:
    """The index, and what must be known beside it to let rules end."""

    def __init__(self) -> None:
        self.index = Index()
        self._of_process: dict[ProcessId, dict[int, Entry]] = {}
        self._ended: OrderedDict[int, tuple[Entry, str]] = OrderedDict()

    def judge(
        self, packet: Packet, owner: Owner | NoOwner, wall: float, context: Context = NOWHERE
    ) -> Judgement | None:
        """What the rules say; None where a person must be asked."""
        return judge(self.index, packet, owner, wall, context)

    def subject(
        self, packet: Packet, owner: Owner | NoOwner, wall: float, context: Context = NOWHERE
    ) -> Process | None:
        """The process that a question about this packet must be about."""
        return subject(self.index, packet, owner, wall, context)

    def change(self, added: Iterable[Entry], removed: Iterable[int]) -> list[ProcessId]:
        """Take rules out and put others in; gives the processes that new ones end with."""
        for id in removed:
            entry = self.index.get(id)
            self.index.remove(id)
            if entry is not None and entry.process is not None:
                self._of_process.get(entry.process, {}).pop(id, None)
        processes: list[ProcessId] = []
        for entry in added:
            self.index.add(entry)
            if entry.process is not None:
                self._of_process.setdefault(entry.process, {})[entry.id] = entry
                processes.append(entry.process)
        return processes

    def end_due(self, wall: float) -> tuple[int, ...]:
        """Put out of force what has expired; gives the ids."""
        return self._end(self.index.expired(wall), "its time is over")

    def end_with(self, process: ProcessId) -> tuple[int, ...]:
        """Put out of force the rules of a process that is gone; gives the ids."""
        return self._end(self._of_process.pop(process, {}).values(), "its program has exited")

    def _end(self, entries: Iterable[Entry], why: str) -> tuple[int, ...]:
        ended = tuple(entries)
        for entry in ended:
            self.index.remove(entry.id)
            self._ended[entry.id] = (entry, why)
        while len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        return tuple(entry.id for entry in ended)

    def why_asked(self, packet: Packet, owner: Owner | NoOwner, context: Context = NOWHERE) -> str:
        """Why a person is asked: what ended, what is odd, or that nothing decides it yet."""
        asked = tuple(queries(packet, owner, context))
        for entry, why in reversed(self._ended.values()):
            if any(why_not(entry.rule, query) is None for query in asked):
                return f"{entry.called} ({format_rule(entry.rule)}) ended: {why}"
        if isinstance(owner, NoOwner):
            return f"no rule decides it, and its program is not known: {owner.reason.value}"
        notes = [process.note for process in owner.processes if process.note]
        return notes[0] if notes else "no rule decides it yet"
