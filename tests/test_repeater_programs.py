"""Which programs others are answered for, and who started them."""

from __future__ import annotations

import pytest
from msgspec import structs
from playbook import ALICE, START, owner, packet, process
from repeaterscene import CURL, LTE, Scene

from arbiter.events import (
    Repeated,
    RulesChanged,
    RunVia,
)
from arbiter.identity import by_executable_alone
from arbiter.kernel.elders import Elder
from arbiter.kernel.fastpath import Handed
from arbiter.model import (
    Ancestor,
    App,
    AppKind,
    Process,
)


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
