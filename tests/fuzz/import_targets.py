"""Fuzzed: everything that `arbiter rules import` reads."""

from __future__ import annotations

import json
import plistlib
import re
import tomllib
from typing import Any

import msgspec
import snitch
import written
from files_targets import policy_file
from rules_targets import judge, text_of

from arbiter.exchange import Batch, Format, Source, read, settle
from arbiter.exchange.jsontext import JsonError, load_json
from arbiter.model import Action
from arbiter.policyfiles import examine
from arbiter.rules import Entry, Index, Layer, LifetimeKind, format_rule, parse
from arbiter.rules.rule import plain


def lines(data: bytes) -> None:
    """One rule a line."""
    batch = _read(data, "x.rules", Format.LINES)
    lines = data.decode("utf-8-sig", "replace").split("\n")
    said = [line.removesuffix("\r") for line in lines]
    for item in batch.items:
        judge(item.rule, written.words_of(said[int(item.place.rpartition(":")[2]) - 1]))


def toml(data: bytes) -> None:
    """Tables."""
    batch = _read(data, "x.toml", Format.TOML)
    if batch.items:
        found = tomllib.loads(data.decode("utf-8-sig"))
        _said(batch, [*found.get("rules", []), *found.get("rule", [])])


def json_array(data: bytes) -> None:
    """An array of objects."""
    batch = _read(data, "x.json", Format.JSON)
    if batch.items:
        _said(batch, json.loads(data.decode("utf-8-sig")))


def opensnitch(data: bytes) -> None:
    """A rule of OpenSnitch, or an array of them: what is allowed then was allowed there."""
    try:
        value = load_json(text_of(data))
    except JsonError as error:
        assert str(error).isprintable()
        _read(data, "x.json", Format.OPENSNITCH)
        return
    values = value if isinstance(value, list) else [value]
    sources = [Source(f"{n}.json", json.dumps(one).encode()) for n, one in enumerate(values)]
    batch = _sane(read(sources, Format.OPENSNITCH))
    settled = settle(batch, now=0.0)
    if settled.cannot() or any("spellings" in remark.text for remark in settled.remarks):
        return  # what a skipped or a differently spelt deny lets go is said
    index = Index(
        Entry(n, item.rule.replace(**_LASTING), Layer.REMEMBERED, float(n), "x")
        for n, item in enumerate(settled.items, 1)
    )
    for item in settled.items:
        for query, _ in written.edges(item.rule):
            if query.proto not in (6, 17) or query.uid is None or not query.app:
                continue
            query = msgspec.structs.replace(query, daddr=plain(query.daddr))
            ours = index.lookup(query, 0.0)
            if ours is None or ours.rule.decision.action is not Action.ALLOW:
                continue
            flow = snitch.flow_of(query, next(iter(query.names), ""))
            assert snitch.decides(values, flow) == "allow", f"{format_rule(ours.rule)} for {query}"


_LASTING: dict[str, Any] = {"lifetime": parse("allow").lifetime}


def littlesnitch(data: bytes) -> None:
    """An Internet Access Policy: a policy file of advice that decides nothing."""
    app = "/usr/lib/firefox/firefox"
    batch = _sane(read([Source("x.plist", data)], Format.LITTLESNITCH, app))
    assert not batch.items
    for name, text in batch.policies:
        assert re.fullmatch(r"[A-Za-z0-9._-]+\.toml", name)
        file, errors = examine(text, name)
        assert file is not None, errors
        policy_file(file, text)
        assert not file.rules and not file.adopt
        for advice in file.advice:
            assert advice.app == app and advice.suggest is None
    if batch.policies and not data.startswith((b"bplist", b"<", b"\xef")):
        _hosts_are_those_written(json.loads(data.decode("utf-8-sig")), batch)


def _hosts_are_those_written(value: Any, batch: Batch) -> None:
    said = {
        host.strip().lower().removesuffix(".")
        for connection in value["Connections"]
        if isinstance(connection, dict) and isinstance(connection.get("Host"), str)
        for host in connection["Host"].split(",")
    }
    for connection in tomllib.loads(batch.policies[0][1])["connection"]:
        hosts = connection["host"]
        for host in [hosts] if isinstance(hosts, str) else hosts:
            assert host in said or ":" in host  # an IPv6 address has one spelling


def anything(data: bytes) -> None:
    """A file whose format is to be found, under each of its names."""
    for name in ("x", "x.toml", "x.json", "x.rules"):
        _sane(read([Source(name, data)], None, "/usr/bin/x"))


def plist_of_json(data: bytes) -> None:
    """A property list whose value is in the bytes as JSON: plistlib writes it, we read it."""
    try:
        value = load_json(text_of(data))
        packed = plistlib.dumps(value, fmt=plistlib.FMT_BINARY)
    except (JsonError, TypeError, OverflowError, UnicodeEncodeError, AttributeError):
        return  # nothing that a property list can hold
    littlesnitch(packed)


def _read(data: bytes, name: str, format: Format) -> Batch:
    return _sane(read([Source(name, data)], format))


def _sane(batch: Batch) -> Batch:
    for remark in batch.remarks:
        assert (remark.place + remark.text).isprintable()
    for item in batch.items:
        assert parse(format_rule(item.rule)) == item.rule
        assert item.expires is None or item.rule.lifetime.kind is LifetimeKind.SPAN
    again = settle(batch, now=0.0)
    assert settle(again, now=0.0).items == again.items
    return batch


def _said(batch: Batch, values: list[Any]) -> None:
    for item in batch.items:
        value = values[int(item.place.rpartition(" ")[2]) - 1]
        line = value if isinstance(value, str) else value.get("rule")
        if line is None:
            keys = written.KNOWN | written.DECISION
            said = written.words_of_table({k: v for k, v in value.items() if k in keys})
            said.pop("note", None)
            judge(item.rule, said)
        else:
            judge(item.rule, written.words_of(line))
