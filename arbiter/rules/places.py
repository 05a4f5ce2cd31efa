"""What is wrong with the names of SIMs, networks and profiles."""

from __future__ import annotations

import re

MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")
"""An Ethernet address (ETH_ALEN is 6, linux/if_ether.h) in the one spelling of a rule."""
SIM = re.compile(r"[0-9]{18,20}\Z")
"""An ICCID without the filler F; as in arbiter.linkfiles, a test holds them together."""
MAX_SSID = 32
"""Bytes of a wifi network's name (IEEE 802.11, 9.4.2.2: 0 to 32, and 0 names none)."""
PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")
"""A profile's name: a word of a rule and of a command line, compared exactly."""
NO_PROFILE = "none"
"""What commands call it where no profile is active; no profile has this name."""


def sim_fault(sim: str) -> str:
    """What is wrong with an ICCID, in one clause; "" if nothing, or for no SIM at all."""
    if not sim or SIM.match(sim):
        return ""
    return "a SIM is its whole ICCID, 18 to 20 digits without spaces, as on the card"


def network_fault(network: str) -> str:
    """What is wrong with the name of a network, in one clause; "" if nothing, or for none."""
    kind, _, name = network.partition(":")
    if not network:
        return ""
    if kind == "gateway":
        return "" if MAC.match(name) else "a gateway is its MAC address, such as 02:00:5e:10:00:0a"
    if kind == "sim":
        return sim_fault(name or "-")
    if kind == "ssid":
        return _ssid_fault(name)
    return "a network is gateway:MAC, ssid:NAME or sim:ICCID"


def _ssid_fault(ssid: str) -> str:
    """An SSID is bytes: text where they are UTF-8, lone surrogates where not (PEP 383)."""
    try:
        raw = ssid.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "an SSID holds bytes: of surrogates, only U+DC80 to U+DCFF stand for one"
    if not 0 < len(raw) <= MAX_SSID:
        return f"an SSID has 1 to {MAX_SSID} bytes, not {len(raw)}"
    same = raw.decode("utf-8", "surrogateescape") == ssid
    return "" if same else "an SSID's bytes that are UTF-8 are written as their text"


def profile_fault(name: str) -> str:
    """What is wrong with a profile's name, in one clause; "" if nothing, or for none at all."""
    if name == NO_PROFILE:
        return f"{NO_PROFILE} is the word for no profile, and no profile's name"
    if not name or PROFILE.match(name):
        return ""
    return (
        "a profile's name has 1 to 32 letters, digits, '-', '_' or '.', and begins with a letter "
        "or digit"
    )
