"""What is counted agrees with the interfaces, and a budget holds: the real daemon, over restarts.

A flow's last bytes are counted when conntrack forgets it. Where a test does not wait for that, it
makes conntrack forget (`end_flows`), or stops the daemon, which reads all counters at its end.
Each has a lab of its own: what an earlier daemon let go would be counted, too.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from running import (
    Arbiter,
    Prompt,
    carried,
    cut_by_the_link,
    end_flows,
    eventually,
    forget_closed,
    ports,
)

from arbiter import protocol
from arbiter.lab import Lab
from arbiter.lab.config import LTE, SECOND4, SECOND6, SERVER4, SERVER6, WIFI

TO_LTE = (f"route via=lte host={SERVER4}", f"route via=lte host={SERVER6}")
AGREES = 0.05
"""How far the figures may be from the interface's."""


def lte(*lines: str) -> dict[str, str]:
    """links.d with a file for the mobile link."""
    text = "\n".join(["[link]", 'name = "lte"', 'match = { interface = "wwan*" }', *lines])
    return {"lte.toml": text + "\n"}


def url(address: str, path: str = "") -> str:
    return f"http://[{address}]/{path}" if ":" in address else f"http://{address}/{path}"


def curl(address: str, path: str = "", *options: str) -> tuple[str, ...]:
    return ("curl", "-sS", "-g", "-m", "20", *options, url(address, path))


def spend(arbiter: Arbiter, size: int) -> None:
    """Use the mobile link up to a bit more than `size` bytes, and have it counted."""
    forget_closed(arbiter.lab)
    code, output, _ = arbiter.run(*curl(SERVER4, f"bytes/{size}", "-o", "/dev/null"))
    assert code == 0, output
    eventually(lambda: 80 not in ports(arbiter.lab))


def sums(rows: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {row["link"]: (row["sent_bytes"], row["received_bytes"]) for row in rows}


def agrees(found: tuple[int, int], before: tuple[int, int], after: tuple[int, int]) -> None:
    was = [b - a for a, b in zip(before, after, strict=True)]
    assert list(found) == pytest.approx(was, rel=AGREES), (found, was)


# --- bytes ----------------------------------------------------------------------------------


def test_bytes_agree_with_the_interfaces_within_5_percent(clean_lab: Lab, tmp_path: Path) -> None:
    """A routed link and the default one, both families, TCP and UDP, both ways."""
    lab = clean_lab
    interfaces = {"wifi": WIFI.interface, "lte": LTE.interface}
    cut_by_the_link(lab, *interfaces.values())
    forget_closed(lab)
    (tmp_path / "data").write_bytes(b"x" * 2_000_000)
    with Arbiter(lab, tmp_path) as arbiter:
        for line in (*TO_LTE, "allow host=internet"):
            arbiter.add(line)
        before = {name: carried(lab, device) for name, device in interfaces.items()}
        for address in (SERVER4, SERVER6, SECOND4, SECOND6):
            up = curl(address, "", "-T", str(tmp_path / "data"))
            down = ("wget", "-q", "-O", "/dev/null", "-T", "20", url(address, "bytes/3000000"))
            for argv in (up, down):
                code, output, _ = arbiter.run(*argv)
                assert code == 0, output
            datagrams = arbiter.echo(address, "udp")
            datagrams.send(1_000_000)
            datagrams.end()
        end_flows(lab, 0, 2)
        eventually(lambda: sum(row["connections"] for row in arbiter.usage()) == 12)
        after = {name: carried(lab, device) for name, device in interfaces.items()}
        used = sums(arbiter.usage("--by", "link"))
        assert set(used) == {"wifi", "lte"}
        for name in interfaces:
            agrees(used[name], before[name], after[name])
        by_app = {(row["link"], row["app"]): row for row in arbiter.usage()}
        assert len(by_app) == 6
        for name in interfaces:
            sent = by_app[name, "/usr/bin/curl"]
            got = by_app[name, "/usr/bin/wget"]
            assert sent["sent_bytes"] == pytest.approx(2 * 2_000_000 * 1.04, rel=AGREES)
            assert got["received_bytes"] == pytest.approx(2 * 3_000_000 * 1.04, rel=AGREES)


def test_figures_survive_a_stop_and_a_kill_and_nothing_is_counted_twice(
    clean_lab: Lab, tmp_path: Path
) -> None:
    """Connections that live on are continued, for their app; one that began after the last write
    before a kill is counted for its link, whose budget must be right, and for no app."""
    lab = clean_lab
    interfaces = {"wifi": WIFI.interface, "lte": LTE.interface}
    cut_by_the_link(lab, *interfaces.values())
    # Somebody else's stateful firewall, as most machines have one: conntrack works without arbiter.
    own = "add table inet own; add chain inet own c { type filter hook output priority 0; }; "
    assert lab.run(["nft", own + "add rule inet own c ct state established"]).returncode == 0
    arbiter = Arbiter(lab, tmp_path, links=lte('budget = "9 GB/month"'))
    for_link = "--by", "link"

    def compare() -> None:
        after = {name: carried(lab, device) for name, device in interfaces.items()}
        used = sums(arbiter.usage(*for_link))
        assert set(used) == {"wifi", "lte"}
        for name in interfaces:
            agrees(used[name], before[name], after[name])

    with arbiter:
        for line in (*TO_LTE, "allow host=internet"):
            arbiter.add(line)
        before = {name: carried(lab, device) for name, device in interfaces.items()}
        kept = [arbiter.echo(SERVER4), arbiter.echo(SECOND6, "udp")]
        for echo in kept:
            echo.send(1_000_000)
        spend(arbiter, 500_000)
        assert arbiter.stop() == 0
        compare()

        kept[1].send(300_000)  # counted by the kernel; a routed one has no route now
        arbiter.start()
        for echo in kept:
            echo.send(500_000)
        assert arbiter.stop() == 0
        compare()
        by_app = {(row["link"], row["app"]): row for row in arbiter.usage()}
        assert sum(row["connections"] for row in by_app.values()) == 3, by_app
        assert all(app for _, app in by_app), "a connection lost its app over a restart"

        arbiter.start()
        spend(arbiter, 400_000)
        eventually(lambda: sum(row["connections"] for row in arbiter.usage()) == 4)
        late = [arbiter.echo(SERVER6), arbiter.echo(SECOND4)]
        for echo in (*kept, *late):
            echo.send(500_000)
        assert arbiter.stop(signal.SIGKILL) == -signal.SIGKILL
        used = sums(arbiter.usage(*for_link))
        assert used["lte"][1] > 1_000_000 + 500_000 + 500_000 + 400_000
        arbiter.start()
        for echo in (*kept, *late):
            echo.send(200_000)
        assert arbiter.stop() == 0
        compare()
        rows = arbiter.usage()
        assert sum(row["connections"] for row in rows) == 6
        unknown = {row["link"]: row["sent_bytes"] for row in rows if not row["app"]}
        assert unknown == {
            "lte": pytest.approx(700_000 * 1.05, rel=AGREES),
            "wifi": pytest.approx(700_000 * 1.05, rel=AGREES),
        }
        left = arbiter.links()["lte"]["left_bytes"]
        assert left == 9_000_000_000 - sum(sums(arbiter.usage(*for_link))["lte"])
        arbiter.start()


# --- budgets --------------------------------------------------------------------------------

BUDGET = 'price = "0.02 EUR/MB"', 'budget = "1 MB/month"'


def over(output: str) -> str:
    """The link that a server's answer names."""
    return output.split("link=")[1].split()[0]


def test_a_used_up_budget_asks_once_and_over_a_restart_and_anew_in_the_next_period(
    clean_lab: Lab, tmp_path: Path
) -> None:
    arbiter = Arbiter(clean_lab, tmp_path, links=lte(*BUDGET))
    with arbiter:
        arbiter.add("route via=lte app=/usr/bin/curl")
        with Prompt(arbiter) as prompt:
            spend(arbiter, 300_000)
            eventually(lambda: arbiter.links()["lte"]["month_bytes"] > 300_000)
            left = arbiter.links()["lte"]["left_bytes"]
            assert left == 1_000_000 - arbiter.links()["lte"]["month_bytes"]
            assert prompt.notices() == []
            spend(arbiter, 900_000)
            text = prompt.told("link lte is over its budget: 1.2 MB of 1 MB/month used")

            program = arbiter.program(*curl(SERVER4))
            ask = prompt.ask()
            assert "lte is over its budget: 1.2 MB of 1 MB/month used" in ask.why
            wifi, lte_view = ask.links
            assert (wifi.name, wifi.price, wifi.budget, wifi.left) == ("wifi", "", "", None)
            assert (lte_view.name, lte_view.price) == ("lte", "0.02 EUR/MB")
            assert (lte_view.budget, lte_view.left) == ("1 MB/month", 0)
            used = lte_view.used
            assert used is not None and used > 1_200_000
            # What the daemon knows is on disk a second later.
            eventually(lambda: arbiter.links()["lte"]["month_bytes"] == used)
            assert ask.fallback == protocol.Choice.DENY
            arbiter.answer("route via=lte", "--for", "forever", "--scope", "app")
            output, _ = program.communicate(timeout=10)
            assert over(output) == "lte"
            assert over(arbiter.run(*curl(SERVER6))[1]) == "lte", "it was asked about twice"
            assert sum(t == text for t in prompt.notices()) == 1
        shown = arbiter.links()["lte"]
        assert (shown["left_bytes"], shown["over_budget"]) == (0, "ask")
        lines = arbiter.ran(
            "links", "--config", str(tmp_path / "config"), "--state", str(tmp_path / "state")
        ).stdout
        assert "0.02 EUR/MB" in lines
        assert "over 1 MB/month" in lines
        (row,) = arbiter.usage("--by", "link")
        cost = (row["sent_bytes"] + row["received_bytes"]) * 0.02 / 1e6
        assert float(row["cost"]) == pytest.approx(cost)

        assert arbiter.stop(signal.SIGKILL) == -signal.SIGKILL
        arbiter.start()
        assert over(arbiter.run(*curl(SERVER4))[1]) == "lte", "it was asked again after a restart"
        arbiter.add("route via=lte app=/usr/bin/wget")
        assert arbiter.stop() == 0
        # The period is over: what was used was used two months ago.
        arbiter.database("UPDATE usage SET day = date(day, '-62 days')")
        arbiter.start()
        assert arbiter.links()["lte"]["left_bytes"] == 1_000_000
        assert over(arbiter.run(*curl(SERVER4))[1]) == "lte"
        spend(arbiter, 1_100_000)
        with Prompt(arbiter) as prompt:
            eventually(lambda: arbiter.links()["lte"]["left_bytes"] == 0)
            program = arbiter.program(*curl(SERVER4))
            assert "over its budget" in prompt.ask().why, "an old answer holds for a new period"
            arbiter.answer("deny", "--for", "once")
            assert program.wait(5) == 7


@pytest.mark.parametrize(
    ("rule", "then", "taken"),
    [
        ("route via=lte", "deny", ""),
        ("route via=lte,any", "deny", "wifi"),
        ("route via=metered,unmetered", "deny", "wifi"),
        ("route via=lte,wifi", "allow", "lte"),
    ],
)
def test_over_its_budget_a_link_is_left_out_or_goes_on(
    clean_lab: Lab, tmp_path: Path, rule: str, then: str, taken: str
) -> None:
    links = lte(*BUDGET, f'over_budget = "{then}"')
    with Arbiter(clean_lab, tmp_path, links=links) as arbiter, Prompt(arbiter) as prompt:
        arbiter.add(f"{rule} app=/usr/bin/curl")
        spend(arbiter, 1_100_000)
        prompt.told("lte is over its budget")
        code, output, seconds = arbiter.run(*curl(SERVER4))
        if taken:
            assert (code, over(output)) == (0, taken), output
        else:
            assert (code, seconds < 1) == (7, True)
        note = "1.1 MB of 1 MB/month used" if taken != "wifi" else "over"
        eventually(lambda: note in arbiter.last_note())
        assert arbiter.asks() == []


def test_a_default_link_over_its_budget_asks_too(clean_lab: Lab, tmp_path: Path) -> None:
    """Nothing routes it there: it is allowed, and that link is where it would go."""
    links = {
        "wifi.toml": '[link]\nname = "wifi"\nmatch = { interface = "wlan0" }\nbudget = "1 MB/month"'
    }
    with Arbiter(clean_lab, tmp_path, links=links) as arbiter, Prompt(arbiter) as prompt:
        arbiter.add("allow app=/usr/bin/curl")
        spend(arbiter, 1_100_000)
        prompt.told("wifi is over its budget")
        program = arbiter.program(*curl(SERVER4))
        assert "wifi is over its budget: 1.1 MB of 1 MB/month used" in prompt.ask().why
        arbiter.answer("route via=lte", "--for", "once")
        output, _ = program.communicate(timeout=10)
        assert over(output) == "lte"
