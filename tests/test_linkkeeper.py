"""The order in which a change of links is carried out, without a kernel: what is told, and when."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from arbiter import linkkeeper as module
from arbiter.events import LinksChanged
from arbiter.kernel import firewall, linksysctl, routes
from arbiter.kernel.routes import RouteError
from arbiter.linkkeeper import LinkKeeper
from arbiter.links import Address, Interface, LinkKind, Route
from arbiter.linkstate import read_files, read_numbers, write_numbers
from arbiter.model import Link
from arbiter.rootfiles import read_small
from arbiter.routeplan import RoutePlan

HERE = b"\x0a\x00\x00\x02"


def interface(name: str, index: int, kind: LinkKind = LinkKind.WIFI, **more: Any) -> Interface:
    made = Interface(
        index,
        name,
        kind,
        True,
        1500,
        (Address(HERE, 24),),
        (Route(4, b"", 0, b"\x0a\x00\x00\x01", metric=index),),
        mac=f"02:00:00:00:00:{index:02x}",
    )
    return structs.replace(made, **more)


class Watch:
    """In place of a watch: what it tells is what the test says."""

    def __init__(self, *args: Any, **more: Any) -> None: ...
    async def start(self) -> None: ...
    async def close(self) -> None: ...
    def look(self) -> None: ...


class Money:
    """In place of accounts."""

    def follow(self, links: object) -> None: ...
    def spent(self, link: object) -> None: ...


class Ruleset:
    """In place of the ruleset's keeper."""

    def __init__(self, put: Callable[..., Any]) -> None:
        self._put = put
        self.called_off: Callable[[], bool] = lambda: False

    def start(self) -> None: ...
    async def put(self, plan: firewall.Plan) -> None:
        await asyncio.to_thread(self._put, plan)

    async def stop(self) -> None: ...
    def problems(self) -> tuple[str, ...]:
        return ()


class Scene:
    """A keeper whose effects are noted in `done`; `during` runs in the middle of one of them."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, Any]] = []
        self.told: list[tuple[Link, ...]] = []
        self.during: dict[str, Callable[[], None]] = {}
        self.broken: list[object] = []
        self.busy = 0
        (tmp_path / "links.d").mkdir()
        self.folder, self.state = tmp_path / "links.d", tmp_path

        def noted(name: str, value: Any = ()) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                self.done.append((name, args))
                self.during.pop(name, lambda: None)()
                return value

            return call

        monkeypatch.setattr(module, "LinkWatch", Watch)
        monkeypatch.setattr(module, "FactsWatch", Watch)
        monkeypatch.setattr(linksysctl, "apply", noted("sysctl"))
        monkeypatch.setattr(routes, "apply", noted("routes"))
        monkeypatch.setattr(routes, "check", lambda _: ())
        monkeypatch.setattr(module, "_cut", noted("cut"))

        self.ruleset = Ruleset(noted("ruleset"))
        self.keeper = LinkKeeper(
            firewall.Plan(),
            self.ruleset,  # type: ignore[arg-type]
            RoutePlan(),
            tmp_path,
            tmp_path,
            self.dispatch,
            Money(),  # type: ignore[arg-type]
        )

        for name in ("_follow", "_may_repair"):
            monkeypatch.setattr(self.keeper, name, self.watched(getattr(self.keeper, name)))

    def dispatch(self, event: Any) -> None:
        assert isinstance(event, LinksChanged)
        self.told.append(event.links)
        self.done.append(("told", [link.name for link in event.links if link.up]))

    async def see(self, *interfaces: Interface) -> None:
        """The kernel shows these now, and the keeper has done all about it."""
        self.keeper._changed(interfaces)
        await self.settled()

    async def settled(self) -> None:
        for _ in range(1000):
            await asyncio.sleep(0.005)
            if not self.keeper._fresh.is_set() and not self.busy:
                return
        raise AssertionError("the keeper does not come to rest")

    def watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
        async def call(**how: Any) -> Any:
            self.busy += 1
            try:
                return await work(**how)
            finally:
                self.busy -= 1

        return call

    def names(self) -> list[str]:
        return [name for name, _ in self.done]

    def run(self, play: Callable[[], Coroutine[Any, Any, None]], *first: Interface) -> None:
        async def all_of_it() -> None:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: self.broken.append(context.get("exception"))
            )
            self.keeper._seen = first
            await self.keeper.start()
            self.done.clear()
            await play()
            await self.keeper.stop()

        asyncio.run(all_of_it())


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


WIFI, LTE = interface("wlan0", 2), interface("wwan0", 3, LinkKind.CELLULAR)
DOWN = structs.replace(LTE, up=False, routes=())


def test_a_lost_link_is_told_before_anything_is_done_and_cut_after(scene: Scene) -> None:
    async def play() -> None:
        await scene.see(WIFI, DOWN)
        assert scene.done[0] == ("told", ["wifi"])
        assert scene.names() == ["told", "sysctl", "routes", "cut"]

    scene.run(play, WIFI, LTE)


def test_a_new_link_is_told_after_all_is_done(scene: Scene) -> None:
    async def play() -> None:
        await scene.see(WIFI, LTE)
        assert scene.names() == ["sysctl", "routes", "ruleset", "told"]

    scene.run(play, WIFI)


def test_a_budget_looked_at_in_the_middle_does_not_bring_a_lost_link_back(scene: Scene) -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()

        def refresh() -> None:
            scene.keeper.refresh()
            asked.set()

        def in_the_middle() -> None:
            asyncio.run_coroutine_threadsafe(wait_for(asked, loop, refresh), loop).result(5)

        scene.during["routes"] = in_the_middle
        await scene.see(WIFI, DOWN)
        assert asked.is_set()
        for links in scene.told[1:]:
            assert [link.name for link in links if link.up] == ["wifi"]

    scene.run(play, WIFI, LTE)


async def wait_for(event: asyncio.Event, loop: Any, call: Callable[[], None]) -> None:
    loop.call_soon(call)
    await event.wait()


def test_a_number_that_becomes_another_links_takes_no_flow_along(scene: Scene) -> None:
    """Flows keep the number in their mark: with the new table they would leave elsewhere."""

    async def play() -> None:
        text = '[link]\nname = "vpn"\nnumber = 2\nmatch = { interface = "tun0" }\n'
        (scene.folder / "vpn.toml").write_text(text)
        scene.keeper.reload()
        await scene.see(WIFI, LTE, interface("tun0", 4, LinkKind.VPN))
        (cut,) = [args for name, args in scene.done if name == "cut"]
        assert (cut[0].name, cut[0].number) == ("lte", 2)
        assert scene.names().index("cut") < scene.names().index("routes")

    scene.run(play, WIFI, LTE)


def test_a_file_that_names_a_link_cuts_nothing(scene: Scene) -> None:
    async def play() -> None:
        text = '[link]\nname = "mobile"\nmatch = { interface = "wwan0" }\n'
        (scene.folder / "mobile.toml").write_text(text)
        scene.keeper.reload()
        await scene.settled()
        assert "cut" not in scene.names()
        assert [link.name for link in scene.told[-1]] == ["wifi", "mobile"]

    scene.run(play, WIFI, LTE)


def test_a_link_that_was_plugged_in_again_keeps_its_flows(scene: Scene) -> None:
    async def play() -> None:
        await scene.see(WIFI, structs.replace(LTE, index=9))
        assert "cut" not in scene.names()

    scene.run(play, WIFI, LTE)


def test_a_file_that_comes_back_cuts_nothing(scene: Scene) -> None:
    async def play() -> None:
        path = scene.folder / "mobile.toml"
        text = '[link]\nname = "mobile"\nmatch = { interface = "wwan0" }\n'
        path.write_text(text)
        scene.keeper.reload()
        await scene.settled()
        path.unlink()
        scene.keeper.reload()
        await scene.settled()
        number = scene.told[-1][1].number
        before = scene.names().count("cut")
        path.write_text(text)
        scene.keeper.reload()
        await scene.settled()
        assert [link.name for link in scene.told[-1]] == ["wifi", "mobile"]
        assert scene.told[-1][1].number == number
        assert scene.names().count("cut") == before

    scene.run(play, WIFI, LTE)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "long"])
def test_only_small_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.toml"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "long":
            path.write_text("#" * 1_000_000)
    if kind == "long":
        assert len(read_small(path, 4096)) == 4097
    else:
        with pytest.raises(OSError, match=r"regular file|directory"):
            read_small(path, 4096)


@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_file_that_others_could_have_written_names_no_link(tmp_path: Path, which: str) -> None:
    """Nor does its last good version stay: nobody knows who wrote that."""
    folder = tmp_path / "links.d"
    folder.mkdir(mode=0o755)
    for name in ("a", "b"):
        text = f'[link]\nname = "{name}"\nmatch = {{ interface = "{name}0" }}\n'
        (folder / f"{name}.toml").write_text(text)
    files, problems = read_files(folder, (), tmp_path / "none")
    assert [file.name for file in files] == ["a", "b"]
    assert problems == ()
    bad = folder / "b.toml" if which == "file" else folder
    bad.chmod(0o777)
    left, problems = read_files(folder, files, tmp_path / "none")
    assert [file.name for file in left] == (["a"] if which == "file" else [])
    assert len(problems) == 1 and str(bad) in problems[0] and "chmod go-w" in problems[0]


@pytest.mark.parametrize("name", ['a"b', "all", "x;y", "we+", "\udcff", "-o"])
def test_an_interface_that_no_ruleset_can_name_is_left_out_and_told(
    scene: Scene, name: str
) -> None:
    async def play() -> None:
        await scene.see(WIFI, interface(name, 5), interface(f"{name}1"[:15], 6, LinkKind.VPN))
        await scene.see(WIFI, LTE, interface(name, 5))
        assert [link.interface for link in scene.told[-1]] == ["wlan0", "wwan0"]
        assert any("rename" in problem for problem in scene.keeper.problems())
        assert "\udcff" not in "".join(scene.keeper.problems())
        await scene.see(WIFI, LTE)
        assert scene.keeper.problems() == ()

    scene.run(play, WIFI)
    assert not scene.broken


def test_numbers_that_cannot_be_kept_stop_no_link(scene: Scene) -> None:
    async def play() -> None:
        scene.keeper._numbers = scene.state / "not" / "there.json"
        await scene.see(WIFI, LTE)
        assert [link.name for link in scene.told[-1]] == ["wifi", "lte"]
        assert "there.json" in "".join(scene.keeper.problems())

    scene.run(play, WIFI)


def test_numbers_that_are_torn_are_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    path.write_bytes(b"\xff\x00{")
    assert read_numbers(path) == {}
    write_numbers(path, {"wifi 02:00": 1})
    assert json.loads(path.read_text()) == {"wifi 02:00": 1}


def test_after_a_rescue_nothing_is_put_back(scene: Scene) -> None:
    async def play() -> None:
        scene.ruleset.called_off = lambda: True
        scene.keeper._rules_gone()
        await scene.settled()
        scene.done.clear()
        await scene.see(WIFI, LTE)
        scene.keeper.use_classes(())
        await scene.settled()
        assert scene.done == []

    scene.run(play, WIFI)


def test_what_could_not_be_put_in_force_is_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy() -> None:
        raise RouteError("busy")

    monkeypatch.setattr(module, "AGAIN", 0.01)

    async def play() -> None:
        scene.during["routes"] = busy
        await scene.see(WIFI, LTE)
        for _ in range(200):
            if scene.told[-1:] and [link.name for link in scene.told[-1]] == ["wifi", "lte"]:
                break
            await asyncio.sleep(0.01)
        assert [link.name for link in scene.told[-1]] == ["wifi", "lte"]
        assert scene.keeper.problems() == ()

    scene.run(play, WIFI)


def test_a_mistake_of_ours_is_not_silent(scene: Scene) -> None:
    def mistaken() -> None:
        raise ZeroDivisionError

    async def play() -> None:
        scene.during["routes"] = mistaken
        scene.keeper._changed((WIFI, LTE))
        await asyncio.sleep(0.05)
        assert [type(error) for error in scene.broken] == [ZeroDivisionError]

    scene.run(play, WIFI)


@pytest.mark.parametrize("rescued", [True, False])
def test_a_stop_or_a_rescue_in_the_middle_of_a_repair_is_not_missed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, rescued: bool
) -> None:
    """Else arbiter never ends, is killed, and leaves its ruleset behind."""
    monkeypatch.setattr(module, "REPAIR_EVERY", 0.1)

    async def play() -> None:
        scene.keeper._repaired = time.monotonic()  # the repair waits its turn
        scene.keeper._rules_gone()
        await asyncio.sleep(0.02)
        scene.ruleset.called_off = lambda: rescued
        if rescued:
            await asyncio.sleep(0.2)
        await asyncio.wait_for(scene.keeper.stop(), 10)
        assert "routes" not in scene.names(), "what is to be taken away is not put back first"

    scene.run(play, WIFI)
