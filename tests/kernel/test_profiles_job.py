"""Profiles on the real kernel: where the machine is decides new connections, and only those."""

from __future__ import annotations

import json
from pathlib import Path

from running import Arbiter, Prompt, eventually, python

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6

HOME, OFFICE, CAFE = (f"02:00:5e:10:00:0{n}" for n in "abc")
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 7), 8)"
CURL = ("curl", "-sS", "-m", "8", f"http://{SERVER4}/")
CURL6 = ("curl", "-sS", "-g", "-m", "8", f"http://[{SERVER6}]/")


def come_onto(lab: Lab, mac: str, link: str = "wifi") -> None:
    """The router of a link is another one: it has this MAC address."""
    assert lab.run(["ip", "link", "set", "access0", "address", mac], ns=link).returncode == 0
    interface = lab.config.link(link).interface
    assert lab.run(["ip", "neigh", "flush", "dev", interface]).returncode == 0


def networks(arbiter: Arbiter, link: str = "wifi") -> list[str]:
    found: list[str] = arbiter.links()[link]["networks"]
    return found


def profile(arbiter: Arbiter) -> str:
    return arbiter.status().profile


def do(arbiter: Arbiter, *argv: str) -> str:
    done = arbiter.ran("profiles", *argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def goes(arbiter: Arbiter) -> bool:
    """Whether curl may go, by both families; what may not is refused at once."""
    codes = {arbiter.run(*argv)[0] for argv in (CURL, CURL6)}
    assert codes in ({0}, {7}), codes
    return codes == {0}


def test_a_change_of_network_switches_new_connections_only_and_undo_goes_back(
    clean_lab: Lab, tmp_path: Path
) -> None:
    come_onto(clean_lab, HOME)
    enforce = "--mode", "enforce"
    with Arbiter(clean_lab, tmp_path, *enforce) as arbiter:
        with Prompt(arbiter) as prompt:
            eventually(lambda: networks(arbiter) == [f"gateway:{HOME}"])
            do(arbiter, "add", "office", "--network", f"gateway:{OFFICE}")
            arbiter.add(
                "allow app=/usr/bin/curl profile=home",
                "deny app=/usr/bin/curl profile=office",
                "allow port=7 profile=home",
            )
            assert not goes(arbiter)
            # Bound where the machine is: it counts at once.
            assert f"gateway:{HOME}" in do(arbiter, "add", "home", "--here")
            prompt.told("profile home: on gateway:", "`arbiter profiles undo` goes back")
            assert (profile(arbiter), goes(arbiter)) == ("home", True)
            running = arbiter.echo(SERVER4)
            running.send(1000)

            come_onto(clean_lab, CAFE)
            eventually(lambda: networks(arbiter) == [f"gateway:{CAFE}"])
            prompt.told(f"link wifi is on gateway:{CAFE}")
            assert (profile(arbiter), goes(arbiter)) == ("home", True)

            come_onto(clean_lab, OFFICE)
            prompt.told(f"profile office: on gateway:{OFFICE}")
            assert (profile(arbiter), goes(arbiter)) == ("office", False)
            assert "refused" in arbiter.run(*python(CONNECT, SERVER4))[1]
            running.send(1000)  # what was allowed goes on

            assert "office → home" in do(arbiter, "undo")
            prompt.told("profile home: undo of switch 2 by root")
            assert (profile(arbiter), goes(arbiter)) == ("home", True)
            running.send(1000)
            running.end()

        # A restart on the same network: the same profile, and no word of it.
        history = arbiter.json("profiles", "history")
        assert [(s["before"], s["after"]) for s in history] == [
            (None, "home"),
            ("home", "office"),
            ("office", "home"),
        ]
        arbiter.stop()
        arbiter.start()
        with Prompt(arbiter) as prompt:
            eventually(lambda: networks(arbiter) == [f"gateway:{OFFICE}"])
            assert (profile(arbiter), goes(arbiter)) == ("home", True)
            assert [text for text in prompt.notices() if "profile" in text] == []
            assert arbiter.json("profiles", "history") == history
            # The office again is no other network; home is, and then the office.
            come_onto(clean_lab, HOME)
            eventually(lambda: networks(arbiter) == [f"gateway:{HOME}"])
            eventually(lambda: "home" in places(arbiter))
            come_onto(clean_lab, OFFICE)
            prompt.told(f"profile office: on gateway:{OFFICE}")
            assert not goes(arbiter)
        records = arbiter.database("SELECT DISTINCT profile FROM decisions ORDER BY profile")
        assert {"home", "office"} <= {str(row[0]) for row in records}


def silence(lab: Lab, arp: str) -> None:
    """The router of wifi answers no question for its address any more, or does again."""
    assert lab.run(["ip", "link", "set", "access0", "arp", arp], ns="wifi").returncode == 0
    assert lab.run(["ip", "neigh", "flush", "dev", "wlan0"]).returncode == 0


def places(arbiter: Arbiter) -> set[str]:
    """The place as it was kept last."""
    rows = arbiter.database("SELECT place FROM profile_switches ORDER BY id DESC LIMIT 1")
    return {str(row[0]) for row in rows}


def test_of_two_known_networks_that_of_the_default_link_says(
    clean_lab: Lab, tmp_path: Path
) -> None:
    come_onto(clean_lab, HOME)
    come_onto(clean_lab, OFFICE, "lte")
    with Arbiter(clean_lab, tmp_path, "--mode", "enforce") as arbiter, Prompt(arbiter) as prompt:
        eventually(lambda: networks(arbiter, "lte") == [f"gateway:{OFFICE}"])
        eventually(lambda: networks(arbiter) == [f"gateway:{HOME}"])
        arbiter.add("allow app=/usr/bin/curl profile=home")
        do(arbiter, "add", "home", "--network", f"gateway:{HOME}")
        prompt.told("profile home: on gateway:")
        do(arbiter, "add", "mobile", "--network", f"gateway:{OFFICE}")
        assert goes(arbiter)
        # A router that is silent for a while is still the same router.
        silence(clean_lab, "off")
        eventually(lambda: networks(arbiter) == [])
        assert profile(arbiter) == "home"
        silence(clean_lab, "on")
        eventually(lambda: networks(arbiter) == [f"gateway:{HOME}"])
        assert (profile(arbiter), goes(arbiter)) == ("home", True)
        arbiter.stop()
        silence(clean_lab, "on")  # nothing is known of it when arbiter starts
        arbiter.start()
        eventually(lambda: networks(arbiter) == [f"gateway:{HOME}"])
        assert len(arbiter.json("profiles", "history")) == 1
    with Arbiter(clean_lab, tmp_path, "--mode", "enforce") as arbiter, Prompt(arbiter) as prompt:
        assert clean_lab.run(["ip", "link", "set", "wlan0", "down"]).returncode == 0
        prompt.told(f"profile mobile: on gateway:{OFFICE}; ")
        assert not goes(arbiter)
        clean_lab.mend("wifi")
        prompt.told(
            f"profile home: on gateway:{HOME}, which comes before gateway:{OFFICE} of mobile"
        )
        assert goes(arbiter)
        shown = json.loads(arbiter.ran("profiles", "list", "--json").stdout)
        assert [(one["name"], one["active"]) for one in shown] == [
            ("home", True),
            ("mobile", False),
        ]


def test_what_is_chosen_by_hand_holds_over_a_restart(clean_lab: Lab, tmp_path: Path) -> None:
    come_onto(clean_lab, HOME)
    with Arbiter(clean_lab, tmp_path, "--mode", "enforce") as arbiter:
        eventually(lambda: networks(arbiter) == [f"gateway:{HOME}"])
        do(arbiter, "add", "home", "--network", f"gateway:{HOME}")
        do(arbiter, "add", "quiet")
        eventually(lambda: profile(arbiter) == "home")
        arbiter.stop()
        do(arbiter, "use", "quiet")
        arbiter.start()
        assert profile(arbiter) == "quiet"
        eventually(lambda: places(arbiter) == {"home"})
        do(arbiter, "use", "none")
        eventually(lambda: profile(arbiter) == "")
        arbiter.stop()
        arbiter.start()
        assert profile(arbiter) == ""
        shown = arbiter.ran("status").stdout
        assert "profile      none" in shown
