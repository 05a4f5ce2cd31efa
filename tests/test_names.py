"""The cache of looked-up names, hosts files and resolvers: what is known, how long, in bounds."""

from __future__ import annotations

import ipaddress
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arbiter.namefiles import NameFiles
from arbiter.names import (
    GRACE,
    MAX_ADDRESSES,
    MAX_AGE,
    MAX_BYTES,
    MAX_NAMES,
    MAX_ORIGINS,
    MAX_TARGETS,
    NameCache,
)
from arbiter.nametext import MAX_HOST_NAMES, MAX_HOSTS, read_hosts, read_resolvers

A, B = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
V6 = ipaddress.ip_address("2001:db8::1").packed


# --- the cache -------------------------------------------------------------------------------


def test_all_names_of_an_address_are_kept_the_newest_answer_first() -> None:
    cache = NameCache()
    cache.learn("one.example", (A, V6), 60, 0)
    cache.learn("two.example", (A,), 60, 1)
    assert cache.names_of(A, 2) == ("two.example", "one.example")
    assert cache.names_of(V6, 2) == ("one.example",)
    assert cache.names_of(B, 2) == ()
    cache.learn("one.example", (A,), 60, 3)
    assert cache.names_of(A, 4) == ("one.example", "two.example")


def test_a_name_outlives_its_ttl_by_the_grace_and_no_longer() -> None:
    cache = NameCache()
    cache.learn("one.example", (A,), 60, 1000)
    assert cache.names_of(A, 1000 + 60 + GRACE - 1) == ("one.example",)
    assert cache.names_of(A, 1000 + 60 + GRACE) == ()
    cache.learn("long.example", (B,), 1e9, 0)
    assert cache.names_of(B, MAX_AGE - 1) and not cache.names_of(B, MAX_AGE)


def test_a_shorter_answer_does_not_shorten_what_was_promised() -> None:
    cache = NameCache()
    cache.learn("one.example", (A,), 9000, 0)
    cache.learn("one.example", (A,), 0, 10)
    assert cache.names_of(A, 9000 + GRACE - 1) == ("one.example",)


def test_use_keeps_a_name_but_not_past_its_age() -> None:
    cache = NameCache()
    cache.learn("one.example", (A,), 0, 0)
    now = 0.0
    while now < MAX_AGE - GRACE:
        now += GRACE - 1
        cache.keep(A, now)
        assert cache.names_of(A, now) == ("one.example",)
    cache.keep(A, MAX_AGE - 1)
    assert cache.names_of(A, MAX_AGE) == ()
    cache.keep(A, MAX_AGE + 1)
    assert cache.names_of(A, MAX_AGE + 2) == ()
    cache.keep(B, 0)
    assert len(cache) == 1


def test_what_is_looked_up_for_a_service_s_host_counts_for_the_service() -> None:
    cache = NameCache()
    cache.learn("shop.example", (), 60, 0, targets=("alias.example",))
    cache.learn("alias.example", (), 60, 1, targets=("pool.cdn.example",))
    cache.learn("pool.cdn.example", (A,), 60, 2)
    assert cache.names_of(A, 3) == ("pool.cdn.example", "alias.example", "shop.example")
    cache.learn("pool.cdn.example", (B,), 60, MAX_AGE)
    assert cache.names_of(B, MAX_AGE) == ("pool.cdn.example",)


def test_names_of_the_hosts_file_come_last_and_never_expire() -> None:
    cache = NameCache()
    cache.use_hosts({A: ("nas", "one.example"), B: ("printer",)})
    cache.learn("one.example", (A,), 60, 0)
    assert cache.names_of(A, 1) == ("one.example", "nas")
    assert cache.names_of(A, MAX_AGE) == ("nas", "one.example")
    assert cache.names_of(B, 1) == ("printer",)
    cache.use_hosts({})
    assert cache.names_of(B, 1) == ()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::", "::1"])
def test_addresses_that_never_leave_this_host_have_no_names(address: str) -> None:
    cache = NameCache()
    cache.learn("ads.example", (ipaddress.ip_address(address).packed,), 60, 0)
    assert len(cache) == 0


def test_forgetting_drops_what_has_expired_and_nothing_else() -> None:
    cache = NameCache()
    cache.learn("one.example", (A,), 0, 0, targets=("t.example",))
    cache.learn("two.example", (A, B), 0, 100)
    assert cache.forget(GRACE) == 0
    assert cache.names_of(A, GRACE) == ("two.example",)
    assert cache.forget(GRACE + 100) == 2
    assert (len(cache), cache.size) == (0, 0)


def test_a_full_cache_gives_up_what_was_unused_for_longest() -> None:
    cache = NameCache()
    for number in range(1, MAX_ADDRESSES + 1):
        cache.learn("n.example", (number.to_bytes(4, "big"),), 60, number / 1e4)
    first, second = (10).to_bytes(4, "big"), (11).to_bytes(4, "big")
    for number in range(1, 10):
        cache.keep(number.to_bytes(4, "big"), 1)
    cache.keep(first, 1)
    cache.learn("new.example", (A, B), 60, 2)
    assert cache.names_of(A, 2) == ("new.example",)
    assert cache.names_of(first, 2) and not cache.names_of(second, 2)
    assert len(cache) == MAX_ADDRESSES


def test_the_names_of_one_address_are_bounded_and_the_newest_stay() -> None:
    cache = NameCache()
    for number in range(MAX_NAMES + 5):
        cache.learn(f"n{number}.example", (A,), 60, number)
    names = cache.names_of(A, 99)
    assert len(names) == MAX_NAMES and names[0] == f"n{MAX_NAMES + 4}.example"


def test_services_are_bounded() -> None:
    cache = NameCache()
    for number in range(MAX_ORIGINS + 2):
        cache.learn(f"s{number}.example", (), 60, 0, targets=("t.example",))
    cache.learn("t.example", (A,), 60, 1)
    assert len(cache.names_of(A, 2)) == MAX_ORIGINS + 1
    cache.learn("s.example", (), 60, 2, targets=(f"t{n}.example" for n in range(MAX_TARGETS)))
    cache.learn("t.example", (B,), 60, 3)
    assert cache.names_of(B, 4) == ("t.example",)


@pytest.mark.parametrize(("names", "length"), [(1, 20), (MAX_NAMES, 253), (MAX_NAMES, 9)])
def test_a_full_cache_takes_no_more_than_it_says(names: int, length: int) -> None:
    cache = NameCache()
    tracemalloc.start()
    try:
        for number in range(MAX_ADDRESSES if names == 1 else 1500):  # enough to overflow
            address = (0xC0000000 + number).to_bytes(4, "big")
            for one in range(names):
                name = f"{number}-{one}.".ljust(length, "x")
                cache.learn(name, (address,), 60, number / 10)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert MAX_BYTES // 2 < cache.size <= MAX_BYTES
    assert taken <= cache.size


class CacheMachine(RuleBasedStateMachine):
    """Against the plainest thing that could work: a list of everything that was ever learned."""

    def __init__(self) -> None:
        super().__init__()
        self.cache, self.now = NameCache(), 0.0
        self.seen: list[tuple[bytes, str, float, float]] = []

    ADDRESSES = st.sampled_from([A, B, V6])
    NAMES = st.sampled_from([f"{letter}.example" for letter in "abcde"])

    @rule(name=NAMES, addresses=st.lists(ADDRESSES, max_size=3), ttl=st.integers(0, 100_000))
    def learn(self, name: str, addresses: list[bytes], ttl: int) -> None:
        self.cache.learn(name, addresses, ttl, self.now)
        for address in addresses:
            old = [end for a, n, _, end in self.seen if (a, n) == (address, name)]
            self.seen = [one for one in self.seen if one[:2] != (address, name)]
            until = self.now + min(ttl + GRACE, MAX_AGE)
            self.seen.append((address, name, self.now, max([until, *old])))

    @rule(address=ADDRESSES)
    def keep(self, address: bytes) -> None:
        self.cache.keep(address, self.now)
        self.seen = [
            (a, n, at, max(end, min(self.now + GRACE, at + MAX_AGE)))
            if a == address and self.now < end
            else (a, n, at, end)
            for a, n, at, end in self.seen
        ]

    @rule(seconds=st.floats(0, 20_000))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def forget(self) -> None:
        self.cache.forget(self.now)

    @invariant()
    def the_same_is_known(self) -> None:
        for address in (A, B, V6):
            live = [n for a, n, _, end in self.seen if a == address and self.now < end]
            assert self.cache.names_of(address, self.now) == tuple(reversed(live))


TestCache = CacheMachine.TestCase


# --- files -----------------------------------------------------------------------------------


def test_a_hosts_file_gives_each_address_its_names_in_order() -> None:
    text = (
        b"127.0.0.1 localhost\n192.0.2.1\tNAS.lan. nas # the shelf\n"
        b"#192.0.2.1 old\n192.0.2.1 files\n::ffff:192.0.2.2 two\nfe80::1%eth0 router\n0.0.0.0 ads\n"
    )
    assert read_hosts(text.splitlines()) == {
        A: ("nas.lan", "nas", "files"),
        B: ("two",),
        ipaddress.ip_address("fe80::1").packed: ("router",),
    }


@given(st.lists(st.binary(max_size=60)))
def test_any_lines_of_a_file_give_plain_names_and_addresses(lines: list[bytes]) -> None:
    for address, names in read_hosts(lines).items():
        assert len(address) in (4, 16) and names and all(n.isascii() and n for n in names)
    assert all(len(address) in (4, 16) for address in read_resolvers(lines))


def test_a_hosts_file_is_read_in_bounds() -> None:
    many = (f"{ipaddress.ip_address(n)} n{n}".encode() for n in range(1 << 24, (1 << 24) + 5000))
    assert len(read_hosts(many)) == MAX_HOSTS
    long = b"192.0.2.1 " + b" ".join(b"n%d" % n for n in range(50))
    assert len(read_hosts([long])[A]) == MAX_HOST_NAMES


def test_resolvers_are_those_of_nameserver_lines_or_this_host() -> None:
    lines = [b"search lan", b"nameserver 192.0.2.1", b" nameserver fe80::1%eth0 x", b"nameserver x"]
    assert read_resolvers(lines) == (A, ipaddress.ip_address("fe80::1").packed)
    assert read_resolvers([b"# nothing"]) == (bytes([127, 0, 0, 1]),)


def look(files: NameFiles) -> bool:
    return files.look_at_hosts() | files.look_at_resolvers()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("192.0.2.1 nas\n")
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.53\n")
    return tmp_path


def test_files_are_read_when_they_change_and_only_then(root: Path) -> None:
    files = NameFiles(root)
    assert look(files) and files.hosts == {A: ("nas",)}
    assert files.resolvers == {bytes([127, 0, 0, 53])}
    assert not look(files)
    (root / "etc/hosts").write_text("192.0.2.2 printer\n")
    upstream = root / "run/systemd/resolve"
    upstream.mkdir(parents=True)
    (upstream / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    assert look(files) and files.hosts == {B: ("printer",)}
    assert files.resolvers == {bytes([127, 0, 0, 53]), A}
    (upstream / "resolv.conf").unlink()
    (root / "etc/hosts").unlink()
    assert look(files) and not files.hosts and files.resolvers == {bytes([127, 0, 0, 53])}
    assert files.problems == ()


def test_a_new_resolver_is_believed_from_its_first_answer_on_and_an_old_one_no_longer(
    root: Path,
) -> None:
    files = NameFiles(root)
    assert files.believes(bytes([127, 0, 0, 53])) and not files.believes(A)
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    assert files.believes(A) and not files.believes(bytes([127, 0, 0, 53]))
    assert not files.hosts and look(files) and files.hosts


def test_a_replaced_file_of_the_same_size_is_seen(root: Path) -> None:
    files = NameFiles(root)
    look(files)
    new = root / "etc/resolv.new"
    new.write_text("nameserver 127.0.0.54\n")
    new.rename(root / "etc/resolv.conf")
    assert look(files) and files.resolvers == {bytes([127, 0, 0, 54])}


def test_without_resolv_conf_this_host_is_asked(tmp_path: Path) -> None:
    files = NameFiles(tmp_path)
    look(files)
    assert files.resolvers == {bytes([127, 0, 0, 1])}


def test_a_file_that_cannot_be_read_is_said_and_what_it_said_stays(root: Path) -> None:
    files = NameFiles(root)
    look(files)
    (root / "etc/resolv.conf").unlink()
    os.mkfifo(root / "etc/resolv.conf")
    assert not look(files)
    assert files.resolvers == {bytes([127, 0, 0, 53])}
    assert "/etc/resolv.conf cannot be read" in files.problems[0]
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    assert look(files) and files.problems == () and files.resolvers == {A}
