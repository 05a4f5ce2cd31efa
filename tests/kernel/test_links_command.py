"""`arbiter links` with its options; link files read anew by the daemon; routing numbers chosen."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from running import ARBITER, Arbiter, Prompt, end_flows, eventually, forget_closed

from arbiter.lab import Lab
from arbiter.lab.config import LTE, SECOND4, SERVER4, SERVER6, WIFI

CURL = ("curl", "-sS", "-m", "8", f"http://{SERVER4}/")
GOOD = '[link]\nname = "mobile"\nmatch = { interface = "wwan*" }\nprice = "0.02 EUR/MB"\n'


def over(output: str) -> str:
    return output.split("link=")[1].split()[0]


class Watching:
    """`arbiter links --watch`, line by line."""

    def __init__(self, arbiter: Arbiter, *options: str) -> None:
        config = str(arbiter.home / "config"), "--state", str(arbiter.home / "state")
        self._program = arbiter.lab.popen(
            [*ARBITER, "links", "--watch", "--config", *config, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=arbiter.command_environment(),
        )
        assert self._program.stdout is not None
        os.set_blocking(self._program.stdout.fileno(), False)
        self._text = b""

    def line(self) -> str:
        """The next line, once it is there."""
        return eventually(self._line)

    def _line(self) -> str:
        assert self._program.stdout is not None
        self._text += self._program.stdout.read() or b""
        line, end, rest = self._text.partition(b"\n")
        if not end:
            return ""
        self._text = rest
        return line.decode()

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        """Ctrl-C ends it, in silence."""
        self._program.send_signal(signal.SIGINT)
        _, errors = self._program.communicate(timeout=10)
        assert (self._program.returncode, errors) == (0, b"")


# --- links --watch --------------------------------------------------------------------------


def test_watch_says_each_change_until_ctrl_c(clean_lab: Lab, tmp_path: Path) -> None:
    with Watching(Arbiter(clean_lab, tmp_path)) as watching:  # the daemon need not run
        assert watching.line().split()[:3] == ["name", "interface", "kind"]
        assert [watching.line().split()[0] for _ in range(2)] == ["wifi", "lte"]
        clean_lab.run(["ip", "link", "set", LTE.interface, "down"])
        said = watching.line()
        while not said.endswith(" link lte is down"):
            assert " link lte is up for IPv" in said  # one family may go before the other
            said = watching.line()
        assert re.fullmatch(r"\d\d:\d\d:\d\d link lte is down", said)
        clean_lab.mend("lte")
        said = watching.line()
        while not said.endswith(" link lte is up"):
            assert " link lte is up for IPv" in said
            said = watching.line()


def test_watch_json_gives_all_links_in_one_line_a_change(clean_lab: Lab, tmp_path: Path) -> None:
    with Watching(Arbiter(clean_lab, tmp_path), "--json") as watching:
        first = json.loads(watching.line())
        assert [(link["name"], link["up4"]) for link in first] == [("wifi", True), ("lte", True)]
        assert [link["addresses4"] for link in first] == [[WIFI.host4], [LTE.host4]]
        assert first[1]["addresses6"] == [LTE.host6]
        assert WIFI.host6 in first[0]["addresses6"]  # beside one that is its LAN's only
        clean_lab.run(["ip", "link", "set", LTE.interface, "down"])
        now = json.loads(watching.line())
        while now[1]["up4"] or now[1]["up6"]:
            now = json.loads(watching.line())
        assert now[0] == first[0]


# --- links usage ----------------------------------------------------------------------------


def test_usage_is_added_up_as_asked(clean_lab: Lab, tmp_path: Path) -> None:
    # Of its own: what an earlier daemon let go would be counted, too.
    lab = clean_lab
    with Arbiter(lab, tmp_path, links={"mobile.toml": GOOD}) as arbiter:
        assert arbiter.usage() == []
        forget_closed(lab)
        arbiter.add(f"route via=mobile host={SERVER4}")
        arbiter.add("allow host=internet")
        for address in (SERVER4, SECOND4):
            url = f"http://{address}/bytes/200000"
            assert arbiter.run("curl", "-sS", "-m", "8", "-o", "/dev/null", url)[0] == 0
        assert arbiter.run("wget", "-q", "-O", "/dev/null", "-T", "8", url)[0] == 0
        end_flows(lab, 0, 2)
        eventually(lambda: sum(row["connections"] for row in arbiter.usage()) == 3)
        month = arbiter.usage()[0]["month"]
        (row,) = arbiter.usage("--by", "link", "--link", "mobile")
        assert (row["link"], row["connections"], row["currency"]) == ("mobile", 1, "EUR")
        bytes_used = row["sent_bytes"] + row["received_bytes"]
        assert float(row["cost"]) == pytest.approx(bytes_used * 0.02 / 1e6)
        by_app = arbiter.usage("--by", "app")
        assert [row["app"] for row in by_app] == ["/usr/bin/curl", "/usr/bin/wget"]
        assert [row["connections"] for row in by_app] == [2, 1]
        assert by_app[0]["cost"] is None
        (wget,) = arbiter.usage("--app", "/usr/bin/wget")
        assert (wget["link"], wget["connections"]) == ("wifi", 1)
        (day,) = arbiter.usage("--by", "day,user")
        assert (day["user"], day["day"][:7]) == ("root", month)
        assert {row["sim"] for row in arbiter.usage("--by", "sim,link")} == {""}
        assert arbiter.usage("--month", month, "--by", "user")[0]["connections"] == 3
        assert arbiter.usage("--month", "2020-01") == []

        table = arbiter.ran("links", "usage", "--config", str(tmp_path / "config")).stdout
        assert table.splitlines()[0].split()[-1] == "cost"
        assert re.search(r"mobile .*/usr/bin/curl .* 0\.0\d EUR", table)
        done = arbiter.ran("links", "usage", "--month", "2020-01")
        assert (done.returncode, done.stdout) == (0, "nothing was used in 2020-01\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--by", "links"), "--by links: give link, sim, app, user, day"),
        (("--by", "link,link"), "each once"),
        (("--month", "2026-13"), "write it as 2026-07"),
        (("--month", "last"), "write it as 2026-07"),
    ],
)
def test_usage_errors_say_what_to_write(
    lab: Lab, tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    done = Arbiter(lab, tmp_path).ran("links", "usage", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_usage_without_a_database_says_where_it_looked(lab: Lab, tmp_path: Path) -> None:
    done = Arbiter(lab, tmp_path).ran("links", "usage")
    assert done.returncode == 1
    assert str(tmp_path / "state" / "arbiter.db") in done.stderr


# --- links.d read anew ----------------------------------------------------------------------


def test_a_bad_file_keeps_its_last_good_version_and_is_said_with_its_line(
    lab: Lab, tmp_path: Path
) -> None:
    with Arbiter(lab, tmp_path, links={"mobile.toml": GOOD}) as arbiter, Prompt(arbiter) as prompt:
        assert arbiter.process is not None
        folder = tmp_path / "config" / "links.d"
        log = tmp_path / "log"
        arbiter.add("route via=mobile app=/usr/bin/curl")
        assert over(arbiter.run(*CURL)[1]) == "lte"

        (folder / "mobile.toml").write_text(GOOD.replace("EUR", "eur"))
        (folder / "home.toml").write_text(
            '[link]\nname = "home"\nmatch = { interface = "wlan0" }\n'
        )
        arbiter.process.send_signal(signal.SIGHUP)
        prompt.told("new link: home (wlan0)")
        (problem,) = arbiter.status().problems
        assert problem.startswith(f"{folder}/mobile.toml:4: price = '0.02 eur/MB': ")
        assert problem in log.read_text()
        assert over(arbiter.run(*CURL)[1]) == "lte", "the last good version is not in force"
        program = arbiter.program("wget", "-q", "-O", "-", "-T", "8", CURL[-1])
        links = {link.name: link.price for link in prompt.ask().links}
        assert links == {"home": "", "mobile": "0.02 EUR/MB"}
        arbiter.answer("deny", "--for", "once")
        program.wait(10)

        (folder / "mobile.toml").write_text(GOOD.replace("0.02", "0.05"))
        arbiter.process.send_signal(signal.SIGHUP)
        eventually(lambda: arbiter.status().problems == ())
        (folder / "home.toml").unlink()
        arbiter.process.send_signal(signal.SIGHUP)
        prompt.told("link home is gone")
        assert arbiter.links()["mobile"]["price"] == "0.05 EUR/MB"


# --- numbers of routing ---------------------------------------------------------------------


def test_routing_numbers_are_those_of_the_settings(clean_lab: Lab, tmp_path: Path) -> None:
    settings = "route_table = 9000\nroute_pref = 1200"
    with Arbiter(clean_lab, tmp_path, settings=settings) as arbiter:
        arbiter.add("route via=lte app=/usr/bin/curl")
        for url in (f"http://{SERVER4}/", f"http://[{SERVER6}]/"):
            assert over(arbiter.run("curl", "-sS", "-g", "-m", "8", url)[1]) == "lte"
        for family in ("-4", "-6"):
            rules = json.loads(clean_lab.run(["ip", family, "-j", "rule"]).stdout)
            own = {rule["priority"] for rule in rules if rule.get("protocol") == "65"}
            assert own
            assert all(1200 <= priority <= 1220 for priority in own)
            there = clean_lab.run(["ip", family, "route", "show", "table", "9002"]).stdout
            assert "default" in there
            assert not clean_lab.run(["ip", family, "route", "show", "table", "7002"]).stdout
    assert "proto 65" not in clean_lab.run(["ip", "rule"]).stdout
    assert not clean_lab.run(["ip", "route", "show", "table", "9002"]).stdout


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ("rule add pref 1210 fwmark 0x99 lookup 50", ("preference 1210", "route_pref")),
        ("-6 rule add pref 5000 lookup 9003", ("table 9003", "route_table")),
        ("route add unreachable 203.0.113.0/24 table 9001", ("table 9001", "route_table")),
    ],
)
def test_numbers_that_another_program_uses_are_refused_at_the_start(
    clean_lab: Lab, tmp_path: Path, taken: str, said: tuple[str, str]
) -> None:
    assert clean_lab.run(["ip", *taken.split()]).returncode == 0
    before = [clean_lab.run(["ip", family, "rule"]).stdout for family in ("-4", "-6")]
    with pytest.raises(AssertionError) as refused:
        Arbiter(clean_lab, tmp_path, settings="route_table = 9000\nroute_pref = 1200").start()
    text = str(refused.value)
    assert all(part in text for part in said), text
    assert "in arbiter.toml" in text
    assert "Traceback" not in text
    assert [clean_lab.run(["ip", family, "rule"]).stdout for family in ("-4", "-6")] == before
    assert "ARBITER" not in clean_lab.run(["iptables-save"]).stdout
