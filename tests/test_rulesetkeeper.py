"""When the ruleset is put back, and when not, without a kernel; what the kernel's events say."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter import rulesetkeeper as module
from arbiter import startup
from arbiter.events import Trouble
from arbiter.kernel import firewall
from arbiter.kernel.firewall import changes, iptables, legacy, nft
from arbiter.kernel.netlink import pack_attribute, pack_message
from arbiter.rulesetkeeper import AT_ONCE, LONGEST, TAKEN_AWAY, WHILE, Rhythm, RulesetKeeper


class Changes:
    """In place of the kernel's events."""

    def start(self) -> None: ...
    def close(self) -> None: ...


class Scene:
    """A keeper over a ruleset that is a word: what the plan makes of it, or what others did.
    `counts`: the kernel counts changes, as it does for all but iptables-legacy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, counts: bool) -> None:
        self.generation = 0
        self.kernel, self.applied, self.looks, self.off = "", 0, 0, False
        self.fails, self.told, self.back = "", list[str](), list[str]()
        self.during: Callable[[], None] = lambda: None
        monkeypatch.setattr(firewall, "listen", lambda *_: Changes())
        monkeypatch.setattr(firewall, "apply", self.apply)
        monkeypatch.setattr(firewall, "shown", self.shown)
        monkeypatch.setattr(
            firewall, "generation", lambda _: bytes([self.generation]) if counts else None
        )
        monkeypatch.setattr(module, "APART", 0.0)
        monkeypatch.setattr(firewall, "whole", lambda plan, _, shown: shown == str(plan.queue))

        class Backend:
            name = "nft"

        self.backend = Backend()

    def apply(self, plan: firewall.Plan, _: object) -> None:
        if self.fails:
            raise firewall.FirewallError(self.fails)
        self.applied += 1
        self.generation += 1
        self.kernel = str(plan.queue)
        self.during()

    def shown(self, _: object) -> str:
        self.looks += 1
        return self.kernel

    def dispatch(self, event: Trouble) -> None:
        self.told.append(event.text)

    def run(self, play: Callable[[], Coroutine[Any, Any, None]]) -> None:
        hands = ThreadPoolExecutor(1)

        async def whole() -> None:
            self.keeper = RulesetKeeper(
                self.backend,  # type: ignore[arg-type]
                hands,
                lambda: self.off,
                self.dispatch,
                lambda: self.back.append(self.kernel),
            )
            self.keeper.start()
            await self.keeper.put(firewall.Plan(queue=5))
            await play()
            await asyncio.wait_for(self.keeper.stop(), 10)

        with hands:
            asyncio.run(whole())

    async def others(self, kernel: str, who: str = "") -> None:
        """Somebody makes it this, and the kernel tells."""
        self.kernel = kernel
        self.generation += 1
        self.keeper._changed(who)
        await asyncio.sleep(0.05)


@pytest.fixture(params=[True, False], ids=["counted", "legacy"])
def scene(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch, request.param)


def test_what_is_heard_of_our_own_change_costs_no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, counts=True)

    async def play() -> None:
        for _ in range(3):
            scene.keeper._changed("")
            await asyncio.sleep(0.05)
        assert (scene.looks, scene.applied) == (1, 1)
        await scene.others("5")
        assert (scene.looks, scene.applied) == (2, 1), "the same by others is looked at, once"
        scene.keeper._changed("")
        await asyncio.sleep(0.05)
        assert (scene.looks, scene.applied) == (2, 1)
        await scene.others("4")
        assert (scene.kernel, scene.applied) == ("5", 2)

    scene.run(play)


def test_what_others_change_is_put_back_and_who_did_it_is_said(scene: Scene) -> None:
    async def play() -> None:
        await scene.others("", "iptables")
        assert (scene.kernel, scene.keeper.repairs) == ("5", 1)
        (text,) = scene.told
        assert "another program (iptables) changed" in text and "put back" in text
        assert scene.back == ["5"], "whoever looks at what began meanwhile, looks under the rules"
        await scene.others("")
        assert (scene.kernel, scene.keeper.repairs, len(scene.told)) == ("5", 2, 1)
        assert scene.back == ["5", "5"]
        assert scene.keeper.problems() == ()

    scene.run(play)


def test_what_changed_nothing_of_ours_is_left_alone(scene: Scene) -> None:
    async def play() -> None:
        await scene.others("5", "nft")
        assert (scene.applied, scene.keeper.repairs, scene.told) == (1, 0, [])
        await scene.keeper.put(firewall.Plan(queue=6))
        assert scene.back == [], "a new plan in place of one that was whole"

    scene.run(play)


def test_a_new_plan_that_mends_what_others_had_done_is_a_repair_too(scene: Scene) -> None:
    async def play() -> None:
        scene.kernel = ""
        scene.keeper._changed("nft")
        await scene.keeper.put(firewall.Plan(queue=6))
        assert scene.back[:1] == ["6"]

    scene.run(play)


def test_who_changes_his_own_rules_all_the_time_is_looked_at_now_and_then(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        monkeypatch.setattr(module, "APART", 0.2)
        looks = scene.looks
        for _ in range(10):
            await scene.others("5", "kube-proxy")
        assert 2 <= scene.looks - looks <= 5
        await scene.others("")
        await asyncio.sleep(0.3)
        assert scene.kernel == "5", "and what concerns us is seen all the same"

    scene.run(play)


def test_after_a_rescue_nothing_is_put_back(scene: Scene) -> None:
    async def play() -> None:
        scene.off = True
        await scene.others("")
        await scene.others("")
        assert (scene.kernel, scene.applied, scene.told) == ("", 1, [TAKEN_AWAY])
        assert scene.keeper.problems() == (TAKEN_AWAY,)

    scene.run(play)


def test_who_fights_is_put_off_and_it_is_said_until_it_is_calm(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        for _ in range(AT_ONCE):
            await scene.others("")
        assert (scene.kernel, scene.keeper.repairs) == ("5", AT_ONCE)
        for _ in range(3):
            await scene.others("", "foe")
        assert (scene.kernel, scene.keeper.repairs) == ("", AT_ONCE), "not at once any more"
        (problem,) = scene.keeper.problems()
        assert "nft monitor" in problem and scene.told[-1] == problem
        await asyncio.sleep(1.1)
        assert (scene.kernel, scene.keeper.repairs) == ("5", AT_ONCE + 1)
        monkeypatch.setattr(module, "WHILE", 0.0)
        assert scene.keeper.problems() == ()

    scene.run(play)


def test_what_cannot_be_put_back_is_a_problem_and_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.1)

    async def play() -> None:
        scene.fails = "no nft today"
        await scene.others("")
        (problem,) = scene.keeper.problems()
        assert "no nft today" in problem
        scene.fails = ""
        await asyncio.sleep(0.3)
        assert (scene.kernel, scene.keeper.problems()) == ("5", ())

    scene.run(play)


def test_a_change_while_it_is_put_in_force_is_not_taken_for_the_plan(scene: Scene) -> None:
    def foe() -> None:
        scene.kernel, scene.during = "foe", lambda: None

    async def play() -> None:
        scene.during = foe
        await scene.keeper.put(firewall.Plan(queue=6))
        await asyncio.sleep(0.1)
        assert scene.kernel == "6"

    scene.run(play)


def test_a_stop_in_the_middle_of_a_repair_is_waited_for_and_none_comes_after_it(
    scene: Scene,
) -> None:
    applying, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        applying.set()
        go_on.wait(10)

    async def play() -> None:
        scene.during = slow
        await scene.others("")
        assert await asyncio.to_thread(applying.wait, 10)
        stopping = asyncio.create_task(scene.keeper.stop())
        await asyncio.sleep(0.05)
        assert not stopping.done()
        go_on.set()
        await asyncio.wait_for(stopping, 10)
        applied = scene.applied
        await scene.others("")
        assert (scene.kernel, scene.applied) == ("", applied)

    scene.run(play)


@given(st.lists(st.floats(0.0, 30.0), max_size=60))
def test_any_row_of_repairs_is_bounded_and_never_put_off_for_long(gaps: list[float]) -> None:
    """As often as its pauses allow: at most AT_ONCE at once, then at most one in a second."""
    rhythm, now, done = Rhythm(), 0.0, list[float]()
    for gap in gaps:
        now += gap
        pause = rhythm.pause(now)
        assert pause <= LONGEST + 1e-9
        now += max(0.0, pause)
        assert rhythm.pause(now) <= 1e-9
        rhythm.repaired(now)
        done.append(now)
    for first, last in zip(done, done[AT_ONCE:], strict=False):
        assert last - first >= 1.0 - 1e-9, "six are never within a second"
    now += WHILE + LONGEST
    assert (rhythm.count(now), rhythm.pause(now)) == (0, 0.0)


# --- events -----------------------------------------------------------------------------------


def event(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    body = bytes(4) + b"".join(pack_attribute(key, value) for key, value in attributes)
    return pack_message(10 << 8 | kind, 0, 0, body)


def judged(*events: bytes, concerns: Callable[[str, str], bool] = nft.concerns) -> list[str]:
    watch = changes.NftChanges(concerns, lambda _: None, lambda _: None)
    return [who for data in events for who in watch.judge(data)]


DELRULE = event(8, (1, b"arbiter\0"), (2, b"output\0"))
NEWGEN = event(15, (1, bytes(4)), (2, bytes(4)), (3, b"nft\0"))


def test_a_transaction_that_touches_our_table_is_told_once_with_who_did_it() -> None:
    assert judged(DELRULE, DELRULE, NEWGEN) == ["nft"]
    assert judged(DELRULE + DELRULE + NEWGEN) == ["nft"]
    for kind in (0, 2, 3, 5, 6, 8):
        assert judged(event(kind, (1, b"arbiter\0")), NEWGEN) == ["nft"], kind


def test_what_others_do_in_their_tables_is_not_told() -> None:
    other = event(8, (1, b"firewalld\0"))
    assert judged(other, NEWGEN, event(12, (1, b"arbiter\0")), NEWGEN) == []
    assert judged(DELRULE) == [], "not before it is in force"
    assert judged(DELRULE, NEWGEN, NEWGEN) == ["nft"]


def test_of_the_tables_of_iptables_only_what_is_ours_or_leads_to_us_is_told() -> None:
    def told(kind: int, table: bytes, chain: bytes = b"") -> bool:
        at = 3 if kind in (3, 5) else 2
        made = event(kind, (1, table + b"\0"), *([(at, chain + b"\0")] if chain else []))
        return judged(made, NEWGEN, concerns=iptables.concerns) != []

    assert told(2, b"mangle") and told(0, b"filter")
    for kind in (3, 5, 6, 8):
        assert told(kind, b"mangle", b"ARBITER_OUTPUT") and told(kind, b"nat", b"POSTROUTING")
        assert not told(kind, b"filter", b"KUBE-SERVICES")
        assert not told(kind, b"filter", b"FORWARD")
        assert not told(kind, b"raw", b"OUTPUT")


def test_the_name_of_who_did_it_is_cleaned() -> None:
    (who,) = judged(DELRULE, event(15, (3, "\x1b[2J\u202eevil\n".encode() + b"\0")))
    assert who.isprintable() and "\x1b" not in who and "\u202e" not in who


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_without_an_exception(data: bytes) -> None:
    judged(data)
    judged(DELRULE[: len(data)], data)
    judged(pack_message(10 << 8 | 8, 0, 0, data), NEWGEN)


@given(st.binary(max_size=700))
def test_any_table_is_compared_without_an_exception_and_without_counters(data: bytes) -> None:
    for family in legacy._FAMILIES:
        assert len(legacy._bare(data, family)) == len(data)
        head = bytearray(168)
        struct.pack_into("=H", head, family.next_offset, 168)
        one, other = bytearray(head * 2), bytearray(head * 2)
        for start in (0, 168):
            other[start + family.counters : start + family.counters + 16] = b"\xff" * 16
        assert legacy._bare(bytes(one), family) == legacy._bare(bytes(other), family)
        other[0] = 1
        assert legacy._bare(bytes(one), family) != legacy._bare(bytes(other), family)


# --- called off -------------------------------------------------------------------------------


def test_a_daemon_is_called_off_by_its_lock_and_the_next_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "RUN", tmp_path / "run")
    startup.call_off()  # there is none: nothing is left for one
    alone = startup.only_here()
    assert not alone.called_off()
    startup.call_off()
    assert alone.called_off()
    (lock,) = (tmp_path / "run").iterdir()
    copy = lock.read_bytes()
    alone.close()
    lock.write_bytes(copy)  # as after a kill
    again = startup.only_here()
    assert not again.called_off()
    again.close()


def test_who_is_called_off_is_not_by_a_link_in_the_locks_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "RUN", tmp_path)
    precious = tmp_path / "precious"
    precious.write_text("")
    startup._lock_file().symlink_to(precious)
    with pytest.raises(OSError, match="symbolic"):
        startup.call_off()
    assert precious.read_text() == ""
