"""The wording of links: state, price, what is left and what was used. Pure, for all frontends."""

from __future__ import annotations

from arbiter.protocol import Ask, LinkView
from prompts.render import app_name, tidy

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def size_words(count: int) -> str:
    """`12 kB`, `1.5 MB`, `320 MB`: decimal units, as on a bill (1 MB is 10^6 bytes)."""
    for size, unit in _UNITS:
        if count >= size:
            amount = count / size
            return f"{amount:.1f} {unit}" if amount < 10 else f"{amount:.0f} {unit}"
    return "1 byte" if count == 1 else f"{count} bytes"


def link_words(ask: Ask, link: LinkView) -> str:
    """What to know of a link before one chooses it: `down`, `0.02 EUR/MB, roaming, ...`."""
    parts = []
    if not link.up:
        parts.append("down")
    if link.price:
        parts.append(tidy(link.price))
    elif link.metered:
        parts.append("metered")
    if link.roaming:
        parts.append("roaming")
    if link.left is not None:
        budget = tidy(link.budget)
        parts.append(
            f"{size_words(link.left)} left of {budget}" if link.left else f"all of {budget} used"
        )
    if link.used and (link.metered or link.price or link.budget):
        parts.append(f"{size_words(link.used)} used by {app_name(ask)} this month")
    return ", ".join(parts)


def default_link(ask: Ask) -> str:
    """Over which link it goes if it is allowed, and at what price; "" where that is no question."""
    for link in ask.links:
        if link.default:
            words = link_words(ask, link)
            return tidy(link.name) + (f": {words}" if words else "")
    return ""


def link_details(ask: Ask) -> list[tuple[str, str]]:
    """(label, text) of every link, for the long form of an ask."""
    return [
        ("link", tidy(link.name) + (f": {words}" if (words := link_words(ask, link)) else ""))
        for link in ask.links
    ]
