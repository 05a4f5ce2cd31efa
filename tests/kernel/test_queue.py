"""The queue room on the real kernel: any order, marks kept, bounded work, losses counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from running import eventually

from arbiter.kernel import queue as queue_room
from arbiter.kernel.queue import BATCH, Queue, QueueError
from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.model import ACCEPTED, DENIED, DROPPED, MARK_MASK, Hook, Packet, Undecodable
from arbiter.packets import COPY_RANGE

NUMBER = 5
PORT = 7


class Consumer:
    """A queue in the lab's host, read by hand."""

    def __init__(
        self, lab: Lab, length: int = 1024, fail_open: bool = False, mark_mask: int = MARK_MASK
    ) -> None:
        self.got: list[Packet | Undecodable] = []
        self.lab = lab
        self.queue = lab.inside(
            lambda: Queue(
                NUMBER, self.got.append, length=length, fail_open=fail_open, mark_mask=mark_mask
            )
        )

    def read(self, count: int) -> list[Packet]:
        """Wait for packets; gives all so far."""
        while len(self.got) < count:
            ready, _, _ = select.select([self.queue.fileno()], [], [], 5)
            assert ready, f"only {len(self.got)} of {count} packets came"
            self.queue.handle()
        assert all(isinstance(packet, Packet) for packet in self.got)
        return [packet for packet in self.got if isinstance(packet, Packet)]

    def counters(self) -> queue_room.Counters:
        return self.lab.inside(self.queue.counters)


@pytest.fixture
def consumer(clean_lab: Lab) -> Iterator[Consumer]:
    with consuming(clean_lab) as made:
        yield made


@contextlib.contextmanager
def consuming(
    lab: Lab, length: int = 1024, fail_open: bool = False, mark_mask: int = MARK_MASK
) -> Iterator[Consumer]:
    made = Consumer(lab, length, fail_open, mark_mask)
    for tool in ("iptables", "ip6tables"):
        for rule in (
            ("OUTPUT", "-p", "udp", "--dport", str(PORT), "-j", "NFQUEUE"),
            ("POSTROUTING", "-m", "mark", "--mark", "0x20000040"),
            ("POSTROUTING", "-m", "mark", "--mark", "0x00000040"),
        ):
            number = ["--queue-num", str(NUMBER)] if "NFQUEUE" in rule else []
            done = lab.run([tool, "-w", "-t", "mangle", "-A", *rule, *number])
            assert done.returncode == 0, done.stderr
    try:
        yield made
    finally:
        made.queue.close()


def client(lab: Lab, server: str, mark: int = 0) -> socket.socket:
    """A UDP socket of the lab's host, connected to the echo server."""

    def make() -> socket.socket:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.settimeout(3)
        sock.connect((server, PORT))
        return sock

    return lab.inside(make)


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_packets_are_answered_in_any_order(consumer: Consumer, server: str) -> None:
    with client(consumer.lab, server) as sock:
        for number in range(3):
            sock.send(b"%d" % number)
        first, second, third = consumer.read(3)
        assert (first.hook, first.flow.dport) == (Hook.OUT, PORT)
        consumer.queue.set_verdict(third.id, ACCEPTED)
        consumer.queue.set_verdict(second.id, DROPPED)
        consumer.queue.set_verdict(first.id, ACCEPTED)
        assert consumer.queue.waiting == 0
        answers = sock.recv(200) + sock.recv(200)
        assert answers.index(b"2") < answers.rindex(b"0")
        assert b"link=wifi" in answers
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(200)


def test_a_verdict_sets_our_mark_bits_and_keeps_the_others(consumer: Consumer) -> None:
    with client(consumer.lab, SERVER4, mark=0x40) as sock:
        sock.send(b"x")
        (packet,) = consumer.read(1)
        assert packet.mark == 0x40
        consumer.queue.set_verdict(packet.id, ACCEPTED)
        assert sock.recv(200)
    listing = consumer.lab.run(["iptables", "-t", "mangle", "-nvxL", "POSTROUTING"]).stdout
    marked, unmarked = (int(line.split()[0]) for line in listing.splitlines()[-2:])
    assert (marked, unmarked) == (1, 0), listing


def test_another_mark_base_moves_the_bits(clean_lab: Lab) -> None:
    with consuming(clean_lab, mark_mask=0x7F) as consumer:
        rule = ["POSTROUTING", "-m", "mark", "--mark", "0x60/0x7f"]
        clean_lab.run(["iptables", "-w", "-t", "mangle", "-A", *rule])
        with client(clean_lab, SERVER4) as sock:
            sock.send(b"x")
            (packet,) = consumer.read(1)
            consumer.queue.set_verdict(packet.id, DENIED)
            assert sock.recv(200)  # nothing rejects in this test: the mark alone is looked at
    listing = clean_lab.run(["iptables", "-t", "mangle", "-nvxL", "POSTROUTING"]).stdout
    assert int(listing.splitlines()[-1].split()[0]) == 1, listing


def test_only_what_decoding_needs_is_copied(consumer: Consumer) -> None:
    def copy_range() -> int:
        with open("/proc/thread-self/net/netfilter/nfnetlink_queue") as table:
            (line,) = table.readlines()
        return int(line.split()[4])

    assert consumer.lab.inside(copy_range) == COPY_RANGE
    with client(consumer.lab, SERVER4) as sock:
        sock.send(b"x" * 1200)
        (packet,) = consumer.read(1)
        assert packet.length == 1228
        consumer.queue.set_verdict(packet.id, ACCEPTED)
        assert sock.recv(2000)


def test_a_flood_is_read_in_batches(consumer: Consumer) -> None:
    with contextlib.ExitStack() as stack:
        # Several sockets: what is held counts against its sender's buffer.
        for _ in range(6):
            sock = stack.enter_context(client(consumer.lab, SERVER4))
            for _ in range(BATCH // 2):
                sock.send(b"x")
        consumer.read(1)
        assert len(consumer.got) == BATCH
        packets = consumer.read(3 * BATCH)
        for packet in packets:
            consumer.queue.set_verdict(packet.id, DROPPED)


def test_a_full_queue_drops_and_counts(clean_lab: Lab) -> None:
    with consuming(clean_lab, length=4) as consumer, client(clean_lab, SERVER4) as sock:
        for _ in range(10):
            with contextlib.suppress(OSError):
                sock.send(b"x")
        counters = consumer.counters()
        assert (counters.waiting, counters.dropped_full) == (4, 6)
        assert counters.total >= 4


def test_with_fail_open_a_full_queue_lets_pass(clean_lab: Lab) -> None:
    with (
        consuming(clean_lab, length=1, fail_open=True) as consumer,
        client(clean_lab, SERVER4) as sock,
    ):
        for number in range(3):
            sock.send(b"%d" % number)
        answers = sock.recv(200) + sock.recv(200)
        assert b"1" in answers
        assert consumer.counters().waiting == 1


def test_a_queue_is_made_while_packets_come_and_none_of_them_is_lost(clean_lab: Lab) -> None:
    """As after a kill: the rules are there, and others send without a pause."""
    sent, stop = [0], threading.Event()
    rule = ["OUTPUT", "-p", "udp", "--dport", str(PORT), "-j", "NFQUEUE"]
    rule += ["--queue-num", str(NUMBER), "--queue-bypass"]
    assert clean_lab.run(["iptables", "-w", "-t", "mangle", "-A", *rule]).returncode == 0

    def flood(sock: socket.socket) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):  # the queue is full for now, or the server is deaf
                sock.send(b"x")
                sent[0] += 1

    with client(clean_lab, SERVER4) as sock:
        thread = threading.Thread(target=flood, args=(sock,))
        thread.start()
        early, rounds, loop = 0, 0, asyncio.new_event_loop()
        try:
            # The flood has to get its turn in a moment of a millisecond: until it had, once.
            while rounds < 60 or (not early and rounds < 2000):
                rounds += 1
                got: list[Packet | Undecodable] = []
                queue = clean_lab.inside(
                    lambda got=got: Queue(NUMBER, got.append, length=4096, fail_open=False)  # type: ignore[misc]
                )
                early += len(queue._early) + len(queue._budget.early)
                assert not got, "nothing before begin"
                queue.begin(loop)
                while len(got) < 20:
                    queue.handle()
                ids = [packet.id for packet in got]
                assert ids == list(range(1, len(ids) + 1)), "each, in its order"
                for id in ids:
                    queue.set_verdict(id, DROPPED)
                loop.remove_reader(queue.fileno())
                queue.close()
        finally:
            stop.set()
            thread.join()
            loop.close()
    assert early, "some came while a queue was made"


def test_the_receive_buffer_is_large(consumer: Consumer) -> None:
    assert consumer.queue.problems == []


def test_a_queue_that_is_taken_names_its_holder(consumer: Consumer) -> None:
    with pytest.raises(QueueError, match="queue 5 is held by"):
        Consumer(consumer.lab)


class Broken:
    """A fast path whose thread ends at once."""

    overruns = 0

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._wake

    def start(self, failed: Callable[[OSError], object]) -> None:
        thread = threading.Thread(target=failed, args=(OSError(5, "the kernel has had enough"),))
        thread.start()
        thread.join()

    def stop(self) -> None:
        os.close(self._wake)

    def rest(self) -> list[object]:
        return []


def test_where_the_fast_path_ends_the_queue_is_read_all_the_same(consumer: Consumer) -> None:
    path: Any = Broken()
    consumer.queue.go_by(path, lambda packet, handed: None)

    async def serve() -> bytes:
        loop = asyncio.get_running_loop()
        consumer.queue.begin(loop)
        with client(consumer.lab, SERVER4) as sock:
            sock.send(b"x")
            await asyncio.to_thread(eventually, lambda: consumer.got)
            consumer.queue.set_verdict(consumer.got[0].id, ACCEPTED)
            answer = await asyncio.to_thread(sock.recv, 200)
        consumer.queue.end(loop)
        return answer

    assert b"link=wifi" in asyncio.run(asyncio.wait_for(serve(), 10))
    (problem,) = consumer.queue.problems
    assert problem.startswith("the fast path ended: ")
    assert "restart arbiter" in problem
