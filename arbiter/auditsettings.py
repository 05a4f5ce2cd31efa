"""Table `[audit]` of arbiter.toml: when a record is on disk, and where else records go. Pure."""

from __future__ import annotations

import enum
import ipaddress
from urllib.parse import urlsplit

from msgspec import Struct

from arbiter.hostname import host_name

SYSLOG_PORTS = {"udp": 514, "tcp": 601}
"""RFC 5426 section 3.3, RFC 6587 section 3.2 (601: syslog over TCP)."""
LONGEST_SOCKET = 107
"""Bytes of a Unix socket's path (unix(7): sun_path, with a NUL behind it)."""


class WhenUnwritten(enum.StrEnum):
    """With `sync`: what happens to a connection whose record cannot be written."""

    DENY = "deny"
    PASS = "pass"  # noqa: S105  # the word of the settings file


class SyslogTo(Struct, frozen=True):
    """Where a syslog daemon listens: a Unix socket at `path`, or `host` and `port`."""

    scheme: str
    """`unix`, `udp` or `tcp`."""
    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def text(self) -> str:
        """As an administrator writes it."""
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Audit(Struct, frozen=True, forbid_unknown_fields=True):
    """What an administrator may choose about records."""

    sync: bool = False
    """The record is on disk before the kernel hears of the decision."""
    when_unwritten: WhenUnwritten = WhenUnwritten.DENY
    json_lines: str = ""
    """A file that gets each record as a line of JSON; "" for none."""
    journald: bool = False
    syslog: str = ""
    """See `parse_syslog`; "" for none."""
    keep_days: int = 90
    """How long records of single connections are kept; 0 is for ever. See `store.retention`."""
    keep_megabytes: int = 0
    """The database's size above which the oldest days of records go; 0 for any size."""
    keep_sums_days: int = 1095
    """How long sums by day are kept, and the daemon's runs and gaps; 0 is for ever."""
    keep_rules_days: int = 1095
    """How long rules that have ended are kept, with their changes; 0 is for ever."""
    keep_usage_months: int = 120
    """How many months of what was used are kept beside the running one; 0 is for ever."""
    keep_destinations_days: int = 3650
    """How long sums for all time know where it went what was not seen since; 0 is for ever."""


def parse_syslog(text: str) -> SyslogTo:
    """`unix:/dev/log`, `udp://host:514`, `tcp://host:601`. ValueError says what is wrong."""
    scheme, colon, rest = text.partition(":")
    if scheme == "unix" and colon:
        why = path_fault(rest)
        if why or len(rest.encode(errors="replace")) > LONGEST_SOCKET:
            raise ValueError(why or f"a socket's path has at most {LONGEST_SOCKET} bytes")
        return SyslogTo("unix", path=rest)
    if scheme not in SYSLOG_PORTS or not rest.startswith("//"):
        raise ValueError("write unix:/dev/log, udp://HOST:514 or tcp://HOST:601")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is no address ({error})") from None
    if parts.path or parts.query or parts.fragment or parts.username is not None or port == 0:
        raise ValueError("write a host and a port only, as udp://HOST:514")
    return SyslogTo(scheme, host=_host(parts.hostname or ""), port=port or SYSLOG_PORTS[scheme])


def _host(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if host_name(host.encode(errors="replace")) is None:
            raise ValueError("its host is neither an address nor a name") from None
        return host


def path_fault(path: str) -> str:
    """Why this cannot be the path of a file or socket; "" if it can."""
    if not path.startswith("/"):
        return "it must be a path from the root on, as /var/log/arbiter/decisions.jsonl"
    if not path.isprintable() or path.endswith("/"):
        return "it is no path of a file"
    return ""


def fault(audit: Audit) -> tuple[str, str]:
    """The key whose value cannot be, and why; two times "" if all can."""
    if audit.json_lines and (why := path_fault(audit.json_lines)):
        return "json_lines", why
    if audit.syslog:
        try:
            parse_syslog(audit.syslog)
        except ValueError as error:
            return "syslog", str(error)
    return "", ""
