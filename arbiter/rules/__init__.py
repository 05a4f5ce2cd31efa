"""Rules: what they are, how they are written, which one decides, and why. Pure.

rule.py the values; rank.py the order of precedence; line.py (words.py, hosts.py, context.py) the
one-line form; index.py the fast look-up; explain.py the reasons; scopes.py lan or internet;
choose.py what an ask offers; lint.py what is odd about a rule.
"""

from arbiter.rules.choose import scopes_for
from arbiter.rules.explain import why_not
from arbiter.rules.index import Index
from arbiter.rules.line import (
    conditions,
    format_decision,
    format_lifetime,
    format_rule,
    parse,
    parse_lifetime,
)
from arbiter.rules.lint import never_matches, over_broad
from arbiter.rules.rank import rank
from arbiter.rules.rule import (
    FOREVER,
    ONCE,
    Address,
    Entry,
    Host,
    Layer,
    Lifetime,
    LifetimeKind,
    Match,
    Network,
    Query,
    Rule,
    ScopeName,
)
from arbiter.rules.scopes import scope_of
from arbiter.rules.words import RuleError

__all__ = [
    "FOREVER",
    "ONCE",
    "Address",
    "Entry",
    "Host",
    "Index",
    "Layer",
    "Lifetime",
    "LifetimeKind",
    "Match",
    "Network",
    "Query",
    "Rule",
    "RuleError",
    "ScopeName",
    "conditions",
    "format_decision",
    "format_lifetime",
    "format_rule",
    "never_matches",
    "over_broad",
    "parse",
    "parse_lifetime",
    "rank",
    "scope_of",
    "scopes_for",
    "why_not",
]
