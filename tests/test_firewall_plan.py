"""The plan and its renderings, the removal texts, and the look for overlaps: all pure."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.classes import Marking
from arbiter.kernel.firewall import iptables, nft
from arbiter.kernel.firewall.overlap import notracks, overlaps
from arbiter.kernel.firewall.plan import WORD, Family, Plan, describe
from arbiter.kernel.firewall.probe import FirewallError, probe_backend
from arbiter.model import ACCEPTED, DENIED, MARK_DECIDED, MARK_MASK

GOLDEN = Path(__file__).parent.parent / "fixtures/rulesets"
LINKS = ((1, "wlan0"), (2, "wwan0"))
CLASSES = (Marking(97, 18, 6), Marking(98, 10, 2), Marking(99, 1, 0x10030))
PLANS = {
    "block": Plan(queue=10),
    "pass": Plan(queue=10, when_absent="pass"),
    "links": Plan(queue=10, links=LINKS, tunnels=("wg0",)),
    "low-mask": Plan(queue=65535, mask=0x7F, links=LINKS),
    "classes": Plan(queue=10, classes=CLASSES),
    "dns": Plan(queue=10, links=LINKS, dns_queue=11),
}
FAMILIES: tuple[Family, ...] = ("ip", "ip6")

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}", fullmatch=True).filter(
    lambda name: name != "lo"
)
ANY_PLAN = st.builds(
    lambda queue, absent, shift, names, tunnels, classes, dns: Plan(
        queue,
        absent,
        0x7F << shift,
        tuple(enumerate(names, 1)),
        tuple(tunnels),
        tuple(classes),
        None if dns == queue else dns,
    ),
    st.integers(0, 65535),
    st.sampled_from(["block", "pass"]),
    st.integers(0, 25),
    st.lists(NAMES, max_size=31, unique=True),
    st.lists(NAMES, max_size=3),
    st.lists(
        st.builds(Marking, st.integers(0, 127), st.integers(0, 63), st.integers(0, WORD)),
        max_size=3,
        unique_by=lambda marking: marking.label,
    ),
    st.none() | st.integers(0, 65535),
)


def renderings(plan: Plan) -> dict[str, str]:
    return {
        "nft": nft.render(plan),
        "ip.rules": iptables.render(plan, "ip"),
        "ip6.rules": iptables.render(plan, "ip6"),
    }


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("kind", ["nft", "ip.rules", "ip6.rules"])
def test_each_plan_renders_to_its_golden_file(name: str, kind: str) -> None:
    path, text = GOLDEN / f"{name}.{kind}", renderings(PLANS[name])[kind]
    if os.environ.get("ARBITER_REGEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "see fixtures/rulesets/README.md"


# --- the plan --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "", "lo", "a" * 16, "a/b", "a b", "a\n", "a\x00", 'a"', "a'", "a{", "a}", "a;", "a#", "a$",
        "-i", "!a", "wlan+", "wg*", ".", "..", "a\u202eb", "é", "a:1", "a,b", "a\\", "a\ndrop",
    ],
)  # fmt: skip
def test_an_interface_name_that_could_become_syntax_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be put into a ruleset"):
        Plan(links=((1, name),))
    with pytest.raises(ValueError, match="cannot be put into a ruleset"):
        Plan(tunnels=(name,))


@given(st.text(max_size=20))
def test_any_accepted_interface_name_is_plain(name: str) -> None:
    try:
        Plan(tunnels=(name,))
    except ValueError:
        return
    assert re.fullmatch(r"[\w.@-]{1,15}", name, re.ASCII) and name[0] not in ".@-"


@pytest.mark.parametrize("name", ["wlan0", "enp0s31f6", "br-0a1b2c3d4e5f", "eth0.100", "veth@if2"])
def test_usual_interface_names_are_taken(name: str) -> None:
    assert f'"{name}"' in nft.render(Plan(links=((1, name),)))


@pytest.mark.parametrize(
    "links", [((0, "a"),), ((32, "a"),), ((1, "a"), (1, "b")), ((1, "a"), (2, "a"))]
)
def test_a_link_number_or_interface_that_is_impossible_or_twice_is_refused(
    links: tuple[tuple[int, str], ...],
) -> None:
    with pytest.raises(ValueError, match="link"):
        Plan(links=links)


@pytest.mark.parametrize("mask", [0, 1, 0x3F, 0xFF, 0x7F << 26, WORD, -1, 0x7E000001])
def test_a_mask_that_is_not_seven_adjacent_bits_is_refused(mask: int) -> None:
    with pytest.raises(ValueError, match="seven adjacent bits"):
        Plan(mask=mask)


@pytest.mark.parametrize("queue", [-1, 65536, 10])
def test_a_queue_for_dns_answers_that_is_impossible_or_the_other_one_is_refused(queue: int) -> None:
    with pytest.raises(ValueError, match="DNS answers"):
        Plan(queue=10, dns_queue=queue)


@pytest.mark.parametrize("queue", [-1, 65536])
def test_a_queue_number_out_of_range_is_refused(queue: int) -> None:
    with pytest.raises(ValueError, match="queue number"):
        Plan(queue=queue)


def test_the_default_place_is_the_model_s() -> None:
    plan = Plan()
    assert (plan.mask, plan.decided, plan.denied) == (MARK_MASK, MARK_DECIDED, DENIED.mark)
    assert plan.place(ACCEPTED.mark) == plan.link(0)
    assert plan.link(3) == 0x23000000


@given(ANY_PLAN, st.integers(0, WORD), st.integers(0, WORD))
def test_placing_a_mark_stays_in_the_mask_and_comes_back(plan: Plan, mark: int, other: int) -> None:
    placed = plan.place(mark)
    assert placed & plan.keep == 0
    assert plan.unplace(placed | (other & plan.keep)) == mark & MARK_MASK


def test_a_label_of_two_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="a label twice"):
        Plan(classes=(Marking(97, 18, 6), Marking(97, 10, 2)))


def test_describe_names_the_classes_where_there_are_some() -> None:
    assert "label 99: DSCP 1 priority 1:30;" in describe(PLANS["classes"])
    assert "DSCP" not in describe(PLANS["links"])


def test_describe_names_the_queue_of_dns_answers_where_there_is_one() -> None:
    assert "DNS answers to queue 11," in describe(PLANS["dns"])
    assert "DNS" not in describe(PLANS["links"])


def test_describe_names_queue_mask_links_and_absence() -> None:
    text = describe(PLANS["links"])
    assert all(part in text for part in ("queue 10", "0x7f000000", "2 wwan0", "block"))


# --- renderings ------------------------------------------------------------------------------


@given(ANY_PLAN)
def test_no_rendering_ever_sets_or_saves_a_bit_outside_the_mask(plan: Plan) -> None:
    for kept, bits in re.findall(r"mark set \w+ mark & (\S+)(?: \| (\S+))?", nft.render(plan)):
        assert int(kept, 0) | plan.mask == WORD
        assert int(bits or "0", 0) & plan.keep == 0
    for family in FAMILIES:
        text = iptables.render(plan, family)
        for value, mask in re.findall(r"--set-xmark (\S+)/(\S+)", text):
            assert (int(value, 0) | int(mask, 0)) & plan.keep == 0
        masks = re.findall(r"--(?:nf|ct)mask (\S+)", text)
        assert masks and {int(mask, 0) for mask in masks} == {plan.mask}


@given(ANY_PLAN)
def test_only_pass_lets_connections_by_an_absent_listener(plan: Plan) -> None:
    for text in renderings(plan).values():
        queues = [line for line in text.splitlines() if re.search(r"queue num|NFQUEUE", line)]
        queues = [line for line in queues if not re.search(r"sport 53 ", line)]
        assert queues
        assert all(("bypass" in line) == (plan.when_absent == "pass") for line in queues)


@given(ANY_PLAN)
def test_dns_answers_pass_an_absent_listener_and_only_replies_are_looked_at(plan: Plan) -> None:
    for text in renderings(plan).values():
        lines = [line for line in text.splitlines() if "sport 53 " in line]
        assert len(lines) == (0 if plan.dns_queue is None else 2)
        for line in lines:
            assert re.search(rf"(queue num|--queue-num) {plan.dns_queue} (bypass|--queue-b)", line)
            assert re.search(r"(state established|state ESTABLISHED) ", line)
            assert re.search(r"(direction reply|--ctdir REPLY) ", line)
        assert ("hook input priority 50" in text or "-A ARBITER_IN -p udp" in text) == bool(lines)


def test_deny_is_committed_before_anything_can_be_queued() -> None:
    for family in FAMILIES:
        text = iptables.render(PLANS["links"], family)
        deny, save = text.index("-I OUTPUT 1 -j ARBITER_DENY"), text.index("--save-mark")
        queue = text.index("NFQUEUE")
        assert deny < text.index("COMMIT") < text.index("*mangle") < min(save, queue)
        mangle = text[text.index("*mangle") :]
        assert "NFQUEUE" in mangle and "--save-mark" in mangle and mangle.count("COMMIT") == 1


def test_without_links_nothing_is_translated_clamped_or_done_in_prerouting() -> None:
    for text in renderings(PLANS["block"]).values():
        assert not re.search(r"masquerade|maxseg|TCPMSS|prerouting|\*nat", text, re.IGNORECASE)


def test_without_classes_no_rule_touches_labels_dscp_or_priority() -> None:
    for text in renderings(PLANS["links"]).values():
        assert not re.search(r"label|dscp|priority set|classify", text, re.IGNORECASE)


@given(ANY_PLAN)
def test_a_class_marks_only_what_left_this_host_first_and_never_loopback(plan: Plan) -> None:
    text = nft.render(plan)
    if plan.classes:
        chain = text[text.index("chain classes {") :].split("}")[0].splitlines()
        assert chain[2:4] == ['    oifname "lo" return', "    ct direction reply return"]
    for family in FAMILIES:
        post = iptables.parse(as_saved(iptables.render(plan, family)))["mangle"].chains
        rules = [rule for rule in post["ARBITER_POST"] if "connlabel" in rule]
        assert all("--ctdir ORIGINAL" in rule for rule in rules)
        assert len(rules) == len(plan.classes) and post["ARBITER_POST"][0] == "-o lo -j RETURN"
        # A goto ends the chain: whatever else is to be done there has been done before.
        assert post["ARBITER_POST"][len(post["ARBITER_POST"]) - len(rules) :] == rules


@given(ANY_PLAN)
def test_both_backends_set_the_same_dscp_and_priority(plan: Plan) -> None:
    wanted = [(m.dscp, m.priority) for m in plan.classes]
    found = re.findall(r"ip6 dscp set (\S+)\n +meta priority set (\S+)", nft.render(plan))
    assert [(int(dscp, 0), int(priority, 0)) for dscp, priority in found] == wanted
    for family in FAMILIES:
        text = iptables.render(plan, family)
        pairs = re.findall(r"--set-dscp (\S+)\n.* --set-class (\S+):(\S+)", text)
        values = [(int(d, 0), int(major, 16) << 16 | int(minor, 16)) for d, major, minor in pairs]
        assert values == wanted


def test_a_plan_without_classes_takes_away_their_chains() -> None:
    text = iptables.render(PLANS["block"], "ip", as_saved(iptables.render(PLANS["classes"], "ip")))
    assert "-F ARBITER_CLASS97\n" in text and "-X ARBITER_CLASS97\n" in text


# --- replacing and erasing what is there -----------------------------------------------------

USERS = """# Generated by iptables-save
*mangle
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [5:300]
:POSTROUTING ACCEPT [0:0]
:MINE - [0:0]
-A OUTPUT -m comment --comment "x -j ARBITER_OUTPUT \\" y" -j MINE
-A MINE -j MARK --set-xmark 0x1/0xff
COMMIT
"""


def as_saved(text: str) -> str:
    """What iptables-save would print after loading a first rendering."""
    text = re.sub(r"^-I (\w+) 1 ", r"-A \1 ", text, flags=re.MULTILINE)
    return "\n".join(line for line in text.splitlines() if line[:3] not in ("-D ", "-F ", "-X "))


def test_users_rules_are_never_erased_even_where_a_comment_names_ours() -> None:
    assert iptables.erase(USERS) == ""
    assert iptables.render(PLANS["block"], "ip", USERS) == iptables.render(PLANS["block"], "ip")


@given(ANY_PLAN, st.sampled_from(FAMILIES))
def test_rendering_over_itself_replaces_each_jump_once(plan: Plan, family: Family) -> None:
    first = iptables.render(plan, family)
    again = iptables.render(plan, family, as_saved(first))
    jumps = re.findall(r"^-I (\w+) 1 (.*)$", first, re.MULTILINE)
    assert re.findall(r"^-I (\w+) 1 (.*)$", again, re.MULTILINE) == jumps
    assert sorted(re.findall(r"^-D (\w+) (.*)$", again, re.MULTILINE)) == sorted(jumps)
    assert not re.findall(r"^-X ", again, re.MULTILINE)


def test_a_plan_without_links_takes_away_the_chains_that_only_links_need() -> None:
    text = iptables.render(PLANS["block"], "ip", as_saved(iptables.render(PLANS["links"], "ip")))
    assert "*nat\n-D POSTROUTING -j ARBITER_SOURCE\n-F ARBITER_SOURCE\n-X ARBITER_SOURCE" in text
    assert "-D PREROUTING -j ARBITER_PRE" in text and "-X ARBITER_PRE" in text


@given(ANY_PLAN, st.sampled_from(FAMILIES))
def test_erasing_names_every_chain_and_jump_queueing_first(plan: Plan, family: Family) -> None:
    saved = as_saved(iptables.render(plan, family, made=[("mangle", "TABLE")])) + "\n" + USERS
    text = iptables.erase(saved)
    for name, table in iptables.parse(saved).items():
        section = text[text.index(f"*{name}\n") :]
        assert all(f"-X {chain}\n" in section for chain in table.chains)
        assert all(f"-D {chain} {rule}\n" in section for chain, rule in table.jumps)
    assert "MINE" not in text
    assert text.index("*mangle") < text.index("*filter")


def test_a_users_own_rule_that_leads_to_our_chain_is_taken_away_with_it() -> None:
    saved = "*mangle\n:ARBITER_ASK - [0:0]\n-A MINE -p tcp -g ARBITER_ASK\nCOMMIT\n"
    assert "-D MINE -p tcp -g ARBITER_ASK" in iptables.erase(saved)


@given(ANY_PLAN, ANY_PLAN, st.sampled_from(FAMILIES))
def test_bringing_back_restores_the_earlier_plan_exactly(a: Plan, b: Plan, family: Family) -> None:
    before, after = (as_saved(iptables.render(plan, family)) for plan in (a, b))
    back = as_saved(iptables.bring_back(before, after))
    found = {n: t for n, t in iptables.parse(back).items() if t.chains or t.jumps}
    assert found == iptables.parse(before)
    assert iptables.bring_back("", before) != ""


def test_what_our_use_made_is_remembered_over_a_second_apply() -> None:
    made = [("mangle", "OUTPUT"), ("mangle", "TABLE")]
    saved = as_saved(iptables.render(PLANS["block"], "ip", made=made))
    assert sorted(iptables.markers(saved)) == sorted(made)
    assert sorted(iptables.markers(as_saved(iptables.render(PLANS["block"], "ip", saved)))) == made


@given(st.text(alphabet=st.sampled_from(list('*:-AIj ARBITER_\n"\\x')), max_size=200))
def test_no_iptables_save_text_raises(text: str) -> None:
    iptables.erase(text)
    iptables.problems(text)
    overlaps(Plan(), text, [text])


def test_a_rule_in_front_of_ours_is_reported() -> None:
    saved = as_saved(iptables.render(PLANS["block"], "ip"))
    assert iptables.problems(saved) == []
    front = saved.replace(
        "-A OUTPUT -j ARBITER_DENY", "-A OUTPUT -j ACCEPT\n-A OUTPUT -j ARBITER_DENY"
    )
    assert ["in front of arbiter" in text for text in iptables.problems(front)] == [True]
    gone = saved.replace("-A OUTPUT -j ARBITER_DENY", "")
    assert ["no longer leads" in text for text in iptables.problems(gone)] == [True]
    emptied = re.sub(r"-A ARBITER_ASK .*\n", "", saved)
    assert ["missing or empty" in text for text in iptables.problems(emptied)] == [True]


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown backend 'pf'; one of auto, iptables"):
        probe_backend("pf")


# --- overlaps --------------------------------------------------------------------------------


def rule(*expressions: object, table: str = "theirs") -> str:
    body = {"family": "inet", "table": table, "chain": "c", "expr": list(expressions)}
    return json.dumps({"nftables": [{"metainfo": {}}, {"rule": body}]})


META: dict[str, object] = {"meta": {"key": "mark"}}
CT: dict[str, object] = {"ct": {"key": "mark"}}


@pytest.mark.parametrize(
    ("line", "bits"),
    [
        ("5210: from all fwmark 0x80000/0xff0000 lookup main", 0),  # Tailscale
        ("32764: not from all fwmark 0xca6c lookup 51820", 0),  # wg-quick
        ("5199: not from all fwmark 0x6d6f6c65 lookup 1836018789", 0x6D000000),  # Mullvad
        ("100: from all fwmark 0x40000000/0x40000000 lookup 7", 0x40000000),
        ("100: from all fwmark 0/0x1000000 lookup 7", 0x01000000),
        ("100: from all fwmark 0x1000000 lookup 7", 0x01000000),
        ("100: from all fwmark 0x1000001 lookup 7", 0),  # without decided: not acted on
        ("100: from all fwmark 1706 lookup 7", 0),  # Portmaster, decimal
        ("0: from all lookup local", 0),
    ],
)
def test_an_ip_rule_overlaps_as_its_mask_says(line: str, bits: int) -> None:
    found = overlaps(Plan(), line + "\n", "")
    assert [one.bits for one in found] == ([bits] if bits else [])


@pytest.mark.parametrize(
    ("line", "bits"),
    [
        ("-A OUTPUT -m mark --mark 0x1000000/0x1000000 -j ACCEPT", 0x01000000),
        ("-A OUTPUT -j MARK --set-xmark 0xca6c/0xffffffff", 0),
        ("-A OUTPUT -j MARK --set-xmark 0x0/0xfffffffe", 0x7F000000),  # --and-mark 1
        ("-A OUTPUT -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff", 0),
        ("-A OUTPUT -j CONNMARK --restore-mark --nfmask 0x3f00 --ctmask 0x3f00", 0),  # mwan3
        ("-A OUTPUT -j CONNMARK --save-mark --nfmask 0xff000000 --ctmask 0xff000000", 0x7F000000),
        ("-A OUTPUT -m connmark ! --mark 0x6d6f6c65 -j DROP", 0x6D000000),
        ("-A OUTPUT -m comment --comment \"odd -m mark --mark 0x1000000/0x1000000", 0x01000000),
        ("-A ARBITER_OUTPUT -m mark --mark 0x60000000/0x60000000 -j DROP", 0),
        ("-A OUTPUT -m recent --mask 255.255.255.255 -j DROP", 0),
    ],
)  # fmt: skip
def test_an_iptables_rule_overlaps_as_its_mask_says(line: str, bits: int) -> None:
    found = overlaps(Plan(), "", f"*mangle\n:OUTPUT ACCEPT [0:0]\n{line}\nCOMMIT\n")
    assert [one.bits for one in found] == ([bits] if bits else [])


@pytest.mark.parametrize(
    ("expression", "bits"),
    [
        ({"match": {"op": "==", "left": META, "right": 0xCA6C}}, 0),
        ({"match": {"op": "!=", "left": CT, "right": 0x6D6F6C65}}, 0x6D000000),
        ({"match": {"op": "==", "left": {"&": [META, 0xFF0000]}, "right": 1}}, 0),
        ({"match": {"op": "!=", "left": {"&": [CT, 0x20000000]}, "right": 0}}, 0x20000000),
        ({"match": {"op": "==", "left": META, "right": {"set": [1, {"range": [2, 9]}]}}}, 0),
        ({"match": {"op": "==", "left": META, "right": {"range": [1, 0x01000000]}}}, 0x01000000),
        ({"match": {"left": META, "right": {"prefix": {"addr": 0, "len": 4}}}}, 0x0F000000),
        ({"vmap": {"key": META, "data": {"set": [[0x01000000, {"drop": None}]]}}}, 0x01000000),
        ({"mangle": {"key": META, "value": 0x100}}, 0),
        ({"mangle": {"key": META, "value": 0x40000000}}, 0x40000000),
        ({"mangle": {"key": CT, "value": META}}, 0),
        ({"mangle": {"key": META, "value": {"|": [{"&": [META, 0xFFFF00FF]}, 0x100]}}}, 0),
        ({"mangle": {"key": META, "value": {"|": [{"&": [META, 0xFF]}, 0x100]}}}, 0x7F000000),
        ({"mangle": {"key": META, "value": {"&": [CT, 0xFF00]}}}, 0),
        ({"mangle": {"key": META, "value": {"&": [CT, 0x0F000000]}}}, 0x0F000000),
        ({"mangle": {"key": {"meta": {"key": "priority"}}, "value": 0x40000000}}, 0),
        ({"match": {"op": "==", "left": {"meta": {"key": "iif"}}, "right": 0x40000000}}, 0),
        ({"xt": None}, 0),
    ],
)  # fmt: skip
def test_an_nft_rule_overlaps_as_its_mask_says(expression: object, bits: int) -> None:
    found = overlaps(Plan(), "", rule(expression))
    assert [one.bits for one in found] == ([bits] if bits else [])


def test_our_own_rules_and_preferences_are_not_an_overlap() -> None:
    saved = as_saved(iptables.render(PLANS["links"], "ip"))
    ours = rule({"mangle": {"key": META, "value": 0x40000000}}, table="arbiter")
    rules = "900: from all fwmark 0x1000000/0x1f000000 lookup 7001\n"
    assert overlaps(Plan(), rules, [saved, ours], frozenset({900})) == ()
    assert len(overlaps(Plan(), rules, [saved, ours])) == 1


def test_an_overlap_names_the_rule_the_bits_and_free_bits_to_use_instead() -> None:
    (found,) = overlaps(Plan(), "5199: from all fwmark 0x6d6f6c65 lookup 9\x1b[31m\n", "")
    for part in ("ip rule 5199", "0x6d000000", "0x7f000000", "lookup 9", "mark_base = "):
        assert part in found.text
    assert "\x1b" not in found.text
    match = re.search(r"mark_base = (0x[0-9a-f]+)", found.text)
    assert match
    free = Plan(mask=int(match[1], 16))
    assert overlaps(free, "5199: from all fwmark 0x6d6f6c65 lookup 9\n", "") == ()


def test_with_no_seven_free_bits_the_message_does_not_invent_some() -> None:
    (found,) = overlaps(Plan(), "7: from all fwmark 0x1010101/0xfffffffe lookup 9\n", "")
    assert "no seven adjacent bits are free" in found.text


def test_a_ruleset_that_is_not_json_is_an_error_with_a_next_step() -> None:
    with pytest.raises(FirewallError, match="try that command by hand"):
        overlaps(Plan(), "", '{"nftables": [')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(META) | st.just(CT),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["match", "left", "right", "&", "|", "mangle", "key", "value", "set",
                             "range", "prefix", "addr", "len", "map", "data", "vmap"]),
            inner, max_size=3)
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(JSON, max_size=4))
def test_no_nft_expression_raises_and_every_overlap_is_within_our_mask(items: list[object]) -> None:
    for one in overlaps(Plan(), "", rule(*items)):
        assert one.bits & ~MARK_MASK == 0 and one.bits


def test_notrack_rules_are_found_in_both_forms() -> None:
    saved = "*raw\n-A OUTPUT -p udp -j CT --notrack\n-A OUTPUT -j ACCEPT\nCOMMIT\n"
    assert notracks([saved, rule({"notrack": None}), rule({"accept": None})]) == (
        "-A OUTPUT -p udp -j CT --notrack",
        "nft inet theirs c",
    )
