"""Two weeks of a machine, always the same: what the tests of `arbiter audit report` look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from auditscene import record

from arbiter.records import Record, json_list
from arbiter.rules import parse
from arbiter.store import Store
from arbiter.usage import Account, Batch, Used

DAY = 86400.0
SINCE = 1793491200.0
"""2026-11-01 00:00 UTC."""
UNTIL = SINCE + 14 * DAY
FIREFOX, MAIL, CURL = "/usr/lib/firefox/firefox", "/usr/bin/thunderbird", "/usr/bin/curl"
CHAT, TIME, BACKUP = "flatpak:org.telegram.desktop", "unit:systemd-timesyncd.service", "/opt/backup"
SIM = "8943000000000000001"
_WENT = (
    (FIREFOX, "www.debian.org", "198.51.100.10", 443, "tcp", 21, "allow", 1),
    (FIREFOX, "news.example.org", "198.51.100.11", 443, "tcp", 14, "allow", 1),
    (FIREFOX, "ads.tracker.example", "203.0.113.66", 443, "tcp", 9, "deny", 2),
    (MAIL, "imap.example.net", "198.51.100.20", 993, "tcp", 6, "allow", 3),
    (CHAT, "", "2001:db8:5::7", 443, "tcp", 5, "route via=lte,any", 4),
    (TIME, "", "192.0.2.123", 123, "udp", 3, "allow", 5),
    (CURL, "deb.debian.org", "198.51.100.30", 80, "tcp", 2, "allow", None),
)
"""App, name, address, port, protocol, how often on a day, decision, rule."""


def records() -> Iterator[Record]:
    for day in range(-3, 14):
        for app, name, daddr, port, proto, often, decision, rule in _WENT:
            for n in range(often * (3 + day % 5) // 5 + 1):
                at = SINCE + day * DAY + (n * 4241 + port * 7) % 86400
                yield _record(at, app, name, daddr, port, proto, decision, rule, n)
        if day == 9:
            for n in range(7):
                at = SINCE + day * DAY + 3600 * n
                yield _record(at, BACKUP, "", "203.0.113.200", 22, "tcp", "deny", None, n)
        if day == 11:
            exe = "/usr/local/bin/curl"
            yield _record(SINCE + day * DAY, CURL, "deb.debian.org", "198.51.100.30", 80, "tcp",
                          "allow", None, 0, exe)  # fmt: skip


def _record(
    at: float, app: str, name: str, daddr: str, port: int, proto: str, decision: str,
    rule: int | None, n: int, exe: str = "",
) -> Record:  # fmt: skip
    reason = "rule" if rule else "answer" if app == CURL else "deadline"
    by = {"rule": "alice", "answer": "bob" if n % 2 else "alice"}.get(reason, "")
    return record(
        at - 1795000000.0, decision, reason, app=app, exe=exe or app, daddr=daddr, dport=port,
        saddr="2001:db8:5::1" if ":" in daddr else "10.1.0.2", proto=proto, rule_id=rule,
        names=json_list([name] if name else []), layer=2 if rule else None, by=by,
        frontend="tui" if reason == "answer" else "", sport=40000 + n, state="closed",
        link="" if decision == "deny" else "lte" if app == CHAT else "wifi",
        waited={"answer": 3.5 + n, "deadline": 30.0}.get(reason, 0.0),
        out_bytes=None if decision == "deny" else 900 + 31 * n,
        in_bytes=None if decision == "deny" else 24_000 + 977 * n,
    )  # fmt: skip


def store_fortnight(path: Path, *others: Record) -> Path:
    with Store.open(path) as store:
        store.record([*sorted(records(), key=lambda one: one.time), *others])
        for n, line in enumerate(
            (f"allow app={FIREFOX}", "deny host=*.tracker.example", f"allow app={MAIL} port=993",
             f"route via=lte,any app={CHAT}", f"allow app={TIME} port=123 proto=udp",
             "allow port=53 proto=udp", "allow host=*.example.org")
        ):  # fmt: skip
            store.remember(parse(line), by="alice", by_uid=1000, frontend="tui",
                           created=SINCE - 5 * DAY + n)  # fmt: skip
        store.remember(parse(f"allow app={CURL} host=deb.debian.org port=80"), by="bob",
                       by_uid=1001, frontend="terminal", created=SINCE + 2.5 * DAY)  # fmt: skip
        store.remove(6, "root", at=SINCE + 6 * DAY, by_uid=0, frontend="cli")
        store.add_usage(Batch(tuple(_used())))
        store.lives.begin(SINCE - 4 * DAY)
        store.lives.end(SINCE + 7.1 * DAY)
        store.lives.begin(SINCE + 7.3 * DAY)
        store.lives.gap(SINCE + 5 * DAY, SINCE + 5 * DAY + 90, 12, "the disk was full")
    return path


def _used() -> Iterator[Used]:
    for day in range(1, 15):
        text = f"2026-11-{day:02}"
        size = 90_000_000 + day * 7_919_000 % 160_000_000
        yield Used(Account(FIREFOX, "alice", "wifi"), text, size // 9, size, 9000, 70000, 60)
        yield Used(Account(MAIL, "alice", "wifi"), text, 2_000_000, 6_500_000, 3000, 6000, 9)
        mobile = 3_000_000 + day * 2_347_000 % 9_000_000
        yield Used(Account(CHAT, "alice", "lte", SIM), text, mobile // 3, mobile, 900, 4000, 6)


def links(folder: Path) -> Path:
    """A configuration with the price of lte."""
    (folder / "links.d").mkdir(parents=True)
    (folder / "links.d" / "lte.toml").write_text(
        '[link]\nname = "lte"\nmatch = { interface = "wwan*" }\nmetered = true\n'
        'price = "0.02 EUR/MB"\n'
    )
    return folder
