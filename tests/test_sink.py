"""The thread between the daemon and a target: nobody waits for it, and what is lost is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from arbiter.outbox import MAX_OPEN, Made, Outbox, targets
from arbiter.records import Progress, Record, State
from arbiter.settings import load
from arbiter.sinks import Decided, Ended, Item, Journald, JsonLines, Lost, Sink, Syslog
from arbiter.store import Kept


def until(true: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)


class Box:
    """A target that works, hangs or fails as it is told."""

    where, step, most = "the box", "mend it", 10

    def __init__(self) -> None:
        self.got: list[str] = []
        self.fails = ""
        self.tries = 0
        self.permits = 1_000_000
        self.open = threading.Event()
        self.open.set()
        self.closed = 0
        self.unfit = ""

    def begin(self) -> None:
        if self.unfit:
            raise OSError(self.unfit)

    def render(self, item: Item) -> bytes:
        return (f"lost {item.count}" if isinstance(item, Lost) else str(item.values["id"])).encode()

    def send(self, items: Sequence[bytes]) -> int:
        self.tries += 1
        self.open.wait()
        until(lambda: self.permits)
        self.permits -= 1
        if self.fails:
            raise OSError(self.fails)
        some = items[:3]
        self.got += [item.decode() for item in some]
        return len(some)

    def close(self) -> None:
        self.closed += 1


def item(number: int) -> Item:
    return Decided(number, Record(time=float(number), decision="allow", reason="rule"))


def some(first: int, last: int) -> list[Callable[[], Item]]:
    return [partial(item, number) for number in range(first, last + 1)]


def numbers(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


class Scene:
    def __init__(self) -> None:
        self.box = Box()
        self.said: list[str] = []
        self.sink = Sink(self.box, self.said.append, bound=50, retry=(0.02, 0.1))


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.box.open.set()
    made.sink.close()


def test_everything_arrives_once_and_in_order(scene: Scene) -> None:
    for first in range(1, 1000, 10):
        scene.sink.give(some(first, first + 9))
        until(lambda first=first: len(scene.box.got) > first - 40)  # type: ignore[misc]
    until(lambda: len(scene.box.got) == 1000)
    assert scene.box.got == numbers(1, 1000)
    assert (scene.sink.problems(), scene.said, scene.sink.lost) == ((), [], 0)


def test_what_cannot_work_is_told_before_there_is_anything_to_pass_on() -> None:
    box, said = Box(), list[str]()
    box.unfit = "it is a symbolic link"
    sink = Sink(box, said.append)
    try:
        until(sink.problems)
        assert said == ["records do not reach the box: it is a symbolic link; mend it"]
        assert said[0] in sink.problems()[0]
        sink.give(some(1, 1))
        until(lambda: box.got == ["1"] and not sink.problems())
        assert said[1] == "records reach the box again"
    finally:
        sink.close()


def test_who_gives_never_waits_for_a_target_that_hangs(scene: Scene) -> None:
    scene.box.open.clear()
    began = time.monotonic()
    for number in range(1, 5001):
        scene.sink.give(some(number, number))
    assert time.monotonic() - began < 2
    assert 4940 <= scene.sink.lost <= 4950


def test_a_target_that_fails_is_tried_again_and_what_was_lost_stands_where_it_is_missing(
    scene: Scene,
) -> None:
    scene.box.fails = "no space"
    scene.sink.give(some(1, 10))
    until(lambda: scene.box.tries > 2)
    scene.sink.give(some(11, 60))
    (problem,) = scene.sink.problems()
    assert problem == (
        "records do not reach the box: no space; mend it (50 wait in memory, 10 were lost)"
    )
    scene.box.fails = ""
    until(lambda: "lost 10" in scene.box.got)
    assert scene.box.got == [*numbers(1, 50), "lost 10"]
    scene.sink.give(some(61, 62))
    until(lambda: scene.box.got[-1] == "62")
    assert scene.box.got[-3:] == ["lost 10", "61", "62"]
    assert scene.said == [
        "records do not reach the box: no space; mend it",
        "records reach the box again (10 were lost so far)",
    ]
    assert scene.sink.problems() == (
        "records did not reach the box: 10 were lost: look for them in `arbiter audit`",
    )
    assert scene.box.closed > 2, "what failed is opened anew"


def test_what_is_lost_between_two_that_came_is_told_between_them(scene: Scene) -> None:
    scene.box.permits = 0
    scene.sink.give(some(1, 55))
    until(lambda: scene.box.tries)
    assert scene.sink.lost == 5
    scene.box.permits = 4  # the first ten are gone: there is room, and others still wait
    until(lambda: scene.box.got == numbers(1, 10))
    scene.sink.give(some(56, 56))
    scene.box.permits = 1000
    until(lambda: scene.box.got[-1] == "56")
    assert scene.box.got == [*numbers(1, 50), "lost 5", "56"]


def test_pauses_grow_and_giving_does_not_shorten_them(scene: Scene) -> None:
    scene.box.fails = "no"
    for number in range(1, 41):
        scene.sink.give(some(number, number))
        time.sleep(0.01)
    # 0.02 + 0.04 + 0.08 + 0.1 + 0.1 ... seconds between tries.
    assert scene.box.tries <= 9


def test_with_nothing_to_do_the_thread_sleeps_without_a_timeout(scene: Scene) -> None:
    scene.sink.give(some(1, 1))
    until(lambda: scene.box.got)
    waits: list[float | None] = []
    wait = scene.sink._wake.wait

    def noted(timeout: float | None = None) -> bool:
        waits.append(timeout)
        return wait(timeout)

    scene.sink._wake.wait = noted  # type: ignore[method-assign]
    scene.sink.give(some(2, 2))
    until(lambda: waits)
    time.sleep(0.1)
    assert waits == [None]


def test_the_end_passes_on_what_waits_and_waits_for_no_dead_target() -> None:
    good = Scene()
    good.sink.give(some(1, 50))
    good.sink.close()
    assert good.box.got == numbers(1, 50)
    bad = Scene()
    bad.box.fails = "gone"
    bad.sink.give(some(1, 20))
    began = time.monotonic()
    bad.sink.close()
    assert time.monotonic() - began < 1
    assert bad.sink.lost == 20
    bad.sink.give(some(21, 21))
    assert bad.sink.lost == 21


def test_a_target_that_hangs_at_the_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbiter.sinks.sink.PATIENCE", 0.1)
    scene = Scene()
    scene.box.open.clear()
    scene.sink.give(some(1, 20))
    scene.sink.close()
    assert scene.sink.lost == 20
    scene.box.open.set()


# --- the outbox -------------------------------------------------------------------------------


def kept(number: int) -> Kept:
    record = Record(time=1.0, decision="allow", reason="rule", app="/usr/bin/curl", state="open")
    return Kept(number, record)


def test_settings_name_the_targets() -> None:
    text = '[audit]\njson_lines = "/x/y"\njournald = true\nsyslog = "tcp://[2001:db8::1]"'
    lines, journal, syslog = targets(load(text, "x"), 0)
    assert isinstance(lines, JsonLines)
    assert isinstance(journal, Journald)
    assert isinstance(syslog, Syslog)
    assert syslog.where == "syslog at tcp://[2001:db8::1]:601"
    assert targets(load("", "x"), 0) == []


def test_an_end_has_its_whole_record_and_one_that_goes_on_is_not_told(tmp_path: Path) -> None:
    outbox = Outbox(load(f'audit.json_lines = "{tmp_path / "x"}"', "x"))
    box = Box()
    outbox.sinks.append(Sink(box, lambda text: None))
    made: list[int] = []

    def make(number: int) -> Kept:
        made.append(number)
        return kept(number)

    some = [Made(n, partial(make, n), n != 2) for n in (1, 2, 3)]
    outbox.decided(some)
    assert [one().id for one in some] == [1, 2, 3]
    outbox.progress([Progress(1, State.OPEN, out_bytes=5)])
    outbox.progress(
        [Progress(1, State.CLOSED, closed=9.0, out_bytes=7), Progress(99, State.UNKNOWN)]
    )
    until(lambda: len(box.got) == 5)
    outbox.close()
    assert sorted(made) == [1, 2, 3], "each record is made once for all"
    lines = (tmp_path / "x").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ['{"kind": "decided"'] * 3 + [
        '{"kind": "ended"'
    ] * 2
    assert '"app": "/usr/bin/curl"' in lines[3]
    assert '"out_bytes": 7' in lines[3]
    assert '"state": "unknown"' in lines[4]
    assert "app" not in lines[4]


def test_without_sinks_nothing_is_kept() -> None:
    outbox = Outbox(load("", "x"))
    outbox.decided([Made(1, partial(kept, 1), True)])
    assert not outbox._open
    outbox.progress([Progress(1, State.CLOSED)])
    assert outbox.problems() == ()
    outbox.close()


def test_records_of_open_connections_are_bounded(tmp_path: Path) -> None:
    outbox = Outbox(load(f'audit.json_lines = "{tmp_path / "x"}"', "x"))
    outbox.decided([Made(n, partial(kept, n), True) for n in range(MAX_OPEN + 10)])
    outbox.progress([Progress(n, State.CLOSED) for n in (5, 10)])
    outbox.close()
    first, second = (tmp_path / "x").read_text().splitlines()[-2:]
    assert "app" not in first
    assert '"app": "/usr/bin/curl"' in second
    assert isinstance(Ended(Progress(5, State.CLOSED), 1.0).values, dict)
