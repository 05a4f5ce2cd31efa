"""Which tunnel's end a process holds: only an open one, of this network namespace."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from playbook import process

from arbiter.kernel import owner, tunfiles
from arbiter.kernel.tunfiles import TunFiles

PID, START = 42, 420
HERE, ELSEWHERE = (4, 1), (4, 2)
DEVICES = {"tun0": 7, "tap1": 8}


class Machine:
    """A /proc with one process."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = root / str(PID)
        (root / "thread-self/ns").mkdir(parents=True)
        (root / "thread-self/ns/net").touch()
        (self.folder / "fd").mkdir(parents=True)
        (self.folder / "fdinfo").mkdir()
        self.now, self.looks, self.namespaces = 100.0, 0, dict[int, tuple[int, int]]()
        self.files = TunFiles(str(root))
        self.files._namespace = HERE
        monkeypatch.setattr(tunfiles, "_namespace_of", self._namespace)
        monkeypatch.setattr(tunfiles, "time", SimpleNamespace(monotonic=lambda: self.now))

    def _namespace(self, pid: int, number: int) -> tuple[int, int]:
        self.looks += 1
        found = self.namespaces[number]
        if found == (0, 0):
            raise OSError(1, "not permitted")
        return found

    def opens(
        self, number: int, to: str, interface: str = "", namespace: tuple[int, int] = HERE
    ) -> None:
        (self.folder / "fd" / str(number)).symlink_to(to)
        line = f"iff:\t{interface}\n" if interface else ""
        (self.folder / "fdinfo" / str(number)).write_text(f"pos:\t0\nflags:\t02\n{line}ino:\t1\n")
        self.namespaces[number] = namespace

    def held(self, most: int | None = None) -> tuple[int, ...] | None:
        return self.files.held_by((PID, START), most)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_an_open_end_is_known_by_the_interface_it_names(machine: Machine) -> None:
    machine.opens(0, "/dev/null")
    machine.opens(3, "/dev/net/tun", "tun0")
    machine.opens(4, "/dev/net/tun", "tun0")
    machine.opens(5, "/dev/net/tun", "tap1")
    machine.opens(6, "/dev/net/tun", "tun5")
    assert machine.held() == (), "no such interface matters"
    machine.files.use(DEVICES)
    assert set(machine.held() or ()) == {7, 8}


@pytest.mark.parametrize(
    ("to", "interface", "namespace"),
    [
        ("/dev/net/tun", "tun0", ELSEWHERE),
        ("/dev/net/tun", "tun0", (0, 0)),
        ("/dev/net/tun", "", HERE),
        ("/dev/net/tun", "tun00", HERE),
        ("/dev/null", "tun0", HERE),
    ],
    ids=["another namespace", "the kernel does not say", "not attached", "another", "no tun"],
)
def test_what_is_not_surely_an_end_is_none(
    machine: Machine, to: str, interface: str, namespace: tuple[int, int]
) -> None:
    machine.files.use(DEVICES)
    machine.opens(3, to, interface, namespace)
    assert machine.held() == ()


def test_a_process_that_is_gone_holds_none(machine: Machine) -> None:
    machine.files.use(DEVICES)
    assert machine.files.held_by((43, 1)) == ()


def test_a_process_without_one_is_looked_at_once_a_second_or_when_links_change(
    machine: Machine,
) -> None:
    machine.files.use(DEVICES)
    assert machine.held() == ()
    machine.opens(3, "/dev/net/tun", "tun0")
    assert machine.held() == ()
    machine.now += 1.0
    assert [machine.held(), machine.held()] == [(7,), (7,)]
    (machine.folder / "fd/3").unlink()
    assert machine.held() == (), "one that holds one is looked at each time"
    machine.opens(4, "/dev/net/tun", "tun0")
    machine.files.use(DEVICES)
    assert machine.held() == (7,)
    assert machine.files.held_by((PID, START + 1)) == (7,)


def test_many_descriptors_are_not_for_the_event_loop(machine: Machine) -> None:
    machine.files.use(DEVICES)
    for number in range(5):
        machine.opens(number, "/dev/net/tun", "tun0")
    assert machine.held(most=4) is None
    assert machine.held(most=5) == (7,)


def test_it_remembers_within_a_bound(machine: Machine) -> None:
    machine.files.use(DEVICES)
    for pid in range(100, 100 + tunfiles._MAX_CLEAR + 10):
        machine.files.held_by((pid, 1))
    assert len(machine.files._clear) == tunfiles._MAX_CLEAR


# --- several processes hold the socket ------------------------------------------------------------


class Table:
    """Every process still is who it was."""

    def get(self, pid: int) -> None:
        return None

    def start_time(self, pid: int) -> int | None:
        return None if pid == 3 else pid * 10


class Tuns:
    def __init__(self, held: dict[int, tuple[int, ...] | None]) -> None:
        self.held = held

    def held_by(self, process: tuple[int, int], most: int | None) -> tuple[int, ...] | None:
        return self.held[process[0]]


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({1: (7, 8)}, (7, 8)),
        ({1: (7, 8), 2: (8,)}, (8,)),
        ({1: (7,), 2: ()}, ()),
        ({1: (), 2: (7,)}, ()),
        ({1: (7,), 2: None}, None),
        ({3: (7,)}, ()),
    ],
)
def test_what_only_one_holder_of_the_socket_may_send_is_no_tunnels(
    monkeypatch: pytest.MonkeyPatch,
    held: dict[int, tuple[int, ...] | None],
    expected: tuple[int, ...] | None,
) -> None:
    made = owner.OwnerLookup(Table())
    try:
        monkeypatch.setattr(made, "_tuns", Tuns(held))
        assert made._carried_by([process(pid=pid) for pid in held], 9) == expected
    finally:
        made.close()
