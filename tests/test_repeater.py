"""What may be repeated, and since when it may not: the repeater over a real pipeline.

The kernel's rooms stand in here; tests/kernel/test_fastpath.py has the real ones.
"""

from __future__ import annotations

import errno
import time
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs
from playbook import ALICE, NOBODY, SERVER, SERVER6, START, Playbook, owner, packet, process

from arbiter.daemon import Daemon
from arbiter.dnswire import Answers
from arbiter.events import (
    Event,
    HostsRead,
    LinksChanged,
    NamesLearned,
    OlderFound,
    OwnerFound,
    PacketQueued,
    ProcessExited,
    ProfilesRead,
    PromptsChanged,
    Reason,
    Repeated,
    Report,
    RulesChanged,
    RunVia,
    SettingsChanged,
    SetVerdict,
    Stopping,
    Tick,
    Trouble,
)
from arbiter.identity import by_executable_alone
from arbiter.kernel.elders import Elder
from arbiter.kernel.fastpath import Handed
from arbiter.model import (
    ACCEPTED,
    ALLOW,
    DENIED,
    MARK_DECIDED,
    Action,
    Ancestor,
    App,
    AppKind,
    Hook,
    Link,
    OverBudget,
    Packet,
    Process,
    Spent,
)
from arbiter.profiles import Book, Standing
from arbiter.repeater import MOST, SECONDS, Repeater, repeatable
from arbiter.settings import Settings

CURL = "allow app=/usr/bin/curl"
OTHER = bytes((198, 51, 100, 77))
LTE = Link("lte", 2, "wwan0", index=3)


class Path:
    """What the fast path is told."""

    def __init__(self) -> None:
        self.taught: list[Any] = []
        self.calls: list[str] = []
        self.left_out: list[bytes] = []
        self.room = 3
        self.refuses = False

    def leave_out(self, address: bytes) -> bool:
        if len(self.left_out) == self.room:
            return False
        self.left_out.append(address)
        return True

    def mark(self) -> int:
        return 7

    def forget(self) -> None:
        self.calls.append("forget")

    def teach(self, mark: int, *what: Any) -> bool:
        assert mark == 7
        if not self.refuses:
            self.taught.append(what)
        return not self.refuses


class Queue:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.repeated: Any = None

    def go_by(self, path: Path, on_repeated: Any) -> None:
        self.repeated = on_repeated

    def settle(self) -> None:
        self._path.calls.append("settle")

    def mark(self, before: int, verdict: Any) -> int:
        return before | int(verdict.mark)


class Owners:
    def __init__(self) -> None:
        self.found: tuple[int, tuple[int, ...]] | None = (5, (100,))
        self.heard = 0

    def hear(self) -> None:
        self.heard += 1

    def place(self, pid: int) -> tuple[int, tuple[int, ...]] | None:
        return self.found


class Processes:
    def __init__(self) -> None:
        self.stat = "1 2 3 4"
        self.above: tuple[Ancestor, ...] | None = process().ancestors
        self.asked: list[tuple[int, int, int, Elder | None]] = []

    def ancestors(
        self, pid: int, parent: int, start: int, elder: Elder | None
    ) -> tuple[Ancestor, ...]:
        self.asked.append((pid, parent, start, elder))
        if self.above is None:
            raise OSError(errno.EMFILE, "too many")
        return self.above

    def image(self, process: Process) -> str:
        return self.stat


class Scene:
    def __init__(self, *rules: str) -> None:
        self.play = Playbook(*rules)
        self.path, self.owners, self.processes = Path(), Owners(), Processes()
        self.queue = Queue(self.path)
        self.events: list[Event] = []
        rooms: tuple[Any, Any, Any, Any] = (self.path, self.queue, self.owners, self.processes)
        self.repeater = Repeater(*rooms, self.play.pipeline, self.events.append)
        self._next = 1
        self.answer = True
        """Whether a verdict is given at once."""

    def decide(self, who: Any = None, **where: Any) -> Report:
        """A packet comes and is decided; the repeater hears of it as in the daemon."""
        id, self._next = self._next, self._next + 1
        self.repeater.packet_came(id)
        self.play.effects.clear()
        self.play.queue(id, who, **where)
        (report,) = [effect for effect in self.play.effects if isinstance(effect, Report)]
        self.repeater.decided(report)
        if self.answer:
            self.repeater.answered()
        return report


def test_what_a_rule_decides_is_taught() -> None:
    scene = Scene(CURL)
    report = scene.decide(sport=40000, dport=443)
    ((question, standing, uid, mark, token, until),) = scene.path.taught
    assert isinstance(report.packet, Packet)
    flow = report.packet.flow
    assert question == (6, flow.saddr, bytes(4), 443, report.packet.outdev, report.packet.mark)
    assert (standing.pid, standing.uid, standing.image) == (4242, 1000, "1 2 3 4")
    assert (standing.descriptor, standing.relatives) == (5, (100,))
    assert (uid, mark, token) == (1000, MARK_DECIDED, 1)
    assert SECONDS - 5 < until - time.monotonic() <= SECONDS


@pytest.mark.parametrize(
    ("rule", "there"),
    [
        ("deny app=/usr/bin/curl host=10.9.9.9", True),
        ("deny app=/usr/bin/curl host=10.8.0.0/16 port=443 user=bob", True),
        ("deny app=/usr/bin/curl host=ads.example", False),
        ("deny app=/usr/bin/curl host=10.9.9.9 port=80-443", True),
        ("deny app=/usr/bin/curl host=10.9.9.9 port=80", False),
        ("deny host=lan", True),
        ("deny host=lan port=443", True),
        ("deny host=lan port=53", False),
        ("deny host=ads.example", False),
        ("deny app=/usr/bin/wget host=10.9.9.9", False),
        ("deny app=/usr/bin/curl port=443 user=bob", False),
        ("route via=lte app=/usr/bin/curl port=443", False),
    ],
)
def test_it_is_taught_for_wherever_it_leads_if_no_rule_for_it_asks_where(
    rule: str, there: bool
) -> None:
    scene = Scene(CURL, rule)
    scene.play.links(LTE)
    scene.decide(dport=443)
    ((question, *_),) = scene.path.taught
    assert question.daddr == (SERVER if there else bytes(4))
    scene.repeater.before(NamesLearned(START, Answers("a.example", (SERVER6, SERVER), 5)))
    assert scene.path.calls == (["forget", "settle"] if there else [])


@pytest.mark.parametrize(
    ("link", "there"),
    [
        (structs.replace(LTE, reach4=()), True),
        (structs.replace(LTE, reach4=(), up=False), True),
        (structs.replace(LTE, reach6=()), False),
    ],
)
def test_a_route_is_taught_for_just_there_where_a_link_does_not_lead_everywhere(
    link: Link, there: bool
) -> None:
    scene = Scene("route via=any app=/usr/bin/curl")
    scene.play.links(structs.replace(LTE, name="other", number=3, index=4), link)
    scene.decide(outdev=4)
    assert scene.path.taught[-1][0].daddr == (SERVER if there else bytes(4))


def learn(scene: Scene, name: str, *to: bytes, targets: tuple[str, ...] = ()) -> None:
    event = NamesLearned(scene.play.now, Answers(name, to, 3000, targets))
    scene.repeater.before(event)
    scene.play.send(event)


def test_where_a_rule_asks_for_names_places_that_have_them_are_left_out() -> None:
    scene = Scene(CURL, "deny host=ads.example", "deny host=*.bad.example port=443")
    learn(scene, "ads.example", OTHER)
    learn(scene, "fine.example", SERVER)
    scene.decide(dport=443)
    assert scene.path.taught[-1][0].daddr == bytes(4)
    assert scene.path.left_out == [OTHER]
    scene.decide(dport=80)
    learn(scene, "good.example", bytes((203, 0, 113, 1)))
    learn(scene, "0.bad.example", bytes((203, 0, 113, 2)), SERVER6)
    assert scene.path.left_out == [OTHER, bytes((203, 0, 113, 2)), SERVER6]
    assert scene.path.calls == []
    learn(scene, "good.example", bytes((0, 0, 0, 0)))  # what some resolvers say instead of nothing
    assert scene.path.calls == []
    learn(scene, "1.bad.example", bytes((203, 0, 113, 3)))  # one too many
    assert scene.path.calls == ["forget", "settle"]


def test_what_a_rule_for_names_decides_is_taught_for_just_there() -> None:
    scene = Scene(CURL, "deny app=/usr/bin/curl host=ads.example")
    learn(scene, "ads.example", OTHER)
    assert scene.decide(daddr=OTHER).decision.action is Action.DENY
    assert scene.path.taught[-1][0].daddr == OTHER
    scene.decide()
    assert scene.path.taught[-1][0].daddr == bytes(4)
    assert scene.path.left_out == [OTHER]


def test_a_name_that_is_looked_up_again_takes_nothing_back() -> None:
    scene = Scene("allow app=/usr/bin/curl host=www.example")
    learn(scene, "www.example", SERVER)
    scene.decide()
    assert scene.path.taught[-1][0].daddr == SERVER
    learn(scene, "www.example", SERVER)
    assert scene.path.calls == []
    learn(scene, "www.example", SERVER, OTHER)
    assert scene.path.calls == ["forget", "settle"]
    scene.decide()
    learn(scene, "other.example", SERVER)
    assert scene.path.calls == ["forget", "settle"] * 2
    scene.decide()
    scene.play.wait(100_000)
    learn(scene, "www.example", SERVER)  # its time was over
    assert scene.path.calls == ["forget", "settle"] * 3


def test_a_name_that_serves_another_since_counts_when_it_is_looked_up_again() -> None:
    scene = Scene("allow app=/usr/bin/curl host=cdn.example")
    learn(scene, "cdn.example", SERVER)
    scene.decide()
    learn(scene, "www.example", targets=("cdn.example",))
    assert scene.path.calls == []
    learn(scene, "cdn.example", SERVER)
    assert scene.path.calls == ["forget", "settle"]


def test_what_serves_a_name_is_left_out_with_it() -> None:
    scene = Scene(CURL, "deny host=ads.example")
    learn(scene, "ads.example", targets=("cdn.example",))
    scene.decide()
    learn(scene, "cdn.example", OTHER)
    assert scene.path.left_out == [OTHER]


def test_with_too_many_such_places_each_is_looked_at() -> None:
    scene = Scene(CURL, "deny host=*.bad.example")
    for number in range(4):
        learn(scene, f"{number}.bad.example", bytes((203, 0, 113, number)))
    for _ in range(2):
        scene.decide()
        assert scene.path.taught[-1][0].daddr == SERVER
    assert len(scene.path.left_out) == 3
    scene.repeater.before(RulesChanged(START, (), ()))
    scene.path.left_out, scene.path.room = [], 4
    scene.decide()
    assert scene.path.taught[-1][0].daddr == bytes(4)


def test_names_of_the_hosts_file_are_left_out_too() -> None:
    scene = Scene(CURL, "deny host=ads.example")
    scene.play.send(HostsRead(START, {OTHER: ("ads.example",), SERVER: ("x.example",)}))
    scene.decide()
    assert scene.path.left_out == [OTHER]


def test_what_is_left_out_stays_so_while_nothing_is_taught() -> None:
    """A refused lesson must not keep a name from the next one."""
    scene = Scene(CURL, "deny host=ads.example")
    scene.path.refuses = True
    scene.decide()
    learn(scene, "ads.example", OTHER)
    scene.path.refuses = False
    scene.decide()
    assert scene.path.taught[-1][0].daddr == bytes(4)
    assert scene.path.left_out == [OTHER]


def test_the_record_of_another_place_has_its_own_names() -> None:
    scene = Scene(CURL)
    for name, to in (("first.example", SERVER), ("second.example", OTHER)):
        scene.play.send(NamesLearned(START, Answers(name, (to,), 3000)))
    report = scene.decide()
    play = scene.play
    for daddr, names in ((SERVER, ("first.example",)), (OTHER, ("second.example",))):
        one = packet(9, daddr=daddr)
        (told,) = play.pipeline.handle(Repeated(play.now, one, owner(), report, 0.1))
        assert isinstance(told, Report)
        assert told.context.names == names


def test_a_denial_is_taught_with_its_mark() -> None:
    scene = Scene("deny app=/usr/bin/curl")
    scene.decide()
    assert scene.path.taught[0][3] == DENIED.mark


@pytest.mark.parametrize(
    ("rules", "who", "where"),
    [
        (("allow app=/usr/bin/curl time=22:00-23:00",), None, {}),
        (("allow app=/usr/bin/curl for=5s",), None, {}),
        (("allow app=/usr/bin/curl class=bulk",), None, {}),
        (("allow",), NOBODY, {}),
        (("allow",), owner(process(), process("/usr/bin/wget", 9)), {}),
        (("allow",), owner(established=True), {"flags": 0x10}),
        (("allow",), None, {"flags": 0x10}),
        (("allow",), None, {"proto": 1}),
        (("allow",), structs.replace(owner(), tunnels=(4,)), {}),
        (("allow",), structs.replace(owner(), inode=0), {}),
    ],
)
def test_what_could_be_decided_otherwise_next_time_is_not(
    rules: tuple[str, ...], who: Any, where: dict[str, Any]
) -> None:
    scene = Scene(*rules)
    report = scene.decide(who, **where)
    assert scene.path.taught == []
    assert not repeatable(report)


def test_nor_is_what_comes_from_elsewhere_or_in_parts() -> None:
    report = Scene("allow").decide()
    assert isinstance(report.packet, Packet)
    for other in ({"hook": Hook.IN}, {"hook": Hook.FORWARD}, {"fragment": True}):
        assert not repeatable(
            structs.replace(report, packet=structs.replace(report.packet, **other))
        )
    assert repeatable(report)


def test_nor_what_a_person_said_for_once() -> None:
    scene = Scene()
    scene.play.prompts(ALICE)
    scene.repeater.packet_came(1)
    scene.play.queue(1).answer(1, "allow")
    (report,) = [effect for effect in scene.play.effects if isinstance(effect, Report)]
    scene.repeater.decided(report)
    assert scene.path.taught == []


def test_nor_over_a_link_whose_budget_is_used_up() -> None:
    scene = Scene(CURL)
    scene.play.links(structs.replace(LTE, spent=Spent(1.0, OverBudget.ALLOW, "5 of 5 MB")))
    assert scene.decide(outdev=3).verdict.passes
    assert scene.path.taught == []


def test_nor_while_a_program_holds_the_end_of_a_tunnel() -> None:
    scene = Scene(CURL)
    scene.play.links(structs.replace(LTE, tun=True))
    scene.decide()
    assert scene.path.taught == []


def test_nor_a_process_of_which_too_little_is_known() -> None:
    scene = Scene(CURL)
    scene.processes.stat = ""
    scene.decide()
    scene.processes.stat, scene.owners.found = "1 2 3 4", None
    scene.decide()
    assert scene.path.taught == []


def test_nor_what_was_decided_after_another_packet_came() -> None:
    """Its process may have changed since: the mark is of another look-up."""
    scene = Scene(CURL)
    scene.repeater.packet_came(1)
    scene.play.queue(1)
    (report,) = [effect for effect in scene.play.effects if isinstance(effect, Report)]
    scene.repeater.packet_came(2)
    scene.repeater.decided(report)
    assert scene.path.taught == []


def test_a_refusal_that_is_told_is_told_each_time() -> None:
    scene = Scene("route via=lte app=/usr/bin/curl")
    scene.play.links(structs.replace(LTE, spent=Spent(9e9, OverBudget.DENY, "5 of 5 MB")))
    assert scene.decide(outdev=3).verdict == DENIED
    assert scene.path.taught == []


@pytest.mark.parametrize(
    "event",
    [
        Tick(START),
        RulesChanged(START, (), ()),
        LinksChanged(START, ()),
        HostsRead(START, {}),
        ProfilesRead(START, Book((), Standing("", None))),
        ProcessExited(START, 1, 1),
        RunVia(START, 1, ALICE, (1, 1), "lte"),
        SettingsChanged(START, Settings()),
        NamesLearned(START, Answers("a.example", (SERVER6, SERVER), 5)),
        Stopping(START),
    ],
)
def test_what_may_change_a_decision_takes_all_back_first(event: Event) -> None:
    scene = Scene(CURL, "deny host=lan")
    scene.decide()
    scene.repeater.before(event)
    assert scene.path.calls == ["forget", "settle"]
    scene.repeater.before(event)
    assert scene.path.calls == ["forget", "settle"], "nothing is taught: nothing to take back"


@pytest.mark.parametrize(
    "event",
    [
        PacketQueued(START, packet(1)),
        OwnerFound(START, 1, NOBODY),
        OlderFound(START, packet(-1), NOBODY),
        PromptsChanged(START, (ALICE,)),
        Trouble(START, "the disk is full"),
        NamesLearned(START, Answers("a.example", (SERVER6,), 5)),
    ],
)
def test_what_changes_none_takes_nothing_back(event: Event) -> None:
    scene = Scene(CURL)
    scene.decide()
    scene.repeater.before(event)
    assert scene.path.calls == []


def test_with_too_many_it_begins_anew() -> None:
    scene = Scene(CURL)
    for port in range(1, MOST + 2):
        scene.decide(dport=port)
    assert scene.path.calls == ["forget", "settle"]
    assert len(scene.path.taught) == MOST + 1


def test_the_pipeline_hears_of_what_was_repeated_with_its_own_facts() -> None:
    scene = Scene(CURL)
    report = scene.decide()
    came, answered = 5_000_000_000, 5_000_040_000
    same = Handed(b"", 1, 77, came, answered, 0, 0, True, None, 0, b"")
    scene.queue.repeated(packet(9, sport=5), same)
    scene.queue.repeated(
        packet(10, sport=6),
        Handed(b"", 1, 78, came, answered, 4300, 100, True, None, 99, b"curl\0-v\0"),
    )
    first, second = scene.events
    assert scene.owners.heard == 2  # while nobody waits
    assert isinstance(first, Repeated)
    assert isinstance(second, Repeated)
    assert (first.packet.id, first.like, first.owner.inode) == (9, report, 77)
    assert first.now.mono == 5.0
    assert first.waited == pytest.approx(40e-6)
    assert first.owner.processes == owner().processes
    (other,) = second.owner.processes
    assert (other.pid, other.start, other.argv) == (4300, 99, ("curl", "-v"))
    assert (other.app, other.ancestors) == (process().app, process().ancestors)


def program(scene: Scene) -> tuple[bytes, int]:
    path, parent = scene.path.taught[-1][1][-2:]
    return path, parent


def test_others_of_a_program_are_decided_so_where_its_file_tells_all() -> None:
    scene = Scene("allow")
    scene.decide()
    assert program(scene) == (b"/usr/bin/curl", 0)
    scene.decide(owner(process("/usr/bin/python3")))
    assert program(scene) == (b"", 0)
    scene.decide(owner(structs.replace(process(), ancestors=())))
    assert program(scene) == (b"/usr/bin/curl", 0)


@pytest.mark.parametrize("rule", ["allow parent=/bin/x", "deny app=/usr/bin/curl parent=/bin/x"])
def test_where_a_rule_asks_for_ancestors_only_children_of_the_same_parent_are(rule: str) -> None:
    scene = Scene("allow", rule)
    scene.decide()
    assert program(scene) == (b"/usr/bin/curl", 100)
    scene.decide(owner(structs.replace(process(), ancestors=())))
    assert program(scene) == (b"", 0)
    assert scene.processes.asked == [(4242, 100, 42420, None)]
    scene = Scene("allow", "allow app=/usr/bin/wget parent=/bin/x")
    scene.decide()
    assert program(scene) == (b"/usr/bin/curl", 0)


def test_ancestors_are_looked_up_for_a_parent_that_is_new() -> None:
    scene = Scene(CURL)
    scene.decide()
    elder = Elder(101, 1, 98, b"/bin/sh", b"mnt:[1]", b"0::/\n", b"sh\0", b"/")

    def ancestors(parent: int, known: bool, start: int) -> tuple[Ancestor, ...]:
        handed = Handed(b"", 1, 78, 0, 0, 4300, parent, known, elder, start, b"curl\0")
        scene.queue.repeated(packet(10, sport=6), handed)
        event = scene.events[-1]
        assert isinstance(event, Repeated)
        return event.owner.processes[0].ancestors

    assert ancestors(100, True, 98) == process().ancestors  # never heard of
    assert scene.processes.asked.pop() == (4300, 100, 98, elder)
    scene.processes.above = (Ancestor(101, App("/bin/sh", AppKind.PATH, "sh")),)
    assert ancestors(101, False, 99) == scene.processes.above
    assert scene.processes.asked == [(4300, 101, 99, elder)]
    assert ancestors(101, True, 100) == scene.processes.above
    assert ancestors(100, True, 101) == process().ancestors
    assert len(scene.processes.asked) == 1
    assert ancestors(100, False, 102) == scene.processes.above  # another one by now
    assert ancestors(102, True, 103) == scene.processes.above  # never heard of
    assert len(scene.processes.asked) == 3


OTHERS = (Ancestor(100, App("/bin/sh", AppKind.PATH, "sh")),)


@pytest.mark.parametrize("above", [(), OTHERS, None], ids=["gone", "changed", "unknown"])
def test_where_ancestors_count_nobody_is_a_child_of_what_a_parent_was_before(
    above: tuple[Ancestor, ...] | None,
) -> None:
    scene = Scene("allow", "allow parent=/bin/x")
    scene.processes.above = above
    scene.decide()
    assert program(scene) == (b"", 0)


def test_what_a_parent_became_is_kept_whoever_of_its_children_tells_it() -> None:
    """A process has the ancestors that it was first seen with; those born later have others."""
    scene = Scene(CURL)
    scene.decide()

    def ancestors(pid: int, known: bool) -> tuple[Ancestor, ...]:
        handed = Handed(b"", 1, 78, 0, 0, pid, 100, known, None, 98, b"curl\0")
        scene.queue.repeated(packet(10, sport=6), handed)
        event = scene.events[-1]
        assert isinstance(event, Repeated)
        return event.owner.processes[0].ancestors

    first = process().ancestors
    assert ancestors(4300, False) == first
    scene.processes.above = OTHERS
    assert ancestors(4300, False) == first
    assert ancestors(4301, True) == OTHERS
    scene.processes.above = None
    assert ancestors(4302, False) == ()
    scene.processes.above = first
    assert ancestors(4303, True) == first


def test_and_not_while_answers_or_runs_are_of_single_processes() -> None:
    scene = Scene("allow")
    scene.play.links(LTE)
    scene.play.send(RunVia(START, 1, ALICE, (5, 5), "lte"))
    scene.decide()
    assert program(scene) == (b"", 0)
    scene = Scene("allow")
    entry = scene.play.entry("deny app=/usr/bin/wget for=process", process=(9, 9))
    scene.play.send(RulesChanged(START, (entry,), ()))
    scene.decide()
    assert program(scene) == (b"", 0)


@pytest.mark.parametrize(
    ("exe", "kind", "note", "alone"),
    [
        ("/usr/bin/curl", AppKind.PATH, "", True),
        ("/usr/bin/python3.11", AppKind.PATH, "", False),
        ("/usr/bin/bash", AppKind.PATH, "", False),
        ("/usr/bin/java", AppKind.PATH, "", False),
        ("/usr/bin/busybox", AppKind.PATH, "", False),
        ("/tmp/.mount_FooAbc/usr/bin/foo", AppKind.PATH, "", False),
        ("/usr/bin/curl", AppKind.UNIT, "", False),
        ("/snap/x/1/bin/x", AppKind.SNAP, "", False),
        ("/usr/bin/curl", AppKind.PATH, "its executable was replaced or deleted", False),
    ],
)
def test_which_programs_are_told_by_their_file(
    exe: str, kind: AppKind, note: str, alone: bool
) -> None:
    app = App("x", kind, "x")
    assert by_executable_alone(Process(1, 1, 0, app, exe, note=note)) is alone


def test_of_a_process_that_goes_on_it_is_taught_once_the_verdict_was_given() -> None:
    scene = Scene("allow app=/usr/bin/curl", "deny host=10.9.9.9")
    scene.answer = False

    def taught(*, pid: int = 4242, daddr: bytes = SERVER) -> list[int]:
        counts = []
        scene.decide(owner(process(pid=pid)), daddr=daddr)
        counts.append(len(scene.path.taught))
        for _ in range(2):
            scene.repeater.answered()
            counts.append(len(scene.path.taught))
        return counts

    assert taught() == [1, 1, 1]
    assert taught(daddr=OTHER) == [1, 2, 2]
    assert taught(pid=4300) == [3, 3, 3]
    assert taught() == [3, 4, 4]
    scene.repeater.before(RulesChanged(START, (), ()))
    assert taught() == [5, 5, 5]


def test_what_changes_before_the_verdict_was_given_is_not_passed_over() -> None:
    scene = Scene("allow app=/usr/bin/curl", "deny host=10.9.9.9")
    scene.decide()
    scene.answer = False
    scene.decide(daddr=OTHER)
    scene.repeater.before(RulesChanged(START, (), ()))
    scene.repeater.answered()
    assert len(scene.path.taught) == 1


def test_a_decision_is_taught_before_its_verdict_lets_its_program_end() -> None:
    """The order alone: that a program which ends at once is learned, `make bench` shows."""
    said: list[str] = []
    daemon: Any = object.__new__(Daemon)
    daemon._repeater = SimpleNamespace(decided=lambda report: said.append("taught"))
    daemon._queue = SimpleNamespace(set_verdict=lambda id, verdict: said.append("verdict"))
    daemon._decided = lambda report: said.append("kept")
    made = Report(1.0, packet(1), owner(), ALLOW, Reason.RULE, verdict=ACCEPTED)
    daemon._carry_out([SetVerdict(1, ACCEPTED), made])
    assert said == ["taught", "verdict", "kept"]
