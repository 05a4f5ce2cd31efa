"""What holds here and what a connection costs: `profile=`, `network=`, `sim=`, yes and no.

Each has one spelling in a rule; what people copy from tools (capital letters, `-` in a MAC, an
ICCID with its filler) is read, and written back in that one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import sys

from arbiter.rules.places import MAC, SIM, network_fault, profile_fault, sim_fault
from arbiter.rules.words import RuleError, nearest, quote, shown

_KINDS = ("gateway", "ssid", "sim")
_KIND_SYNONYMS = {
    **dict.fromkeys(("mac", "router", "gw", "hwaddr", "lladdr"), "gateway"),
    **dict.fromkeys(("wifi", "wlan", "essid", "name"), "ssid"),
    "iccid": "sim",
}
_YES_NO = {"yes": True, "no": False}
_YES_NO_SYNONYMS = {
    **dict.fromkeys(("true", "on", "1", "y"), "yes"),
    **dict.fromkeys(("false", "off", "0", "n"), "no"),
}
_SPACED = re.compile(r"[0-9 -]+\Z")


# --- reading --------------------------------------------------------------------------------


def read_profile(text: str, position: int) -> str:
    """The name of a profile. Raises RuleError."""
    fault = profile_fault(text)
    if fault:
        raise RuleError(fault, position, text)
    return sys.intern(text)


def read_network(text: str, position: int) -> str:
    """The network that `text` names, in its one spelling. Raises RuleError."""
    kind, colon, name = text.partition(":")
    if not colon or kind not in _KINDS:
        raise _no_network(text, position)
    network = _spelt(kind, name)
    fault = network_fault(network)
    if fault:
        raise RuleError(fault, position + len(kind) + 1, name, _meant(kind, name))
    return sys.intern(network)


def read_sim(text: str, position: int) -> str:
    """The ICCID in `text`, without its filler. Raises RuleError."""
    sim = _iccid(text)
    fault = sim_fault(sim or "-")
    if fault:
        raise RuleError(fault, position, text, _digits(text.removeprefix("sim:")))
    return sys.intern(sim)


def read_yes_no(text: str, position: int) -> bool:
    """True for `yes`, False for `no`. Raises RuleError."""
    if text not in _YES_NO:
        fault = f"{quote(shown(text))} is neither yes nor no"
        raise RuleError(fault, position, text, nearest(text, _YES_NO, _YES_NO_SYNONYMS))
    return _YES_NO[text]


def _spelt(kind: str, name: str) -> str:
    """One spelling for what is the same; what is no name of its kind stays what it is."""
    if kind == "gateway":
        name = _mac(name)
    elif kind == "sim":
        name = _iccid(name)
    else:
        # Bytes that somebody wrote one by one may be a text after all. What is no bytes at all
        # stays as it is, for network_fault to say so.
        with contextlib.suppress(UnicodeEncodeError):
            name = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return f"{kind}:{name}"


def _mac(text: str) -> str:
    lower = text.lower().replace("-", ":")
    return lower if MAC.match(lower) else text


def _iccid(text: str) -> str:
    """Cards with 19 digits fill the last half byte with an F (ITU-T E.118, 3GPP TS 31.102)."""
    return text[:-1] if text[-1:] in ("F", "f") else text


# --- what was meant -------------------------------------------------------------------------


def _no_network(text: str, position: int) -> RuleError:
    given = quote(shown(text))
    fault = f"{given} is no network: it is gateway:MAC, ssid:NAME or sim:ICCID"
    if _is_address(text):
        fault = f"{fault}; an address of the destination is host="
        return RuleError(fault, position, text, f"host={text}")
    if MAC.match(_mac(text)):
        return RuleError(fault, position, text, _meant("gateway", text))
    if SIM.match(_iccid(text)):
        return RuleError(fault, position, text, _meant("sim", text))
    word, colon, name = text.partition(":")
    kind = nearest(word, _KINDS, _KIND_SYNONYMS) if colon else ""
    suggestion = _meant(kind, name) if kind else _meant("ssid", text)
    return RuleError(fault, position, text, "" if text in _KINDS else suggestion)


def _meant(kind: str, name: str) -> str:
    """`kind:name` as it would be written, put right where that is plain; "" if it is not."""
    if kind == "gateway":
        hexadecimal = re.sub(r"[:.-]", "", name)
        if len(hexadecimal) == 12:  # aabb.ccdd.eeff, or no separators at all
            name = ":".join(hexadecimal[at : at + 2] for at in range(0, 12, 2))
    elif kind == "sim":
        name = _digits(name)
    network = _spelt(kind, name)
    return "" if network_fault(network) else quote(network)


def _digits(text: str) -> str:
    """An ICCID that was copied with its blanks; "" if it is none."""
    sim = _iccid(text)
    joined = sim.replace(" ", "").replace("-", "") if _SPACED.match(sim) else ""
    return joined if SIM.match(joined) else ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
