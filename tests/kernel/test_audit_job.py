"""Records of real connections: complete to their end, over a stop and a kill, under one number."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from running import Arbiter, eventually, forget_closed

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6
from arbiter.protocol import Connection, Follow, Role


def one(arbiter: Arbiter, id: int) -> dict[str, Any]:
    (found,) = [each for each in arbiter.json("audit", "--all") if each["id"] == id]
    return dict(found)


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_a_record_is_completed_until_its_connection_ends(
    clean_lab: Lab, tmp_path: Path, server: str
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("route via=lte host=internet")
        forget_closed(arbiter.lab)
        echo = arbiter.echo(server)
        echo.send(200_000)
        [first] = eventually(lambda: arbiter.json("audit", "--port", "7"))
        assert (first["state"], first["link"], first["pid"]) == ("open", "lte", echo.program.pid)
        # It lives on, over a stop and a kill of arbiter: other connections come between.
        for how in (signal.SIGTERM, signal.SIGKILL):
            arbiter.stop(how)
            arbiter.start()
            echo.send(100_000)
        (again,) = arbiter.json("audit", "--port", "7", "--since", "1h")
        assert again["id"] == first["id"], "who was let go is not decided again"
        eventually(lambda: (one(arbiter, first["id"])["out_bytes"] or 0) > 400_000, timeout=25)
        echo.end()
        forget_closed(arbiter.lab)
        eventually(lambda: one(arbiter, first["id"])["state"] == "closed", timeout=15)
        done = one(arbiter, first["id"])
        assert 400_000 < done["out_bytes"] < 440_000
        assert 400_000 < done["in_bytes"] < 440_000
        assert done["time"] <= done["replied"] <= done["closed"]
        assert arbiter.database("SELECT count(*) FROM gaps WHERE count IS NULL") == [(1,)]
        assert arbiter.database("SELECT count(*) FROM runs") == [(3,)]


def test_events_records_and_explain_speak_of_one_number(clean_lab: Lab, tmp_path: Path) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add(f"deny host={SERVER4}")
        for _ in range(2):
            assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 7
        arbiter.stop()
        arbiter.start()
        assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] == 7
        eventually(lambda: len(arbiter.json("audit", "--decision", "deny")) == 3)
        found = arbiter.json("audit", "--decision", "deny")
        with arbiter.connection(Role.WATCH) as connection:
            connection.send(Follow())
            told = connection.receive()
            while not isinstance(told, Connection):
                told = connection.receive()
        assert told.id == found[-1]["id"] > found[0]["id"]
        assert {each["state"] for each in found} == {""}
        (explained,) = arbiter.json("explain", "--record", str(found[-1]["id"]))
        assert explained["record"]["id"] == found[-1]["id"]


def test_what_nobody_answers_before_its_program_gives_up_has_a_record(
    clean_lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(clean_lab, tmp_path) as arbiter:
        assert arbiter.run("curl", "-sS", "-m", "5", f"http://{SERVER4}/")[0] != 0
        found = eventually(lambda: arbiter.json("audit", "--app", "curl"))
        assert {(each["reason"], each["daddr"]) for each in found} == {("exited", SERVER4)}
        assert {(each["state"], each["exe"]) for each in found} == {("", "/usr/bin/curl")}
