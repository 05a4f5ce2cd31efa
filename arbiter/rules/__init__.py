"""Rules: what they are, how they are written, which one decides, and why. Pure.

rule.py the values; rank.py the order of precedence; line.py (words.py, hosts.py, names.py,
context.py, places.py, times.py, week.py) the one-line form; jsonform.py the same in JSON;
index.py (shapes.py) the fast look-up, spoken.py the names in it, depends.py (areas.py) what its
answers depend on; explain.py the reasons; scopes.py lan or internet; choose.py what an ask offers;
lint.py what is odd about a rule, findings.py (relate.py, ties.py) about rules beside each other,
stale.py about rules on a machine: those that name what is gone, and those that nothing uses;
seen.py what nobody decided, propose.py (widen.py) the rules that would.
"""

from arbiter.rules.choose import scopes_for
from arbiter.rules.explain import reasons, why_not
from arbiter.rules.findings import Finding, FindingKind, check
from arbiter.rules.hosts import format_host, shown_host
from arbiter.rules.index import Index
from arbiter.rules.jsonform import FieldError, from_json, to_json
from arbiter.rules.line import (
    conditions,
    format_decision,
    format_lifetime,
    format_rule,
    parse,
    parse_lifetime,
)
from arbiter.rules.lint import never_decided, never_matches, over_broad
from arbiter.rules.names import canonical_name, shown_name
from arbiter.rules.rank import rank
from arbiter.rules.rule import (
    FOREVER,
    ONCE,
    Address,
    Domain,
    Entry,
    Host,
    Layer,
    Lifetime,
    LifetimeKind,
    Match,
    Name,
    Network,
    Query,
    Rule,
    ScopeName,
)
from arbiter.rules.scopes import scope_of
from arbiter.rules.spoken import Spoken
from arbiter.rules.stale import Here, Uses, dead, unused
from arbiter.rules.words import RuleError

__all__ = [
    "FOREVER",
    "ONCE",
    "Address",
    "Domain",
    "Entry",
    "FieldError",
    "Finding",
    "FindingKind",
    "Here",
    "Host",
    "Index",
    "Layer",
    "Lifetime",
    "LifetimeKind",
    "Match",
    "Name",
    "Network",
    "Query",
    "Rule",
    "RuleError",
    "ScopeName",
    "Spoken",
    "Uses",
    "canonical_name",
    "check",
    "conditions",
    "dead",
    "format_decision",
    "format_host",
    "format_lifetime",
    "format_rule",
    "from_json",
    "never_decided",
    "never_matches",
    "over_broad",
    "parse",
    "parse_lifetime",
    "rank",
    "reasons",
    "scope_of",
    "scopes_for",
    "shown_host",
    "shown_name",
    "to_json",
    "unused",
    "why_not",
]
