"""What services such as NetworkManager know of interfaces, beyond the kernel. Floor 0."""

from __future__ import annotations

from msgspec import Struct


class NetFacts(Struct, frozen=True):
    """What is known of one interface; the defaults mean that nobody has said.

    Every text came from a service, a modem or a network: hostile until cleaned.
    """

    metered: bool | None = None
    metered_guessed: bool = False
    """`metered` is the service's guess (NM_METERED_GUESS_YES, _NO), not somebody's setting."""
    sim: str = ""
    """The SIM's ICCID: digits only, without the filler F; "" for none."""
    operator: str = ""
    """The network operator's name, as the modem shows it."""
    apn: str = ""
    ssid: str = ""
    """The wifi network's name. Bytes that are no UTF-8 are surrogates (PEP 383)."""
    roaming: bool | None = None
    dns: tuple[bytes, ...] = ()
    """Its DNS servers, packed, in order."""
