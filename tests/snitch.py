"""OpenSnitch as its code reads, written anew for tests: which rule decides a connection.

From FindFirstMatch in daemon/rule/loader.go and Match, simpleCmp, reCmp in daemon/rule/operator.go.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from hypothesis import strategies as st
from msgspec import Struct

from arbiter.model import address_text
from arbiter.rules import Query


class Flow(Struct, frozen=True):
    """What OpenSnitch knows of a connection."""

    path: str
    parents: tuple[str, ...]
    uid: int
    ip: str
    port: int
    proto: str
    host: str = ""


def flow_of(query: Query, host: str = "") -> Flow:
    """The same connection as a query of ours."""
    names = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}
    six = len(query.daddr) == 16
    return Flow(
        query.app,
        query.parents,
        query.uid if query.uid is not None else 4294967295,
        address_text(query.daddr),
        query.dport,
        names[query.proto] + ("6" if six else ""),
        host,
    )


def decides(rules: list[dict[str, Any]], flow: Flow, *, later: bool = False) -> str:
    """allow, deny, or "" where no rule matches and it would ask; `later`: all spans have ended."""
    loaded = {rule["name"]: rule for rule in rules}
    found = ""
    for name in sorted(loaded, key=lambda name: name.encode("utf-8", "surrogatepass")):
        rule = loaded[name]
        if not rule.get("enabled") or rule["duration"] == "once":
            continue
        if later and rule["duration"] == "1h":
            continue
        if matches(rule["operator"], flow):
            found = "allow" if rule["action"] == "allow" else "deny"
            if found == "deny" or rule.get("precedence"):
                return found
    return found


def matches(operator: dict[str, Any], flow: Flow) -> bool:
    if operator["type"] == "list":
        return all(matches(one, flow) for one in operator["list"])
    operand, data = operator["operand"], operator["data"]
    if operand == "true":
        return True
    if operand == "dest.network":
        network = ipaddress.ip_network(data, strict=False)
        address = ipaddress.ip_address(flow.ip)
        return network.version == address.version and address in network
    if operand == "process.parent.path":
        return any(_compare(operator, parent) for parent in flow.parents)
    if operand == "dest.host" and not flow.host:
        return False
    values = {
        "process.path": flow.path,
        "user.id": str(flow.uid),
        "dest.ip": flow.ip,
        "dest.port": str(flow.port),
        "dest.host": flow.host,
        "protocol": flow.proto,
    }
    return _compare(operator, values[operand])


def _compare(operator: dict[str, Any], value: str) -> bool:
    data = operator["data"]
    if operator["type"] == "range":
        low, high = data.split("-")
        return int(low) <= int(value) <= int(high)
    if not operator.get("sensitive"):
        data, value = data.lower(), value.lower()
    if operator["type"] == "regexp":
        return re.search(data.replace("$", r"\Z"), value) is not None
    return bool(data == value)


# --- rules over small alphabets -------------------------------------------------------------

PATHS = ("/a", "/b", "/A")
PARENTS = ("/p", "/q")
IPS = ("10.0.0.1", "10.0.1.1", "93.184.216.34", "fd00::1", "2001:db8::1")


def _operator(type: str, operand: str, data: str, sensitive: bool = False) -> dict[str, Any]:
    return {
        "type": type,
        "operand": operand,
        "data": data,
        "sensitive": sensitive,
        "list": None,
    }


_paths = st.builds(
    _operator, st.just("simple"), st.just("process.path"), st.sampled_from(PATHS), st.booleans()
) | st.builds(
    _operator,
    st.just("regexp"),
    st.just("process.path"),
    st.sampled_from(("^/a$", "^/(a|b)$", "^/[ab]$", "^/ab?$", "^/a$|^/b$")),
    st.booleans(),
)
_parents = st.builds(
    _operator,
    st.just("simple"),
    st.just("process.parent.path"),
    st.sampled_from(PARENTS),
    st.booleans(),
)
_users = st.sampled_from(["1000", "1001"]).map(lambda uid: _operator("simple", "user.id", uid))
_hosts = st.sampled_from(IPS).map(lambda ip: _operator("simple", "dest.ip", ip)) | st.sampled_from(
    ["10.0.0.0/8", "10.0.1.1/16", "0.0.0.0/0", "fd00::/8", "::/0"]
).map(lambda net: _operator("network", "dest.network", net))
_ports = st.sampled_from(["53", "443"]).map(
    lambda port: _operator("simple", "dest.port", port)
) | st.sampled_from(
    [
        _operator("regexp", "dest.port", "^(53|443)$"),
        _operator("range", "dest.port", "1-1023"),
        _operator("range", "dest.port", "53-54"),
    ]
)
_protos = st.sampled_from(["tcp", "udp", "tcp6", "icmp", "icmp6"]).map(
    lambda proto: _operator("simple", "protocol", proto)
) | st.just(_operator("regexp", "protocol", "^tcp6?$"))


@st.composite
def operators(draw: st.DrawFn) -> Any:
    kinds = draw(
        st.lists(
            st.sampled_from([_paths, _paths, _parents, _users, _hosts, _ports, _protos]),
            max_size=4,
            unique_by=id,
        )
    )
    parts = [draw(kind) for kind in kinds]
    if not parts:
        return _operator("simple", "true", "")
    if len(parts) == 1 and draw(st.booleans()):
        return parts[0]
    return {"type": "list", "operand": "list", "data": "", "sensitive": False, "list": parts}


@st.composite
def snitch_rules(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "created": "2024-01-01T00:00:00Z",
        "updated": "2024-01-01T00:00:00Z",
        "name": draw(st.sampled_from("abcdefghé")),
        "enabled": draw(st.sampled_from([True, True, True, False])),
        "precedence": draw(st.booleans()),
        "action": draw(st.sampled_from(["allow", "allow", "deny", "reject"])),
        "duration": draw(st.sampled_from(["always"] * 6 + ["once", "1h"])),
        "operator": draw(operators()),
    }
