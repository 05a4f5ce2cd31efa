"""What is asked of the rules: from a record as from the packet it is of, and answered as judged."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import rule_strategies as small
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from playbook import HERE, NOBODY, SERVER, owner, packet, process

from arbiter.events import Reason, Report
from arbiter.judge import SEVERAL_USERS, Context, Judgement, judge
from arbiter.model import (
    ALLOW,
    DENY,
    Ancestor,
    App,
    AppKind,
    Decision,
    Flow,
    Hook,
    NoOwner,
    NoOwnerReason,
    Owner,
    Packet,
    Process,
)
from arbiter.questions import (
    Otherwise,
    answer,
    exempt,
    misses,
    of_packet,
    of_record,
    otherwise,
    otherwise_text,
)
from arbiter.records import Record, from_utf8, read_list, utf8
from arbiter.rules import Entry, Index, Layer, parse, rank, reasons, why_not
from arbiter.settings import Fallback, Mode, Settings, WhenUnattended
from arbiter.store import Store
from arbiter.views import record_of

ROOT = Path(__file__).parent.parent
NOW = 150.0

# --- any owner and packet, over few values so that rules meet them --------------------------

apps = st.sampled_from(small.APPS)
contexts = st.builds(
    Context,
    st.lists(st.sampled_from(small.SIMS), max_size=2).map(tuple),
    st.lists(st.sampled_from(small.NETWORKS), max_size=3).map(tuple),
    st.none() | st.booleans(),
    st.none() | st.booleans(),
    st.lists(st.sampled_from(small.NAMES), max_size=3).map(tuple),
    st.sampled_from(("", *small.PROFILES)),
)


def as_app(id: str) -> App:
    return App(id, AppKind.PATH, id)


@st.composite
def processes(draw: st.DrawFn, uids: st.SearchStrategy[int]) -> Process:
    pid, start = draw(st.sampled_from(small.PROCESSES))
    parents = draw(st.lists(st.sampled_from(small.PARENTS), max_size=3))
    return Process(
        pid,
        start,
        draw(uids),
        as_app(draw(apps)),
        "/x",
        ancestors=tuple(Ancestor(n, as_app(id)) for n, id in enumerate(parents, 2)),
    )


@st.composite
def owners(draw: st.DrawFn, most: int = 3, uids: tuple[int, ...] = (1000, 1001)) -> Owner | NoOwner:
    uid = draw(st.sampled_from((1000, 1001)))
    user = {1000: "alice", 1001: "bob"}[uid]
    established = draw(st.booleans())
    if draw(st.integers(0, 4)) == 0:
        known = draw(st.booleans())
        return NoOwner(
            draw(st.sampled_from(NoOwnerReason)),
            uid if known else None,
            user if known else "",
            "a detail",
            established,
        )
    whose = st.sampled_from(uids) if uids else st.just(uid)
    held = draw(st.lists(processes(whose), min_size=1, max_size=most))
    groups = tuple(draw(st.lists(st.sampled_from(small.GROUPS), max_size=2)))
    gids = tuple(draw(st.lists(st.sampled_from(small.GIDS), max_size=2)))
    return Owner(uid, user, tuple(held), 7, established, groups, gids)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    daddr = draw(st.sampled_from(small.ADDRESSES))
    proto = draw(st.sampled_from(small.PROTOS))
    dport = draw(st.sampled_from((0, *small.PORTS))) if proto != 1 else 0
    flags = draw(st.sampled_from((0x02, 0x10))) if proto == 6 else 0
    hook = draw(st.sampled_from((Hook.OUT, Hook.IN)))
    flow = Flow(proto, daddr, 40000, daddr, dport)
    return Packet(1, flow, hook, tcp_flags=flags)


entries = st.lists(small.small_entries(st.integers(1, 60)), max_size=25)


@settings(deadline=None, max_examples=examples(300))
@given(entries, owners(), packets(), contexts)
def test_the_answer_is_the_daemons_own(
    rules: list[Entry], who: Owner | NoOwner, sent: Packet, context: Context
) -> None:
    index = Index(rules)
    found = answer(index, of_packet(sent, who, context), NOW)
    judged = judge(index, sent, who, NOW, context)
    assert found.judgement == (judged and judged._replace(lasting=False))
    if found.judgement is None:
        assert found.match is None and index.lookup(found.query, NOW) is None
    elif found.judgement.entry is None:
        assert found.question.older and found.match is None
    else:
        assert found.match is not None and found.match.entry == found.judgement.entry
    near = misses(list(index), found.query, NOW, index.zone)
    matching = {found.match.entry, *found.match.beaten} if found.match is not None else set()
    assert not matching & {entry for entry, _ in near}
    for entry, why in near:
        assert why_not(entry, found.query, NOW) == why
    failing = [len([*reasons(entry, found.query, NOW, index.zone)]) for entry, _ in near]
    places = [(count, rank(entry)) for count, (entry, _) in zip(failing, near, strict=True)]
    assert places == sorted(places) and 0 not in failing


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("records") / "a.db")


@settings(deadline=None, max_examples=examples(150))
@given(rules=entries, who=owners(1), sent=packets(), context=contexts)
def test_a_record_asks_what_its_packet_asked(
    store: Store, rules: list[Entry], who: Owner | NoOwner, sent: Packet, context: Context
) -> None:
    """Through the database: the same question, and so the same decision by the same rule."""
    index = Index(rules)
    judged = judge(index, sent, who, NOW, context)
    reason = Reason.DEADLINE if judged is None else Reason.RULE if judged.entry else Reason.OLDER
    decision = judged.decision if judged is not None else DENY
    rule = judged.entry if judged is not None else None
    report = Report(NOW, sent, who, decision, reason, rule, context=context)
    store.record([record_of(report)])
    kept = store.records.last()
    assert kept is not None and store.records.one(kept.id) == kept
    groups, gids = (who.groups, who.gids) if isinstance(who, Owner) else ((), ())
    question = of_record(kept.record, groups, gids)
    assert question.flow == sent.flow and question.hook is sent.hook
    assert question.queries == of_packet(sent, who, context).queries
    found = answer(index, question, kept.record.time)
    assert found.judgement == (judged and judged._replace(lasting=False))
    assert kept.record.rule_id == (rule.id if rule is not None else None)


@given(st.binary(max_size=40).map(os.fsdecode))
def test_bytes_that_are_no_text_come_back_from_the_store(text: str) -> None:
    assert from_utf8(utf8(text)) == text


def test_a_record_says_why_no_rule_for_a_user_counted(store: Store) -> None:
    """A set-uid program: rules for alice did not hold for it then, and do not when asked again."""
    who = owner(process(uid=0), uid=1000)
    made = record_of(Report(NOW, packet(1), who, DENY, Reason.RULE, note="x"))
    assert made.note == f"x; {SEVERAL_USERS}" and (made.uid, made.user) == (1000, "alice")
    (asked,) = of_record(made, ("users",), (100,)).queries
    assert (asked.uid, asked.user, asked.groups, asked.gids) == (None, "", (), ())
    assert record_of(Report(NOW, packet(1), NOBODY, DENY, Reason.RULE)).note == ""


def test_every_fact_of_the_context_reaches_its_own_condition(store: Store) -> None:
    """And comes back from the database as it was: yes and no are no numbers."""
    context = Context(("8943000000000000001",), ("ssid:Home",), True, False, ("a.example",), "home")
    (asked,) = of_packet(packet(1), owner(), context).queries
    assert (asked.sims, asked.networks) == (context.sims, context.networks)
    assert (asked.metered, asked.roaming, asked.names) == (True, False, context.names)
    assert asked.profile == "home"
    store.record([record_of(Report(NOW, packet(1), owner(), DENY, Reason.RULE, context=context))])
    kept = store.records.last()
    assert kept is not None
    assert kept.record.metered is True and kept.record.roaming is False
    (again,) = of_record(kept.record).queries
    assert again == asked
    index = Index([Entry(1, parse("deny metered=yes roaming=no"), Layer.ADMIN, 1.0, "root")])
    assert misses(list(index), again, NOW, index.zone) == []


def test_a_program_whose_name_is_no_text_is_asked_about_by_its_bytes(store: Store) -> None:
    named = os.fsdecode(b"/opt/\xff\xfe")
    who = owner(process(named))
    store.record([record_of(Report(NOW, packet(1), who, DENY, Reason.RULE))])
    kept = store.records.last()
    assert kept is not None and of_record(kept.record).queries[0].app == named


# --- records that cannot be asked again -----------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"daddr": "", "proto": "", "note": "IPv4 header is short"}, "IPv4 header is short"),
        ({"proto": "tcpp"}, "'tcpp' is no protocol"),
        ({"proto": "256"}, "is no protocol"),
        ({"daddr": "example.org"}, "example.org"),
        ({"daddr": "::1"}, "two families"),
        ({"dport": 65536}, "65536 is no port"),
        ({"hook": "sideways"}, "sideways"),
        ({"names": "{}"}, "no list of texts"),
        ({"sims": "[1]"}, "no list of texts"),
        ({"parents": "nonsense", "app": "/a"}, "Expecting value"),
    ],
)
def test_a_record_that_somebody_else_wrote_is_refused_with_why(
    changes: dict[str, object], why: str
) -> None:
    good: dict[str, object] = {"time": 1.0, "decision": "deny", "reason": "rule"}
    good |= {"proto": "tcp", "saddr": "192.0.2.1", "daddr": "192.0.2.7", "dport": 443}
    assert of_record(Record(**good)).queries  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape(why)):
        of_record(Record(**(good | changes)))  # type: ignore[arg-type]


def test_lists_of_texts_are_read_without_loss() -> None:
    assert read_list('["a", "\\\\udcff"]') == ("a", "\udcff")
    assert read_list('["a", "\\udcff"]') == ("a", "\udcff"), "as records before had it"


# --- what is not decided, and what happens without a rule -----------------------------------


def to(daddr: str, proto: int = 6, sport: int = 40000, dport: int = 443, icmp: int = -1) -> Packet:
    import ipaddress

    there = ipaddress.ip_address(daddr).packed
    here = HERE if len(there) == 4 else bytes.fromhex("20010db8000100000000000000000002")
    return Packet(1, Flow(proto, here, sport, there, dport), icmp_type=icmp)


def test_what_the_ruleset_sends_to_nobody_is_exempt() -> None:
    for sent in (
        to("127.0.0.1"),
        to("::1"),
        to("224.0.0.251", 17),
        to("ff02::fb", 17),
        to("255.255.255.255", 17),
        to("fe80::1"),
        to("febf::1"),
        to("192.0.2.1", 17, 68, 67),
        to("2001:db8::1", 17, 546, 547),
        to("2001:db8::1", 58, 0, 0, icmp=135),
    ):
        assert exempt(sent), sent
    for sent in (
        to("192.0.2.7"),
        to("2001:db8::7"),
        to("fec0::1"),
        to("192.0.2.1", 17, 67, 68),
        to("192.0.2.1", 6, 68, 67),
        to("2001:db8::1", 58, 0, 0, icmp=128),
        to("192.0.2.7", 58, 0, 0, icmp=135),
    ):
        assert not exempt(sent), sent
    own = Packet(1, Flow(6, SERVER, 1, SERVER, 2))
    assert exempt(own) == "it stays on this machine"


def test_the_exempt_icmpv6_types_are_those_of_the_ruleset() -> None:
    text = (ROOT / "fixtures" / "rulesets" / "block.nft").read_text()
    match = re.search(r"icmpv6 type \{ ([0-9, ]+) \} return", text)
    assert match is not None
    wanted = {int(number) for number in match[1].split(",")}
    sent = {n for n in range(256) if exempt(to("2001:db8::1", 58, 0, 0, icmp=n))}
    assert sent == wanted


@pytest.mark.parametrize(
    ("mode", "fallback", "wanted", "text"),
    [
        (
            Mode.ASK,
            Fallback.DENY,
            DENY,
            "you are asked; without an answer within 30 s it is denied",
        ),
        (Mode.ASK, Fallback.ALLOW, ALLOW, "without an answer within 30 s it is allowed"),
        (Mode.ENFORCE, Fallback.DENY, DENY, "it is denied, as the mode is enforce"),
        (Mode.ENFORCE, Fallback.ALLOW, ALLOW, "it is allowed, as the mode is enforce"),
        (Mode.OBSERVE, Fallback.DENY, ALLOW, "it is allowed, as the mode is observe"),
    ],
)
def test_without_a_rule_the_settings_say_what_happens(
    mode: Mode, fallback: Fallback, wanted: Decision, text: str
) -> None:
    found = otherwise(Settings(mode=mode, fallback=fallback))
    assert found == Otherwise(mode, wanted, 30.0 if mode is Mode.ASK else 0.0)
    assert text in otherwise_text(found)


@pytest.mark.parametrize(
    ("unattended", "fallback", "wanted", "text"),
    [
        ("hold", "allow", None, "within 30 s it is allowed"),
        ("fallback", "deny", DENY, "is denied, and at once denied while no prompt is there"),
        ("fallback", "allow", ALLOW, "is allowed, and at once allowed while no prompt is there"),
        ("observe", "deny", ALLOW, "is denied, and at once allowed while no prompt is there"),
    ],
)
def test_where_nobody_is_there_to_answer_the_settings_say_what_happens(
    unattended: str, fallback: str, wanted: Decision | None, text: str
) -> None:
    made = Settings(when_unattended=WhenUnattended(unattended), fallback=Fallback(fallback))
    found = otherwise(made)
    assert found.unattended == wanted
    assert otherwise_text(found).endswith(text)
    observed = Settings(mode=Mode.OBSERVE, when_unattended=WhenUnattended(unattended))
    assert otherwise(observed).unattended is None


def test_without_settings_nothing_is_claimed_of_them() -> None:
    assert otherwise_text(None) == "you are asked, unless the mode says otherwise"


def test_the_answer_is_about_the_program_that_decides_or_lacks_a_rule() -> None:
    rules = [
        Entry(1, parse("allow app=/usr/bin/curl"), Layer.REMEMBERED, 1.0, "alice"),
        Entry(2, parse("deny app=/usr/bin/nc"), Layer.REMEMBERED, 1.0, "alice"),
    ]
    curl, nc, wget = process(), process("/usr/bin/nc", 5), process("/usr/bin/wget", 6)
    found = answer(Index(rules), of_packet(packet(1), owner(curl, nc)), NOW)
    assert found.query.app == "/usr/bin/nc" and found.judgement is not None
    found = answer(Index(rules), of_packet(packet(1), owner(curl, wget)), NOW)
    assert found.query.app == "/usr/bin/wget" and found.judgement is None
    found = answer(Index(rules), of_packet(packet(1), NOBODY), NOW)
    assert found.question.no_owner == "kernel socket"


def test_what_came_in_before_arbiter_passes_whatever_the_rules_say() -> None:
    held = structs.replace(owner(), established=True, came_in=True)
    segment = structs.replace(packet(1), tcp_flags=0x10)
    index = Index([Entry(1, parse("deny"), Layer.ADMIN, 1.0, "root")])
    asked = of_packet(segment, held)
    assert asked.came_in
    assert answer(index, asked, 1.0).judgement == judge(index, segment, held, 1.0)
    assert judge(index, segment, held, 1.0) == Judgement(ALLOW, None)
    assert answer(index, of_packet(segment, owner()), 1.0).judgement != Judgement(ALLOW, None)
