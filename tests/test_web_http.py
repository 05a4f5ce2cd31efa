"""The console's process as others on this machine meet it: who is let in, and what is served."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from scripted_daemon import ask_to
from webconsole import Console, Daemon, eventually

from arbiter.protocol import Answer, Away, Choice, Follow, Snooze, SumRecords
from prompts.web.app import FILES
from prompts.web.callers import IN_ALL, PER_USER, uid_of
from prompts.web.gate import HEADERS


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Console]]:
    folder = tmp_path_factory.mktemp("web")
    daemon = Daemon(folder / "s", ask_to(7, created=time.time(), deadline=time.time() + 600))
    console = Console(folder / "s", env={"ARBITER_DB": str(folder / "none.db")})
    console.login()
    yield daemon, console
    code, err = console.end()
    daemon.close()
    assert (code, err) == (0, "")


@pytest.fixture
def console(served: tuple[Daemon, Console]) -> Console:
    return served[1]


@pytest.fixture
def daemon(served: tuple[Daemon, Console]) -> Daemon:
    return served[0]


def test_it_listens_on_loopback_only_in_both_families(console: Console) -> None:
    listening = set()
    loopback = {"/proc/net/tcp": "0100007F", "/proc/net/tcp6": "0" * 24 + "01000000"}
    for path, host in loopback.items():
        for line in Path(path).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.split(":")[1], 16) == console.port:
                assert local.split(":")[0] == host, f"{path}: {local}"
                listening.add(path)
    assert "/proc/net/tcp" in listening
    if Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").read_text().strip() == "0":
        assert "/proc/net/tcp6" in listening
        with socket.create_connection(("::1", console.port), 5):
            pass


def test_the_pages_files_are_for_everybody_and_hold_no_secret(console: Console) -> None:
    for path in ("/", *(f"/static/{name}" for name in FILES)):
        status, headers, body = console.request("GET", path, headers={"Cookie": None})
        assert status == 200, path
        assert all(headers[name] == value for name, value in HEADERS.items()), path
        for secret in (console.token, console.key, console.cookie.split("=")[1]):
            assert secret.encode() not in body
    for path in ("/static/gate.py", "/static/../gate.py", "/static/%2e%2e/gate.py", "/gate.py"):
        assert console.request("GET", path)[0] == 404


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_inline() -> None:
    for name, path in FILES.items():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        if name.startswith("uplot"):
            continue
        assert "http:" not in text and "https:" not in text and "innerHTML" not in text, name
    page = FILES["index.html"].read_text()
    assert "<style" not in page and " style=" not in page and " onclick" not in page
    assert all("src=" in part.split(">")[0] for part in page.split("<script")[1:])


OPEN = ["login"]
CLOSED = ["news", "preview", "answer", "snooze", "undo", "disturb", "connections", "apps", "app",
          "app/records", "audit",
          "rules", "rules/add", "rules/remove", "rules/undo", "usage"]  # fmt: skip


@pytest.mark.parametrize("path", CLOSED)
def test_nothing_is_told_or_done_without_cookie_and_key(console: Console, path: str) -> None:
    for lacking in (
        {"Cookie": None},
        {"X-Arbiter-Key": None},
        {"X-Arbiter-Key": console.token},
        {"Cookie": f"arbiter_{console.port}={console.key}"},
    ):
        status, _, body = console.request("POST", f"/api/{path}", {}, lacking)
        assert status == 401 and b"not logged in" in body


@pytest.mark.parametrize("path", OPEN + CLOSED)
def test_another_site_may_ask_for_nothing(console: Console, path: str) -> None:
    for origin in (None, "null", "http://evil.example", f"http://127.0.0.1:{console.port - 1}",
                   f"http://localhost:{console.port}"):  # fmt: skip
        body = {"token": console.token}
        status, headers, data = console.request("POST", f"/api/{path}", body, {"Origin": origin})
        assert status == 403 and b"only a page of this console" in data
        assert "set-cookie" not in headers and "access-control-allow-origin" not in headers
    assert console.request("GET", f"/api/{path}")[0] == 405, "a link, or an image, asks nothing"
    assert console.request("OPTIONS", f"/api/{path}")[0] == 405, "no preflight is answered"


def test_a_name_that_was_rebound_to_loopback_is_no_host(console: Console) -> None:
    for host in ("evil.example", f"evil.example:{console.port}", "127.0.0.1", ""):
        mine = {"Host": host, "Origin": f"http://{host}"}
        for method, path in (("GET", "/"), ("GET", "/static/main.js"), ("POST", "/api/apps")):
            status, _, body = console.request(method, path, {}, mine)
            assert status in (400, 421) and b"Arbiter" not in body, host
    here = {"Host": f"localhost:{console.port}", "Origin": f"http://localhost:{console.port}"}
    assert console.request("POST", "/api/apps", {}, here)[0] == 200


def test_a_wrong_token_gets_nothing(console: Console) -> None:
    for token in ("", "x", console.token[:-1], console.token + "x", console.key):
        status, headers, body = console.request("POST", "/api/login", {"token": token})
        assert status == 403 and b"not the token" in body and "set-cookie" not in headers
    status, headers, _ = console.request("POST", "/api/login", {"token": console.token})
    assert status == 200
    assert "HttpOnly" in str(headers["set-cookie"]) and "SameSite=Strict" in str(
        headers["set-cookie"]
    )


def test_what_is_no_request_is_refused_with_a_reason(console: Console) -> None:
    for body, why in (
        (b"", "not a request"),
        (b"\xff", "not a request"),
        (b"[" * 10_000, "not a request"),
        (b"x" * 20_000, "bytes at most"),
        ({"ask": 7}, "not a request"),
        ({"ask": 99, "scope": "app", "lifetime": "once"}, "not open"),
    ):
        status, _, data = console.request("POST", "/api/preview", body)
        assert status == 409 and why in json.loads(data)["error"], body
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert console.request("POST", "/api/preview", {}, form)[0] == 409


def test_news_then_an_answer_that_reaches_the_daemon(console: Console, daemon: Daemon) -> None:
    with console.news() as line:
        told = line()["set"]
        ask = told["ask:7"]
        first = ask["first"]
        choice = {"scope": "port", "lifetime": "15m", "via": []}
        status, preview = console.ask("preview", {"ask": 7, **choice})
        assert status == 200 and preview["deny"]["rule"].endswith("port=443 proto=tcp for=15m")
        wrong = {"ask": 7, "decision": "deny", **choice, "rule": first["deny"]["rule"]}
        assert console.ask("answer", wrong)[0] == 409
        assert daemon.received(Answer) == []
        status, body = console.ask("answer", {**wrong, "rule": preview["deny"]["rule"]})
        assert status == 200, body
        (answer,) = eventually(lambda: daemon.received(Answer))
        assert (answer.decision, answer.scope, answer.lifetime) == (Choice.DENY, "port", "15m")
        assert answer.shown == "app=/usr/bin/curl port=443 proto=tcp"
        while not any("denied curl; rule 12" in str(v) for v in told.values()):
            told = line()["set"]
        assert eventually(lambda: daemon.received(Away))[-1] == Away(False)
    assert daemon.received(Follow) == [Follow()]
    eventually(lambda: daemon.received(Away)[-1] == Away(True), 40)


def test_a_snooze_reaches_the_daemon_and_its_clock_every_page(
    console: Console, daemon: Daemon
) -> None:
    with console.news() as one, console.news() as two:
        assert console.ask("snooze", {"key": "1"})[0] == 200
        assert eventually(lambda: daemon.received(Snooze)) == [Snooze(Choice.DENY, 300)]
        for line in (one, two):
            while not line()["set"].get("me", {}).get("snoozed"):
                pass
        console.ask("snooze", {"key": "0"})
        assert console.ask("snooze", {"key": "x"})[0] == 409


def test_what_a_command_says_is_shown_and_its_arguments_are_no_options(console: Console) -> None:
    status, listed = console.ask("rules")
    assert status == 200 and listed["rows"] == [] and "there is no such file" in listed["problem"]
    status, done = console.ask("rules/add", {"line": "--help"})
    assert (status, done["ok"]) == (200, False) and "this is no rule" in done["text"]
    assert console.ask("rules/remove", {"id": "1; rm"})[0] == 409


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_whose_a_connection_is_the_kernel_says(family: socket.AddressFamily, host: str) -> None:
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2]) as client,
    ):
        there, here = server.getsockname()[:2], client.getsockname()[:2]
        assert uid_of(there, here) == os.geteuid()
        assert uid_of(there, (here[0], here[1] ^ 1)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="TEST NOT RUN: only root can connect as another user")
def test_another_user_who_holds_all_connections_keeps_nobody_out(console: Console) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    with ExitStack() as held:
        os.seteuid(nobody)
        try:
            theirs = [
                held.enter_context(socket.create_connection(("127.0.0.1", console.port)))
                for _ in range(IN_ALL + 20)
            ]
        finally:
            os.seteuid(0)
        assert console.ask("apps")[0] == 200
        for sock in theirs[PER_USER:]:
            sock.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b"", "one too many is ended, unread"
        theirs[0].settimeout(0.1)
        with pytest.raises(TimeoutError):
            theirs[0].recv(1)
    assert console.ask("apps")[0] == 200


def test_too_many_pages_are_refused(console: Console) -> None:
    with console.news() as line:
        line()
        with ExitStack() as more:
            for _ in range(15):
                more.enter_context(console.news())()
            status, body = console.ask("news")
            assert status == 503 and "pages are open" in body["error"]


# --- beginnings and ends --------------------------------------------------------------------


def test_a_daemon_that_is_not_there_is_told_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Is arbiter running"):
        Console(tmp_path / "none")


@pytest.mark.parametrize("part", ["starlette", "uvicorn"])
def test_a_part_that_is_not_installed_is_told_with_the_next_step(tmp_path: Path, part: str) -> None:
    code = f"""
import sys
sys.modules[{part!r}] = None
sys.argv = ["arbiter", "prompt", "web", "--socket", {str(tmp_path / "s")!r}]
from arbiter.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"arbiter prompt: the web console needs {part}: pip install 'nfarbiter[web]'; "
        "`arbiter prompt terminal` works without\n"
    )


def test_a_port_that_is_taken_is_told_and_a_free_one_is_used(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "s")
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            with pytest.raises(AssertionError, match=f"port {port} of loopback cannot be had"):
                Console(tmp_path / "s", "--port", port)
        again = Console(tmp_path / "s", "--port", port)
        assert again.port == int(port)
        assert again.end() == (0, "")
    finally:
        daemon.close()


@pytest.mark.parametrize("gone", [False, True], ids=["the page waits", "the page is gone"])
def test_it_ends_in_peace_while_a_page_waits_for_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    daemon = Daemon(tmp_path / "s")
    monkeypatch.setattr(daemon.scripted, "_read", lambda message, writer: None)  # it never replies
    console = Console(tmp_path / "s")
    try:
        console.login()
        page = http.client.HTTPConnection("127.0.0.1", console.port, timeout=30)
        headers = {"Host": console.host, "Origin": console.origin, "Cookie": console.cookie}
        headers |= {"Content-Type": "application/json", "X-Arbiter-Key": console.key}
        page.request("POST", "/api/app/records", json.dumps({"id": "/usr/bin/curl"}), headers)
        eventually(lambda: daemon.received(SumRecords))
        if gone:
            page.close()
        assert console.end() == (0, "")
        page.close()
    finally:
        daemon.close()


def test_the_address_can_go_to_a_file_for_its_owner_only(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "s")
    try:
        path = tmp_path / "url"
        path.write_text("old, and open to all")
        path.chmod(0o644)
        console = Console(tmp_path / "s", "--url-file", str(path))
        assert console.url == str(path), "the secret is not printed"
        assert path.stat().st_mode & 0o777 == 0o600
        url = path.read_text().strip()
        assert url.startswith("http://127.0.0.1:") and len(url.split("#")[1]) >= 43
        assert console.end() == (0, "")
        assert sorted(each.name for each in tmp_path.iterdir()) == ["s"]
        with pytest.raises(AssertionError, match="none/url cannot be written: No such file"):
            Console(tmp_path / "s", "--url-file", str(tmp_path / "none" / "url"))
    finally:
        daemon.close()


def test_without_a_standard_output_its_address_is_in_the_file_or_nowhere(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "s")
    argv = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-P", "-m", "arbiter", "prompt"]
    argv += ["web", "--socket", str(tmp_path / "s")]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert "stdout is closed, where the address would be: see --url-file" in done.stderr
        path = tmp_path / "url"
        process = subprocess.Popen([*argv, "--url-file", str(path)], stderr=subprocess.PIPE)
        eventually(path.exists)
        process.terminate()
        assert process.communicate(timeout=30)[1] == b""
        assert process.returncode == 0
    finally:
        daemon.close()


def test_a_daemon_that_comes_back_is_followed_again(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "s", ask_to(7))
    console = Console(tmp_path / "s")
    try:
        console.login()
        with console.news() as line:
            assert "ask:7" in line()["set"]
            daemon.stop()
            news = line()
            while "ask:7" not in news["gone"]:
                news = line()
            daemon.start()
            while "ask:7" not in line()["set"]:
                pass
        assert len(daemon.received(Follow)) == 2
    finally:
        assert console.end() == (0, "")
        daemon.close()


def test_a_daemon_that_comes_back_as_another_version_ends_it_with_the_next_step(
    tmp_path: Path,
) -> None:
    daemon = Daemon(tmp_path / "s")
    console = Console(tmp_path / "s")
    try:
        daemon.stop()
        daemon.scripted.version = 99
        daemon.start()
        assert console.process.wait(15) == 1
        assert "install both from the same release" in console.end()[1]
    finally:
        daemon.close()
