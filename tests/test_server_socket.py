"""The socket itself: who may connect, what stands in its place, and what the end leaves."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from serverscene import Daemon, eventually, serving

from arbiter.protocol import Role
from arbiter.server import Server, ServerError


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with serving(tmp_path / "socket", monkeypatch) as running:
        yield running


def test_everybody_may_connect_and_the_end_leaves_no_file_and_no_connection(
    daemon: Daemon,
) -> None:
    assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o666
    with daemon.client(role=Role.PROMPT) as client, daemon.connect() as silent:
        eventually(lambda: daemon.run(lambda: daemon.server._per_user[0]) == 2)
        daemon.run(daemon.server.close)
        assert client.ended() and silent.ended()
    assert not daemon.path.exists()
    assert daemon.prompts[-1] == ()


def test_a_dead_daemons_socket_is_replaced_and_a_live_ones_is_not(daemon: Daemon) -> None:
    dead = daemon.path.with_name("dead")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    second = Server(dead, daemon, admins=frozenset())
    daemon.run(second.start)
    daemon.run(second.close)

    with pytest.raises(ServerError, match=r"another arbiter answers there.*--socket"):
        daemon.run(Server(daemon.path, daemon, admins=frozenset()).start)
    with daemon.client() as client:
        assert client.works()


def test_a_file_in_the_sockets_place_is_never_removed(daemon: Daemon) -> None:
    file = daemon.path.with_name("file")
    file.write_text("precious")
    with pytest.raises(ServerError, match=f"{file}.*no socket.*--socket"):
        daemon.run(Server(file, daemon, admins=frozenset()).start)
    assert file.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_an_error_for_people(daemon: Daemon) -> None:
    path = daemon.path.with_name("x" * 150)
    with pytest.raises(ServerError, match=r"too long.*--socket"):
        daemon.run(Server(path, daemon, admins=frozenset()).start)


def test_a_socket_that_was_removed_is_made_anew_and_who_is_connected_stays(daemon: Daemon) -> None:
    with daemon.client() as before:
        assert daemon.run(daemon.server.look_after) is False
        daemon.path.unlink()
        assert daemon.run(daemon.server.look_after) is True
        assert stat.S_IMODE(daemon.path.stat().st_mode) == 0o666
        with daemon.client() as after:
            assert after.works()
        assert before.works()
        assert daemon.run(daemon.server.look_after) is False


def test_a_socket_whose_directory_was_removed_is_made_anew_with_it(daemon: Daemon) -> None:
    path = daemon.path.parent / "gone" / "a.sock"
    other = Server(path, daemon, admins=frozenset())
    daemon.run(other.start)
    path.unlink()
    path.parent.rmdir()
    assert daemon.run(other.look_after) is True
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    daemon.run(other.close)
    assert not path.exists()


def test_what_took_the_sockets_place_is_told_and_stays_to_the_end(daemon: Daemon) -> None:
    daemon.path.unlink()
    daemon.path.write_text("precious")
    with pytest.raises(ServerError, match=f"{daemon.path}.*no socket"):
        daemon.run(daemon.server.look_after)
    daemon.run(daemon.server.close)
    assert daemon.path.read_text() == "precious"


def test_another_daemons_socket_is_not_removed_at_the_end(daemon: Daemon) -> None:
    daemon.path.unlink()
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(daemon.path))
        another.listen()
        with pytest.raises(ServerError, match="another arbiter answers there"):
            daemon.run(daemon.server.look_after)
        daemon.run(daemon.server.close)
        assert daemon.path.is_socket()
