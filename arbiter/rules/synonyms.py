"""What people write for the words of a rule, so that these are suggested. Pure."""

from __future__ import annotations

ACTION_SYNONYMS = {
    **dict.fromkeys(("accept", "permit", "pass", "yes"), "allow"),
    **dict.fromkeys(("block", "drop", "reject", "forbid", "no"), "deny"),
    "via": "route",
}
KEY_SYNONYMS = {
    **dict.fromkeys(("dst", "dest", "daddr", "ip", "address", "net", "scope"), "host"),
    **dict.fromkeys(("dport", "ports"), "port"),
    **dict.fromkeys(("exe", "path", "program", "process"), "app"),
    **dict.fromkeys(("duration", "until", "lifetime"), "for"),
    **dict.fromkeys(("uid", "owner"), "user"),
    **dict.fromkeys(("group", "gid"), "user=@"),
    **dict.fromkeys(("link", "dev", "interface"), "via"),
    **dict.fromkeys(("qos", "prio", "priority", "traffic", "dscp", "tos"), "class"),
    **dict.fromkeys(("ssid", "essid", "wifi"), "network=ssid:"),
    **dict.fromkeys(("gateway", "gw", "mac"), "network=gateway:"),
    **dict.fromkeys(("cost", "billed", "expensive"), "metered"),
    **dict.fromkeys(("when", "hours", "days", "at", "schedule"), "time"),
    "iccid": "sim",
    "direction": "hook",
}
SERVICES = {
    "ftp": "21",
    "ssh": "22",
    "telnet": "23",
    "smtp": "25",
    "domain": "53",
    "dns": "53",
    "http": "80",
    "www": "80",
    "pop3": "110",
    "ntp": "123",
    "imap": "143",
    "snmp": "161",
    "ldap": "389",
    "https": "443",
    "smtps": "465",
    "submissions": "465",
    "submission": "587",
    "ipp": "631",
    "ldaps": "636",
    "imaps": "993",
    "pop3s": "995",
    "mdns": "5353",
}
"""Names that people know ports by (IANA's registry of service names), to suggest their numbers."""
