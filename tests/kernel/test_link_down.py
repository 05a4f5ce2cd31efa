"""`link_down`: what happens to a connection whose link is down. It never leaves elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from capture import Capture
from running import UDP_CLIENT, Arbiter, Prompt, eventually, python

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import LTE, SERVER4, SERVER6

CURL4 = ("curl", "-sS", "-m", "20", f"http://{SERVER4}/")
CURL6 = ("curl", "-sS", "-g", "-m", "20", f"http://[{SERVER6}]/")
STRICT = "route via=lte host=internet"


def over(output: str) -> str:
    return output.split("link=")[1].split()[0]


def cut(lab: Lab, arbiter: Arbiter) -> None:
    """The mobile link is down, and the daemon has seen it."""
    lab.run(["ip", "link", "set", LTE.interface, "down"])
    eventually(lambda: "lte (wwan0, down)" in (arbiter.home / "log").read_text())


def elsewhere(capture: Capture) -> list[tuple[str, str, int]]:
    """Where packets to the servers went over the other link."""
    sent = capture.sent("wifi")
    return [(f.source, f.destination, f.dport) for f in sent if f.destination in (SERVER4, SERVER6)]


def test_refuse_refuses_tcp_udp_and_ping_within_a_second(clean_lab: Lab, tmp_path: Path) -> None:
    with (
        Arbiter(clean_lab, tmp_path, settings='link_down = "refuse"') as arbiter,
        Prompt(arbiter) as prompt,
        Capture(clean_lab) as capture,
    ):
        arbiter.add(STRICT)
        cut(clean_lab, arbiter)
        for argv in (CURL4, CURL6):
            code, output, seconds = arbiter.run(*argv)
            assert (code, seconds < 1) == (7, True), output
        for server in (SERVER4, SERVER6):
            code, output, seconds = arbiter.run(*python(UDP_CLIENT, server, "7", "1"))
            assert (code, seconds < 2) == (1, True), output
            code, output, seconds = arbiter.run("ping", "-c", "1", "-W", "5", server)
            assert (code != 0, seconds < 2) == (True, True), output
        eventually(lambda: "no link of lte carries IPv" in arbiter.last_note())
        clean_lab.mend("lte")
        prompt.told("link lte is up")
        assert over(arbiter.run(*CURL4)[1]) == "lte"
        assert elsewhere(capture) == []
        assert arbiter.asks() == []


def test_wait_goes_on_when_the_link_is_back_and_says_so(clean_lab: Lab, tmp_path: Path) -> None:
    settings = 'link_down = "wait"\ndeadline = 15.0'
    with (
        Arbiter(clean_lab, tmp_path, settings=settings) as arbiter,
        Prompt(arbiter) as prompt,
        Capture(clean_lab) as capture,
    ):
        arbiter.add(STRICT)
        cut(clean_lab, arbiter)
        waiting = [arbiter.program(*CURL4), arbiter.program(*CURL6)]
        waiting.append(arbiter.program(*python(UDP_CLIENT, SERVER4, "7", "1")))
        told = prompt.told("curl waits: no link of lte carries IPv4 there now")
        assert told.endswith("it is refused in 15 s")
        prompt.told("curl waits", "IPv6")
        eventually(lambda: len([t for t in prompt.notices() if "waits" in t]) >= 3)
        assert [program.poll() for program in waiting] == [None] * 3
        assert arbiter.asks() == [], "there is nothing to ask"
        clean_lab.mend("lte")
        for program in waiting:
            output, _ = program.communicate(timeout=12)
            assert (program.returncode, over(output)) == (0, "lte"), output
        assert elsewhere(capture) == []


def test_wait_ends_with_a_refusal_at_the_deadline(clean_lab: Lab, tmp_path: Path) -> None:
    settings = 'link_down = "wait"\ndeadline = 2.0'
    with (
        Arbiter(clean_lab, tmp_path, settings=settings) as arbiter,
        Capture(clean_lab) as capture,
    ):
        arbiter.add(STRICT)
        cut(clean_lab, arbiter)
        began = time.monotonic()
        programs = [arbiter.program(*CURL4), arbiter.program(*CURL6)]
        for program in programs:
            output, _ = program.communicate(timeout=12)
            assert program.returncode == 7, output
        assert 1.9 < time.monotonic() - began < 8
        assert elsewhere(capture) == []


@pytest.mark.parametrize(
    ("answer", "taken"), [("route via=wifi", "wifi"), ("allow", "wifi"), ("deny", "")]
)
def test_ask_asks_why_and_takes_the_answer(
    clean_lab: Lab, tmp_path: Path, answer: str, taken: str
) -> None:
    with (
        Arbiter(clean_lab, tmp_path, settings='link_down = "ask"') as arbiter,
        Prompt(arbiter) as prompt,
    ):
        arbiter.add(STRICT)
        cut(clean_lab, arbiter)
        with Capture(clean_lab) as capture:
            program = arbiter.program(*CURL4)
            ask = prompt.ask()
            assert "no link of lte carries IPv4 there now" in ask.why
            assert ask.fallback == protocol.Choice.DENY, "nobody's silence lets it go elsewhere"
            assert [(link.name, link.up) for link in ask.links] == [("wifi", True), ("lte", False)]
            assert elsewhere(capture) == []
            arbiter.answer(answer, "--for", "once")
            output, _ = program.communicate(timeout=12)
            assert (over(output) if taken else "") == taken
            assert (program.returncode == 7) is (not taken)


def test_ask_goes_on_by_itself_when_the_link_is_back(clean_lab: Lab, tmp_path: Path) -> None:
    with (
        Arbiter(clean_lab, tmp_path, settings='link_down = "ask"') as arbiter,
        Prompt(arbiter) as prompt,
        Capture(clean_lab) as capture,
    ):
        arbiter.add(STRICT)
        cut(clean_lab, arbiter)
        program = arbiter.program(*CURL4)
        ask = prompt.ask()
        clean_lab.mend("lte")
        output, _ = program.communicate(timeout=12)
        assert over(output) == "lte"
        eventually(lambda: arbiter.asks() == [])
        gone = [m for m in prompt.messages if isinstance(m, protocol.Withdraw)]
        assert [message.ask for message in gone] == [ask.id]
        assert elsewhere(capture) == []
