"""Policy files on disk: whom they are believed, in a make-believe /etc, /usr and dpkg."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from arbiter import policystate
from arbiter.packages import Dpkg, find
from arbiter.policyfiles import Application, PolicyFile, PolicyFileError
from arbiter.policystate import UnsafeError, read_policies, read_text
from arbiter.rules import Layer

ADVICE = '[application]\nname = "X"\napp = "{app}"\n[[connection]]\nhost = "*"\npurpose = "x"\n'
RULE = 'rules = ["deny app=/usr/bin/wget"]\n'

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to others: needs root")


class Machine:
    """Two folders of policy files, and dpkg's records of who owns what."""

    def __init__(self, root: Path) -> None:
        self.etc, self.share = root / "etc", root / "share"
        self.admin = root / "dpkg"
        for folder in (self.etc, self.share, self.admin / "info"):
            folder.mkdir(parents=True, mode=0o755)
        self.files: tuple[PolicyFile, ...] = ()
        self.errors: tuple[PolicyFileError, ...] = ()

    def package(self, name: str, *paths: str | Path) -> None:
        text = "".join(f"{path}\n" for path in ("/.", *paths))
        (self.admin / f"info/{name}.list").write_text(text)

    def ship(self, name: str, app: str = "/usr/bin/x", package: str = "x") -> Path:
        path = self.share / name
        path.write_text(ADVICE.format(app=app))
        self.package(package, path, app)
        return path

    def read(self) -> list[str]:
        self.files, self.errors = read_policies(self.etc, self.files, self.share, Dpkg(self.admin))
        return [Path(file.origin).name for file in self.files]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- whom a file is believed ----------------------------------------------------------------


def test_a_shipped_file_is_used_while_its_package_is_installed(machine: Machine) -> None:
    machine.ship("x.toml")
    assert machine.read() == ["x.toml"]
    assert not machine.errors
    (machine.admin / "info/x.list").unlink()  # removed, and the file forgotten on disk
    assert machine.read() == []
    assert "no installed package owns this file" in str(machine.errors[0])
    (machine.share / "x.toml").unlink()
    assert (machine.read(), machine.errors) == ([], ())


def test_a_package_cannot_speak_for_anothers_program(machine: Machine) -> None:
    path = machine.ship("x.toml", "/usr/bin/curl", "evil")
    machine.package("evil", path)
    machine.package("curl", "/usr/bin/curl")
    assert machine.read() == []
    assert "came with evil, but /usr/bin/curl with curl" in str(machine.errors[0])
    machine.package("curl")
    assert machine.read() == []
    assert "no installed package owns /usr/bin/curl" in str(machine.errors[0])


def test_a_package_speaks_for_a_unit_whose_file_it_has(machine: Machine) -> None:
    for unit, file in (("a.service", "a.service"), ("b@eth0.service", "b@.service")):
        path = machine.ship("u.toml", f"unit:{unit}", "u")
        machine.package("u", path, f"/lib/systemd/system/{file}")
        assert machine.read() == ["u.toml"]
        machine.package("u", path)
        assert machine.read() == []


def test_where_no_package_manager_is_known_it_is_said_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.ship("x.toml")
    machine.ship("y.toml", package="y")
    (machine.etc / "a.toml").write_text(RULE)
    monkeypatch.setattr(policystate, "find", lambda: None)
    files, errors = read_policies(machine.etc, (), machine.share)
    assert [Path(file.origin).name for file in files] == ["a.toml"]
    assert ["2 shipped files are left out" in str(error) for error in errors] == [True]


@needs_root
@pytest.mark.parametrize("folder", ["etc", "share"])
def test_a_file_that_others_could_have_written_is_not_used(machine: Machine, folder: str) -> None:
    path = machine.ship("x.toml")
    if folder == "etc":
        path = machine.etc / "x.toml"
        path.write_text(RULE)
    path.chmod(0o644)
    assert machine.read() == ["x.toml"]
    path.chmod(0o666)
    assert machine.read() == [], "nor is its last good version"
    assert isinstance(machine.errors[0], UnsafeError)
    path.chmod(0o644)
    assert machine.read() == ["x.toml"]
    os.chown(path, 65534, 0)
    assert machine.read() == []
    os.chown(path, 0, 0)
    path.parent.chmod(0o777)
    assert machine.read() == []
    assert "none of its files is used" in str(machine.errors[0])


@needs_root
def test_a_program_that_others_could_have_written_is_not_spoken_for(
    machine: Machine, tmp_path: Path
) -> None:
    program = tmp_path / "opt"
    program.mkdir()
    app = program / "x"
    app.write_text("x")
    file = PolicyFile(
        origin=str(machine.share / "x.toml"),
        layer=Layer.SHIPPED,
        shipped=True,
        application=Application("X", str(app), str(app)),
    )
    machine.package("x", file.origin, app)
    assert policystate.owner_faults([file], Dpkg(machine.admin)) == []
    app.chmod(0o777)
    faults = policystate.owner_faults([file], Dpkg(machine.admin))
    assert [f"{app}: others than root may write it" in str(fault) for fault in faults] == [True]


def test_a_shipped_link_is_no_file_and_an_administrators_is(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "rule").write_text(RULE)
    (tmp_path / "advice").write_text(ADVICE.format(app="/usr/bin/x"))
    (machine.etc / "a.toml").symlink_to(tmp_path / "rule")
    path = machine.share / "b.toml"
    path.symlink_to(tmp_path / "advice")
    machine.package("x", path, "/usr/bin/x")
    assert machine.read() == ["a.toml"]
    assert [error.origin for error in machine.errors] == [str(path)]
    path.unlink()
    path.write_text(ADVICE.format(app="/usr/bin/x"))
    assert machine.read() == ["a.toml", "b.toml"]


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "device", "bytes"])
def test_what_is_no_text_is_refused_without_waiting(machine: Machine, kind: str) -> None:
    path = machine.etc / "a.toml"
    (machine.etc / "b.toml").write_text(RULE)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"\xff")
    assert machine.read() == ["b.toml"]
    assert [error.origin for error in machine.errors] == [str(path)]


# --- what stays -----------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_leaves_its_last_good_version(machine: Machine) -> None:
    path = machine.etc / "a.toml"
    path.write_text(RULE)
    assert machine.read() == ["a.toml"]
    for worse in (b"\xff", b"rules = 3"):
        path.write_bytes(worse)
        assert (machine.read(), len(machine.errors)) == (["a.toml"], 1)
    path.unlink()
    assert (machine.read(), machine.errors) == ([], ())


def test_a_mask_that_cannot_be_read_masks(machine: Machine) -> None:
    machine.ship("x.toml")
    assert machine.read() == ["x.toml"]
    (machine.etc / "x.toml").write_bytes(b"\xff")
    assert machine.read() == []
    (machine.etc / "x.toml").write_text("# nothing\n")
    assert (machine.read(), machine.errors) == ([], ())
    (machine.etc / "x.toml").unlink()
    assert machine.read() == ["x.toml"]


def test_temporary_files_of_editors_and_dpkg_are_no_policy_files(machine: Machine) -> None:
    for name in (".a.toml.swp", ".#a.toml", ".a.toml", "a.toml~", "a.toml.dpkg-new", "4913", "#a"):
        (machine.etc / name).write_text("rules = 3")
    assert (machine.read(), machine.errors) == ([], ())


def test_folders_that_are_not_there_hold_nothing(tmp_path: Path) -> None:
    assert read_policies(tmp_path / "a", (), tmp_path / "b", Dpkg(tmp_path)) == ((), ())


def test_a_file_for_a_look_may_belong_to_anybody(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("x")
    path.chmod(0o666)
    assert read_text(path) == "x"
    with pytest.raises(UnsafeError, match="no regular file"):
        read_text(tmp_path)


# --- dpkg -----------------------------------------------------------------------------------


def owners(machine: Machine, *paths: str) -> list[set[str]]:
    found = Dpkg(machine.admin).owners(paths)
    return [set(found[path]) for path in paths]


def test_owners_are_named_without_architecture_and_may_be_several(machine: Machine) -> None:
    machine.package("a:amd64", "/usr/share/x")
    machine.package("b", "/usr/share/x", "/usr/share/xy")
    assert owners(machine, "/usr/share/x", "/usr/share/xy", "/usr/share") == [
        {"a", "b"},
        {"b"},
        set(),
    ]


def test_a_merged_usr_has_one_file_under_two_names(machine: Machine) -> None:
    machine.package("old", "/bin/a", "/lib64/l")
    machine.package("new", "/usr/bin/b")
    paths = ("/usr/bin/a", "/bin/a", "/bin/b", "/usr/lib64/l", "/usr/share/bin/a")
    assert owners(machine, *paths) == [{"old"}, {"old"}, {"new"}, {"old"}, set()]


def test_a_diverted_file_is_the_diverting_packages(machine: Machine) -> None:
    machine.package("first", "/usr/bin/a", "/usr/bin/c")
    machine.package("second", "/usr/bin/a")
    (machine.admin / "diversions").write_text(
        "/usr/bin/a\n/usr/bin/a.real\nsecond\n/usr/bin/c\n/usr/bin/c.real\n:\n"
    )
    assert owners(machine, "/usr/bin/a", "/usr/bin/a.real") == [{"second"}, {"first"}]
    assert owners(machine, "/usr/bin/c", "/usr/bin/c.real") == [set(), {"first"}]


def test_this_machines_records_know_this_machines_files() -> None:
    packages = find()
    if packages is None:
        pytest.skip("no dpkg here")
    found = packages.owners(["/usr/bin/dpkg", "/usr/bin/no-such-program", "/bin/dpkg"])
    assert found["/usr/bin/dpkg"] == found["/bin/dpkg"] == {"dpkg"}
    assert found["/usr/bin/no-such-program"] == frozenset()


def test_a_machine_without_dpkg_has_no_records(tmp_path: Path) -> None:
    assert find(tmp_path) is None


def test_the_records_name_a_file_that_changes_with_them() -> None:
    packages = find()
    if packages is None:
        pytest.skip("no dpkg here")
    assert packages.changes.is_file()
