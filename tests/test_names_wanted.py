"""Names that rules speak of outlast all others in the cache, and its bounds hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from test_names import A, B

from arbiter import names
from arbiter.names import GRACE, MAX_ADDRESSES, MAX_AGE, MAX_BYTES, MAX_NAMES, NameCache
from arbiter.rules import Domain, Entry, Host, Index, Layer, Name, Spoken, parse


def spoken(*hosts: Host) -> Spoken:
    made = Spoken()
    for host in hosts:
        made.add(host)
    return made


def address(number: int) -> bytes:
    return (0xC6336400 + number).to_bytes(4, "big")


def test_look_ups_of_other_names_do_not_push_out_one_that_a_rule_speaks_of() -> None:
    cache = NameCache(spoken(Name("www.lab.test")))
    cache.learn("www.lab.test", (A,), 60, 0)
    for number in range(3 * MAX_NAMES):
        cache.learn(f"q{number}.lab.test", (A,), 60, 1 + number)
    known = cache.names_of(A, 100)
    assert known[0] == f"q{3 * MAX_NAMES - 1}.lab.test" and known[-1] == "www.lab.test"
    assert len(known) == MAX_NAMES


def test_look_ups_of_other_addresses_do_not_push_it_out_with_its_address() -> None:
    cache = NameCache(spoken(Domain("lab.test")))
    cache.learn("www.lab.test", (A,), 60, 0)
    for number in range(MAX_ADDRESSES + 5):
        cache.learn(f"q{number}.example", (address(number),), 60, 1)
    assert cache.names_of(A, 2) == ("www.lab.test",)
    assert len(cache) == MAX_ADDRESSES
    assert not cache.names_of(address(5), 2) and cache.names_of(address(6), 2)


def test_long_names_of_other_addresses_do_not_push_it_out() -> None:
    cache = NameCache(spoken(Name("www.lab.test")))
    cache.learn("www.lab.test", (A,), 60, 0)
    for number in range(2000):
        for one in range(MAX_NAMES):
            cache.learn(f"{number}-{one}.".ljust(250, "x"), (address(number),), 60, 1)
    assert cache.names_of(A, 2) == ("www.lab.test",)
    assert len(cache) < 2000 and cache.size <= MAX_BYTES


def test_a_rule_that_comes_or_goes_later_counts_for_names_that_are_known() -> None:
    made = spoken()
    cache = NameCache(made)
    cache.learn("old.lab.test", (A,), 60, 0)
    cache.learn("www.lab.test", (B,), 60, 1)
    made.add(Name("old.lab.test"))
    for number in range(MAX_ADDRESSES):
        cache.learn("q.example", (address(number),), 60, 2)
    assert cache.names_of(A, 3) and not cache.names_of(B, 3)
    made.remove(Name("old.lab.test"))
    for number in range(MAX_ADDRESSES + 1):
        cache.learn("q.example", (address(10_000 + number),), 60, 4)
    assert not cache.names_of(A, 5) and len(cache) == MAX_ADDRESSES


def test_where_all_names_are_wanted_the_oldest_goes_and_a_new_unwanted_one_does_not_stay() -> None:
    cache = NameCache(spoken(Domain("lab.test")))
    for number in range(MAX_NAMES + 1):
        cache.learn(f"q{number}.lab.test", (A,), 60, number)
    cache.learn("other.example", (A,), 60, 99)
    assert cache.names_of(A, 99) == tuple(f"q{n}.lab.test" for n in range(MAX_NAMES, 0, -1))
    for number in range(MAX_ADDRESSES):
        cache.learn("x.lab.test", (address(number),), 60, 100)
    assert not cache.names_of(A, 101) and len(cache) == MAX_ADDRESSES
    cache.learn("other.example", (B,), 60, 102)
    assert not cache.names_of(B, 103) and len(cache) == MAX_ADDRESSES


def test_a_wanted_name_that_is_over_no_longer_protects_its_address() -> None:
    cache = NameCache(spoken(Name("www.lab.test")))
    cache.learn("www.lab.test", (A,), 0, 0)
    cache.learn("long.example", (A,), MAX_AGE, 0)
    for number in range(MAX_ADDRESSES):
        cache.learn("q.example", (address(number),), MAX_AGE, GRACE)
    assert not cache.names_of(A, GRACE + 1) and cache.names_of(address(0), GRACE + 1)


def test_of_wanted_names_one_that_is_over_goes_first() -> None:
    cache = NameCache(spoken(Domain("lab.test")))
    for number in range(MAX_NAMES):
        cache.learn(f"q{number}.lab.test", (A,), 0 if number == 1 else 9000, number)
    cache.learn("x.example", (B,), 60, GRACE)  # now all are looked through, and not again soon
    cache.learn("new.lab.test", (A,), 60, GRACE + 2)
    assert len(cache.names_of(A, GRACE + 3)) == MAX_NAMES
    assert cache.names_of(A, GRACE + 3)[-1] == "q0.lab.test"


LABELS = st.sampled_from(["a", "b", "lab", "test"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)


@given(st.lists(st.tuples(st.booleans(), NAMES), max_size=8), NAMES, st.data())
def test_an_index_speaks_of_the_names_of_its_rules_and_no_others(
    made: list[tuple[bool, str]], name: str, data: st.DataObject
) -> None:
    hosts = [f"*.{host}" if wild else f"{host}." for wild, host in made]
    index = Index(
        Entry(number, parse(f"deny host={host}"), Layer.REMEMBERED, 0.0, "t")
        for number, host in enumerate(hosts, 1)
    )
    gone = data.draw(st.sets(st.integers(1, len(made)))) if made else set()
    for number in gone:
        index.remove(number)
    left = [one for number, one in enumerate(made, 1) if number not in gone]
    wanted = any(name.endswith(f".{host}") if wild else name == host for wild, host in left)
    assert (name in index.spoken) == wanted


class Crowd(RuleBasedStateMachine):
    """Few wanted names, among any answers, in a small cache: each stays for its time."""

    WANTED = ("www.lab.test", "nas.home")
    FEW, SIZE = 6, 9000

    def __init__(self) -> None:
        super().__init__()
        self.old = names.MAX_ADDRESSES, names.MAX_BYTES, names.MAX_NAMES
        self.bound(self.FEW, self.SIZE, 3)
        self.made = spoken(Domain("lab.test"), Name("nas.home"))
        self.cache, self.now = NameCache(self.made), 0.0
        self.promised: dict[tuple[bytes, str], tuple[float, float]] = {}

    @staticmethod
    def bound(addresses: int, size: int, each: int) -> None:
        for name, value in zip(
            ("MAX_ADDRESSES", "MAX_BYTES", "MAX_NAMES"), (addresses, size, each), strict=True
        ):
            setattr(names, name, value)

    def teardown(self) -> None:
        self.bound(*self.old)

    @rule(name=st.sampled_from(WANTED), to=st.sampled_from([A, B]), ttl=st.integers(0, 90_000))
    def learn_wanted(self, name: str, to: bytes, ttl: int) -> None:
        self.cache.learn(name, (to,), ttl, self.now)
        _, end = self.promised.get((to, name), (0.0, 0.0))
        until = max(end, self.now + min(ttl + GRACE, MAX_AGE))
        self.promised[to, name] = self.now, min(until, self.now + MAX_AGE)

    @rule(
        number=st.integers(0, 20),
        to=st.lists(st.one_of(st.sampled_from([A, B]), st.integers(0, 20).map(address))),
        length=st.integers(1, 200),
    )
    def learn_other(self, number: int, to: list[bytes], length: int) -> None:
        self.cache.learn(f"n{number}.".ljust(length, "x"), to, 60, self.now)

    @rule(to=st.one_of(st.sampled_from([A, B]), st.integers(0, 20).map(address)))
    def keep(self, to: bytes) -> None:
        self.cache.keep(to, self.now)
        for (at, name), (answered, end) in self.promised.items():
            if at == to and self.now < end:
                until = max(end, min(self.now + GRACE, answered + MAX_AGE))
                self.promised[at, name] = answered, until

    @invariant()
    def all_that_rules_speak_of_are_told(self) -> None:
        told = self.cache.spoken_of()
        for to in (A, B, *map(address, range(21))):
            names_there = self.cache.names_of(to, self.now)
            assert to in told or not any(name in self.made for name in names_there)

    @rule(seconds=st.floats(0, 20_000))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def forget(self) -> None:
        self.cache.forget(self.now)

    @rule(coming=st.booleans())
    def change_other_rules(self, coming: bool) -> None:
        if coming != ("n1.xxxx" in self.made):
            (self.made.add if coming else self.made.remove)(Name("n1.xxxx"))

    @invariant()
    def what_is_wanted_is_there_until_its_time(self) -> None:
        for (to, name), (_, end) in self.promised.items():
            assert (name in self.cache.names_of(to, self.now)) == (self.now < end)

    @invariant()
    def the_bounds_hold(self) -> None:
        assert len(self.cache) <= self.FEW and self.cache.size <= self.SIZE
        for to in (A, B, *map(address, range(21))):
            assert len(self.cache.names_of(to, self.now)) <= 3


TestCrowd = Crowd.TestCase
