"""Programs that new parents start: they are known, and what is told of those parents is what a
look-up finds as long as they live."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastpathscene import Child, Scene, Taken, event, load, standing
from nativeharness import build

from arbiter.kernel.elders import Elder
from arbiter.kernel.procfs import ProcessTable
from arbiter.model import Ancestor

FORK, EXEC = 1, 2
US = os.getpid()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("module"))


@pytest.fixture
def scene(plain: Path) -> Iterator[Scene]:
    made = Scene(load(str(plain)))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def known(scene: Scene) -> Iterator[Child]:
    """A child of ours, of whose program others are answered."""
    with Child() as first:
        assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)
        yield first


def born(scene: Scene, *line: int) -> None:
    """Each of the one before it, the first of us."""
    for parent, child in zip((US, *line), line, strict=False):
        scene.happens.send(event(FORK, parent, parent, child, child))


def met(scene: Scene, child: Child) -> tuple[int, Taken]:
    """The pid of one that another program started, and what is told of its packet."""
    pid = int(child.do("os.getpid()"))
    assert pid != child.pid
    born(scene, child.pid, pid)
    found = scene.send(child.packet())
    assert (found.token, found.pid, found.parent) == (5, pid, child.pid)
    return pid, found


def script(folder: Path) -> Path:
    file = folder / "starts.sh"
    file.write_text('#!/bin/sh\n"$@"\nexit\n')
    file.chmod(0o755)
    return file


PARENTS: dict[str, Callable[[Path], list[str]]] = {
    "a program": lambda folder: ["timeout", "60"],
    "a shell": lambda folder: ["sh", "-c", '"$@"; exit', "x"],
    "a script": lambda folder: [str(script(folder))],
    "a script by a relative path": lambda folder: ["sh", script(folder).name],
    "an interpreter of no file": lambda folder: [
        *("python3", "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])")
    ],
}


@pytest.mark.parametrize("parent", PARENTS.values(), ids=PARENTS)
def test_its_ancestors_are_as_a_look_up_finds_them_even_once_its_parent_has_gone(
    scene: Scene, tmp_path: Path, parent: Callable[[Path], list[str]]
) -> None:
    with Child(under=parent(tmp_path), cwd=str(tmp_path)) as child:
        pid, found = met(scene, child)
        looked_up = ProcessTable().get(pid)
        assert looked_up is not None
        assert found.elder is not None
        elder = Elder._make(found.elder)
        assert (elder.pid, elder.ppid, elder.cwd) == (child.pid, US, os.fsencode(tmp_path))
        assert not found.known
    above = ProcessTable().ancestors(pid, found.parent, found.start, elder)
    assert above == looked_up.ancestors
    assert above[0].pid == child.pid


@pytest.mark.parametrize("enough", [True, False], ids=["a program", "a script"])
def test_in_other_mounts_a_scripts_path_may_lead_elsewhere(
    scene: Scene, tmp_path: Path, enough: bool
) -> None:
    parent = ["timeout", "60"] if enough else [str(script(tmp_path))]
    with Child(under=["unshare", "-m"]) as first:
        assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)
        with Child(under=["nsenter", "-t", str(first.pid), "-m", *parent]) as child:
            pid, found = met(scene, child)
            looked_up = ProcessTable().get(pid)
            assert looked_up is not None
            assert found.elder is not None
            elder = Elder._make(found.elder)
            above = ProcessTable().ancestors(pid, child.pid, found.start, elder)
            assert above == looked_up.ancestors
    above = ProcessTable().ancestors(pid, child.pid, found.start, elder)
    assert above == (looked_up.ancestors if enough else ())


def _deleted(folder: Path) -> list[str]:
    shutil.copy("/usr/bin/timeout", folder / "timeout")
    return [str(folder / "timeout"), "60"]


def _wordy(folder: Path) -> list[str]:
    return ["sh", "-c", '"$@"; exit' + " " * 5000, "x"]


@pytest.mark.parametrize("parent", [_deleted, _wordy])
def test_an_odd_parent_is_left_to_a_look_up(
    scene: Scene, tmp_path: Path, parent: Callable[[Path], list[str]]
) -> None:
    with Child(under=parent(tmp_path)) as child:
        if parent is _deleted:
            (tmp_path / "timeout").unlink()
        pid, found = met(scene, child)
        assert (found.known, found.elder) == (False, None)
        above = ProcessTable().ancestors(pid, child.pid, found.start, None)
        assert above and above[0].pid == child.pid


def test_a_parent_is_told_once_while_it_runs_the_same_program(scene: Scene, known: Child) -> None:
    def told(child: Child) -> tuple[bool, bool]:
        born(scene, child.pid)
        found = scene.send(child.packet())
        assert (found.token, found.parent) == (5, US)
        return found.known, found.elder is not None

    with Child() as one, Child() as two, Child() as three, Child(under=["timeout", "60"]) as other:
        assert told(one) == (False, True)
        assert told(one) == (True, False)
        scene.happens.send(event(EXEC, US, US))
        assert told(two) == (False, True)
        assert told(three) == (True, False)
        met(scene, other)
        assert told(one) == (False, True)


def test_of_what_has_gone_there_are_no_ancestors(scene: Scene) -> None:
    with Child(under=["timeout", "60"]) as child:
        pid, found = met(scene, child)
    assert ProcessTable().ancestors(pid, child.pid, found.start, None) == ()
    assert found.elder is not None
    orphan = Elder._make(found.elder)._replace(ppid=2**22)  # its parent has gone, too
    (alone,) = ProcessTable().ancestors(pid, child.pid, found.start, orphan)
    assert isinstance(alone, Ancestor)
    above_it = orphan._replace(ppid=US, start=0)  # of another one that has its parent's pid now
    assert len(ProcessTable().ancestors(pid, child.pid, found.start, above_it)) == 1
    younger = orphan._replace(start=found.start + 1)  # itself another one
    assert ProcessTable().ancestors(pid, child.pid, found.start, younger) == ()


_FLATPAK = """
set -e
mount --make-rprivate /
mount -t tmpfs none /mnt
cd /mnt
for one in /*; do
    if [ -L "$one" ]; then cp -P "$one" .
    elif [ -d "$one" ] && [ "$one" != /mnt ]; then mkdir ".$one"; mount --rbind "$one" ".$one"
    fi
done
mkdir old
printf '[Application]\\nname=org.example.App\\n' > .flatpak-info
pivot_root . old
exec "$@"
"""


def test_whoever_is_in_a_flatpak_is_left_to_a_look_up(scene: Scene) -> None:
    with Child(under=["unshare", "-m", "sh", "-c", _FLATPAK, "x"]) as first:
        assert scene.teach(socket.AF_INET, standing(first.pid, first.descriptor, program=True), 5)
        with Child(under=["nsenter", "-t", str(first.pid), "-m", "timeout", "60"]) as child:
            pid, found = met(scene, child)
            assert (found.known, found.elder) == (False, None)
            above = ProcessTable().ancestors(pid, child.pid, found.start, None)
            assert above[0].app.id == "flatpak:org.example.App"
