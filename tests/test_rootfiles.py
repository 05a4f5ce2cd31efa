"""What root believes of /etc/arbiter, and where it writes its log: nobody else's word or link."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from arbiter.cli import cli
from arbiter.cli.run import _logging
from arbiter.cli.settingsfile import read_settings
from arbiter.rootfiles import UnbelievedError, believed, read_small
from arbiter.settings import Mode, SettingsError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away: needs root")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "arbiter"
    folder.mkdir(mode=0o755)
    file = folder / "arbiter.toml"
    file.write_text('mode = "observe"\n')
    file.chmod(0o644)
    return folder


def test_settings_that_nobody_else_could_write_are_in_force(config: Path) -> None:
    assert read_settings(config).mode is Mode.OBSERVE
    assert read_settings(config / "none").mode is not Mode.OBSERVE


@pytest.mark.parametrize("mode", [0o646, 0o666, 0o622])
def test_settings_that_everybody_could_write_are_refused_with_the_next_step(
    config: Path, mode: int
) -> None:
    (config / "arbiter.toml").chmod(mode)
    with pytest.raises(SettingsError, match=r"others than root may write it.*chmod go-w") as raised:
        read_settings(config)
    assert str(config / "arbiter.toml") in str(raised.value)


def test_settings_in_a_folder_that_everybody_could_write_are_refused(config: Path) -> None:
    for mode in (0o777, 0o1777):
        config.chmod(mode)
        with pytest.raises(SettingsError, match="none of its files is used: others than root"):
            read_settings(config)


@needs_root
def test_settings_of_another_user_or_group_are_refused(config: Path) -> None:
    file = config / "arbiter.toml"
    os.chown(file, 12345, 0)
    with pytest.raises(SettingsError, match="belongs to uid 12345, not to root: chown root"):
        read_settings(config)
    os.chown(file, 0, 12345)
    assert read_settings(config).mode is Mode.OBSERVE
    file.chmod(0o664)
    with pytest.raises(SettingsError, match="others than root may write it"):
        read_settings(config)


def test_the_daemon_does_not_start_by_such_settings(config: Path, tmp_path: Path) -> None:
    (config / "arbiter.toml").chmod(0o666)
    argv = ["run", "--config", str(config), "--state", str(tmp_path / "state")]
    done = CliRunner().invoke(cli, argv)
    assert done.exit_code == 2, done.output
    assert "others than root may write it" in done.output
    assert not (tmp_path / "state").exists()


def test_a_pipe_in_the_settings_place_makes_nobody_wait(config: Path) -> None:
    (config / "arbiter.toml").unlink()
    os.mkfifo(config / "arbiter.toml", 0o600)
    with pytest.raises(SettingsError, match="no regular file"):
        read_settings(config)


def test_settings_that_cannot_be_read_are_an_error_for_people(config: Path, tmp_path: Path) -> None:
    file = config / "arbiter.toml"
    file.write_bytes(b"mode\n\xff\xfe")
    with pytest.raises(SettingsError, match=rf"^{file}: .*: it is no UTF-8 text \(byte 6\); see"):
        read_settings(config)
    file.unlink()
    file.mkdir()
    with pytest.raises(SettingsError, match=rf"^{file}: it cannot be read: Is a directory; see"):
        read_settings(config)
    file.rmdir()
    file.symlink_to(tmp_path / "moved-away.toml")
    with pytest.raises(SettingsError, match=rf"^{file}: it is a link to no file; see"):
        read_settings(config)
    file.unlink()
    file.write_text("")
    with pytest.raises(SettingsError, match=rf"^{file}/arbiter.toml: .*: Not a directory; see"):
        read_settings(file)


def test_in_a_user_namespace_roots_files_are_nobodys(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the overflow uid stands for root, and is believed; elsewhere it is a user like any."""
    real, shown = Path.read_text, "0 1000 1\n"

    def read_text(path: Path, *args: str | None, **kwargs: str | None) -> str:
        return shown if str(path) == "/proc/self/uid_map" else real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    overflow = int(real(Path("/proc/sys/kernel/overflowuid")))
    assert believed() == {0, os.geteuid(), overflow}
    shown = "         0          0 4294967295\n"
    assert believed() == {0, os.geteuid()}


def test_a_file_is_checked_by_what_was_opened(config: Path) -> None:
    """And a link of root's to a file of its own is one."""
    link = config / "link"
    link.symlink_to("arbiter.toml")
    assert read_small(link, 100, believed()).startswith("mode")
    (config / "arbiter.toml").chmod(0o666)
    with pytest.raises(UnbelievedError):
        read_small(link, 100, believed())
    assert read_small(link, 100).startswith("mode")


# --- the log of `run --prompt` ----------------------------------------------------------------


def test_the_log_is_for_root_and_its_group_whatever_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        with _logging(tmp_path / "state", False):
            logging.getLogger("arbiter").info("a \ud800 name")
    finally:
        os.umask(mask)
    log = tmp_path / "state" / "arbiter.log"
    assert stat.S_IMODE(log.stat().st_mode) == 0o640
    assert log.read_text().endswith(" INFO: a \\ud800 name\n")


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_the_log_goes_through_no_link_and_waits_for_no_pipe(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who owns the directory could have root write into any file."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    if kind == "link":
        (tmp_path / "arbiter.log").symlink_to(victim)
    else:
        os.mkfifo(tmp_path / "arbiter.log")
    with pytest.raises(SystemExit), _logging(tmp_path, False):
        pass
    assert "cannot be written" in capsys.readouterr().err
    assert victim.read_text() == "as it was"
