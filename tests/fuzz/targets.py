"""What is fuzzed: each target is one function of bytes that raises where a promise is broken."""

from __future__ import annotations

from collections.abc import Callable

import files_targets as files
import import_targets as imports
import native_targets as native
import netlink_targets as netlink
import rules_targets as rules
import wire_targets as wire

TARGETS: dict[str, Callable[[bytes], None]] = {
    "line": rules.line,
    "rule-json": rules.rule_json,
    "policy": files.policy,
    "link": files.link,
    "settings": files.setting,
    "lines": imports.lines,
    "toml": imports.toml,
    "json": imports.json_array,
    "opensnitch": imports.opensnitch,
    "littlesnitch": imports.littlesnitch,
    "plist": imports.plist_of_json,
    "anything": imports.anything,
    "dns": wire.dns_message,
    "dns-stream": wire.dns_stream,
    "packet": wire.packet,
    "queue-message": native.queue_message,
    "protocol": wire.protocol,
    "hosts": wire.hosts,
    "rtnetlink": netlink.rtnetlink,
    "ip-rules": netlink.ip_rules,
    "conntrack": netlink.conntrack_entry,
    "sockets": netlink.sockets,
    "processes": netlink.processes,
}
