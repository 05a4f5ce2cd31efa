"""What a change of links means for those that were in force before it. Pure."""

from __future__ import annotations

from msgspec import structs

from arbiter.links import FoundLink, LinkKind
from arbiter.model import Link, Spent
from arbiter.protocol import LinkState, clean


def replaced(before: FoundLink, now: FoundLink | None) -> bool:
    """Whether another link has its number. It is the same one where a file first names it, or
    where it was plugged in again."""
    return now is not None and now.identity != before.identity and now.index != before.index


def both(links: tuple[FoundLink, ...], before: tuple[FoundLink, ...]) -> list[FoundLink]:
    """What is there now and was in force before: all that may be used while a change is made."""
    old = {link.number: link for link in before}
    return [
        structs.replace(
            link,
            up4=link.up4 and old[link.number].up4,
            up6=link.up6 and old[link.number].up6,
        )
        for link in links
        if link.number in old and old[link.number].index == link.index
    ]


def ends(before: FoundLink, now: FoundLink | None) -> bool:
    """Whether connections over a link cannot go on: it is down, or lost its default routes."""
    if now is None:
        return carries_any(before)
    return (carries_any(before) and not carries_any(now)) or (
        _leads_out(before) and not _leads_out(now)
    )


def carries_any(link: FoundLink) -> bool:
    """Whether it can carry one family at least now."""
    return link.up4 or link.up6


def _leads_out(link: FoundLink) -> bool:
    return (link.up4 and link.reach4 is None) or (link.up6 and link.reach6 is None)


def leading(links: tuple[FoundLink, ...]) -> FoundLink | None:
    """The link that the machine uses first: its most preferred default route is over it."""
    found = [link for link in links if _leads_out(link)]
    return min(found, key=lambda link: (link.metric, link.number), default=None)


def state_of(link: FoundLink, default: bool, left: int | None, month: int) -> LinkState:
    """As those who follow are told of it; bytes `left` of its budget, and used this `month`."""
    return LinkState(
        name=link.name,
        interface=clean(link.interface),
        kind=link.kind.value,
        up=carries_any(link),
        default=default,
        metered=link.metered,
        roaming=link.roaming,
        price=str(link.price or ""),
        budget=str(link.budget or ""),
        left=left,
        month=month,
    )


def link_of(link: FoundLink, spent: Spent | None) -> Link:
    """As the pipeline knows it."""
    return Link(
        name=link.name,
        number=link.number,
        interface=link.interface,
        up=carries_any(link),
        up4=link.up4,
        up6=link.up6,
        reach4=link.reach4,
        reach6=link.reach6,
        index=link.index,
        addresses=link.addresses,
        metered=link.metered,
        roaming=link.roaming,
        sim=link.sim,
        networks=link.networks,
        finding=link.finding,
        price=str(link.price or ""),
        budget=str(link.budget or ""),
        spent=spent,
        tunnel=link.kind is LinkKind.VPN,
        tun=link.driver == "tun",
    )
