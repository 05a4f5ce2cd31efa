"""Rules by name hold through look-ups of others, a restart, and changes of /etc/hosts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from running import PATIENCE, Arbiter, eventually

from arbiter.lab import Lab
from arbiter.lab.config import SERVER4, SERVER6

TO = {SERVER4: f"www.lab.test:80:{SERVER4}", SERVER6: f"www.lab.test:80:[{SERVER6}]"}


def by_address(address: str) -> tuple[str, ...]:
    """curl to that address without a look-up."""
    return ("curl", "-sS", "-m", "4", "--resolve", TO[address], "http://www.lab.test/")


def refused_by(arbiter: Arbiter, *argv: str) -> bool:
    """Whether curl could not connect, or else was served."""
    code, output, _ = arbiter.run(*argv)
    assert code in (0, 7), output
    assert code or "link=" in output
    return code == 7


@pytest.fixture
def denied(clean_lab: Lab, tmp_path: Path) -> Arbiter:
    """Where curl may go anywhere but to www.lab.test."""
    arbiter = Arbiter(clean_lab, tmp_path)
    with arbiter:
        arbiter.add(
            "allow app=/usr/bin/curl",
            "deny app=/usr/bin/curl host=www.lab.test",
            "allow app=/usr/bin/dig",
        )
    return arbiter


@pytest.mark.parametrize("address", [SERVER4, SERVER6])
def test_look_ups_of_other_names_do_not_push_a_denied_one_out(
    denied: Arbiter, address: str
) -> None:
    kind = "AAAA" if ":" in address else "A"
    with denied as arbiter:
        assert not refused_by(arbiter, *by_address(address))
        assert arbiter.run("dig", "+short", "www.lab.test", kind)[1].split() == [address]
        assert refused_by(arbiter, *by_address(address))
        others = [f"q{number}.lab.test" for number in range(20)]
        asked = [part for name in others for part in (name, kind)]
        assert arbiter.run("dig", "+short", *asked)[1].split() == [address] * 20
        assert refused_by(arbiter, *by_address(address))


@pytest.mark.parametrize("address", [SERVER4, SERVER6])
def test_a_restart_keeps_the_names_of_decided_connections(denied: Arbiter, address: str) -> None:
    way = "-6" if ":" in address else "-4"
    with denied as arbiter:
        assert refused_by(arbiter, "curl", "-sS", "-m", "4", way, "http://www.lab.test/")
    with denied as arbiter:
        assert refused_by(arbiter, *by_address(address))
    denied.database("UPDATE daily SET first = first - 3600, last = last - 3600")
    with denied as arbiter:
        assert not refused_by(arbiter, *by_address(address))
        assert eventually(lambda: arbiter.database("SELECT 1 FROM decisions WHERE names = '[]'"))


def test_a_change_of_the_hosts_file_counts_at_once(clean_lab: Lab, tmp_path: Path) -> None:
    """Without any DNS answer. The lab's /etc/hosts is a mount: it can only be written in place."""
    with Arbiter(clean_lab, tmp_path) as arbiter:
        arbiter.add("allow app=/usr/bin/curl", "deny app=/usr/bin/curl host=nas.home")
        plain = ("curl", "-sS", "-m", "4", f"http://{SERVER4}/")
        assert not refused_by(arbiter, *plain)
        write = f"echo {SERVER4} nas.home >>/etc/hosts"
        assert clean_lab.run(["sh", "-c", write], user="root").returncode == 0
        time.sleep(PATIENCE)
        assert refused_by(arbiter, *plain)
