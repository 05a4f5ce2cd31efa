"""What is in force is seen: whether it is whole, what is in its way, and what doctor says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from firewallscene import KERNEL_ONLY, LINKED, PLAN, consuming, empty, served, sh, usable, wired
from msgspec import structs

from arbiter.kernel import doctor
from arbiter.kernel.firewall import apply, look, overlaps, remove, shown, whole
from arbiter.kernel.firewall.plan import Plan
from arbiter.kernel.firewall.probe import IPTABLES, NFT, Backend

pytestmark = KERNEL_ONLY


@pytest.fixture(scope="module")
def peer() -> Iterator[None]:
    with served():
        yield


@pytest.fixture
def home() -> Iterator[None]:
    with empty():
        yield


@pytest.fixture
def wire(home: None, peer: None) -> Iterator[None]:
    with wired():
        yield


@pytest.fixture(params=[NFT, *IPTABLES], ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest, home: None) -> Backend:
    return usable(request.param)


def test_overlaps_are_found_in_the_kernel_s_own_words(home: None) -> None:
    assert overlaps(PLAN, *look()) == ()
    sh("ip", "rule", "add", "fwmark", "0x80000/0xff0000", "lookup", "52")
    sh("ip", "rule", "add", "not", "fwmark", "0xca6c", "lookup", "51820")
    sh("ip6tables-nft", "-A", "OUTPUT", "-m", "mark", "--mark", "0x4000/0x4000")
    assert overlaps(PLAN, *look()) == ()
    sh("ip", "-6", "rule", "add", "not", "fwmark", "0x6d6f6c65", "lookup", "9")
    sh("ip6tables-nft", "-A", "OUTPUT", "-j", "CONNMARK", "--restore-mark", "--mask", "0xff000000")
    sh("nft", "-f", "-", text=THEIRS)
    where = {one.where.split()[0] for one in overlaps(PLAN, *look())}
    assert where == {"ip", "iptables", "nft"}
    (message,) = (one.text for one in overlaps(PLAN, *look()) if "6d6f6c65" in one.text)
    assert "0x6d000000" in message


THEIRS = """table inet theirs { chain c { type filter hook output priority 0;
 meta mark & 0x40000000 == 0x40000000 ct mark set ct mark & 0xfeffffff | 0x01000000
}
}
"""


def test_our_own_rules_are_no_overlap(backend: Backend) -> None:
    apply(LINKED, backend)
    assert overlaps(LINKED, *look()) == ()
    assert remove() == ()


def test_doctor_has_the_kernel_load_what_a_start_would_load(
    home: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where nobody used a queue since it was started the module is not there yet."""
    asked: list[bool] = []
    load = doctor._load_queues

    def loading() -> None:
        load()
        asked.append(True)

    monkeypatch.setattr(doctor, "_QUEUES", MissingAtFirst(lambda: bool(asked)))
    monkeypatch.setattr(doctor, "_load_queues", loading)
    (check,) = (c for c in doctor.examine(PLAN) if c.name == "packet queue")
    assert (str(check.level), asked) == ("ok", [True])
    (again,) = (c for c in doctor.examine(PLAN) if c.name == "packet queue")
    assert (again.level, asked) == (check.level, [True])


@dataclass
class MissingAtFirst:
    """A file that is there once `loaded` says so."""

    loaded: Callable[[], bool]

    def exists(self) -> bool:
        return self.loaded()

    def read_text(self, _: str) -> str:
        if not self.loaded():
            raise FileNotFoundError(2, "No such file or directory")
        return ""


def test_doctor_finds_this_machine_fit_and_names_what_is_not(backend: Backend, wire: None) -> None:
    checks = {check.name: check for check in doctor.examine(PLAN)}
    assert [c.name for c in checks.values() if c.level == "fail"] == []
    with consuming():
        checks = {check.name: check for check in doctor.examine(PLAN)}
        assert checks["packet queue"].level == "warn" and "listener" in checks["packet queue"].text
        apply(PLAN, backend)
        sh("nft", "-f", "-", text=THEIRS.replace("meta", "notrack; meta", 1))
        checks = {check.name: check for check in doctor.examine(PLAN)}
        levels = {name: str(check.level) for name, check in checks.items()}
        assert levels["packet queue"] == "ok" and "arbiter itself" in checks["packet queue"].text
        assert levels["marks"] == "fail" and "mark_base" in checks["marks"].text
        assert levels["notrack"] == "warn" and levels["in force"] == "ok"
    assert remove() == ()


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(links=((1, "wlan0"), (7, "wwan0")), tunnels=("wg0",), dns_queue=11),
        Plan(when_absent="pass", mask=0x7F << 9, tunnels=("wg0", "tun0")),
    ],
)
def test_what_is_shown_after_apply_is_whole_and_any_change_of_it_is_seen(
    backend: Backend, plan: Plan
) -> None:
    """Or the daemon would put back what is there, again and again, or never."""
    assert not shown(backend)
    apply(plan, backend)
    there = shown(backend)
    assert whole(plan, backend, there)
    assert not whole(structs.replace(plan, links=((2, "eth0"),)), backend, there)
    apply(plan, backend)
    assert shown(backend) == there
    if backend.variant:
        sh(f"iptables-{backend.variant}", "-t", "mangle", "-D", "ARBITER_OUTPUT", "2")
    else:
        sh("nft", "flush", "chain", "inet", "arbiter", "ask")
    changed = shown(backend)
    assert changed != there
    assert not whole(plan, backend, changed)
    apply(plan, backend)
    assert shown(backend) == there
    if backend.variant:  # somebody in front of us
        sh(f"ip6tables-{backend.variant}", "-t", "mangle", "-I", "OUTPUT", "-j", "ACCEPT")
        assert not whole(plan, backend, shown(backend))
        apply(plan, backend)
        assert shown(backend) == there
    assert remove() == ()
    assert not shown(backend)
