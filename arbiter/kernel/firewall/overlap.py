"""Who else uses our mark bits: looked for in `ip rule` and in the rulesets before a start.

A use under a mask overlaps if the mask has one of our bits. A use of the whole word (no mask, or
0xffffffff) overlaps if its value has our decided bit, as Mullvad's 0x6d6f6c65 at the default
place, or nothing but our bits. Any other, such as wg-quick's 0xca6c, does not: a packet that
carries it has bits outside ours, so our rules neither queue nor change it, and it keeps
comparing equal; without the decided bit no rule of ours acts on it; and a mark that we make of
an unmarked packet has no bit outside ours, and never equals it. Copies of the whole word between
packet and connection carry our bits along unharmed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator

from msgspec import Struct

from arbiter.kernel.firewall import iptables, nft, probe
from arbiter.kernel.firewall.plan import WORD, Plan
from arbiter.protocol import clean
from arbiter.routeplan import PROTOCOL

_FWMARK = re.compile(r"\bfwmark (0x[0-9a-fA-F]{1,8}|\d{1,10})(?:/(0x[0-9a-fA-F]{1,8}|\d{1,10}))?")
_OURS = re.compile(rf"\bproto {PROTOCOL}\b")
_PREF = re.compile(r"\s*(\d+):")


class Overlap(Struct, frozen=True):
    """Somebody else's use of our bits."""

    where: str
    """`ip rule 5210`, `iptables mangle OUTPUT`, `nft inet mullvad mangle`."""
    what: str
    """The rule as found, cleaned."""
    bits: int
    """Which of our bits."""
    text: str
    """What, where, why and the next step, for a person."""


Marks = tuple[tuple[int, int], ...]
"""(value, mask) of each use; mask WORD is the whole word."""


class _Use(Struct, frozen=True):
    where: str
    what: str
    marks: Marks

    def clash(self, plan: Plan) -> int:
        """Which of the plan's bits it uses; 0 is no overlap."""
        bits = 0
        for value, mask in self.marks:
            if mask != WORD:
                bits |= mask & plan.mask
            elif value & plan.decided or not value & plan.keep:
                bits |= value & plan.mask
        return bits


def overlaps(
    plan: Plan, ip_rules: str, ruleset: str | Iterable[str], own_prefs: frozenset[int] = frozenset()
) -> tuple[Overlap, ...]:
    """Every overlap in `ip rule` output and in rulesets: `nft -j list ruleset` or iptables-save.

    Pure; what cannot be read as a mark is passed over. Our own ip rules, of a run that crashed, are
    known by their protocol, whatever preferences it had, or are at `own_prefs`.
    """
    texts = [ruleset] if isinstance(ruleset, str) else list(ruleset)
    uses = [*_ip_rules(ip_rules, own_prefs)]
    for text in texts:
        uses += _nft(text) if text.lstrip().startswith("{") else _iptables(text)
    free = _free_mask(uses)
    step = (
        f"set mark_base = {free:#010x} in arbiter.toml, those bits are free"
        if free
        else "no seven adjacent bits are free for mark_base: change that rule"
    )
    found = [(use, bits) for use in dict.fromkeys(uses) if (bits := use.clash(plan))]
    return tuple(
        Overlap(
            use.where,
            use.what,
            bits,
            f"{use.where} uses mark bits {bits:#010x} of arbiter's {plan.mask:#010x}: {use.what}; "
            f"each would misread the other's marks; {step}",
        )
        for use, bits in found
    )


def look() -> tuple[str, tuple[str, ...]]:
    """What `overlaps` wants, read from this network namespace. Raises FirewallError."""
    ip = probe.need_tool("ip")
    rules = "".join(
        probe.run([ip, f"-{'6' if f == 'ip6' else '4'}", "rule"]) for f in probe.families()
    )
    texts = [probe.save(f, v) for f in probe.families() for v in probe.VARIANTS]
    if path := probe.find_tool("nft"):
        texts.append(probe.run([path, "-j", "list", "ruleset"]))
    return rules, tuple(text for text in texts if text)


def notracks(rulesets: Iterable[str]) -> tuple[str, ...]:
    """The `notrack` rules found: such packets are asked about one by one (`nft`'s docstring)."""
    found: list[str] = []
    for text in rulesets:
        if text.lstrip().startswith("{"):
            found += [where for where, expr in _nft_rules(text) if {"notrack": None} in expr]
        else:
            lines = (line for line in text.splitlines() if line.startswith("-A "))
            found += [line for line in lines if re.search(r"-j (NOTRACK|CT .*--notrack)", line)]
    return tuple(clean(text, 200) for text in found)


def _free_mask(uses: list[_Use]) -> int:
    """The highest mask that nobody's use overlaps, 0 if there is none."""
    masks = (0x7F << n for n in range(25, -1, -1))
    return next((m for m in masks if not any(u.clash(Plan(mask=m)) for u in uses)), 0)


def _ip_rules(text: str, own: frozenset[int]) -> Iterator[_Use]:
    for line in text.splitlines():
        pref, mark = _PREF.match(line), _FWMARK.search(line)
        if mark and not (pref and int(pref[1]) in own) and not _OURS.search(line):
            value, mask = int(mark[1], 0), int(mark[2] or str(WORD), 0)
            where = f"ip rule {pref[1]}" if pref else "ip rule"
            yield _Use(where, clean(" ".join(line.split()), 200), ((value, mask),))


# --- iptables-save ---------------------------------------------------------------------------


def _iptables(text: str) -> Iterator[_Use]:
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = clean(line[1:].strip(), 40)
        if not line.startswith("-A ") or line.startswith("-A " + iptables.PREFIX):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        pairs = zip(words, [*words[1:], ""], strict=True)
        marks = tuple(m for option, value in pairs for m in _option_marks(option, value))
        if marks:
            yield _Use(f"iptables {table} {clean(words[1], 40)}", clean(line, 200), marks)


def _option_marks(option: str, value: str) -> Marks:
    """xt_mark and xt_connmark, match and target, as iptables-save prints them."""
    first, _, second = value.partition("/")
    number, mask = _number(first), _number(second) if second else WORD
    if number is None or mask is None:
        return ()
    if option in ("--mark", "--set-mark", "--set-xmark"):
        # set-xmark XORs the value in: it writes the bits of both.
        return ((number, mask if mask == WORD else mask | number),)
    if option in ("--nfmask", "--ctmask", "--mask"):
        return _masked(number)
    return ()


def _masked(mask: int) -> Marks:
    """A copy, test or write under a mask; of the whole word it is no use of anybody's bits."""
    return () if mask == WORD else ((0, mask & WORD),)


def _number(text: str) -> int | None:
    try:
        number = int(text, 0)
    except ValueError:
        return None
    return number if 0 <= number <= WORD else None


# --- nft JSON (libnftables-json(5)) ----------------------------------------------------------


def _nft_rules(text: str) -> Iterator[tuple[str, list[object]]]:
    """("nft FAMILY TABLE CHAIN", expressions) of every rule that is not ours."""
    try:
        items = json.loads(text)["nftables"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise probe.FirewallError(
            f"`nft -j list ruleset` printed what is not nftables JSON: {clean(str(error), 200)}; "
            "try that command by hand"
        ) from error
    for item in items if isinstance(items, list) else []:
        rule = item.get("rule") if isinstance(item, dict) else None
        if not isinstance(rule, dict) or not isinstance(rule.get("expr"), list):
            continue
        family, table, chain = (str(rule.get(key)) for key in ("family", "table", "chain"))
        ours = family == "inet" and table in (nft.TABLE, nft.PROBE_TABLE)
        if not ours and not chain.startswith(iptables.PREFIX):
            yield clean(f"nft {family} {table} {chain}", 200), rule["expr"]


def _nft(text: str) -> Iterator[_Use]:
    for where, expressions in _nft_rules(text):
        for statement in expressions:
            marks = _statement_marks(statement)
            if marks:
                yield _Use(where, clean(json.dumps(statement), 200), marks)


def _statement_marks(statement: object) -> Marks:
    match statement:
        case {"match": {"left": left, "right": right}} | {"vmap": {"key": left, "data": right}}:
            return _compared(left, right)
        case {"mangle": {"key": key, "value": value}} if _is_mark(key):
            return _written(key, value)
    return ()


def _is_mark(expression: object) -> bool:
    return expression in ({"meta": {"key": "mark"}}, {"ct": {"key": "mark"}})


def _compared(left: object, right: object) -> Marks:
    match left:
        case {"&": [key, int(mask)]} if _is_mark(key):
            return _masked(mask)
        case key if _is_mark(key):
            return _values(right)
    return ()


def _values(expression: object) -> Marks:
    """What a whole word is compared with; a range or prefix uses every bit that varies in it."""
    match expression:
        case bool():
            return ()
        case int(value):
            return ((value & WORD, WORD),)
        case {"range": [int(low), int(high)]}:
            return ((0, (low | high | ((1 << (low ^ high).bit_length()) - 1)) & WORD),)
        case {"prefix": {"addr": int(low), "len": int(length)}} if 0 <= length <= 32:
            return ((0, (low | WORD >> length) & WORD),)
        case {"set": [*items]}:
            keys = (item[0] if isinstance(item, list) and item else item for item in items)
            return tuple(mark for key in keys for mark in _values(key))
    return ()


def _written(key: object, value: object) -> Marks:
    """The bits a `mark set` changes, where that can be told from the rule."""
    match value:
        case bool():
            return ()
        case int(number):
            return ((number & WORD, WORD),)
        case {"&": [source, int(kept)]} if source == key:
            return _masked(WORD & ~kept)
        case {"&": [source, int(kept)]} if _is_mark(source):
            return _masked(kept)
        case {"|": [source, int(number)]} | {"^": [source, int(number)]}:
            return (*_written(key, source), (0, number & WORD))
        case {"map": {"data": {"set": [*items]}}}:
            pairs = (item for item in items if isinstance(item, list) and len(item) == 2)
            return tuple(mark for _, data in pairs for mark in _written(key, data))
    return ()
