"""The wording of an ask, shared by all frontends: pure functions from messages to text.

Everything returned is one line, cleaned again (`tidy`), so that a frontend may show it as it
is; the daemon cleaned it before, but a terminal is the wrong place to trust that.
"""

from __future__ import annotations

import re
import unicodedata

from arbiter.model import ANY_LINK, METERED, UNMETERED
from arbiter.protocol import (
    AdviceView,
    AppView,
    Ask,
    Choice,
    Decided,
    Destination,
    ProcessView,
    Scope,
    Withdraw,
    clean,
    quoted,
)
from arbiter.protocol import WithdrawReason as Why

LIFETIMES = ("once", "process", "15m", "1h", "session", "boot", "forever")
"""What a person may choose, shortest first. "process" only where the ask has one."""
NAME_LIMIT = 60
"""Characters of a program's or a host's name in a sentence: it may not push the rest away."""
ANY_SCOPE = Scope("connection", "")
_BLANK = dict.fromkeys(map(ord, "\u115f\u1160\u3164\uffa0\u2800\u034f"), "\ufffd")
"""Letters that show nothing (Hangul fillers, braille blank): `clean` keeps them as letters."""
_MARK = "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]"
_MARKS = re.compile(f"({_MARK}{{3}}){_MARK}+")


def tidy(text: str, limit: int = 4096) -> str:
    """`text` as one harmless line: no escapes, no bidi, nothing invisible, no stacked accents."""
    text = clean(text, limit)
    if text.isascii():
        return text
    text = _MARKS.sub(r"\1", text.translate(_BLANK))
    return "".join(" " if unicodedata.category(c) == "Zs" else c for c in text)


# --- who ------------------------------------------------------------------------------------


def parent_of(process: ProcessView) -> AppView | None:
    """The nearest ancestor that is another app: who started it, as people see it."""
    return next((parent for parent in process.parents if parent.id != process.app.id), None)


def name_of(app: AppView) -> str:
    """`curl`; in quotes where it could pass for other words of a sentence."""
    return quoted(tidy(app.name, NAME_LIMIT))


def who(ask: Ask) -> str:
    """`curl, from deploy.sh`; `an unknown program` where there is no owner."""
    if not ask.processes:
        return "an unknown program"
    process = ask.processes[0]
    parent = parent_of(process)
    name = name_of(process.app)
    return f"{name}, from {name_of(parent)}" if parent else name


def app_name(ask: Ask) -> str:
    """`curl`, for one-line results."""
    return name_of(ask.processes[0].app) if ask.processes else "an unknown program"


def command(process: ProcessView) -> str:
    """Its argv as it might be typed; arguments with blanks are quoted."""
    return tidy(" ".join(repr(a) if not a or re.search(r"\s", a) else a for a in process.argv))


def parents(process: ProcessView) -> str:
    """`deploy.sh < bash < sshd`, nearest first."""
    return tidy(" < ".join(name_of(parent) for parent in process.parents))


def user(ask: Ask) -> str:
    """`alice`, `uid 1000`, or `unknown user`."""
    return tidy(ask.user) or (f"uid {ask.uid}" if ask.uid is not None else "unknown user")


# --- where ----------------------------------------------------------------------------------


def endpoint(ask: Ask) -> str:
    """Where it wants to connect to, as `place` says it."""
    return place(ask.destination)


def place(to: Destination) -> str:
    """`192.0.2.7:443 (https)`, `[2001:db8::1]:53/udp (domain)`, `192.0.2.7 icmp`."""
    address = tidy(to.address)
    if not to.port:
        text = f"{address} {tidy(to.proto)}"
    else:
        text = f"[{address}]:{to.port}" if ":" in address else f"{address}:{to.port}"
        text += "" if to.proto == "tcp" else f"/{tidy(to.proto)}"
    hints = ", ".join(tidy(hint, NAME_LIMIT) for hint in (to.service, to.name) if hint)
    return f"{text} ({hints})" if hints else text


def where(ask: Ask) -> str:
    """`192.0.2.7 (example.org), port 443 (https), tcp, internet`. The name is a hint only."""
    to = ask.destination
    parts = [tidy(to.address) + (f" ({tidy(to.name, NAME_LIMIT)})" if to.name else "")]
    if to.port:
        parts.append(f"port {to.port}" + (f" ({tidy(to.service)})" if to.service else ""))
    return ", ".join([*parts, tidy(to.proto), tidy(to.scope)])


def title(ask: Ask) -> str:
    """The question: who wants to connect where."""
    return " ".join(question(ask))


def question(ask: Ask) -> tuple[str, str]:
    """The title in two lines: `curl, from deploy.sh, wants to connect to` and where."""
    name = who(ask)
    return f"{name}{',' if ', from ' in name else ''} wants to connect to", where(ask)


def warnings(ask: Ask) -> list[str]:
    """What must be said loudly: replaced executables, no owner, a socket in several hands."""
    out = [
        f"{name_of(process.app)} (pid {process.pid}): {tidy(process.note)}"
        for process in ask.processes
        if process.note
    ]
    if not ask.processes:
        out.append(f"no program is known for it: {tidy(ask.no_owner) or 'no owner'}")
    elif len({process.app.id for process in ask.processes}) > 1:
        apps = dict.fromkeys(name_of(process.app) for process in ask.processes)
        out.append(f"several programs hold this socket: {', '.join(apps)}")
    return out


def facts(ask: Ask) -> list[tuple[str, str]]:
    """(label, text) of what else to know, the most useful first."""
    out = []
    if ask.processes:
        process = ask.processes[0]
        out.append(("program", f"{tidy(process.app.id)}, pid {process.pid}, user {user(ask)}"))
        if process.argv:
            out.append(("command", command(process)))
        if process.parents:
            out.append(("from", parents(process)))
    else:
        out.append(("user", user(ask)))
    profile = f" (profile {tidy(ask.profile, NAME_LIMIT)})" if ask.profile else ""
    out.append(("why", tidy(ask.why) + profile))
    if ask.advice is not None:
        out.append(("it says", advice_words(ask.advice)))
    return out


def advice_words(advice: AdviceView) -> str:
    """What the program's own package says, marked as its words: `Firefox: …; denied, …`."""
    parts = [
        f"{tidy(advice.application, NAME_LIMIT)}: {tidy(advice.purpose) or 'no purpose given'}"
    ]
    if advice.if_denied:
        parts.append(f"if denied: {tidy(advice.if_denied)}")
    if advice.suggest:
        parts.append(f"it suggests {tidy(advice.suggest)}")
    return "; ".join(parts)


def details(ask: Ask) -> list[tuple[str, str]]:
    """(label, text) of everything the daemon told of an ask, nothing cut."""
    to = ask.destination
    out = [("ask", f"{ask.id}, {ask.waiting} packets waiting"), ("to", where(ask))]
    names = [tidy(name) for name in (to.name, *to.names) if name]
    out += [("looked up", f"{', '.join(names)} (hints, from DNS)")] if names else []
    out += [("user", f"{user(ask)} (uid {'?' if ask.uid is None else ask.uid})")]
    for process in ask.processes:
        out.append(
            ("process", f"{process.pid} {tidy(process.app.name)} ({tidy(process.app.kind)})")
        )
        out += [("  app", tidy(process.app.id)), ("  program", tidy(process.exe))]
        out += [("  command", command(process)), ("  folder", tidy(process.cwd))]
        out += [("  from", tidy(f"{p.name} ({p.id})")) for p in process.parents]
        out += [("  warning", tidy(process.note))] if process.note else []
    out += [("no owner", tidy(ask.no_owner))] if ask.no_owner else []
    out.append(("why", tidy(ask.why)))
    out += [("profile", tidy(ask.profile))] if ask.profile else []
    if ask.advice is not None:
        essential = "essential" if ask.advice.essential else "optional"
        out.append(("it says", f"{advice_words(ask.advice)} ({essential})"))
        out.append(("  in", tidy(ask.advice.file)))
    out += [("scope", f"{tidy(s.id)}: {tidy(s.conditions) or 'every connection'}")
            for s in ask.scopes]  # fmt: skip
    return [(label, text) for label, text in out if text]


# --- what it means --------------------------------------------------------------------------

_SCOPES = {
    "connection": "this program, to exactly this destination",
    "name": "this program, to this name by this port, whatever its address",
    "host": "this program, to this address by whatever way",
    "domain": "this program, to every name of this domain by this port",
    "port": "this program, to this port of any address",
    "app": "this program, to anywhere",
    "parent": "this program, when started like now, to anywhere",
    "destination": "every program, to exactly this destination",
}


def scopes(ask: Ask) -> tuple[Scope, ...]:
    """The scopes an answer may have, narrowest first; never empty."""
    return ask.scopes or (ANY_SCOPE,)


def scope_words(scope: Scope) -> str:
    """What a scope covers, in a few words."""
    return _SCOPES.get(scope.id) or tidy(scope.id)


def lifetimes(ask: Ask) -> tuple[str, ...]:
    """The lifetimes that make sense for an ask, shortest first."""
    if not ask.scopes:
        return ("once",)
    return LIFETIMES if ask.processes else tuple(x for x in LIFETIMES if x != "process")


_SPAN = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week"}
_LIFETIMES = {
    "once": "this time only",
    "process": "until this program exits",
    "session": "until arbiter stops",
    "boot": "until this machine restarts",
    "forever": "forever",
}


def lifetime_words(lifetime: str) -> str:
    """`for 15 minutes`, `until this program exits`, `forever`."""
    if lifetime in _LIFETIMES:
        return _LIFETIMES[lifetime]
    span = _SPAN.findall(lifetime)
    if not span or "".join(n + u for n, u in span) != lifetime:
        return f"for {tidy(lifetime)}"
    return "for " + " ".join(f"{n} {_UNITS[u]}{'' if int(n) == 1 else 's'}" for n, u in span)


def decision_text(decision: Choice, via: tuple[str, ...] = ()) -> str:
    """`allow`, `deny`, `route via=lte,any`: a rule's first words."""
    return f"route via={','.join(map(tidy, via))}" if decision is Choice.ROUTE else str(decision)


def rule_line(scope: Scope, lifetime: str, decision: Choice, via: tuple[str, ...] = ()) -> str:
    """The rule that this answer makes, in one line; "" where nothing is remembered (once)."""
    if lifetime == "once":
        return ""
    parts = [decision_text(decision, via), tidy(scope.conditions)]
    parts += [] if lifetime == "forever" else [f"for={tidy(lifetime)}"]
    return " ".join(part for part in parts if part)


def words(line: str) -> list[str]:
    """A rule's line at its blanks, except those inside "..."."""
    return re.findall(r'(?:"(?:\\.|[^"\\])*"|\S)+', line)


def means(
    ask: Ask, scope: Scope, lifetime: str, decision: Choice, via: tuple[str, ...] = ()
) -> str:
    """What that rule does, in a sentence; it speaks of the conditions, not of this one ask."""
    verb = "may not connect" if decision is Choice.DENY else "may connect"
    if lifetime == "once":
        who, to, rest = app_name(ask), endpoint(ask), []
    else:
        found = dict(word.partition("=")[::2] for word in words(tidy(scope.conditions)))
        who = _subject(ask, found.pop("app", ""), found.pop("parent", ""), found.pop("user", ""))
        host, port, proto = (found.pop(key, "") for key in ("host", "port", "proto"))
        to = "anywhere" if not host else _HOSTS.get(host, host)
        to += (f", port {port}" if port else "") + (f", by {proto}" if proto else "")
        rest = [f"where {key}={value}" for key, value in found.items()]
    over = f", over {', else '.join(LINK_WORDS.get(x, tidy(x)) for x in via)}" if via else ""
    over += " only" if via and ANY_LINK not in via else ""
    return ", ".join([f"{who} {verb} to {to}{over}", *rest, lifetime_words(lifetime)])


LINK_WORDS = {
    ANY_LINK: "the default route",
    METERED: "a metered link",
    UNMETERED: "an unmetered link",
}
"""What `via` can name beside links."""
_HOSTS = {
    "lan": "any address of the local network",
    "internet": "any address on the internet",
    "multicast": "any multicast address",
    "loopback": "this machine",
}


def _subject(ask: Ask, app: str, parent: str, of_user: str) -> str:
    names = {p.app.id: p.app.name for p in ask.processes}
    names |= {a.id: a.name for p in ask.processes for a in p.parents}
    text = tidy(names.get(app, app)) if app else "every program"
    text += f" started by {tidy(names.get(parent, parent))}" if parent else ""
    return text + (f" of {of_user}" if of_user else "")


# --- time -----------------------------------------------------------------------------------


def seconds_words(seconds: float) -> str:
    """`24 s`, `3 min`, `2 h`, `more than a day`."""
    if seconds >= 86400:
        return "more than a day"
    if seconds >= 7200:
        return f"{int(seconds // 3600)} h"
    return f"{int(seconds // 60)} min" if seconds >= 120 else f"{max(0, int(seconds))} s"


def waits(ask: Ask) -> bool:
    """Whether a packet is held for the answer; else that serves the program's next try."""
    return ask.waiting > 0 and not ask.stale


def countdown(ask: Ask, now: float) -> str:
    """What happens if nobody answers, and when. `now` is epoch seconds."""
    if not waits(ask):
        return "nothing waits now; an answer serves the next try"
    left = ask.deadline - now
    if left <= 0:
        return f"{ask.fallback} by now; an answer serves the next try"
    packets = "" if ask.waiting == 1 else f" for {ask.waiting} packets"
    return f"{ask.fallback}{packets} in {seconds_words(left + 0.999)}"


# --- what came of it ------------------------------------------------------------------------

_PAST = {"allow": "allowed", "deny": "denied", "route": "routed"}


def result(ask: Ask, decided: Decided) -> str:
    """One line for the scroll-back: what was decided, and the rule that is remembered.

    `allowed curl → 192.0.2.7:443 (https) once`, or
    `allowed curl; rule 12: allow app=/usr/bin/curl port=443 for=15m`: what was asked about may be
    less than what was decided.
    """
    verb, _, rest = tidy(decided.decision).partition(" ")
    done = f"{_PAST.get(verb, verb)} {app_name(ask)}"
    text = f"{done} → {endpoint(ask)}" + (f" {rest}" if rest else "")
    if decided.problem:
        return f"{text} once; not remembered: {tidy(decided.problem)}"
    if not decided.rule:
        return f"{text} once"
    number = "" if decided.rule_id is None else f" {decided.rule_id}"
    return f"{done}; rule{number}: {tidy(decided.rule)}"


def answered_by(decided: Decided) -> str:
    """`answered by bob from tui: allow`, for those who did not answer."""
    frontend = f" from {tidy(decided.frontend)}" if decided.frontend else ""
    return f"answered by {tidy(decided.user)}{frontend}: {tidy(decided.decision)}"


_WITHDRAWN = {
    Why.EXITED: "the program has exited",
    Why.RULE: "a rule covers it now",
    Why.EXPIRED: "nobody answered for too long",
    Why.STOPPING: "arbiter is stopping",
}


def withdrawn(message: Withdraw) -> str:
    """Why an ask needs no answer any more."""
    text, why = tidy(message.text), _WITHDRAWN[message.reason]
    if text and message.reason is Why.RULE:
        return f"withdrawn: {text}"  # it names the rule
    return f"withdrawn: {why}" + (f" ({text})" if text else "")
