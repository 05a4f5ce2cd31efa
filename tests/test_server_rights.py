"""Whose a connection is, and with that what it hears and what it may do."""

from __future__ import annotations

import grp
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from serverscene import ALICE, BOB, Daemon, eventually, note, serving

from arbiter import protocol
from arbiter.model import Peer
from arbiter.protocol import RefusedReason, Role
from arbiter.server import server


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with serving(tmp_path / "socket", monkeypatch) as running:
        yield running


def test_a_broadcast_reaches_admins_and_the_user_it_is_about_and_nobody_else(
    daemon: Daemon,
) -> None:
    with (
        daemon.client(0, Role.PROMPT) as root,
        daemon.client(ALICE, Role.PROMPT) as alice,
        daemon.client(BOB, Role.PROMPT) as bob,
        daemon.client(0, Role.COMMAND) as command,
    ):
        tell = daemon.server.broadcast
        daemon.run(lambda: tell(ALICE, lambda peer: note(1, peer.user)))
        daemon.tell(note(2))
        daemon.run(lambda: tell(BOB, lambda _: note(3), commands=True))
        assert [root.receive(protocol.Withdraw).ask for _ in range(3)] == [1, 2, 3]
        assert alice.receive(protocol.Withdraw) == note(1, str(ALICE))
        assert bob.receive(protocol.Withdraw).ask == 3
        assert command.receive(protocol.Withdraw).ask == 3
        assert all(client.works() for client in (root, alice, bob, command)), "and nothing more"


def test_who_follows_hears_of_what_it_may_answer_for_and_others_hear_nothing(
    daemon: Daemon,
) -> None:
    with (
        daemon.client(0, Role.WATCH) as root,
        daemon.client(ALICE, Role.COMMAND) as alice,
        daemon.client(BOB, Role.PROMPT) as bob,
        daemon.client(ALICE, Role.PROMPT) as idle,
    ):
        assert not daemon.server.followed
        for client in (root, alice, bob):
            client.say(protocol.Follow())
            assert client.works()
        assert daemon.server.followed
        tell = daemon.server.tell
        daemon.run(lambda: tell(ALICE, lambda: note(1)))
        daemon.run(lambda: tell(None, lambda: note(2), everyone=True))
        daemon.run(lambda: tell(None, lambda: note(3)))
        assert [root.receive(protocol.Withdraw).ask for _ in range(3)] == [1, 2, 3]
        assert [alice.receive(protocol.Withdraw).ask for _ in range(2)] == [1, 2]
        assert bob.receive(protocol.Withdraw).ask == 2
        assert all(client.works() for client in (root, alice, bob, idle)), "and nothing more"
    eventually(lambda: not daemon.server.followed)


def test_a_watch_hears_of_asks_is_nobody_to_ask_and_answers_nothing(daemon: Daemon) -> None:
    with daemon.client(ALICE, Role.WATCH) as watch:
        daemon.tell(note(1), ALICE)
        assert watch.receive(protocol.Withdraw).ask == 1
        assert daemon.server.prompts == ()
        watch.say(protocol.Answer(1, protocol.Choice.ALLOW))
        watch.refused(RefusedReason.RIGHT)
        assert watch.works()
    assert not [m for _, m in daemon.seen if isinstance(m, protocol.Answer)]


def test_a_prompt_that_is_away_is_nobody_to_ask_and_hears_everything(daemon: Daemon) -> None:
    with daemon.client(ALICE, Role.PROMPT) as alice:
        alice.say(protocol.Away(True))
        assert alice.works()
        daemon.tell(note(1), ALICE)
        assert alice.receive(protocol.Withdraw).ask == 1
        alice.say(protocol.Away(False))
        assert alice.works()
        assert [[peer.uid for peer in peers] for peers in daemon.prompts] == [[ALICE], [], [ALICE]]


def test_only_admins_make_the_daemon_read_its_rules_anew(daemon: Daemon) -> None:
    with daemon.client(ALICE) as alice, daemon.client(0) as root:
        alice.say(protocol.Changed())
        alice.refused(RefusedReason.RIGHT)
        root.say(protocol.Changed())
        assert root.works() and alice.works()
    changes = [uid for uid, message in daemon.seen if message == protocol.Changed()]
    assert changes == [0]


def test_pid_and_uid_are_the_kernels_word_for_who_connected() -> None:
    left, right = socket.socketpair()
    with left, right:

        class Writer:
            def get_extra_info(self, name: str) -> socket.socket:
                return left

        found = server._credentials(Writer())  # type: ignore[arg-type]  # all it uses
        assert found == (os.getpid(), os.getuid(), os.getgid())


def entry(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))


@pytest.mark.parametrize(
    ("uid", "groups", "admins", "expected"),
    [
        (0, [0], (), Peer(0, "carol", True)),
        (ALICE, [5], (), Peer(ALICE, "carol", False)),
        (ALICE, [5, 77], (), Peer(ALICE, "carol", True)),
        (ALICE, [5], (ALICE,), Peer(ALICE, "carol", True)),
        (ALICE, [5], (BOB,), Peer(ALICE, "carol", False)),
    ],
)
def test_admins_are_root_members_of_the_group_and_who_was_named(
    monkeypatch: pytest.MonkeyPatch,
    uid: int,
    groups: list[int],
    admins: tuple[int, ...],
    expected: Peer,
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry("carol", uid))
    monkeypatch.setattr(os, "getgrouplist", lambda user, gid: [gid, *groups])
    group = grp.struct_group(("arbiter", "x", 77, []))
    monkeypatch.setattr(grp, "getgrnam", {"arbiter": group}.__getitem__)
    assert server._peer(uid, 5, frozenset(admins)) == expected


def test_without_the_group_and_without_a_name_nobody_but_root_is_admin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grp, "getgrnam", {}.__getitem__)
    nobody = pwd.getpwnam("nobody")
    assert server._peer(nobody.pw_uid, nobody.pw_gid, frozenset()).admin is False
    assert server._peer(ALICE, ALICE, frozenset()) == Peer(ALICE, str(ALICE), False)
    assert server._peer(ALICE, ALICE, frozenset({ALICE})).admin is True
