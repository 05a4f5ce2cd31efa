"""What the daemon keeps of profiles: the pipeline's word is written, a person's comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from linkscene import wifi
from playbook import START

from arbiter.events import Event, KeepProfile, LinksChanged, Notify
from arbiter.memory import Memory
from arbiter.pipeline import Pipeline
from arbiter.profiles import Standing
from arbiter.settings import Settings
from arbiter.store import Author, Store

ALICE = Author("alice", 1000, "cli")
HOME, OFFICE = wifi(networks=("ssid:Home",)), wifi(networks=("ssid:Office",))


class Half:
    """A daemon with nothing but its memory and its pipeline."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pipeline = Pipeline(Settings())
        self.memory = Memory(path, self.dispatch, Settings())
        self.tasks: list[asyncio.Task[None]] = []
        self.told: list[str] = []

    def dispatch(self, event: Event) -> None:
        for effect in self.pipeline.handle(event):
            if isinstance(effect, Notify):
                self.told.append(effect.text.partition(";")[0])
            if isinstance(effect, KeepProfile):
                self.tasks.append(asyncio.ensure_future(self.memory.keep_profile(effect)))

    async def load(self, *, first: bool = False) -> None:
        await self.memory.load(self.pipeline.rules.index, first=first)

    async def settled(self) -> None:
        while self.tasks:
            await self.tasks.pop()

    def store(self) -> Store:
        return Store.open(self.path)

    @property
    def active(self) -> str:
        return self.pipeline.profiles.active


def run(path: Path, scene: Callable[[Half], Awaitable[None]]) -> None:
    async def whole() -> None:
        half = Half(path)
        try:
            await half.load(first=True)
            await scene(half)
            await half.settled()
        finally:
            await half.memory.close()

    asyncio.run(whole())


def prepared(path: Path) -> Path:
    with Store.open(path) as store:
        store.profiles.add("home", ["ssid:Home"], 1.0, ALICE)
        store.profiles.add("office", ["ssid:Office"], 1.0, ALICE)
        store.profiles.add("travel", [], 1.0, ALICE)
    return path


def test_a_switch_is_written_and_comes_back_after_a_restart(tmp_path: Path) -> None:
    path = prepared(tmp_path / "a.db")

    async def come_home(half: Half) -> None:
        half.dispatch(LinksChanged(START, (HOME,)))
        await half.settled()
        with half.store() as store:
            assert store.profiles.book().standing == Standing("home", "home")

    async def again(half: Half) -> None:
        assert half.active == "home"
        half.dispatch(LinksChanged(START, (HOME,)))
        assert half.tasks == []

    run(path, come_home)
    run(path, again)


def test_a_person_who_chose_meanwhile_is_heard(tmp_path: Path) -> None:
    async def scene(half: Half) -> None:
        with half.store() as store:
            store.profiles.use("travel", 5.0, ALICE)
        # Nobody has told the daemon yet: it switches, and hears that somebody chose.
        half.dispatch(LinksChanged(START, (HOME,)))
        assert half.active == "home"
        await half.settled()
        assert half.active == "travel"
        await half.settled()
        with half.store() as store:
            assert store.profiles.book().standing == Standing("travel", "home")
            assert [s.after for s in store.profiles.history()] == ["travel"]

    run(prepared(tmp_path / "a.db"), scene)


def test_what_is_read_is_never_older_than_what_the_pipeline_knows(tmp_path: Path) -> None:
    async def scene(half: Half) -> None:
        reading = asyncio.ensure_future(half.load())
        await asyncio.sleep(0)  # the store is asked, and the answer is on its way
        half.dispatch(LinksChanged(START, (HOME,)))
        half.dispatch(LinksChanged(START, (OFFICE,)))
        await reading
        assert half.active == "office"
        await half.settled()
        assert [text for text in half.told if "profile" in text] == [
            "profile home: on ssid:Home",
            "profile office: on ssid:Office",
        ]
        with half.store() as store:
            assert [s.after for s in store.profiles.history()] == ["home", "office"]

    run(prepared(tmp_path / "a.db"), scene)


def test_what_is_removed_switches_no_more(tmp_path: Path) -> None:
    async def scene(half: Half) -> None:
        with half.store() as store:
            store.profiles.remove("home", 5.0, ALICE)
        half.dispatch(LinksChanged(START, (HOME,)))
        await half.settled()
        assert half.active == ""

    run(prepared(tmp_path / "a.db"), scene)


def test_a_profile_that_cannot_be_read_is_a_problem_of_the_status(tmp_path: Path) -> None:
    path = prepared(tmp_path / "a.db")
    with Store.open(path) as store:
        store._db.execute("INSERT INTO profile_networks VALUES ('ssid:', 'home')")

    async def scene(half: Half) -> None:
        (problem,) = half.memory.problems()
        assert "'ssid:' of 'home'" in problem
        (others,) = half.memory.problems(admin=False)
        assert others.startswith("1 rules or profiles cannot be read") and "ssid" not in others
        half.dispatch(LinksChanged(START, (HOME,)))
        assert half.active == "home"

    run(path, scene)
