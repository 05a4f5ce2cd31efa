"""Policy files as the tests of them read and write them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from arbiter.policyfiles import PolicyFile, PolicyFileError, load

ROOT = Path(__file__).parents[1]
ADMINS = ("admin", "empty")
APPLICATION = '[application]\nname = "X"\napp = "/usr/bin/x"\n'
ETC, SHARE = "/etc/arbiter/policy.d/", "/usr/share/arbiter/policy.d/"


def shipped(path: Path) -> bool:
    return not path.name.startswith(ADMINS)


def good(name: str) -> PolicyFile:
    path = ROOT / f"fixtures/policies/good/{name}.toml"
    return load(path.read_text("utf-8"), str(path), shipped=shipped(path))


def connection(*lines: str, host: str = '"a.example"') -> str:
    return "\n".join([APPLICATION, "[[connection]]", f"host = {host}", 'purpose = "x"', *lines])


def fails(text: str, *, shipped: bool = True) -> PolicyFileError:
    with pytest.raises(PolicyFileError) as caught:
        load(text, SHARE + "x.toml", shipped=shipped)
    return caught.value


def valid(schema: dict[str, Any], value: Any) -> bool:
    """JSON Schema, as far as ours uses it; an unknown word is an error of this test."""
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    for word, rule in schema.items():
        if word in ("description", "title", "$schema", "$id"):
            continue
        if word == "type":
            if not isinstance(value, kinds[rule]) or (
                rule == "integer" and value in (True, False) and isinstance(value, bool)
            ):
                return False
        elif word == "anyOf":
            if not any(valid(one, value) for one in rule):
                return False
        elif word == "enum":
            if value not in rule:
                return False
        elif word == "const":
            if value != rule:
                return False
        elif word == "required":
            if not set(rule) <= set(value):
                return False
        elif word == "properties":
            if not all(valid(rule[key], value[key]) for key in value if key in rule):
                return False
        elif word == "additionalProperties":
            assert rule is False
            if set(value) - set(schema["properties"]):
                return False
        elif word == "items":
            if not all(valid(rule, item) for item in value):
                return False
        elif word == "pattern":
            if not re.search(rule, value):
                return False
        else:
            checks = {
                "minLength": lambda v, n: len(v) >= n,
                "maxLength": lambda v, n: len(v) <= n,
                "minItems": lambda v, n: len(v) >= n,
                "maxItems": lambda v, n: len(v) <= n,
                "minimum": lambda v, n: v >= n,
                "maximum": lambda v, n: v <= n,
            }
            if not checks[word](value, rule):
                return False
    return True


def accepts(schema: dict[str, Any], value: Any) -> None:
    assert valid(schema, value), "the schema refuses what the code accepts"
