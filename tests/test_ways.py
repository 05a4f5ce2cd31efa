"""Which link a decision takes: the first that carries and may, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from playbook import HERE, NOBODY, SERVER6, owner, packet, process

from arbiter.judge import Context
from arbiter.model import (
    ALLOW,
    DENIED,
    DENY,
    MARK_DECIDED,
    MARK_LINK,
    MARK_LINK_SHIFT,
    Action,
    Ancestor,
    Decision,
    Link,
    NoOwner,
    NoOwnerReason,
    OverBudget,
    Spent,
    TrafficClass,
)
from arbiter.ways import MAX_HOMES, NEVER, Obstacle, Run, Ways

WIFI, LTE, USB = 2, 3, 4
"""Interface indexes, and below the links' numbers are others."""
SINCE = 500.0


def link(name: str, **more: Any) -> Link:
    number, index, metered = {
        "wifi": (7, WIFI, False),
        "lte": (1, LTE, True),
        "usb": (9, USB, True),
    }[name]
    made = {"metered": metered, "index": index, **more}
    return Link(name, number, f"{name}0", **made)


def over(then: OverBudget) -> Spent:
    return Spent(SINCE, then, "600 MB of 500 MB/month used")


def ways(*links: Link) -> Ways:
    made = Ways()
    made.change(links)
    return made


def route(*via: str) -> Decision:
    return Decision(Action.ROUTE, via)


def number(mark: int) -> int:
    return (mark & MARK_LINK) >> MARK_LINK_SHIFT


ALL = (link("wifi"), link("lte"), link("usb"))


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        (("lte",), "lte"),
        (("vpn", "usb", "wifi"), "usb"),
        (("any",), "wifi"),
        (("vpn", "any"), "wifi"),
        (("unmetered",), "wifi"),
        (("metered",), "lte"),
        (("metered", "wifi"), "lte"),
    ],
)
def test_a_route_takes_the_first_link_of_its_list(via: tuple[str, ...], expected: str) -> None:
    way = ways(*ALL).take(route(*via), packet(1, outdev=WIFI), 0)
    assert way.obstacle is None
    assert number(way.verdict.mark) == {"": 0, "lte": 1, "wifi": 7, "usb": 9}[expected]
    assert way.verdict.mark & MARK_DECIDED


def test_a_class_takes_its_links_in_the_order_the_machine_prefers_them() -> None:
    down = link("lte", up=False)
    assert ways(down, link("usb"), link("wifi")).take(route("metered"), packet(1), 0).note == (
        "over usb"
    )


def test_a_link_whose_cost_nobody_knows_is_not_unmetered() -> None:
    way = ways(link("wifi", metered=None)).take(route("unmetered"), packet(1), 0)
    assert (way.verdict, way.obstacle) == (DENIED, Obstacle.DOWN)


def test_without_a_link_it_is_denied_and_says_so() -> None:
    made = ways(link("wifi"), link("lte", up6=False))
    way = made.take(route("lte", "vpn"), packet(1, daddr=SERVER6), 0)
    assert (way.verdict, way.obstacle) == (DENIED, Obstacle.DOWN)
    assert way.note == "no link of lte,vpn carries IPv6 there now"


# --- budgets --------------------------------------------------------------------------------


def test_over_budget_asks_unless_it_was_decided_since() -> None:
    made = ways(link("wifi"), link("lte", spent=over(OverBudget.ASK)))
    for decision, where in ((route("lte"), WIFI), (route("lte", "any"), WIFI), (ALLOW, LTE)):
        before = made.take(decision, packet(1, outdev=where), SINCE - 1)
        assert (before.verdict, before.obstacle) == (DENIED, Obstacle.OVER)
        assert "600 MB of 500 MB/month used" in before.note
        after = made.take(decision, packet(1, outdev=where), SINCE + 1)
        assert after.obstacle is None
        assert number(after.verdict.mark) == (1 if where == WIFI else 0)
    assert made.take(ALLOW, packet(1, outdev=LTE), NEVER).obstacle is None


def test_over_budget_denies_where_the_file_says_so_and_a_list_goes_on() -> None:
    made = ways(link("wifi"), link("lte", spent=over(OverBudget.DENY)))
    for decision in (route("lte"), route("metered")):
        way = made.take(decision, packet(1, outdev=WIFI), SINCE + 1)
        assert (way.verdict, way.obstacle) == (DENIED, None), "whatever was decided since"
        assert way.note.startswith("lte is over its budget")
    assert made.take(ALLOW, packet(1, outdev=LTE), 0).verdict == DENIED
    assert made.take(route("lte", "wifi"), packet(1, outdev=WIFI), 0).note == "over wifi"


def test_over_budget_allows_where_the_file_says_so() -> None:
    made = ways(link("lte", spent=over(OverBudget.ALLOW)))
    assert made.take(ALLOW, packet(1, outdev=LTE), 0).verdict.mark == MARK_DECIDED
    assert made.take(route("lte"), packet(1), 0).note == "over lte, 600 MB of 500 MB/month used"


def test_any_heeds_the_budget_of_the_link_that_it_is() -> None:
    made = ways(link("lte", spent=over(OverBudget.DENY)), link("wifi"))
    assert made.take(route("vpn", "any"), packet(1, outdev=LTE), 0).verdict == DENIED
    assert made.take(route("vpn", "any"), packet(1, outdev=WIFI), 0).note == "over wifi"


def test_any_is_no_link_where_the_default_route_is_none() -> None:
    way = ways(*ALL).take(route("any"), packet(1, outdev=77), 0)
    assert (number(way.verdict.mark), way.note) == (0, "over the default route")


def test_any_is_the_next_link_where_the_default_one_is_gone() -> None:
    made = ways(link("wifi", up=False), link("usb"), link("lte"))
    assert made.take(route("any"), packet(1, outdev=WIFI), 0).note == "over usb"


# --- contexts -------------------------------------------------------------------------------


def test_where_the_machine_is_comes_from_all_links_that_are_up() -> None:
    made = ways(
        link("wifi", networks=("ssid:Home",)),
        link("lte", sim="8949012345678901234", networks=("sim:8949012345678901234",)),
        link("usb", up=False, sim="8949012345678905678", networks=("gateway:02:00:00:00:00:01",)),
    )
    here = Context(("8949012345678901234",), ("ssid:Home", "sim:8949012345678901234"))
    assert made.context(packet(1, outdev=99)) == here
    wifi, lte = (made.context(packet(1, outdev=index)) for index in (WIFI, LTE))
    assert wifi == here._replace(metered=False)
    assert lte == here._replace(metered=True)


def test_an_empty_sim_is_no_sim() -> None:
    assert ways(link("lte", sim="")).context(packet(1)).sims == ()


# --- run-via --------------------------------------------------------------------------------

SHELL_RUN = Run((100, 1000), 1000, "lte")
"""Process 100 is the parent of every process of the playbook."""


def test_a_run_takes_its_children_and_nobody_elses() -> None:
    made = ways(*ALL)
    made.start_run(SHELL_RUN)
    assert made.run_of(owner()) == SHELL_RUN
    assert made.run_of(owner(uid=1001)) is None, "of another user"
    assert made.run_of(NOBODY) is None
    child = process()
    elsewhere = child.__class__(
        pid=5, start=5, uid=1000, app=child.app, exe=child.exe, ancestors=(Ancestor(1, child.app),)
    )
    assert made.run_of(owner(elsewhere)) is None
    made.end_run((100, 999))
    assert made.run_of(owner()) == SHELL_RUN, "another process had that pid"
    made.end_run((100, 1000))
    assert made.run_of(owner()) is None


def test_a_run_of_roots_takes_its_children_of_every_user() -> None:
    made = ways(*ALL)
    made.start_run(SHELL_RUN._replace(uid=0))
    assert made.run_of(owner()) is not None


@pytest.mark.parametrize(
    ("decision", "goes"),
    [
        (ALLOW, True),
        (route("wifi", "any"), True),
        (route("wifi", "lte"), True),
        (route("metered"), True),
        (route("wifi"), False),
        (route("unmetered"), False),
        (DENY, False),
    ],
)
def test_a_run_narrows_what_is_decided_and_never_widens_it(decision: Decision, goes: bool) -> None:
    way = ways(*ALL).take(decision, packet(1, outdev=WIFI), 0, SHELL_RUN)
    if goes:
        assert number(way.verdict.mark) == 1
    else:
        assert way.verdict == DENIED


def test_a_run_whose_link_is_down_goes_nowhere_else() -> None:
    made = ways(link("wifi"), link("lte", up=False))
    for decision in (ALLOW, route("wifi", "any"), route("lte", "any")):
        way = made.take(decision, packet(1, outdev=WIFI), 0, SHELL_RUN)
        assert (way.verdict, way.obstacle) == (DENIED, Obstacle.DOWN)


# --- whatever links do ----------------------------------------------------------------------

LINKS = st.lists(
    st.builds(
        link,
        st.sampled_from(["wifi", "lte", "usb"]),
        up=st.booleans(),
        up4=st.booleans(),
        up6=st.booleans(),
        metered=st.sampled_from([True, False, None]),
        spent=st.sampled_from([None, *map(over, OverBudget)]),
    ),
    unique_by=lambda made: made.name,
)
VIA = st.lists(
    st.sampled_from(["wifi", "lte", "usb", "vpn", "metered", "unmetered"]), min_size=1, unique=True
)


@given(LINKS, VIA, st.sampled_from(["", "lte", "vpn"]), st.booleans(), st.booleans())
def test_a_strict_flow_leaves_on_a_link_of_its_list_or_not_at_all(
    links: list[Link], via: list[str], run: str, six: bool, late: bool
) -> None:
    what = packet(1, daddr=SERVER6, outdev=WIFI) if six else packet(1, outdev=WIFI)
    who = Run((1, 1), 0, run) if run else None
    way = ways(*links).take(
        Decision(Action.ROUTE, tuple(via), TrafficClass.BULK), what, SINCE - 1 + 2 * late, who
    )
    if way.verdict == DENIED:
        return
    assert way.obstacle is None
    (used,) = (made for made in links if made.number == number(way.verdict.mark))
    words = {used.name, {True: "metered", False: "unmetered", None: ""}[used.metered]}
    assert words & set(via)
    assert used.reaches(what.flow.daddr)
    assert not run or used.name == run
    spent = used.spent
    allowed = spent is None or spent.then is OverBudget.ALLOW
    assert allowed or (spent is not None and spent.then is OverBudget.ASK and late)


REACH = st.sampled_from([None, None, (), ((0xC6336400 >> 8, 8),)])
PLACES4 = [bytes((198, 51, 100, 10)), bytes((198, 51, 101, 10)), bytes((10, 0, 0, 1))]
PLACES6 = [SERVER6, bytes.fromhex("fd00" + 28 * "0")]


@given(LINKS, st.lists(REACH, min_size=6, max_size=6), VIA, st.sampled_from([0, WIFI, LTE]))
def test_where_links_lead_alike_a_way_is_the_same_for_all_addresses(
    links: list[Link], reach: list[Any], via: list[str], outdev: int
) -> None:
    made = ways(
        *(
            structs.replace(one, reach4=four, reach6=six)
            for one, four, six in zip(links, reach[:3], reach[3:], strict=False)
        )
    )
    for places in (PLACES4, PLACES6):
        if not made.lead_alike(places[0]):
            continue
        for words in (via, [*via, "any"], ["any"]):
            decision = Decision(Action.ROUTE, tuple(words), TrafficClass.BULK)
            taken = {
                made.take(decision, packet(1, daddr=daddr, outdev=outdev), SINCE - 1)
                for daddr in places
            }
            assert len(taken) == 1


# --- an address that is left over -----------------------------------------------------------


def test_a_connection_from_a_lost_links_address_leaves_as_if_routed_over_the_one_there_is() -> None:
    made = ways(link("wifi", addresses=(HERE,)), link("lte", addresses=(b"\x0a\x02\x00\x02",)))
    what = packet(1, outdev=LTE)
    assert made.take(ALLOW, what, 0).note == "", "wifi is up: whoever takes its address means it"
    made.change((link("wifi", up=False), link("lte", addresses=(b"\x0a\x02\x00\x02",))))
    way = made.take(ALLOW, what, 0)
    assert number(way.verdict.mark) == 1
    assert way.note == "over lte, from an address of wifi, which is down"
    assert made.take(ALLOW, packet(2, outdev=WIFI), 0).note == ""
    made.change((link("lte", addresses=(b"\x0a\x02\x00\x02", HERE)),))
    assert made.take(ALLOW, what, 0).note == "", "it is lte's now"


def test_an_address_of_no_link_is_left_alone() -> None:
    assert ways(*ALL).take(ALLOW, packet(1, outdev=LTE), 0).note == ""


def test_the_addresses_of_links_are_remembered_within_a_bound() -> None:
    made = ways()
    for first in range(256):
        own = tuple(bytes([10, first, n, 1]) for n in range(8))
        made.change((link("wifi", addresses=own),))
    assert len(made._homes) == MAX_HOMES


def test_any_leaves_a_lan_to_the_kernel_where_its_link_leads_no_further() -> None:
    lan = ((0xC6336400 >> 8, 8),)  # 198.51.100.0/24, where SERVER is
    made = ways(link("wifi", up=False, reach4=lan), link("lte"))
    assert made.take(route("any"), packet(1, outdev=WIFI), 0).note == "over the default route"
    made = ways(link("wifi", up=False, reach4=()), link("lte"))
    assert made.take(route("any"), packet(1, outdev=WIFI), 0).note == "over lte"


# --- a tunnel's own packets -----------------------------------------------------------------

VPN, VPN2 = 5, 6
TUNNELS = {"vpn": (11, VPN), "vpn2": (12, VPN2)}


def tunnel(name: str, **more: Any) -> Link:
    number, index = TUNNELS[name]
    return Link(name, number, f"wg{number}", index=index, tunnel=True, metered=False, **more)


NESTED = (link("wifi"), link("lte"), tunnel("vpn"), tunnel("vpn2"))


@pytest.mark.parametrize(
    ("via", "expected"),
    [
        (("vpn",), "wifi"),
        (("vpn", "lte"), "lte"),
        (("lte", "vpn"), "lte"),
        (("vpn", "any"), "wifi"),
        (("vpn", "usb"), ""),
        (("usb", "vpn"), "wifi"),
        (("vpn", "vpn2"), "vpn2"),
        (("vpn2", "vpn"), "wifi"),
        (("vpn2",), "vpn2"),
        (("vpn2", "lte", "vpn"), "lte"),
        (("unmetered",), "wifi"),
        (("metered", "vpn"), "lte"),
        (("lte",), "lte"),
    ],
)
def test_a_tunnels_outer_packet_takes_another_link_and_the_last_words_tunnel_is_that_link(
    via: tuple[str, ...], expected: str
) -> None:
    way = ways(*NESTED).take(route(*via), packet(1, outdev=WIFI), 0, tunnels=(VPN,))
    if not expected:
        assert (way.verdict, way.obstacle) == (DENIED, Obstacle.DOWN)
        return
    assert number(way.verdict.mark) == {"wifi": 7, "lte": 1, "vpn2": 12}[expected]
    itself = "a packet of vpn itself: " if via[-1] == "vpn" else ""
    assert way.note == f"{itself}over {expected}"


def test_the_same_packet_of_anybody_else_goes_into_the_tunnel() -> None:
    way = ways(*NESTED).take(route("vpn"), packet(1, outdev=WIFI), 0)
    assert way.note == "over vpn"


def test_a_class_without_another_link_does_not_let_the_tunnel_out_elsewhere() -> None:
    made = ways(link("wifi", up=False), link("lte"), tunnel("vpn"), tunnel("vpn2"))
    way = made.take(route("unmetered"), packet(1, outdev=LTE), 0, tunnels=(VPN,))
    assert (way.verdict, way.obstacle) == (DENIED, Obstacle.DOWN)


def test_a_denial_and_a_run_hold_for_outer_packets() -> None:
    made = ways(*NESTED)
    assert made.take(DENY, packet(1, outdev=WIFI), 0, tunnels=(VPN,)).verdict == DENIED
    run = Run((1, 1), 0, "lte")
    assert made.take(ALLOW, packet(1, outdev=WIFI), 0, run, (VPN,)).note == "over lte"


def test_an_allowed_outer_packet_goes_by_default_unless_that_leads_into_the_tunnel() -> None:
    made = ways(*NESTED)
    assert made.take(ALLOW, packet(1, outdev=WIFI), 0, tunnels=(VPN,)) == made.take(
        ALLOW, packet(1, outdev=WIFI), 0
    )
    assert made.take(ALLOW, packet(1, outdev=VPN), 0, tunnels=(VPN,)).note == "over wifi"
    assert made.take(route("vpn"), packet(1, outdev=VPN), 0, tunnels=(VPN,)).note == (
        "a packet of vpn itself: over wifi"
    )
    assert made.take(route("vpn"), packet(1, outdev=VPN2), 0, tunnels=(VPN,)).note == (
        "a packet of vpn itself: over vpn2"
    ), "the kernel's route leads there"
    alone = ways(tunnel("vpn"), tunnel("vpn2"))
    way = alone.take(route("vpn"), packet(1, outdev=VPN), 0, tunnels=(VPN,))
    assert (way.verdict, way.obstacle) == (DENIED, Obstacle.DOWN)


def test_a_budget_holds_for_outer_packets() -> None:
    made = ways(link("wifi", spent=over(OverBudget.DENY)), link("lte"), tunnel("vpn"))
    way = made.take(route("vpn"), packet(1, outdev=WIFI), 0, tunnels=(VPN,))
    assert way.verdict == DENIED
    assert way.note.startswith("a packet of vpn itself: wifi is over its budget")
    assert made.take(route("vpn", "lte"), packet(1, outdev=WIFI), 0, tunnels=(VPN,)).note == (
        "over lte"
    )


def sent_by(index: int) -> NoOwner:
    return NoOwner(NoOwnerReason.KERNEL, tunnels=(index,))


@pytest.mark.parametrize("by_default", [False, True])
def test_two_tunnels_never_carry_each_other(by_default: bool) -> None:
    made = ways(*NESTED)
    first = packet(1, outdev=VPN2 if by_default else WIFI)
    decision = ALLOW if by_default else route("vpn2")
    way = made.way(decision, first, sent_by(VPN), 0)
    assert way.verdict.mark & MARK_DECIDED
    made.sent(first, sent_by(VPN), number(way.verdict.mark))
    back = made.way(route("vpn"), packet(2, outdev=WIFI), sent_by(VPN2), 0)
    assert (back.verdict, back.obstacle) == (DENIED, None)
    assert back.note == "vpn is carried by this tunnel: it would go in a circle"
    assert made.way(route("vpn", "lte"), packet(2, outdev=WIFI), sent_by(VPN2), 0).note == (
        "over lte"
    )
    assert made.way(ALLOW, packet(2, outdev=VPN), sent_by(VPN2), 0).note == "over wifi"
    made.change(link for link in NESTED if link.name != "vpn2")
    made.change(NESTED)
    assert made.way(route("vpn"), packet(2), sent_by(VPN2), 0).note == "over vpn"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([VPN, VPN2]),
            st.one_of(
                st.just(ALLOW),
                st.lists(
                    st.sampled_from(["vpn", "vpn2", "wifi", "lte", "any", "metered", "unmetered"]),
                    min_size=1,
                    unique=True,
                ).map(lambda via: route(*via)),
            ),
            st.sampled_from([WIFI, LTE, VPN, VPN2]),
            st.binary(min_size=4, max_size=4),
        ),
        max_size=8,
    ),
    st.sets(st.sampled_from(["wifi", "lte", "vpn", "vpn2"])),
)
def test_whatever_is_decided_no_tunnel_carries_itself(
    packets: list[tuple[int, Decision, int, bytes]], down: set[str]
) -> None:
    made = ways(*(link_up(each, each.name not in down) for each in NESTED))
    below: dict[tuple[int, bytes], int] = {}
    for index, decision, outdev, remote in packets:
        what = packet(1, daddr=remote, outdev=outdev)
        way = made.way(decision, what, sent_by(index), NEVER)
        if way.verdict == DENIED:
            continue
        made.sent(what, sent_by(index), number(way.verdict.mark))
        used = made.used(what, number(way.verdict.mark))
        assert used is not None
        below[index, remote] = used.index
    edges = {(tunnel, carrier) for (tunnel, _), carrier in below.items()}
    assert not edges & {(VPN, VPN), (VPN2, VPN2)}
    assert not edges >= {(VPN, VPN2), (VPN2, VPN)}


def link_up(made: Link, up: bool) -> Link:
    return structs.replace(made, up=up)
