"""arbiter/kernel/procfs.py over trees from fixtures/proc: each process is the app it should be."""

from __future__ import annotations

import contextlib
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from procscene import table_of

from arbiter.kernel import procfs, procread

FIXTURES = Path(__file__).parents[2] / "fixtures" / "proc"


def stat_line(pid: int, comm: str = "x", ppid: int = 0, flags: int = 0, start: int = 5) -> bytes:
    after = ["S", str(ppid), *["0"] * 4, str(flags), *["0"] * 12, str(start), *["7"] * 30]
    return f"{pid} ({comm}) ".encode() + " ".join(after).encode() + b"\n"


def write_process(proc: Path, pid: int, entry: dict[str, Any]) -> None:
    where = proc / str(pid)
    (where / "ns").mkdir(parents=True)
    keys = {key: entry[key] for key in ("comm", "ppid", "flags") if key in entry}
    (where / "stat").write_bytes(stat_line(pid, **keys))
    argv = entry["argv"]
    (where / "cmdline").write_text("".join(f"{word}\0" for word in argv))
    (where / "cgroup").write_text(f"1:name=systemd:/\n0::{entry.get('cgroup', '/')}\n")
    (where / "environ").write_text("".join(f"{word}\0" for word in entry.get("environ", [])))
    (where / "mountinfo").write_text(entry.get("mountinfo", ""))
    (where / "ns" / "mnt").symlink_to(f"mnt:[{entry.get('mounts', 1)}]")
    (where / "cwd").symlink_to(entry.get("cwd", "/"))
    (where / "root").symlink_to(entry.get("root", "/"))
    if "flatpak" in entry:
        sandbox = Path(entry["root"])
        sandbox.mkdir()
        (sandbox / ".flatpak-info").write_text(entry["flatpak"])
    if exe := entry.get("exe"):
        (where / "exe").symlink_to(exe)
        if exe.startswith(str(proc.parent)):
            touch(Path(exe))


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def build(tree: dict[str, Any], root: Path) -> str:
    """Writes a tree below `root`; returns what to give ProcessTable."""
    proc = root / "proc"
    (proc / "self" / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "mnt").symlink_to("mnt:[1]")
    for path in tree.get("files", []):
        touch(Path(path))
    for pid, entry in tree.items():
        if pid.isdecimal():
            write_process(proc, int(pid), entry)
    return str(proc)


def expand(value: Any, root: str) -> Any:
    if isinstance(value, str):
        return value.replace("{root}", root)
    if isinstance(value, list):
        return [expand(item, root) for item in value]
    if isinstance(value, dict):
        return {key: expand(item, root) for key, item in value.items()}
    return value


@pytest.mark.parametrize("file", sorted(FIXTURES.glob("*.toml")), ids=lambda file: file.stem)
def test_each_tree_gives_the_app_it_names(file: Path, tmp_path: Path) -> None:
    tree = expand(tomllib.loads(file.read_text()), str(tmp_path))
    with table_of(build(tree, tmp_path)) as table:
        process = table.get(tree["pid"])
        assert process is not None
        assert (process.app.id, process.app.kind, process.app.name, process.note) == (
            tree["app"],
            tree["kind"],
            tree["name"],
            tree["note"],
        )
        if "parents" in tree:
            assert [ancestor.app.id for ancestor in process.ancestors] == tree["parents"]
        assert len(process.ancestors) <= procfs.ANCESTORS
        assert table.get(tree["pid"]) is process


def chain(length: int, root: Path) -> str:
    """Processes 1..length, each the parent of the next."""
    tree: dict[str, Any] = {
        str(pid): {"exe": f"{root}/bin/p{pid}", "argv": [], "ppid": pid - 1}
        for pid in range(1, length + 1)
    }
    return build(tree, root)


def test_ancestors_are_nearest_first_bounded_and_complete_whatever_was_cached(
    tmp_path: Path,
) -> None:
    with table_of(chain(40, tmp_path)) as table:
        for pid in (40, 30, 24, 39, 5):
            process = table.get(pid)
            assert process is not None
            expected = list(range(pid - 1, max(0, pid - 17), -1))
            assert [ancestor.pid for ancestor in process.ancestors] == expected


def test_a_parent_younger_than_its_child_is_another_process(tmp_path: Path) -> None:
    proc = chain(2, tmp_path)
    (Path(proc) / "1" / "stat").write_bytes(stat_line(1, start=6))
    with table_of(proc) as table:
        process = table.get(2)
        assert process is not None
        assert process.ancestors == ()


def test_cache_and_descriptors_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "CACHE_SIZE", 8)
    monkeypatch.setattr(procfs, "WARM_SIZE", 2)
    before = len(os.listdir("/proc/self/fd"))
    with table_of(chain(30, tmp_path)) as table:
        for _ in range(2):
            for pid in range(1, 31):
                assert table.get(pid) is not None
                assert len(table) <= 8
                assert len(os.listdir("/proc/self/fd")) - before <= 4
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_a_flatpak_info_that_is_no_plain_file_is_not_read(kind: str, tmp_path: Path) -> None:
    tree = {"7": {"exe": "/app/x", "argv": [], "mounts": 2, "root": f"{tmp_path}/r"}}
    proc = build(tree, tmp_path)
    info = tmp_path / "r" / ".flatpak-info"
    info.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(info)
    elif kind == "link":
        (tmp_path / "other").write_text("[Application]\nname=org.a.b\n")
        info.symlink_to(tmp_path / "other")
    else:
        info.mkdir()
    with table_of(proc) as table:
        process = table.get(7)
        assert process is not None
        assert process.app.id == "foreign:?:/app/x"


def test_a_script_in_another_root_is_trusted_only_where_it_is_the_same_file(
    tmp_path: Path,
) -> None:
    python, ours, theirs = tmp_path / "python3", tmp_path / "job.py", tmp_path / "r"
    entry = {"exe": str(python), "argv": ["p", str(ours)], "mounts": 2, "root": str(theirs)}
    proc = build({"7": entry, "files": [str(ours)]}, tmp_path)
    inside = Path(f"{theirs}{ours}")
    inside.parent.mkdir(parents=True)
    os.link(ours, inside)
    with table_of(proc) as table:
        process = table.get(7)
        assert process is not None
        assert process.app.id == f"script:{python}:{ours}"
    inside.unlink()
    for link in (False, True):
        if link:
            inside.symlink_to(ours)
        else:
            inside.touch()
        with table_of(proc) as table:
            process = table.get(7)
            assert process is not None
            assert process.app.id == f"foreign:?:{python}:{ours}"
            assert process.note == "its script is in another mount namespace"
        inside.unlink()


@given(st.binary(max_size=200))
def test_any_stat_file_gives_a_stat_or_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        procread.parse_stat(data)
        raise AssertionError("fewer than 52 fields were taken for a stat file")


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=15))
def test_no_comm_can_change_the_fields_after_it(comm: str) -> None:
    parsed = procread.parse_stat(stat_line(9, comm, ppid=3, flags=4, start=123))
    assert (parsed.comm, parsed.ppid, parsed.flags, parsed.start) == (comm, 3, 4, 123)


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1))
def test_argv_is_what_was_given_but_for_padding(argv: list[str]) -> None:
    split = procread.split_argv("".join(f"{word}\0" for word in argv).encode())
    assert split == tuple(argv[: len(split)])
    assert not any(argv[len(split) :])
    assert sum(map(len, procfs._shorten(split))) <= procfs.ARGV_LIMIT


def test_a_long_argv_is_cut_visibly() -> None:
    cut = procfs._shorten(("a" * 100, "b" * 5000, "c"))
    assert cut[0] == "a" * 100
    assert cut[-1].endswith("b…")
    assert len(cut) == 2
