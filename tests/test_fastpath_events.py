"""The process events as the fast path reads them, held against a simple memory of them; and its
own reading of stat files, against the one of arbiter/kernel/procread.py."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from nativeharness import KEEP, Harness

from arbiter.kernel import procread

BORN, FORKED, EXECED, ENDED = range(1, 5)
RECENT = 256
DRAINED = 4096
FORK, EXEC, UID, EXIT = 1, 2, 4, 0x80000000


class Event(NamedTuple):
    pid: int
    what: int
    parent: int = 0


class Drained(NamedTuple):
    whole: bool
    total: int
    calls: int
    seen: list[Event]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with Harness(tmp_path_factory.mktemp("harness")) as running:
        yield running


@pytest.fixture
def harness(program: Harness) -> Harness:
    program.ask("0")
    return program


def event(what: int, *pids: int, idx: int = 1, val: int = 1, size: int = 76) -> bytes:
    """A message of the proc connector: nlmsghdr, cn_msg, proc_event (40 bytes)."""
    body = struct.pack("=II8x4I", what, 0, *(*pids, 0, 0, 0, 0)[:4]) + bytes(8)
    head = struct.pack("=IHHII", size, 3, 0, 0, 0)
    return (head + struct.pack("=IIIIHH", idx, val, 0, 0, 40, 0) + body)[:size]


def fork(parent: int, child: int) -> bytes:
    return event(FORK, parent, parent, child, child)


def execve(pid: int) -> bytes:
    return event(EXEC, pid, pid)


def exit_(pid: int) -> bytes:
    return event(EXIT, pid, pid)


def message(data: bytes, port: int = 0, times: int = 1) -> bytes:
    return struct.pack("=HHHH", 0, port, times, len(data)) + data


def fails(error: int, times: int = 1) -> bytes:
    return struct.pack("=HHHH", error, 0, times, 0)


def drain(harness: Harness, *steps: bytes) -> Drained:
    said = harness.ask("d", b"".join(steps))
    count, calls, whole = struct.unpack("=QI?", said[-13:])
    seen = [Event(*pair) for pair in struct.iter_unpack("=ii", said[:-13])]
    return Drained(whole, count, calls, seen)


def had(harness: Harness, since: int, pid: int) -> bool:
    return harness.ask("h", struct.pack("=Qi", since, pid)) == b"\1"


def newborn(harness: Harness, most: int = 8) -> list[tuple[int, int]]:
    """(pid, parent) of each."""
    said = harness.ask("n", struct.pack("=i", most))
    return [(pid, parent) for pid, parent in struct.iter_unpack("=ii", said)]


# --- messages -------------------------------------------------------------------------------


def test_births_programs_and_ends_are_seen(harness: Harness) -> None:
    found = drain(harness, *map(message, (fork(7, 8), execve(8), exit_(8))))
    expected = [Event(7, FORKED), Event(8, BORN), Event(8, EXECED), Event(8, ENDED)]
    assert found == Drained(True, 4, 4, expected)


@pytest.mark.parametrize(
    "ignored",
    [
        message(fork(7, 8), port=9),
        message(event(FORK, 7, 7, 8, 8, idx=2)),
        message(event(FORK, 7, 7, 8, 8, val=2)),
        message(event(UID, 7, 7, 8, 8)),
        message(exit_(7)[:59]),
        message(fork(7, 8)[:67]),
        message(b""),
        fails(errno.EINTR),
    ],
    ids=["a stranger", "idx", "val", "uid", "short exit", "short fork", "empty", "EINTR"],
)
def test_what_is_no_event_is_passed_over(harness: Harness, ignored: bytes) -> None:
    found = drain(harness, ignored, message(execve(9)))
    assert found == Drained(True, 1, 3, [Event(9, EXECED)])


@given(
    data=st.lists(st.binary(max_size=100) | st.just(fork(1, 2)).map(lambda b: b[:-9]), max_size=9)
)
def test_any_bytes_are_read_within_their_bounds(program: Harness, data: list[bytes]) -> None:
    program.ask("0")
    assert drain(program, *map(message, data)).whole


# --- losses ---------------------------------------------------------------------------------


def test_after_a_loss_every_process_may_have_changed(harness: Harness) -> None:
    before = drain(harness, message(fork(7, 8))).total
    assert not had(harness, before, 7)
    found = drain(harness, fails(errno.ENOBUFS))
    assert not found.whole
    assert had(harness, before, 7)
    assert had(harness, 0, 7)
    assert not had(harness, found.total, 7)
    assert newborn(harness) == []


def test_what_was_in_the_buffer_when_it_ran_over_is_old_news(harness: Harness) -> None:
    """What was lost came after it: the child has forked, or ended, by now."""
    found = drain(harness, fails(errno.ENOBUFS), message(fork(7, 8)), message(fork(7, 9)))
    assert (found.whole, found.calls, found.seen) == (False, 4, [])
    assert newborn(harness) == []
    assert drain(harness, message(fork(7, 10))).whole
    assert newborn(harness) == [(10, 7)]


def test_more_than_a_buffer_holds_is_a_loss_until_it_was_empty(harness: Harness) -> None:
    """The kernel says ENOBUFS once, and then nothing until everything was read."""
    before = drain(harness).total
    found = drain(harness, message(execve(8), times=KEEP))
    assert (found.whole, found.calls) == (False, DRAINED)
    assert had(harness, before, 9)
    for _ in range(2):
        before = found.total
        found = drain(harness, message(fork(7, 8), times=KEEP))
        assert (found.whole, found.seen) == (False, [])
        assert had(harness, before, 9)
    before = found.total
    assert not drain(harness, message(execve(8))).whole
    assert had(harness, before, 9)
    assert drain(harness, message(execve(8))).whole


def test_an_error_that_stays_is_a_loss_and_no_endless_loop(harness: Harness) -> None:
    for _ in range(2):
        before = drain(harness, message(fork(7, 8)), fails(errno.EBADF, KEEP))
        assert (before.whole, before.calls) == (False, 2)
        assert not drain(harness, fails(errno.ENOMEM), message(fork(7, 8))).whole
        assert had(harness, before.total, 9)
        found = drain(harness, message(fork(7, 8)))
        assert (found.whole, found.seen) == (False, [])  # the first that was read to its end
        assert drain(harness, message(fork(7, 8))).whole


# --- what is remembered ---------------------------------------------------------------------

PIDS = st.integers(2, 6)
STEPS = st.one_of(
    st.builds(lambda parent, child: ("fork", parent, child), PIDS, PIDS),
    st.builds(lambda pid: ("exec", pid, 0), PIDS),
    st.builds(lambda pid: ("exit", pid, 0), PIDS),
    st.builds(lambda parent, many: ("many", parent, many), PIDS, st.integers(100, 300)),
    st.sampled_from([("lost", 0, 0), ("mark", 0, 0)]),
)


class Memory:
    """All events, without bounds; None for a loss."""

    def __init__(self) -> None:
        self.events: list[Event | None] = []

    def had(self, since: int, pid: int) -> bool:
        later = self.events[since:]
        return None in later or any(one is not None and one.pid == pid for one in later)

    def newborn(self) -> list[tuple[int, int]]:
        """Of the last RECENT events, those after a loss."""
        found, forked, ended = [], set(), set()
        for one in reversed(self.events[-RECENT:]):
            if one is None:
                break
            if one.what == FORKED:
                forked.add(one.pid)
            elif one.what == ENDED:
                ended.add(one.pid)
            elif one.what == BORN and one.pid not in forked | ended and one.parent not in ended:
                found.append((one.pid, one.parent))
        return found


@settings(max_examples=examples(150))
@given(steps=st.lists(STEPS, max_size=20), most=st.integers(1, 12))
def test_what_is_remembered_is_what_happened(
    program: Harness, steps: list[tuple[str, int, int]], most: int
) -> None:
    program.ask("0")
    memory = Memory()
    marks = [(0, 0)]  # the C's, and the memory's
    found = drain(program)
    for kind, one, other in steps:
        if kind == "fork":
            found = drain(program, message(fork(one, other)))
            memory.events += [Event(one, FORKED), Event(other, BORN, one)]
        elif kind == "many":
            found = drain(program, message(fork(one, 99), times=other // 2))
            memory.events += [Event(one, FORKED), Event(99, BORN, one)] * (other // 2)
        elif kind == "exec":
            found = drain(program, message(execve(one)))
            memory.events.append(Event(one, EXECED))
        elif kind == "exit":
            found = drain(program, message(exit_(one)))
            memory.events.append(Event(one, ENDED))
        elif kind == "lost":
            found = drain(program, fails(errno.ENOBUFS), message(fork(3, 4)))
            memory.events.append(None)
        else:
            found = drain(program)
            marks.append((found.total, len(memory.events)))
        assert found.whole is (kind != "lost")
    for mark, since in marks:
        for pid in (2, 3, 4, 5, 6, 77):
            said = had(program, mark, pid)
            if found.total - mark > RECENT:
                assert said  # it cannot tell any more
            else:
                assert said is memory.had(since, pid)
    assert newborn(program, most) == memory.newborn()[:most]


@pytest.mark.parametrize("mark", [1, 2**63])
def test_a_mark_of_the_future_is_believed_in_nothing(harness: Harness, mark: int) -> None:
    assert had(harness, mark, 9)


# --- stat files -----------------------------------------------------------------------------

FIELDS = ["S", *map(str, range(4, 53))]
"""From the third on (proc(5))."""


def stat(comm: bytes = b"(x)", fields: list[str] = FIELDS) -> bytes:
    return b"7 " + comm + b" " + " ".join(fields).encode() + b"\n"


def image(harness: Harness, data: bytes) -> bytes | None:
    said = harness.ask("i", data)
    return said[1:] if said[:1] == b"\1" else None


def parent_and_start(harness: Harness, data: bytes) -> tuple[int, int] | None:
    said = harness.ask("s", data)
    if said[:1] == b"\0":
        return None
    parent, start = struct.unpack("=iQ", said[1:])
    return parent, start


COMMS = st.binary(max_size=15).map(lambda name: b"(" + name.replace(b"\0", b")") + b")")
NUMBERS = st.integers(0, 2**64 - 1).map(str)


@given(
    comm=COMMS | st.just(b"() S 1 ) 2 3 (\n)"), numbers=st.lists(NUMBERS, min_size=49, max_size=49)
)
def test_a_stat_file_is_read_as_by_the_look_up_whatever_the_name(
    program: Harness, comm: bytes, numbers: list[str]
) -> None:
    numbers[0] = str(int(numbers[0]) % 2**22)  # a pid
    data = stat(comm, ["S", *numbers])
    found = procread.parse_stat(data)
    assert image(program, data) == b" ".join(found.image)
    assert parent_and_start(program, data) == (found.ppid, found.start)


def test_our_own_stat_file_is_read_as_by_the_look_up(harness: Harness) -> None:
    with open("/proc/self/stat", "rb") as file:
        data = file.read()
    found = procread.parse_stat(data)
    assert image(harness, data) == b" ".join(found.image)
    assert parent_and_start(harness, data) == (os.getppid(), found.start)


def test_a_stat_file_that_was_cut_is_refused_or_read_as_far_as_it_goes(harness: Harness) -> None:
    data = stat(b"(a) b)")
    last = data.index(b" 48 ") + 2
    start = data.index(b" 22 ") + 3
    for size in range(len(data)):
        assert (image(harness, data[:size]) is None) is (size < last), size
        read = parent_and_start(harness, data[:size])
        assert (read is None) is (size < start - 1), size
        assert read is None or read[0] == 4


@settings(max_examples=examples(300))
@given(
    data=st.binary(max_size=300)
    | st.lists(
        st.sampled_from([b")", b" ", b"\n", b"\0", b"1", b"S", b"-", b"9" * 130]), max_size=120
    ).map(b"".join)
)
def test_any_bytes_for_a_stat_file_end_well(program: Harness, data: bytes) -> None:
    found = image(program, data)
    assert found is None or len(found) < 128
    parent_and_start(program, data)


def test_numbers_too_long_for_any_are_refused(harness: Harness) -> None:
    fields = [*FIELDS]
    fields[22 - 3] = "9" * 200
    assert image(harness, stat(fields=fields)) is None
    for size in range(100, 140):  # the other three take 9 with their spaces
        fields[22 - 3] = "9" * size
        assert (image(harness, stat(fields=fields)) is None) is (size + 9 > 126)
    fields[22 - 3] = ""
    assert image(harness, stat(fields=fields)) is None


@pytest.mark.parametrize(
    ("size", "room"),
    [(0, 64), (1, 64), (62, 64), (63, 64), (2047, 8192), (2048, 8192), (7000, 8192)],
)
def test_a_file_that_fits_is_read_whole(harness: Harness, size: int, room: int) -> None:
    data = bytes(number % 251 for number in range(size))
    said = harness.ask("w", struct.pack("=I", room) + data)
    assert struct.unpack("=q", said[:8]) == (size,)
    assert said[8:] == data + b"\0"


@pytest.mark.parametrize("size", [64, 65, 4000])
def test_a_file_that_does_not_fit_is_refused(harness: Harness, size: int) -> None:
    said = harness.ask("w", struct.pack("=I", 64) + bytes(size))
    assert struct.unpack("=q", said) == (-1,)
