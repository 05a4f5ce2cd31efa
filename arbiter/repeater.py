"""Teaches the fast path what may be repeated, takes it back, and tells the pipeline what it did.

An answer is repeated as long as no event comes by which the pipeline could decide otherwise:
`before` is called with each one ahead of the pipeline, and takes back everything unless the event
is known to change nothing. Rules that hold at some times only, budgets that are used up and tunnels
are never repeated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from msgspec import structs

from arbiter import identity
from arbiter.events import (
    Event,
    NamesLearned,
    OlderFound,
    OwnerFound,
    PacketQueued,
    PromptsChanged,
    Reason,
    Repeated,
    Report,
    Trouble,
)
from arbiter.kernel.elders import Elder
from arbiter.kernel.fastpath import FastPath, Handed, Question, Standing, Start
from arbiter.kernel.owner import OwnerLookup
from arbiter.kernel.procfs import ProcessTable, argv_of
from arbiter.kernel.queue import Queue
from arbiter.memory import now
from arbiter.model import (
    Action,
    Ancestor,
    Hook,
    Now,
    Owner,
    Packet,
    Process,
    Undecodable,
    VerdictKind,
)
from arbiter.pipeline import Pipeline

STEADY = frozenset({PacketQueued, OwnerFound, OlderFound, Repeated, PromptsChanged, Trouble})
"""Events after which the pipeline decides as before."""
MOST = 1024
"""Answers taught (ANSWERS of native/fastpath.h): with more, it begins anew."""
SECONDS = 60.0
"""How long one is repeated; then the pipeline is asked again, as at first."""
_STREAMS = frozenset({6, 17})


class _Taught(NamedTuple):
    owner: Owner
    report: Report


class Repeater:
    """Does nothing without a fast path. In the loop."""

    def __init__(
        self,
        path: FastPath | None,
        queue: Queue,
        owners: OwnerLookup,
        processes: ProcessTable,
        pipeline: Pipeline,
        dispatch: Callable[[Event], None],
    ) -> None:
        self._path, self._queue = path, queue
        self._owners, self._processes = owners, processes
        self._pipeline, self._dispatch = pipeline, dispatch
        self._taught: dict[int, _Taught] = {}
        self._addresses: set[bytes] = set()
        """Where the answers lead to that hold there only."""
        self._going_on: set[tuple[int, int]] = set()
        """Processes (pid, start) of which something was taught: they did not end with it."""
        self._names_out: bool | None = None
        """Whether the fast path knows all places whose names a rule speaks of; None: not asked."""
        self._areas_out: dict[tuple[str, int], bool] = {}
        """The same of the areas that a rule asks for, by app and port."""
        self._later: Report | None = None
        self._tokens = 0
        self._last: tuple[tuple[Process, int, int, bytes] | None, tuple[Process, ...]] = (None, ())
        """What the last other process was told by, and it."""
        self._children_have: dict[int, tuple[Ancestor, ...]] = {}
        """Ancestors, by the parent, of which the fast path says whether it is still the same."""
        self._packet = self._mark = 0
        """The packet whose owner is looked up now, and since when its process must not change."""
        if path is not None:
            queue.go_by(path, self._repeated)

    @classmethod
    def over(
        cls,
        queue: Queue,
        start: Start | None,
        owners: OwnerLookup,
        processes: ProcessTable,
        pipeline: Pipeline,
        dispatch: Callable[[Event], None],
    ) -> Repeater:
        """With `audit.sync` nothing is repeated: each record comes before its verdict."""
        path: FastPath | None = None
        if start is not None and pipeline.settings.audit.sync:
            start.close()
        elif start is not None:
            path = FastPath(queue.fileno(), queue.number, start)
        return cls(path, queue, owners, processes, pipeline, dispatch)

    def close(self) -> None:
        """Stop the thread, and give everything back."""
        if self._path is not None:
            self._path.close()

    def packet_came(self, packet: int) -> None:
        """Its owner is looked up next. On the hot path."""
        if self._path is not None:
            self._packet, self._mark = packet, self._path.mark()

    def before(self, event: Event) -> None:
        """Take back what this event may change. On the hot path."""
        if type(event) in STEADY:
            return
        self._later = None
        if not self._taught and not self._names_out and not self._areas_out:
            return
        if isinstance(event, NamesLearned) and self._bears(event):
            return
        self._forget()

    def _bears(self, event: NamesLearned) -> bool:
        """Whether these names can be learned with what was taught as it is."""
        assert self._path is not None
        answers, names = event.answers, self._pipeline.names
        if names.told(answers.name, answers.addresses, event.now.mono):
            return True  # each new process looks the same up again
        if not self._addresses.isdisjoint(answers.addresses):
            return False
        if self._names_out and names.speaks(answers.name):
            return all(map(self._path.leave_out, answers.addresses))
        return True

    def decided(self, report: Report) -> None:
        """Have it repeated, if it may be: before its verdict, or once that was given where the
        process is known to go on. On the hot path."""
        if self._path is None or report.packet.id != self._packet or not repeatable(report):
            return
        assert isinstance(report.owner, Owner)
        process = report.owner.processes[0]
        if (process.pid, process.start) in self._going_on:
            self._later = report
        else:
            self._teach(self._path, report)

    def answered(self) -> None:
        """The verdict was given on what was decided last."""
        report, self._later = self._later, None
        if self._path is not None and report is not None:
            self._teach(self._path, report)

    def _teach(self, path: FastPath, report: Report) -> None:
        packet, owner = report.packet, report.owner
        assert isinstance(packet, Packet) and isinstance(owner, Owner)
        ways = self._pipeline.ways
        link = ways.used(packet, report.link)
        if link is not None and link.spent is not None:
            return
        if any(one.tun for one in ways.links.values()):
            return  # who holds its other end is to be found out each time
        process = owner.processes[0]
        image, place = self._processes.image(process), self._owners.place(process.pid)
        if place is None or not image:
            return
        program, only = self._program(process)
        standing = Standing(process.pid, process.uid, *process.exe_id, image, *place, program, only)
        if len(self._taught) >= MOST:
            self._forget()
        flow, mono = packet.flow, time.monotonic()
        daddr, until = flow.daddr, mono + SECONDS
        there = self._depends_on_place(report, process.app.id, flow.dport)
        if there:
            until = min(until, self._pipeline.names.until(daddr, mono))
        else:
            daddr = bytes(len(daddr))
        self._tokens += 1
        question = Question(flow.proto, flow.saddr, daddr, flow.dport, packet.outdev, packet.mark)
        mark = self._queue.mark(packet.mark, report.verdict)
        if path.teach(self._mark, question, standing, owner.uid, mark, self._tokens, until):
            self._taught[self._tokens] = _Taught(owner, report)
            if there:
                self._addresses.add(daddr)
            self._going_on.add((process.pid, process.start))

    def _program(self, process: Process) -> tuple[bytes, int]:
        """The path by which others of its program are known, and whose children only, if a rule
        asks for ancestors; b"" where more than that tells whether they are decided the same."""
        depends = self._pipeline.rules.index.depends
        if depends.on_process or self._pipeline.ways.runs:
            return b"", 0
        if not identity.by_executable_alone(process):
            return b"", 0
        exe = os.fsencode(process.exe)
        if not depends.on_parents(process.app.id):
            return exe, 0
        parent = process.ancestors[0].pid if process.ancestors else 0
        if not parent or self._above(process.pid, parent, process.start) != process.ancestors:
            return b"", 0  # they ran other programs when it was first seen
        return exe, parent

    def _depends_on_place(self, report: Report, app: str, port: int) -> bool:
        """Whether what this app sends to this port may be decided otherwise at another address: by
        a rule, or because a link does not lead there."""
        index, packet = self._pipeline.rules.index, report.packet
        assert isinstance(packet, Packet)
        if report.decision.action is Action.ROUTE and not self._pipeline.ways.lead_alike(
            packet.flow.daddr
        ):
            return True
        if not self._leave_areas_out(app, port):
            return True
        if index.depends.on_names(app, port) and (
            any(name in index.spoken for name in report.context.names)
            or not self._leave_names_out()
        ):
            return True
        assert self._path is not None
        return bool(self._path.left_out(packet.flow.daddr))

    def _leave_areas_out(self, app: str, port: int) -> bool:
        """Have looked at each address that a rule for this asks for, or for its scope; False where
        they are too many."""
        assert self._path is not None
        out = self._areas_out.get((app, port))
        if out is None:
            areas = self._pipeline.rules.index.depends.on_areas(app, port)
            out = areas is not None and all(self._path.leave_out(*area) for area in areas)
            if len(self._areas_out) >= MOST:
                self._areas_out.clear()
            self._areas_out[app, port] = out
        return out

    def _leave_names_out(self) -> bool:
        """The same of each place whose names a rule speaks of."""
        assert self._path is not None
        if self._names_out is None:
            self._names_out = all(map(self._path.leave_out, self._pipeline.names.spoken_of()))
        return self._names_out

    def _forget(self) -> None:
        assert self._path is not None
        self._path.forget()
        self._queue.settle()  # what was answered until now was decided before
        self._taught.clear()
        self._addresses.clear()
        self._going_on.clear()
        self._names_out = None
        self._areas_out.clear()

    def _repeated(self, packet: Packet | Undecodable, handed: Handed) -> None:
        taught = self._taught[handed.token]
        assert isinstance(packet, Packet)  # the fast path answers what both can read
        processes = taught.owner.processes
        if handed.pid:
            processes = self._other(processes[0], handed)
        owner = structs.replace(taught.owner, inode=handed.inode, processes=processes)
        ago = now()
        came = handed.came / 1e9
        at = Now(came, ago.wall - (ago.mono - came))
        waited = (handed.answered - handed.came) / 1e9
        self._dispatch(Repeated(at, packet, owner, taught.report, waited))
        self._owners.hear()  # nobody waits now

    def _other(self, like: Process, handed: Handed) -> tuple[Process, ...]:
        """Another process of its program; the same one as the last time, as a rule."""
        key = (like, handed.pid, handed.start, handed.cmdline)
        ancestors = self._ancestors(handed)  # kept for its parent's others, even if it has them
        if self._last[0] != key:
            other = structs.replace(
                like,
                pid=handed.pid,
                start=handed.start,
                argv=argv_of(handed.cmdline),
                ancestors=ancestors,
            )
            self._last = (key, (other,))
        return self._last[1]

    def _ancestors(self, handed: Handed) -> tuple[Ancestor, ...]:
        found = self._children_have.pop(handed.parent, None)
        if found is None or not handed.known:
            found = self._above(handed.pid, handed.parent, handed.start, handed.elder)
        if found is None:
            return ()
        if len(self._children_have) >= MOST:
            self._children_have.clear()
        self._children_have[handed.parent] = found
        return found

    def _above(
        self, pid: int, parent: int, start: int, elder: Elder | None = None
    ) -> tuple[Ancestor, ...] | None:
        """See `ProcessTable.ancestors`. None without descriptors or memory: the verdict, or the
        record, goes without."""
        try:
            return self._processes.ancestors(pid, parent, start, elder)
        except OSError:
            return None


def repeatable(report: Report) -> bool:
    """Whether a later packet that asks the same would surely be decided the same."""
    packet, owner, decision = report.packet, report.owner, report.decision
    return (
        report.lasting
        and report.reason is Reason.RULE
        and decision.traffic is None
        and report.verdict.kind is VerdictKind.ACCEPT
        and report.verdict.passes is (decision.action is not Action.DENY)
        and isinstance(packet, Packet)
        and packet.hook is Hook.OUT
        and packet.flow.proto in _STREAMS
        and packet.opens
        and not packet.fragment
        and isinstance(owner, Owner)
        and len(owner.processes) == 1
        and not owner.established
        and not owner.tunnels
        and owner.inode != 0
    )
