"""Scenes of tunnels: their own packets stay out of them, and are decided like all else."""

from __future__ import annotations

from typing import Any

from linkscene import LTE, OVER_LTE, WIFI, lte, lte_over, scene, wifi
from playbook import ROOT, SERVER, Playbook, owner, process, verdict

from arbiter.events import Announce, FindOwner, Notify, Reason, Report, ShowAsk
from arbiter.model import (
    DENIED,
    MARK_DECIDED,
    Link,
    NoOwner,
    NoOwnerReason,
    Verdict,
    VerdictKind,
)
from arbiter.settings import LinkDown, Mode

VPN = 5
OVER_WIFI = Verdict(VerdictKind.ACCEPT, MARK_DECIDED | 1 << 24)
OVER_VPN = Verdict(VerdictKind.ACCEPT, MARK_DECIDED | 3 << 24)
WIREGUARD = NoOwner(NoOwnerReason.KERNEL, 0, "root", "the tunnel wg0 itself", tunnels=(VPN,))
OPENVPN = owner(process("/usr/sbin/openvpn"), tunnels=(VPN,))
OUTER: dict[str, Any] = {"daddr": SERVER, "proto": 17, "dport": 51820, "outdev": WIFI}


def vpn(**more: Any) -> Link:
    return Link("vpn", 3, "wg0", index=VPN, tunnel=True, **more)


def tunnelled(*rules: str, **settings: Any) -> Playbook:
    return scene(*rules, links=(wifi(), lte(), vpn()), **settings)


def test_everything_goes_into_the_tunnel_but_the_tunnel_itself() -> None:
    play = tunnelled("route via=vpn")
    play.queue(1, outdev=WIFI) >> FindOwner >> verdict(1, OVER_VPN) >> Report
    play.queue(2, WIREGUARD, **OUTER) >> FindOwner >> verdict(2, OVER_WIFI)
    report = play.take(Report)
    assert (report.note, report.link) == ("a packet of vpn itself: over wifi", 1)
    play.queue(3, OPENVPN, **OUTER, sport=3) >> FindOwner >> verdict(3, OVER_WIFI) >> Report
    # To the same place, of another program: into the tunnel.
    play.queue(4, **OUTER, sport=4) >> FindOwner >> verdict(4, OVER_VPN) >> Report
    play.end()


def test_it_is_decided_by_rules_and_people_as_all_connections_are() -> None:
    play = tunnelled("route via=vpn", "deny host=198.51.100.10 port=51820")
    play.queue(1, WIREGUARD, **OUTER) >> FindOwner >> verdict(1, DENIED) >> Report
    play.rules("route via=lte host=198.51.100.10 proto=udp port=51820", removed=(2,))
    play.queue(2, WIREGUARD, **OUTER) >> FindOwner >> verdict(2, OVER_LTE) >> Report
    play.end()
    play = tunnelled("route via=vpn app=/usr/bin/curl")
    play.queue(1, WIREGUARD, **OUTER) >> FindOwner >> ShowAsk
    play.answer(1, "route", ROOT, scope="destination", via=("vpn",))
    play >> verdict(1, OVER_WIFI)
    assert play.take(Report).note == "a packet of vpn itself: over wifi"
    play >> Announce
    play.end()
    play = tunnelled(mode=Mode.ENFORCE)
    play.queue(1, WIREGUARD, **OUTER) >> FindOwner >> verdict(1, DENIED)
    assert play.take(Report).reason is Reason.ENFORCE
    play.end()


def test_a_budget_of_the_link_below_asks_about_the_tunnel() -> None:
    play = tunnelled("route via=vpn")
    play.wait(5).links(wifi(up=False), lte_over(play), vpn()).skip()
    play.queue(1, WIREGUARD, **OUTER | {"outdev": LTE}) >> FindOwner
    assert "lte is over its budget" in play.pipeline.asks.get(1).why  # type: ignore[union-attr]
    play >> ShowAsk
    play.end()


def test_it_waits_for_a_link_below_and_goes_by_the_first_that_comes() -> None:
    play = scene("route via=vpn", links=(vpn(), wifi(up=False)), link_down=LinkDown.WAIT)
    play.queue(1, WIREGUARD, **OUTER | {"outdev": VPN}) >> FindOwner >> Notify
    play.links(vpn(), wifi()) >> Notify >> verdict(1, OVER_WIFI) >> Report
    play.end()


def test_a_tunnel_whose_packets_are_refused_is_carried_by_none() -> None:
    other = NoOwner(NoOwnerReason.KERNEL, tunnels=(6,))
    links = (wifi(), vpn(), Link("second", 4, "wg1", index=6, tunnel=True))
    play = scene("deny host=198.51.100.10", "route via=vpn host=198.51.100.11", links=links)
    play.queue(1, WIREGUARD, **OUTER | {"outdev": 6}) >> FindOwner >> verdict(1, DENIED) >> Report
    play.queue(2, other, **OUTER | {"daddr": b"\xc6\x33\x64\x0b"}) >> FindOwner
    play >> verdict(2, OVER_VPN) >> Report
    play.end()


def test_two_tunnels_that_rules_put_into_each_other_do_not_go_in_a_circle() -> None:
    other = NoOwner(NoOwnerReason.KERNEL, tunnels=(6,))
    play = scene(
        "route via=second host=198.51.100.10",
        "route via=vpn host=198.51.100.11",
        links=(wifi(), vpn(), Link("second", 4, "wg1", index=6, tunnel=True)),
    )
    play.queue(1, WIREGUARD, **OUTER) >> FindOwner
    play >> verdict(1, Verdict(VerdictKind.ACCEPT, MARK_DECIDED | 4 << 24)) >> Report
    play.queue(2, other, **OUTER | {"daddr": b"\xc6\x33\x64\x0b"}) >> FindOwner
    play >> verdict(2, DENIED)
    why = "vpn is carried by this tunnel: it would go in a circle"
    assert play.take(Report).note == why
    play >> Notify(0, f"a connection was refused: {why}")
    play.end()
