"""The kernel's process events, as the look-up of owners reads them."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ownerscene import Client, clients, entered, made_namespace

from arbiter.kernel.holders import Holder, Holders
from arbiter.kernel.procevents import ProcEvents

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a network namespace"),
]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    with made_namespace() as name:
        yield name


@pytest.fixture(autouse=True)
def inside(namespace: str) -> Iterator[None]:
    """The whole test runs in the namespace, and so do its clients."""
    with entered(namespace):
        yield


@pytest.fixture
def client() -> Iterator[Client]:
    with clients() as start:
        yield start


@pytest.fixture
def events() -> Iterator[ProcEvents]:
    made = ProcEvents.open()
    if made is None:
        pytest.skip("this kernel delivers no process events here")
    yield made
    made.close()


def test_births_and_deaths_are_seen_from_another_network_namespace(events: ProcEvents) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert events.drain()
        assert child.pid in list(events.newest())
        assert events.parent(child.pid) == os.getpid()
        assert child.pid in events.children(os.getpid())
        assert events.complete(child.pid)
        assert not events.complete(os.getpid()), "older than our listening"
        assert child.stdin is not None
        child.stdin.close()
    assert events.drain()
    assert child.pid not in list(events.newest())
    assert child.pid in events.gone
    assert child.pid not in events.children(os.getpid())


def test_threads_are_not_processes(events: ProcEvents) -> None:
    thread = threading.Thread(target=time.sleep, args=(0.01,))
    thread.start()
    thread.join()
    events.drain()
    assert thread.native_id not in list(events.newest())
    assert thread.native_id not in events.gone


def test_an_overrun_is_told_and_everything_known_forgotten(
    events: ProcEvents, client: Client
) -> None:
    subprocess.run(["true"], check=True)
    assert events.drain()
    client(
        "for _ in range(400):\n pid = os.fork()\n if not pid: os._exit(0)\n"
        " os.waitpid(pid, 0)\nsay(0)"
    )
    assert not events.drain()
    assert events.overruns == 1
    assert list(events.newest()) == []
    with subprocess.Popen(["sleep", "9"]) as child:
        assert events.drain(), "and then it goes on"
        assert child.pid in list(events.newest())
        child.kill()


def test_who_hears_of_them_ahead_forgets_the_dead_and_needs_not_read_them_later(
    events: ProcEvents,
) -> None:
    holders = Holders(events=events)
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
            holders.note(Holder(child.pid, 3, 1), 0)
            assert holders.hear()
            assert child.pid in holders._recent
            assert child.pid in list(events.newest())
        assert holders.hear()
        assert child.pid not in holders._recent
        assert not events.gone
    finally:
        holders.close()


def test_what_is_known_is_bounded_and_says_when_it_is_not_whole() -> None:
    events = ProcEvents()
    events.adopt(2, [])
    assert events.complete(2)
    for child in range(3, 9000):
        events.forked(2, child)
    assert len(events._parent) <= 8192
    assert len(list(events.newest())) == 256
    assert not events.complete(2), "its first children were forgotten"


def test_relatives_are_known_past_an_exited_parent() -> None:
    events = ProcEvents()
    events.forked(1, 10)
    for child in (11, 12):
        events.forked(10, child)
    events.exited(10)
    assert events.elders(11) == [12, 1], "itself is none of them"
    assert sorted(events.children(1)) == [11, 12]
    for child in (11, 12):
        events.exited(child)
    assert (events.children(1), events.elders(11)) == ([], [])


@given(
    st.lists(
        st.tuples(st.sampled_from(["forked", "exited"]), st.integers(1, 6), st.integers(1, 6)),
        max_size=60,
    )
)
def test_any_order_of_events_keeps_the_tree_whole(steps: list[tuple[str, int, int]]) -> None:
    events = ProcEvents()
    for what, one, two in steps:
        if what == "exited":
            events.exited(one)
        elif one != two:
            events.forked(one, two)
    for pid in range(1, 7):
        children = events.children(pid)
        assert len(children) == len(set(children))
        assert all(child not in events._dead for child in children)
        assert len(events.elders(pid)) < 50
        for child in events._children.get(pid, ()):
            assert events._parent[child] == pid
    assert set(events.newest()).isdisjoint(events._dead)


@given(st.binary(max_size=120))
def test_any_bytes_are_no_process_event(data: bytes) -> None:
    events = ProcEvents()
    events.feed(data)
    assert len(list(events.newest())) <= 1
