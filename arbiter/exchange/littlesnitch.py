"""An Internet Access Policy of Little Snitch, as a policy file: advice, which decides nothing.

The keys are those of its documentation for developers. It comes as a property list (XML or binary)
or as JSON, and describes a program without saying which executable that is on this machine.
"""

from __future__ import annotations

import ipaddress
import plistlib
import re
import struct
from collections.abc import Iterable
from typing import Any
from xml.parsers.expat import ExpatError

from arbiter.exchange.items import Batch, Remark, RemarkKind, cannot, clipped, refused
from arbiter.exchange.jsontext import JsonError, check_depth
from arbiter.exchange.own import toml_string
from arbiter.policyfiles import examine
from arbiter.policyfiles.hosts import read as read_host
from arbiter.policyfiles.load import MAX_CONNECTIONS
from arbiter.rules import RuleError, parse
from arbiter.tomlfile import shown_value

MAX_POLICY = 1 << 20
"""Bytes of one policy; real ones have a few thousand."""
MAX_HOSTS = 64
"""Destinations of one connection, as in a policy file."""
MAX_WORDS = 200
"""Characters of a sentence for a prompt, as in a policy file."""
_TOP_KEYS = frozenset({"ApplicationDescription", "Connections", "Services"})
_NAME = re.compile(r"(?:\*\.)?[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})+", re.ASCII)
_WEBSITE = re.compile(r"https?://[A-Za-z0-9.-]+(?:[:/][!-~]*)?")
_RELEVANCE = {"essential": "essential", "default": "optional", "": "optional"}
_PROTOCOLS = ("tcp", "udp", "icmp")
_DAMAGED = (
    *(ValueError, OverflowError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, EOFError, MemoryError, RecursionError, struct.error, ExpatError),
)
"""What plistlib raises for what is no property list, besides its own InvalidFileException."""


def is_plist(data: bytes) -> bool:
    """Whether bytes look like a property list, XML or binary."""
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    return data.startswith(b"bplist") or (head.startswith(b"<") and b"<plist" in head)


def is_policy(data: object) -> bool:
    """Whether a JSON object looks like an Internet Access Policy."""
    return isinstance(data, dict) and bool(_TOP_KEYS & data.keys())


def load_plist(data: bytes) -> object:
    """The value in a property list. Raises ValueError; entities of XML are refused unread."""
    if len(data) > MAX_POLICY:
        raise ValueError(f"more than {MAX_POLICY} bytes are no Internet Access Policy")
    try:
        value = plistlib.loads(data)
    except _DAMAGED as error:
        raise ValueError(f"not a property list: {clipped(str(error)) or 'damaged'}") from None
    try:
        check_depth(value, len(data))
    except JsonError as error:
        raise ValueError(str(error)) from None
    return value


class _WrongError(ValueError):
    """One value cannot be said in a policy file."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


def read_policy(data: object, origin: str, app: str) -> Batch:
    """The policy file for `app` (the id of a rule) that says the same. Total."""
    if not isinstance(data, dict):
        return refused(origin, "an Internet Access Policy is a dictionary")
    if not app:
        text = "an Internet Access Policy does not say which executable it is about: give --app"
        return refused(origin, text)
    if not app.isprintable():
        return refused(origin, "a policy file cannot hold that --app: it is not printable text")
    connections = data.get("Connections", [])
    if not isinstance(connections, list) or len(connections) > MAX_CONNECTIONS:
        return refused(f"{origin}: Connections", f"a list of at most {MAX_CONNECTIONS}")
    remarks: list[Remark] = []
    parts = [_head(data, origin, app, remarks)]
    for number, connection in enumerate(connections, 1):
        place = f"{origin}: connection {number}"
        try:
            lines = _connection(connection)
        except _WrongError as error:
            remarks.append(cannot(f"{place}, {error.key}" if error.key else place, str(error)))
            continue
        if lines:
            parts.append("\n".join(["[[connection]]", *lines, ""]))
        else:
            text = "only outgoing connections are decided"
            remarks.append(Remark(RemarkKind.LEFT_OUT, place, text))
    if data.get("Services"):
        text = "services of macOS are not of this system"
        remarks.append(Remark(RemarkKind.LEFT_OUT, f"{origin}: Services", text))
    if len(parts) == 1:
        return Batch(remarks=tuple(remarks))
    name, text = f"{_name(app)}.toml", "\n".join(parts)
    file, errors = examine(text, name)
    if file is None:  # its own reader has the last word: more destinations than a file holds, say
        remarks.append(cannot(origin, f"no policy file can say this: {errors[0].text}"))
        return Batch(remarks=tuple(remarks))
    return Batch(remarks=tuple(remarks), policies=((name, text),))


def _name(app: str) -> str:
    """A name for people and for a file: letters of the app's last part."""
    last = re.split(r"[/:]", app)[-1].removesuffix(".service")
    return re.sub(r"[^A-Za-z0-9._-]", "-", last).strip("-.")[:60] or "application"


def _head(data: dict[str, Any], origin: str, app: str, remarks: list[Remark]) -> str:
    lines = ["# Advice, from an Internet Access Policy: it decides nothing."]
    about = (_sentence(data.get(key)) for key in ("ApplicationDescription", "DeveloperName"))
    lines += [f"# {text}" for text in about if text]
    name = toml_string(_name(app))
    lines += ["format = 1", "", "[application]", f"name = {name}", f"app = {toml_string(app)}"]
    website = data.get("Website")
    if isinstance(website, str) and _WEBSITE.fullmatch(website) and len(website) <= MAX_WORDS:
        lines.append(f"website = {toml_string(website)}")
    elif website is not None:
        text = f"{shown_value(website)} is no address of the web"
        remarks.append(Remark(RemarkKind.LEFT_OUT, f"{origin}: Website", text))
    return "\n".join([*lines, ""])


def _connection(data: object) -> list[str]:
    """The lines of a [[connection]]; none for an incoming one. Raises _WrongError."""
    if not isinstance(data, dict):
        raise _WrongError("", "a connection is a dictionary")
    incoming = data.get("IsIncoming", False)
    if not isinstance(incoming, bool):
        raise _WrongError("IsIncoming", f"{shown_value(incoming)} is neither true nor false")
    if incoming:
        return []
    hosts = list(dict.fromkeys(_hosts(data.get("Host"))))
    if len(hosts) > MAX_HOSTS or ("*" in hosts and len(hosts) > 1):
        raise _WrongError("Host", f"1 to {MAX_HOSTS} destinations, or * alone")
    listed = ", ".join(map(toml_string, hosts))
    lines = [f"host = [{listed}]" if len(hosts) > 1 else f"host = {listed}"]
    lines += _ports_and_proto(data)
    purpose = _sentence(data.get("Purpose"))
    if not purpose:
        raise _WrongError("Purpose", "there is none, and it is what a prompt would show")
    lines.append(f"purpose = {toml_string(purpose)}")
    if denied := _sentence(data.get("DenyConsequences")):
        lines.append(f"if_denied = {toml_string(denied)}")
    relevance = data.get("Relevance", "")
    word = _RELEVANCE.get(relevance.lower()) if isinstance(relevance, str) else None
    if word is None:
        raise _WrongError("Relevance", f"{shown_value(relevance)}: it is Essential or Default")
    return [*lines, f'relevance = "{word}"']


def _hosts(value: object) -> Iterable[str]:
    if not isinstance(value, str) or not value.strip():
        raise _WrongError("Host", "there is none: names and addresses, with commas between")
    for part in value.split(","):
        host = part.strip().lower().removesuffix(".")
        if host == "*":
            yield host
            continue
        try:
            yield str(ipaddress.ip_address(host)) if "%" not in host else _bad_host(host)
        except ValueError:
            last = host.rpartition(".")[2]
            if not _NAME.fullmatch(host) or len(host) > 253 or last.isdigit():
                _bad_host(host)
            try:
                read_host(host)
            except ValueError as error:
                raise _WrongError("Host", clipped(f"{host!r}: {error}")) from None
            yield host


def _bad_host(host: str) -> str:
    forms = "a name, *.domain, or an address; * stands alone or for whole first labels"
    raise _WrongError("Host", f"{clipped(host)!r} has no equal: {forms}")


def _ports_and_proto(data: dict[str, Any]) -> list[str]:
    proto, port = data.get("NetworkProtocol", ""), data.get("Port", "")
    if not isinstance(proto, str) or not isinstance(port, str | int) or isinstance(port, bool):
        raise _WrongError("Port", "the port and the protocol are texts")
    proto = proto.strip().lower()
    if isinstance(port, int) and abs(port) > 65535:
        raise _WrongError("Port", "a port is 0 to 65535")
    ports = str(port).replace(" ", "").lower()
    words = [] if proto in ("", "any") else [f"proto={proto}"]
    if words and proto not in _PROTOCOLS:
        raise _WrongError("NetworkProtocol", f"{clipped(proto)!r}: it is TCP, UDP or ICMP")
    if ports not in ("", "any"):
        if not re.fullmatch(r"[0-9,-]{1,1000}", ports):
            raise _WrongError("Port", f"{clipped(ports)!r} is no list of ports")
        words.append(f"port={ports}")
    try:
        parse(" ".join(["allow", *words]))
    except RuleError as error:
        raise _WrongError("Port", clipped(error.text)) from None
    return [f'{key} = "{value}"' for key, _, value in (word.partition("=") for word in words)]


def _sentence(value: object) -> str:
    """A text for people: one line of printable characters; "" for none."""
    if not isinstance(value, str):
        return ""
    kept = "".join(c if c.isprintable() else " " for c in value[: 10 * MAX_WORDS])
    text = " ".join(kept.split())
    return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1].rstrip() + "…"
