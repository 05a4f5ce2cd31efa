"""What our rules, routes and sysctls leave behind on the real kernel: nothing, however we end."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import msgspec
import pytest
from routescene import plan_of, sh, state

from arbiter.kernel import linksysctl, routes
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.lab import Lab
from arbiter.routeplan import RoutePlan


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "run" / "sysctl.json"


# --- nothing is left ------------------------------------------------------------------------


def test_remove_leaves_rules_routes_and_sysctls_exactly_as_they_were(
    clean_lab: Lab, notes: Path
) -> None:
    sh(clean_lab, "sysctl -qw net.ipv4.conf.wlan0.rp_filter=1")
    sh(clean_lab, "ip rule add pref 5 fwmark 0x5 lookup 77")
    before = state(clean_lab)
    plan = plan_of(clean_lab)
    clean_lab.inside(lambda: routes.apply(plan))
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0", "wwan0"], notes)) == ()
    during = state(clean_lab)
    assert all(a != b for a, b in zip(before, during, strict=True)), "nothing was done"
    for _ in range(2):
        assert clean_lab.inside(routes.remove) == ()
        assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
        assert state(clean_lab) == before
    assert not notes.exists()


def test_remove_finds_what_another_run_with_other_settings_left(clean_lab: Lab) -> None:
    before = state(clean_lab)
    plan = plan_of(clean_lab)
    for table, preference, mask in ((9000, 300, 0x7F), (7000, 900, 0x7F000000)):
        other = RoutePlan(plan.links, table, preference, mask)
        with clean_lab.inside(Rtnetlink) as net:
            for rule in other.rules():
                net.add_rule(rule)
            for route in other.routes():
                net.replace_route(route)
    assert clean_lab.inside(routes.remove) == ()
    assert state(clean_lab) == before


KILLED = """
import os, signal, sys
from pathlib import Path
import msgspec
from arbiter.kernel import linksysctl, routes
from arbiter.kernel.rtnetlink import Rtnetlink
from arbiter.routeplan import RoutePlan
plan = msgspec.json.decode(sys.stdin.read(), type=RoutePlan)
left = int(sys.argv[2])
def step(original):
    def run(*args):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return original(*args)
    return run
Rtnetlink.add_rule = step(Rtnetlink.add_rule)
Rtnetlink.replace_route = step(Rtnetlink.replace_route)
Path.write_text = step(Path.write_text)
linksysctl._store = step(linksysctl._store)
linksysctl.apply(["wlan0", "wwan0"], Path(sys.argv[1]))
routes.apply(plan)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_remove_after_sigkill_at_any_step_leaves_nothing(clean_lab: Lab, notes: Path) -> None:
    before = state(clean_lab)
    plan = msgspec.json.encode(plan_of(clean_lab)).decode()
    for steps in (0, 1, 3, 5, 15, 17, 22, 99):
        argv = [sys.executable, "-P", "-c", KILLED, str(notes), str(steps)]
        done = clean_lab.run(argv, input=plan)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert (state(clean_lab) != before) == (steps > 1)
        assert clean_lab.inside(routes.remove) == ()
        assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
        assert state(clean_lab) == before


# --- sysctls --------------------------------------------------------------------------------


def value(lab: Lab, name: str) -> str:
    return sh(lab, f"sysctl -n net.ipv4.conf.{name}").strip()


def test_a_sysctl_that_was_changed_since_stays_and_is_said(clean_lab: Lab, notes: Path) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0"], notes)) == ()
    assert (value(clean_lab, "wlan0.rp_filter"), value(clean_lab, "all.rp_filter")) == ("2", "0")
    sh(clean_lab, "sysctl -qw net.ipv4.conf.wlan0.rp_filter=1")
    (text,) = clean_lab.inside(lambda: linksysctl.restore(notes))
    assert "net.ipv4.conf.wlan0.rp_filter is 1" in text
    assert value(clean_lab, "wlan0.rp_filter") == "1"
    assert value(clean_lab, "wlan0.src_valid_mark") == "0"


def test_sysctls_follow_a_renamed_link_and_forget_one_that_is_gone(
    clean_lab: Lab, notes: Path
) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0", "wwan0"], notes)) == ()
    sh(clean_lab, "ip link set wlan0 down")
    sh(clean_lab, "ip link set wlan0 name radio0")
    sh(clean_lab, "ip link del wwan0")
    assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
    assert value(clean_lab, "radio0.rp_filter") == value(clean_lab, "radio0.src_valid_mark") == "0"


def test_a_link_that_is_none_any_more_gets_its_sysctls_back(clean_lab: Lab, notes: Path) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0", "wwan0"], notes)) == ()
    assert clean_lab.inside(lambda: linksysctl.apply(["wwan0"], notes)) == ()
    assert (value(clean_lab, "wlan0.rp_filter"), value(clean_lab, "wwan0.rp_filter")) == ("0", "2")


@pytest.mark.parametrize("name", ["all", "default", "lo", "../all", "a/b", "", "x" * 16, "nope0"])
def test_no_sysctl_is_written_for_what_is_no_link(clean_lab: Lab, notes: Path, name: str) -> None:
    before = state(clean_lab)
    said = clean_lab.inside(lambda: linksysctl.apply([name], notes))
    assert bool(said) == (name != "nope0")
    assert state(clean_lab) == before


@pytest.mark.parametrize("rubbish", [b"", b"{", b"\xff\xfe", b'{"boot": 3}', b"[" * 100_000])
def test_notes_that_cannot_be_read_are_said_and_nothing_is_touched(
    clean_lab: Lab, notes: Path, rubbish: bytes
) -> None:
    notes.parent.mkdir()
    notes.write_bytes(rubbish)
    before = state(clean_lab)
    for action in (lambda: linksysctl.restore(notes), lambda: linksysctl.apply(["wlan0"], notes)):
        (text,) = clean_lab.inside(action)
        assert str(notes) in text
    assert state(clean_lab) == before
    assert notes.read_bytes() == rubbish


def test_notes_of_another_namespace_are_not_used_here(clean_lab: Lab, notes: Path) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0"], notes)) == ()
    (text,) = clean_lab.inside(lambda: linksysctl.restore(notes), "wifi")
    assert "another network namespace" in text
    assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
    assert value(clean_lab, "wlan0.rp_filter") == "0"


def test_notes_name_no_other_sysctl(clean_lab: Lab, notes: Path) -> None:
    assert clean_lab.inside(lambda: linksysctl.apply(["wlan0"], notes)) == ()
    kept = json.loads(notes.read_bytes())
    kept["saved"][0]["was"]["../../ip_forward"] = "1"
    kept["saved"][0]["was"]["forwarding"] = "1"
    notes.write_text(json.dumps(kept))
    assert clean_lab.inside(lambda: linksysctl.restore(notes)) == ()
    assert value(clean_lab, "wlan0.forwarding") == "0"
    assert sh(clean_lab, "sysctl -n net.ipv4.ip_forward").strip() == "0"
