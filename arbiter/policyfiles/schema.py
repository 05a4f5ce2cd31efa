"""The JSON Schema of policy files, for editors and packagers, made from the tables that read them.

It is the lesser half: what it accepts, `load` may still refuse (an interpreter, a name that is
none). It never refuses what `load` accepts.
"""

from __future__ import annotations

from typing import Any

from arbiter.policyfiles import keys
from arbiter.policyfiles.load import MAX_CONNECTIONS
from arbiter.policyfiles.values import FORMAT


def json_schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) of both kinds of file."""
    top = _properties(keys.TOP)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:nfarbiter:policy:{FORMAT}",
        "title": f"Arbiter policy file, format {FORMAT}",
        "anyOf": [
            {
                "title": "What an application's package, or an administrator, says of a program",
                "type": "object",
                "properties": {
                    **top,
                    "application": _table(keys.APPLICATION),
                    "connection": {
                        "type": "array",
                        "maxItems": MAX_CONNECTIONS,
                        "items": _table(keys.CONNECTION),
                    },
                },
                "required": ["application"],
                "additionalProperties": False,
            },
            {
                "title": "Rules of an administrator: /etc/arbiter/policy.d",
                "type": "object",
                "properties": {
                    **top,
                    **_properties(keys.ADMIN),
                    "rule": {"type": "array", "items": _table(keys.RULE)},
                },
                "additionalProperties": False,
            },
        ],
    }


def _table(table: keys.Table) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": _properties(table),
        "required": [key for key, row in table.items() if row.required],
        "additionalProperties": False,
    }


def _properties(table: keys.Table) -> dict[str, Any]:
    return {key: {"description": row.says, **row.schema} for key, row in table.items()}
