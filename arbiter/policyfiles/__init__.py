"""Policy files: an administrator's rules, and what packages say of their programs. Pure.

values.py what a file says; hosts.py the destinations of advice; keys.py every key; places.py
lines; load.py decoding; safety.py who may speak for what; advice.py the look-up, and the rules in
force; check.py what `arbiter rules check` tells; schema.py the JSON Schema.
"""

from arbiter.policyfiles.advice import AdviceBook, as_rule, entries
from arbiter.policyfiles.hosts import AdviceHost, Name
from arbiter.policyfiles.load import MAX_ADMIN, MAX_SHIPPED, examine, load, load_all
from arbiter.policyfiles.safety import FileFacts, app_fault, owner_fault, stat_fault
from arbiter.policyfiles.schema import json_schema
from arbiter.policyfiles.values import (
    FORMAT,
    Advice,
    Application,
    FileRule,
    PolicyFile,
    PolicyFileError,
    Relevance,
)

__all__ = [
    "FORMAT",
    "MAX_ADMIN",
    "MAX_SHIPPED",
    "Advice",
    "AdviceBook",
    "AdviceHost",
    "Application",
    "FileFacts",
    "FileRule",
    "Name",
    "PolicyFile",
    "PolicyFileError",
    "Relevance",
    "app_fault",
    "as_rule",
    "entries",
    "examine",
    "json_schema",
    "load",
    "load_all",
    "owner_fault",
    "stat_fault",
]
