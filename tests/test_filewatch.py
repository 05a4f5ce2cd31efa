"""Changes of files are told, once, whichever way a program writes them. On a real folder."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from arbiter.kernel import filewatch
from arbiter.kernel.filewatch import FileWatch

PATIENCE = 20.0
"""Seconds that a busy machine may take; nothing waits that long where it works."""


class Seen:
    """A watch, and how often it has told of something."""

    def __init__(self) -> None:
        self.count = 0
        self.troubles: list[str] = []
        self._news = asyncio.Event()
        self.watch: FileWatch

    def changed(self) -> None:
        self.count += 1
        self._news.set()

    async def told(self) -> None:
        """Wait until something is told."""
        await asyncio.wait_for(self._news.wait(), PATIENCE)
        self._news.clear()

    async def nothing(self, marker: Path) -> None:
        """Nothing was told so far: what `marker`'s change tells is the first."""
        before = self.count
        await asyncio.sleep(0.1)
        assert self.count == before
        write(marker)
        await self.told()
        assert self.count == before + 1


def write(path: Path) -> None:
    path.write_text("x")


@asynccontextmanager
async def watching(*folders: Path, quiet: float = 0.02, **options: Any) -> AsyncIterator[Seen]:
    seen = Seen()
    patterns = dict.fromkeys(folders, "*.toml")
    seen.watch = FileWatch(patterns, seen.changed, seen.troubles.append, quiet=quiet, **options)
    seen.watch.start()
    try:
        yield seen
    finally:
        seen.watch.close()
    assert seen.troubles == []


def replace(path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text("new")
    new.replace(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("y"),
        lambda path: path.with_name("b.toml").write_text("y"),
        lambda path: path.unlink(),
        replace,
        lambda path: path.rename(path.with_suffix(".off")),
        lambda path: path.chmod(0o600),
        lambda path: path.parent.chmod(0o711),
        lambda path: path.with_name("c.toml").symlink_to(path),
        lambda path: path.with_name("c.toml").hardlink_to(path),
    ],
    ids=["write", "new", "delete", "replace", "rename", "chmod", "chmod-folder", "symlink", "link"],
)
def test_every_kind_of_change_is_told(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    path = tmp_path / "a.toml"
    path.write_text("x")

    async def scene() -> None:
        async with watching(tmp_path) as seen:
            change(path)
            await seen.told()

    asyncio.run(scene())


def test_temporary_files_and_other_names_are_not_told(tmp_path: Path) -> None:
    async def scene() -> None:
        async with watching(tmp_path) as seen:
            for name in (
                ".a.toml.swp",
                ".#a.toml",
                ".a.toml",
                "a.toml~",
                "a.toml.dpkg-new",
                "4913",
            ):
                (tmp_path / name).write_text("x")
                (tmp_path / name).unlink()
            (tmp_path / "folder").mkdir()
            (tmp_path / "folder/a.toml").write_text("x")
            await seen.nothing(tmp_path / "a.toml")

    asyncio.run(scene())


def test_a_burst_is_told_once_and_a_storm_again_and_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with watching(tmp_path, quiet=0.3) as seen:
            for n in range(200):
                (tmp_path / f"{n}.toml").write_text("x")
            await seen.told()
            assert seen.count == 1
        async with watching(tmp_path, quiet=PATIENCE * 2, longest=0.2) as seen:
            writer = asyncio.create_task(storm(tmp_path / "a.toml"))
            await seen.told()
            await seen.told()
            writer.cancel()

    asyncio.run(scene())


async def storm(path: Path) -> None:
    while True:
        write(path)
        await asyncio.sleep(0.01)


def test_a_folder_that_comes_later_is_watched_with_all_its_parents(tmp_path: Path) -> None:
    folder = tmp_path / "etc/arbiter/policy.d"

    async def scene() -> None:
        async with watching(folder) as seen:
            (tmp_path / "other").mkdir()
            for part in (folder.parent.parent, folder.parent, folder):
                part.mkdir()
                await seen.told()
            (folder / "a.toml").write_text("x")
            await seen.told()

    asyncio.run(scene())


def test_a_folder_that_is_made_with_its_files_at_once_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "a/b/policy.d"

    async def scene() -> None:
        async with watching(folder) as seen:
            folder.mkdir(parents=True)
            (folder / "a.toml").write_text("x")
            await seen.told()
            (folder / "b.toml").write_text("x")
            await seen.told()

    asyncio.run(scene())


@pytest.mark.parametrize("depth", ["folder", "parent"])
def test_a_folder_that_is_replaced_is_watched_again_and_the_old_one_no_more(
    tmp_path: Path, depth: str
) -> None:
    folder = tmp_path / "arbiter/policy.d"
    folder.mkdir(parents=True)
    top = folder if depth == "folder" else folder.parent

    async def scene() -> None:
        async with watching(folder) as seen:
            old = top.rename(tmp_path / "old")
            await seen.told()
            folder.mkdir(parents=True)
            await seen.told()
            inside = old if depth == "folder" else old / "policy.d"
            (inside / "a.toml").write_text("x")
            await seen.nothing(folder / "a.toml")
            assert watches(seen.watch) == len(tmp_path.parts) + 2, "the old ones were given back"
            shutil.rmtree(top)
            await seen.told()
            folder.mkdir(parents=True)
            await seen.told()
            await seen.nothing(folder / "a.toml")

    asyncio.run(scene())


def watches(watch: FileWatch) -> int:
    """How many the kernel keeps for it (proc(5), fdinfo)."""
    return Path(f"/proc/self/fdinfo/{watch._fd}").read_text().count("inotify wd:")


def test_two_folders_are_watched_and_one_may_lie_in_the_other(tmp_path: Path) -> None:
    inner = tmp_path / "inner"

    async def scene() -> None:
        async with watching(tmp_path, inner) as seen:
            (tmp_path / "a.toml").write_text("x")
            await seen.told()
            inner.mkdir()
            await seen.told()
            (inner / "b.toml").write_text("x")
            await seen.told()

    asyncio.run(scene())


def test_a_file_of_another_name_can_be_watched(tmp_path: Path) -> None:
    async def scene() -> None:
        seen = Seen()
        watch = FileWatch({tmp_path: "status"}, seen.changed, seen.troubles.append, quiet=0.02)
        watch.start()
        (tmp_path / "status-new").write_text("x")
        (tmp_path / "status-new").replace(tmp_path / "status")
        await seen.told()
        watch.close()

    asyncio.run(scene())


def test_events_that_were_lost_count_as_a_change(tmp_path: Path) -> None:
    async def scene() -> None:
        async with watching(tmp_path) as seen:
            event = filewatch._EVENT.pack(-1, filewatch.IN_Q_OVERFLOW, 0, 0)
            real = os.read
            os.read = lambda fd, size: event + real(fd, size)
            try:
                (tmp_path / "unimportant").write_text("x")
                await seen.told()
            finally:
                os.read = real

    asyncio.run(scene())


def test_nothing_is_told_after_the_end_and_no_descriptor_stays(tmp_path: Path) -> None:
    async def scene() -> None:
        before = set(os.listdir("/proc/self/fd"))
        async with watching(tmp_path, quiet=0.01) as seen:
            (tmp_path / "a.toml").write_text("x")
            seen.watch._read()
        seen.watch.close()
        await asyncio.sleep(0.05)
        assert seen.count == 0
        assert set(os.listdir("/proc/self/fd")) == before
        with pytest.raises(ValueError, match="watches already"):
            async with watching(tmp_path) as again:
                again.watch.start()

    asyncio.run(scene())


def test_a_kernel_without_room_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> int:
        ctypes.set_errno(errno.ENOSPC)
        return -1

    async def scene() -> None:
        seen = Seen()
        watch = FileWatch({tmp_path / "x": "*.toml"}, seen.changed, seen.troubles.append)
        with monkeypatch.context() as patch:
            patch.setattr(filewatch._libc, "inotify_add_watch", full)
            with pytest.raises(OSError, match="max_user_watches"):
                watch.start()
        watch.start()
        with monkeypatch.context() as patch:
            patch.setattr(filewatch._libc, "inotify_add_watch", full)
            for _ in range(2):
                (tmp_path / "x").mkdir()
                watch._read()
                (tmp_path / "x").rmdir()
                watch._read()
        watch.close()
        assert [("SIGHUP" in text) for text in seen.troubles] == [True], "once, not each time"

    asyncio.run(scene())


def test_a_file_that_is_named_is_seen_whatever_lies_behind_its_name(tmp_path: Path) -> None:
    """Both of a folder's, written, replaced, and behind a symbolic link of which only it tells."""
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    write(there / "stub")
    (here / "resolv.conf").symlink_to(there / "stub")

    changes: tuple[Callable[[], object], ...] = (
        lambda: write(here / "hosts"),
        lambda: write(here / "hosts"),
        lambda: replace(here / "hosts"),
        lambda: write(here / "hosts"),
        lambda: write(there / "stub"),
        lambda: replace(there / "stub"),
        lambda: write(there / "stub"),
        lambda: (here / "resolv.conf").unlink(),
        lambda: write(here / "resolv.conf"),
        lambda: write(here / "resolv.conf"),
    )

    async def run() -> None:
        seen = Seen()
        names = {here: ("hosts", "resolv.conf")}
        seen.watch = FileWatch(names, seen.changed, seen.troubles.append, quiet=0.02)
        seen.watch.start()
        try:
            for change in changes:
                change()
                await seen.told()
                await asyncio.sleep(0.1)
            write(here / "other")
            write(there / "stub")
            await seen.nothing(here / "hosts")
            assert seen.troubles == []
        finally:
            seen.watch.close()

    asyncio.run(run())
