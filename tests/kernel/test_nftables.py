"""Tables and chains of nftables over netlink: as the tool shows them; only empty ones go."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator

import pytest
from firewallscene import KERNEL_ONLY, empty, sh

from arbiter.kernel import netlink
from arbiter.kernel.firewall import nftables, probe
from arbiter.kernel.firewall.nftables import Item, chains, delete_empty
from arbiter.kernel.netlinkcalls import NetlinkCalls

pytestmark = KERNEL_ONLY

OTHERS = """
table ip mangle {
    chain OUTPUT { type route hook output priority mangle; policy accept; }
    chain INPUT { type filter hook input priority mangle; policy accept; ip daddr 1.2.3.4 counter; }
    chain FORWARD { type filter hook forward priority mangle; policy drop; }
    chain mine { }
}
table ip6 nat {
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; }
}
table ip filter {
    set kept { type ipv4_addr; }
}
table inet a {
    chain back-ward { }
}
table bridge b { }
table arp c {
    chain INPUT { type filter hook input priority 0; policy accept; }
}
"""


MANY = 700
"""Tables: more than the 32 KiB of one datagram. nft takes minutes for 2,000 if it is emulated."""


@pytest.fixture(autouse=True)
def home() -> Iterator[None]:
    with empty():
        yield


def load(text: str) -> None:
    probe.run([probe.need_tool("nft"), "-f", "-"], text)


def test_what_it_finds_is_what_the_tool_shows() -> None:
    assert chains() == {}
    load(OTHERS)
    shown: nftables.Chains = {}
    for item in json.loads(sh("nft", "-j", "list", "ruleset"))["nftables"]:
        if table := item.get("table"):
            shown[table["family"], table["name"]] = {}
        if chain := item.get("chain"):
            shown[chain["family"], chain["table"]][chain["name"]] = chain.get("policy", "")
    assert chains() == shown
    assert len(shown) == 6 and shown["inet", "a"] == {"back-ward": ""}


def test_more_tables_than_one_datagram_holds_are_all_found() -> None:
    load("".join(f"table ip t{n} {{\nchain c{n} {{ }}\nchain d {{ }}\n}}\n" for n in range(MANY)))
    assert chains() == {("ip", f"t{n}"): {f"c{n}": "", "d": ""} for n in range(MANY)}
    delete_empty(Item("ip", f"t{n}") for n in range(MANY))  # of others: none of them is empty
    assert len(chains()) == MANY


@pytest.mark.parametrize(
    ("item", "goes"),
    [
        (Item("ip", "mangle", "OUTPUT"), True),
        (Item("ip", "mangle", "INPUT"), False),  # it has a rule
        (Item("ip", "mangle", "FORWARD"), False),  # its policy is one
        (Item("ip", "mangle", "mine"), False),  # not a built-in one
        (Item("ip", "mangle", "gone"), False),
        (Item("ip6", "nat", "POSTROUTING"), True),
        (Item("ip6", "nat"), False),  # it has a chain
        (Item("ip", "nat"), False),  # of the other family
        (Item("ip", "filter"), False),  # it has a set
        (Item("bridge", "b"), True),
    ],
)
def test_only_what_is_empty_goes(item: Item, goes: bool) -> None:
    load(OTHERS)
    before = sh("nft", "list", "ruleset")
    there = chains()
    delete_empty([item])
    if not goes:
        assert sh("nft", "list", "ruleset") == before
    elif item.chain:
        del there[item.family, item.table][item.chain]
    else:
        del there[item.family, item.table]
    assert chains() == there


def test_a_table_goes_with_its_chains_whatever_else_stays() -> None:
    load(OTHERS)
    delete_empty(
        [Item("ip6", "nat"), Item("ip6", "nat", "POSTROUTING"), Item("ip", "mangle", "INPUT"),
         Item("ip", "mangle"), Item("ip", "filter"), Item("ip", "mangle", "OUTPUT")]
    )  # fmt: skip
    there = chains()
    assert ("ip6", "nat") not in there and ("ip", "filter") in there
    assert set(there["ip", "mangle"]) == {"INPUT", "FORWARD", "mine"}
    assert "1.2.3.4" in sh("nft", "list", "ruleset")


def test_what_is_taken_into_use_between_look_and_deletion_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its policy, too, which the kernel does not look at by itself."""
    load(OTHERS)
    real = nftables._delete
    hook = "type nat hook postrouting priority srcnat"
    changes = [
        f"table ip6 nat {{\nchain POSTROUTING {{ {hook}; policy drop; }}\n}}\n",
        "table ip filter {\nchain new { }\n}\n",
    ]

    def meanwhile(generation: bytes, items: list[Item]) -> dict[int, int]:
        if changes:
            load(changes.pop(0))
        return real(generation, items)

    monkeypatch.setattr(nftables, "_delete", meanwhile)
    delete_empty([Item("ip6", "nat", "POSTROUTING"), Item("ip", "mangle", "OUTPUT")])
    there = chains()
    assert there["ip6", "nat"] == {"POSTROUTING": "drop"}
    assert "OUTPUT" not in there["ip", "mangle"]


def test_a_ruleset_that_never_stands_still_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    load(OTHERS)
    monkeypatch.setattr(nftables, "_delete", lambda *_: {-1: errno.ERESTART})
    with pytest.raises(probe.FirewallError, match="changes all the time"):
        probe.sweep({"ip": (("mangle", "OUTPUT"),)})
    assert "OUTPUT" in chains()["ip", "mangle"]


def test_without_the_right_to_look_the_next_step_is_said() -> None:
    """In a child, which gives its rights away."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setresuid(65534, 65534, 65534)
            probe.nft_chains()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    os.waitpid(pid, 0)
    assert text.startswith("FirewallError: the ruleset of nftables cannot be read")
    assert text.endswith("run as root") and os.strerror(errno.EPERM) in text


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_kernel_without_nftables_has_no_tables(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock: both kernels that the tests run on have nf_tables (test_firewall_applied has legacy,
    which needs none)."""

    def refused(*_: object) -> list[netlink.Message]:
        raise netlink.os_error(number, "no")

    monkeypatch.setattr(NetlinkCalls, "dump", refused)
    assert chains() == {}
