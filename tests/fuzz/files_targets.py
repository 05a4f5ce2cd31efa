"""Fuzzed: the files that people write. Each gives values, or errors with their line."""

from __future__ import annotations

import fnmatch
import tomllib
from typing import Any

import written
from rules_targets import judge

from arbiter import linkfiles, settings
from arbiter.linkfiles import LinkFileError
from arbiter.linknumbers import valid_name
from arbiter.policyfiles import AdviceBook, PolicyFile, app_fault, as_rule, entries, examine
from arbiter.policyfiles.check import beside, of_file
from arbiter.rules import why_not
from arbiter.settings import Settings, SettingsError
from arbiter.tomlfile import FileError


def _utf8(data: bytes) -> str:
    """As whoever reads these files: what is no UTF-8 is refused before."""
    return data.decode("utf-8", "replace")


def policy(data: bytes) -> None:
    """A policy file, of an administrator and of a package."""
    text = _utf8(data)
    for shipped in (False, True):
        file, errors = examine(text, "/x.toml", shipped=shipped)
        assert (file is None) == bool(errors)
        for error in errors:
            _placed(error, text)
        if file is not None:
            policy_file(file, text)
            assert not (shipped and (file.rules or file.adopt))


def policy_file(file: PolicyFile, text: str) -> None:
    """A file that can be used says what is written in it, and no more."""
    data = tomllib.loads(text)
    tables = [written.words_of_table(table) for table in data.get("rule", [])]
    said = [*map(written.words_of, data.get("rules", [])), *tables]
    assert len(file.rules) == len(said)
    for one, words in zip(file.rules, said, strict=True):
        judge(one.rule, words)
        assert 1 <= one.line <= text.count("\n") + 1
    for finding in (*of_file(file, {}), *beside([file])):
        assert finding.text.isprintable()
    assert len(entries([file])[0]) >= len(file.rules)
    book = AdviceBook([file])
    for advice in file.advice:
        assert not app_fault(advice.app, shipped=file.shipped)
        rule = as_rule(advice)
        if rule is None:
            continue
        assert rule.app == advice.app and rule.decision == advice.suggest
        for query, minute in written.edges(rule):
            if why_not(rule, query, minute * 60.0) is None:
                found = book.advice_for(
                    query.app, query.names, query.daddr, query.dport, query.proto
                )
                assert found is not None, "a suggestion is wider than its advice"


def link(data: bytes) -> None:
    """A file of links.d."""
    text = _utf8(data)
    try:
        file = linkfiles.load(text, "/x.toml")
    except LinkFileError as error:
        _placed(error, text)
        return
    assert valid_name(file.name)
    match: dict[str, Any] = tomllib.loads(text)["link"]["match"]
    assert match, "it would be every link"
    for interface in ("eth0", "lo", "", match.get("interface", "wwan0").replace("*", "q")):
        for sim in ("", file.match.sim, "89430000000000000001"):
            for apn in ("", file.match.apn, "other"):
                if not file.match.fits(interface, sim, apn):
                    continue
                assert fnmatch.fnmatchcase(interface, match.get("interface", "*"))
                assert "sim" not in match or sim == match["sim"].rstrip("Ff") != ""
                assert "apn" not in match or apn.lower() == match["apn"].lower() != ""


def setting(data: bytes) -> None:
    """arbiter.toml."""
    text = _utf8(data)
    try:
        found = settings.load(text, "/x.toml")
    except SettingsError as error:
        _placed(error, text)
        return
    said = tomllib.loads(text)
    for key in Settings.__struct_fields__:
        value = getattr(found, key)
        assert value == said.get(key, getattr(Settings(), key)), key
        if key in settings.RANGES:
            low, high = settings.RANGES[key]
            assert low <= value <= high
    assert found.markings


def _placed(error: FileError, text: str) -> None:
    assert str(error).isprintable()
    assert 0 <= error.line <= text.count("\n") + 1
