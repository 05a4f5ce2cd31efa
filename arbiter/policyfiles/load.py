"""Policy files, decoded strictly: a file is used whole or not at all, one never harms another.

`examine` reads on after a fault, so that a packager sees all of them at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from arbiter.identity import stable_path
from arbiter.linkfiles import masked
from arbiter.model import proto_name
from arbiter.policyfiles import keys
from arbiter.policyfiles.keys import Table
from arbiter.policyfiles.places import MOST_DOTS, line_at, lines_of, too_deep
from arbiter.policyfiles.safety import app_fault
from arbiter.policyfiles.values import (
    Advice,
    Application,
    FileRule,
    PolicyFile,
    PolicyFileError,
    Relevance,
    Wrong,
)
from arbiter.rules import FOREVER, Layer, Rule, RuleError, never_matches, parse
from arbiter.rules.words import quote
from arbiter.tomlfile import parse as parse_toml
from arbiter.tomlfile import shown, shown_value, unknown

MAX_ADMIN, MAX_SHIPPED = 1_048_576, 65_536
"""Characters of a file; more is refused unread."""
MAX_CONNECTIONS = 256
"""[[connection]] tables of a file."""
MAX_ADVICE = 1024
"""Pairs of connection and destination of a file: a look-up may go through all of them."""
MAX_FAULTS = 50
"""Faults of one file that are told; one is enough to refuse it."""

_NOT_A_PACKAGES = {
    "user": "a package does not choose users",
    "parent": "a package speaks for its own program, whoever starts it",
    "hook": "a package speaks for outgoing connections only",
    "app": "app stands in [application], once",
    "via": 'links are part of the suggestion: suggest = "route via=unmetered,any"',
    "decision": 'a package decides nothing: suggest = "allow"',
    "note": "what people are to know is purpose and if_denied",
}
"""Keys of a rule in a [[connection]]: why they are refused, better than the nearest key."""
_TABLES = ("rule", "application", "connection")
_FOR = "a rule of a file holds as long as the file says it: leave it out"


def load(text: str, origin: str, *, shipped: bool = False) -> PolicyFile:
    """The policy file in a TOML text; `origin` is its path. Raises PolicyFileError: the first."""
    file, errors = examine(text, origin, shipped=shipped)
    if file is None:
        raise errors[0]
    return file


def examine(
    text: str, origin: str, *, shipped: bool = False
) -> tuple[PolicyFile | None, tuple[PolicyFileError, ...]]:
    """The file, or everything that is wrong with it by line. Never raises.

    `shipped`: it came with a package, and may hold nothing but advice.
    """
    limit = MAX_SHIPPED if shipped else MAX_ADMIN
    try:
        if len(text) <= limit and (line := too_deep(text)):
            raise PolicyFileError(origin, line, "", f"more than {MOST_DOTS} dots are in no key")
        data = parse_toml(text, origin, PolicyFileError, limit, "policy file")
    except PolicyFileError as error:
        return None, (error,)
    reader = _Reader(text, origin, shipped)
    file = reader.file(data)
    errors = sorted(reader.errors, key=lambda error: error.line)
    return (None, tuple(errors)) if errors else (file, ())


def load_all(
    etc: Mapping[str, str], shipped: Mapping[str, str], last: Iterable[PolicyFile] = ()
) -> tuple[tuple[PolicyFile, ...], tuple[PolicyFileError, ...]]:
    """The policy files in force among two folders' texts (path → text), and what is wrong.

    A file of `etc` masks the shipped one of the same name. In place of a refused file stays its
    last good version, where `last` has one of the same path. A file that did not change since
    `last` is not read again.
    """
    good: list[PolicyFile] = []
    errors: list[PolicyFileError] = []
    before = {file.origin: file for file in last}
    for path, text in sorted(masked(shipped, etc).items()):
        old = before.get(path)
        if old is not None and old.shipped != (path not in etc):
            old = None
        if old is not None and old.digest == digest(text):
            good.append(old)
            continue
        try:
            good.append(load(text, path, shipped=path not in etc))
        except PolicyFileError as error:
            errors.append(error)
            if old is not None:
                good.append(old)
    return tuple(good), tuple(errors)


def digest(text: str) -> bytes:
    """What two texts share only if they are the same."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class _Reader:
    """Reads one file and keeps what is wrong with it."""

    def __init__(self, text: str, origin: str, shipped: bool) -> None:
        self.errors: list[PolicyFileError] = []
        self._text, self._origin, self._shipped = text, origin, shipped
        self._lines: Mapping[tuple[str | int, ...], int] | None = None

    def file(self, data: dict[str, Any]) -> PolicyFile:
        top = keys.TOP if self._shipped else {**keys.TOP, **keys.ADMIN}
        known = (*top, *(_TABLES[1:] if self._shipped else _TABLES))
        for key in data:
            if key not in known:
                self._wrong(self._no_top(key, known), key)
        values = self._table({k: v for k, v in data.items() if k in top}, top)
        if "application" in data or "connection" in data:
            for key in ("rules", "rule", "adopt"):
                if key in data and not self._shipped:
                    self._wrong("a file has rules or an [application], not both: make two", key)
            return self._package(data)
        if self._shipped:
            self._wrong("there is no [application] table, and a package's file is nothing else")
        rules = [*self._lines_of_rules(values), *self._rules(data.get("rule", []))]
        return self._made(
            layer=Layer.ADMIN, rules=tuple(rules), adopt=self._adopt(values.get("adopt", ()))
        )

    def _made(self, **values: Any) -> PolicyFile:
        return PolicyFile(
            origin=self._origin, shipped=self._shipped, digest=digest(self._text), **values
        )

    def _no_top(self, key: str, known: Iterable[str]) -> str:
        if self._shipped and key in ("rule", *keys.ADMIN):
            return f"a package cannot bring {key}: it advises, in [[connection]] with suggest ="
        for table, row in (
            ("[application]", keys.APPLICATION),
            ("[[connection]]", keys.CONNECTION),
            ("[[rule]]", keys.RULE),
        ):
            if key in row and not (self._shipped and row is keys.RULE):
                return f"{key} stands before its table: put the line {table} above it"
        return unknown(key, known, "key of a policy file")

    # --- places ---

    def _wrong(self, why: str, *path: str | int) -> None:
        if len(self.errors) >= MAX_FAULTS:
            return
        line = self._line(*path) if path else 0
        name = ".".join(str(part) for part in path if isinstance(part, str))
        self.errors.append(PolicyFileError(self._origin, line, name, why))

    def _line(self, *path: str | int) -> int:
        if self._lines is None:
            self._lines = lines_of(self._text)
        return line_at(self._lines, path)

    # --- tables ---

    def _table(self, data: dict[str, Any], table: Table, *path: str | int) -> dict[str, Any]:
        """Every value of a table that can be read; what cannot is told, what lacks too."""
        values = {}
        for key, value in data.items():
            if key not in table:
                self._wrong(self._no_key(key, table), *path, key)
                continue
            try:
                values[key] = table[key].read(value)
            except Wrong as error:
                self._wrong(f"{key} = {shown_value(value)}: {error}", *path, key)
        for key, row in table.items():
            if row.required and key not in data:
                self._wrong(f"there is no {key}: add a line such as {row.required}", *path)
        return values

    def _no_key(self, key: str, table: Table) -> str:
        if table is keys.CONNECTION and key in _NOT_A_PACKAGES:
            return f"{key} cannot stand in [[connection]]: {_NOT_A_PACKAGES[key]}"
        if table is keys.RULE and key == "for":
            return f"for: {_FOR}"
        if key in keys.ADMIN or key in keys.TOP:
            return f"{key} stands above all tables: move it to the beginning of the file"
        if key in _TABLES:
            return f"{key} stands inside another table: write it under a line of its own, [[{key}]]"
        return unknown(key, table, "key of this table")

    def _tables(self, data: object, key: str) -> list[dict[str, Any]]:
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            self._wrong(f"{key} must be tables, each under a line [[{key}]]", key)
            return []
        return data

    # --- rules ---

    def _lines_of_rules(self, values: Mapping[str, Any]) -> list[FileRule]:
        found = []
        for place, text in enumerate(values.get("rules", ())):
            path = ("rules", place)
            try:
                rule = parse(text)
            except RuleError as error:
                self._wrong(f"{shown(text)!r}: {error}", *path)
                continue
            if rule.lifetime != FOREVER:
                self._wrong(f"{shown(text)!r}: for=: {_FOR}", *path)
            elif fault := never_matches(rule):
                self._wrong(f"{shown(text)!r} would never match: {fault}", *path)
            else:
                found.append(FileRule(rule, self._line(*path)))
        return found

    def _rules(self, data: object) -> list[FileRule]:
        found = []
        for place, table in enumerate(self._tables(data, "rule")):
            before = len(self.errors)
            words = self._table(table, keys.RULE, "rule", place)
            if len(self.errors) > before:
                continue
            note = words.pop("note", "")
            rule = self._rule(words, place)
            if rule is not None:
                found.append(FileRule(rule, self._line("rule", place), note))
        return found

    def _rule(self, words: dict[str, str], place: int) -> Rule | None:
        line, starts = words.pop("decision"), [(0, "decision")]
        for key, word in words.items():
            starts.append((len(line) + 1, key))
            line += f" {key}={quote(word)}"
        try:
            rule = parse(line)
        except RuleError as error:
            key = next(key for start, key in reversed(starts) if start <= error.position)
            hint = f"; did you mean {error.suggestion}?" if error.suggestion else ""
            self._wrong(error.text + hint, "rule", place, key)
            return None
        fault = never_matches(rule)
        if fault:
            self._wrong(f"this rule would never match: {fault}", "rule", place)
        return None if fault else rule

    def _adopt(self, apps: Iterable[str]) -> tuple[str, ...]:
        for place, app in enumerate(apps):
            if fault := app_fault(app, shipped=False):
                self._wrong(f"adopt: {shown(app)!r}: {fault}", "adopt", place)
        return tuple(map(stable, apps))

    # --- advice ---

    def _package(self, data: dict[str, Any]) -> PolicyFile:
        application = self._application(data)
        advice: list[Advice] = []
        tables = self._tables(data.get("connection", []), "connection")
        if len(tables) > MAX_CONNECTIONS:
            self._wrong(f"more than {MAX_CONNECTIONS} connections", "connection", MAX_CONNECTIONS)
        for place, table in enumerate(tables[:MAX_CONNECTIONS]):
            advice += self._connection(table, place, application)
        if len(advice) > MAX_ADVICE:
            self._wrong(f"more than {MAX_ADVICE} destinations in all: name domains", "connection")
        return self._made(layer=Layer.SHIPPED, application=application, advice=tuple(advice))

    def _application(self, data: dict[str, Any]) -> Application:
        table = data.get("application")
        if not isinstance(table, dict):
            where = "must be one table" if "application" in data else "is missing"
            why = f"[application] {where}: it names the program that the connections belong to"
            self._wrong(why, "application" if "application" in data else "connection")
            return Application("", "")
        values = self._table(table, keys.APPLICATION, "application")
        path = values.get("app", "")
        if path and (fault := app_fault(path, shipped=self._shipped)):
            self._wrong(f"app = {shown_value(path)}: {fault}", "application", "app")
        return Application(
            values.get("name", ""),
            stable(path),
            path if path.startswith("/") else "",
            values.get("website", ""),
            self._line("application", "app"),
        )

    def _connection(
        self, table: dict[str, Any], place: int, application: Application
    ) -> list[Advice]:
        values = self._table(table, keys.CONNECTION, "connection", place)
        proto, ports = values.get("proto"), values.get("port", ())
        if ports and not keys.has_ports(proto):
            why = f"{proto_name(proto or 0)} has no ports: leave port out, or proto"
            self._wrong(why, "connection", place, "port")
        line = self._line("connection", place)
        return [
            Advice(
                app=application.app,
                host=host,
                ports=ports,
                proto=proto,
                purpose=values.get("purpose", ""),
                if_denied=values.get("if_denied", ""),
                relevance=values.get("relevance", Relevance.OPTIONAL),
                suggest=values.get("suggest"),
                origin=self._origin,
                line=line,
                name=application.name,
            )
            for host in values.get("host", ())
        ]


def stable(app: str) -> str:
    """An app as rules call it."""
    return stable_path(app) if app.startswith("/") else app
