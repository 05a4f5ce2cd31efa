"""What may be repeated wherever it leads, and which places are left out."""

from __future__ import annotations

import pytest
from msgspec import structs
from playbook import SERVER, SERVER6, START, owner, packet
from repeaterscene import CURL, LTE, OTHER, Scene

from arbiter.dnswire import Answers
from arbiter.events import (
    HostsRead,
    NamesLearned,
    Repeated,
    Report,
    RulesChanged,
)
from arbiter.model import (
    Action,
    Link,
)


@pytest.mark.parametrize(
    ("rule", "there"),
    [
        ("deny app=/usr/bin/curl host=198.51.100.10", True),
        ("deny app=/usr/bin/curl host=198.51.0.0/16 port=443 user=bob", True),
        ("deny app=/usr/bin/curl host=10.9.9.9", False),
        ("deny app=/usr/bin/curl host=ads.example", False),
        ("deny app=/usr/bin/curl host=198.51.100.10 port=80-443", True),
        ("deny app=/usr/bin/curl host=198.51.100.10 port=80", False),
        ("deny host=198.51.100.0/24 port=443", True),
        ("deny host=198.51.100.0/24 port=53", False),
        ("deny host=lan", False),
        ("deny host=ads.example", False),
        ("deny app=/usr/bin/wget host=10.9.9.9", False),
        ("deny app=/usr/bin/curl port=443 user=bob", False),
        ("route via=lte app=/usr/bin/curl port=443", False),
    ],
)
def test_it_is_taught_for_wherever_it_leads_if_no_rule_for_it_asks_where(
    rule: str, there: bool
) -> None:
    scene = Scene(CURL, rule)
    scene.play.links(LTE)
    scene.decide(dport=443)
    ((question, *_),) = scene.path.taught
    assert question.daddr == (SERVER if there else bytes(4))
    scene.repeater.before(NamesLearned(START, Answers("a.example", (SERVER6, SERVER), 5)))
    assert scene.path.calls == (["forget", "settle"] if there else [])


@pytest.mark.parametrize(
    ("link", "there"),
    [
        (structs.replace(LTE, reach4=()), True),
        (structs.replace(LTE, reach4=(), up=False), True),
        (structs.replace(LTE, reach6=()), False),
    ],
)
def test_a_route_is_taught_for_just_there_where_a_link_does_not_lead_everywhere(
    link: Link, there: bool
) -> None:
    scene = Scene("route via=any app=/usr/bin/curl")
    scene.play.links(structs.replace(LTE, name="other", number=3, index=4), link)
    scene.decide(outdev=4)
    assert scene.path.taught[-1][0].daddr == (SERVER if there else bytes(4))


def test_areas_that_a_rule_asks_for_are_left_out_once() -> None:
    scene = Scene(
        CURL, "deny host=10.0.0.0/8", "allow host=fd00::/8 port=443", "deny host=10.9.9.9"
    )
    net, net6 = (bytes((10, 0, 0, 0)), 8), (b"\xfd" + bytes(15), 8)
    for _ in range(2):
        scene.decide(dport=53)
        assert scene.path.taught[-1][0].daddr == bytes(4)
        assert scene.path.out == [net, (bytes((10, 9, 9, 9)), 32)]
    scene.decide(dport=443)
    assert scene.path.taught[-1][0].daddr == bytes(4)
    assert set(scene.path.out[2:]) == {net, (bytes((10, 9, 9, 9)), 32), net6}


def test_what_is_left_out_for_another_app_is_taught_for_just_there() -> None:
    """The fast path does not know for whom a place is left out."""
    scene = Scene(CURL, "deny app=/usr/bin/wget host=198.51.100.0/24")
    scene.decide()
    assert scene.path.taught[-1][0].daddr == bytes(4)
    scene.path.leave_out(SERVER, 24)
    scene.decide()
    assert scene.path.taught[-1][0].daddr == SERVER


def test_areas_are_looked_for_again_once_rules_change_though_nothing_is_taught() -> None:
    scene = Scene(CURL)
    scene.path.refuses = True
    scene.decide()
    scene.repeater.before(RulesChanged(START, (), ()))
    scene.play.rules("deny host=198.51.100.0/24")
    scene.path.refuses = False
    scene.decide()
    assert scene.path.taught[-1][0].daddr == SERVER


def test_with_too_many_areas_each_place_is_looked_at() -> None:
    scene = Scene(CURL, *(f"deny host=10.1.{number}.0/24" for number in range(4)))
    scene.path.room = 3
    scene.decide()
    assert scene.path.taught[-1][0].daddr == SERVER
    scene.repeater.before(RulesChanged(START, (), ()))
    scene.path.room = 7
    scene.decide()
    assert scene.path.taught[-1][0].daddr == bytes(4)


def learn(scene: Scene, name: str, *to: bytes, targets: tuple[str, ...] = ()) -> None:
    event = NamesLearned(scene.play.now, Answers(name, to, 3000, targets))
    scene.repeater.before(event)
    scene.play.send(event)


def test_where_a_rule_asks_for_names_places_that_have_them_are_left_out() -> None:
    scene = Scene(CURL, "deny host=ads.example", "deny host=*.bad.example port=443")
    scene.path.room = 3
    learn(scene, "ads.example", OTHER)
    learn(scene, "fine.example", SERVER)
    scene.decide(dport=443)
    assert scene.path.taught[-1][0].daddr == bytes(4)
    assert scene.path.out == [OTHER]
    scene.decide(dport=80)
    learn(scene, "good.example", bytes((203, 0, 113, 1)))
    learn(scene, "0.bad.example", bytes((203, 0, 113, 2)), SERVER6)
    assert scene.path.out == [OTHER, bytes((203, 0, 113, 2)), SERVER6]
    assert scene.path.calls == []
    learn(scene, "good.example", bytes((0, 0, 0, 0)))  # what some resolvers say instead of nothing
    assert scene.path.calls == []
    learn(scene, "1.bad.example", bytes((203, 0, 113, 3)))  # one too many
    assert scene.path.calls == ["forget", "settle"]


def test_what_a_rule_for_names_decides_is_taught_for_just_there() -> None:
    scene = Scene(CURL, "deny app=/usr/bin/curl host=ads.example")
    learn(scene, "ads.example", OTHER)
    assert scene.decide(daddr=OTHER).decision.action is Action.DENY
    assert scene.path.taught[-1][0].daddr == OTHER
    scene.decide()
    assert scene.path.taught[-1][0].daddr == bytes(4)
    assert scene.path.out == [OTHER]


def test_a_name_that_is_looked_up_again_takes_nothing_back() -> None:
    scene = Scene("allow app=/usr/bin/curl host=www.example")
    learn(scene, "www.example", SERVER)
    scene.decide()
    assert scene.path.taught[-1][0].daddr == SERVER
    learn(scene, "www.example", SERVER)
    assert scene.path.calls == []
    learn(scene, "www.example", SERVER, OTHER)
    assert scene.path.calls == ["forget", "settle"]
    scene.decide()
    learn(scene, "other.example", SERVER)
    assert scene.path.calls == ["forget", "settle"] * 2
    scene.decide()
    scene.play.wait(100_000)
    learn(scene, "www.example", SERVER)  # its time was over
    assert scene.path.calls == ["forget", "settle"] * 3


def test_a_name_that_serves_another_since_counts_when_it_is_looked_up_again() -> None:
    scene = Scene("allow app=/usr/bin/curl host=cdn.example")
    learn(scene, "cdn.example", SERVER)
    scene.decide()
    learn(scene, "www.example", targets=("cdn.example",))
    assert scene.path.calls == []
    learn(scene, "cdn.example", SERVER)
    assert scene.path.calls == ["forget", "settle"]


def test_what_serves_a_name_is_left_out_with_it() -> None:
    scene = Scene(CURL, "deny host=ads.example")
    learn(scene, "ads.example", targets=("cdn.example",))
    scene.decide()
    learn(scene, "cdn.example", OTHER)
    assert scene.path.out == [OTHER]


def test_with_too_many_such_places_each_is_looked_at() -> None:
    scene = Scene(CURL, "deny host=*.bad.example")
    scene.path.room = 3
    for number in range(4):
        learn(scene, f"{number}.bad.example", bytes((203, 0, 113, number)))
    for _ in range(2):
        scene.decide()
        assert scene.path.taught[-1][0].daddr == SERVER
    assert len(scene.path.out) == 3
    scene.repeater.before(RulesChanged(START, (), ()))
    scene.path.out, scene.path.room = [], 4
    scene.decide()
    assert scene.path.taught[-1][0].daddr == bytes(4)


def test_names_of_the_hosts_file_are_left_out_too() -> None:
    scene = Scene(CURL, "deny host=ads.example")
    scene.play.send(HostsRead(START, {OTHER: ("ads.example",), SERVER: ("x.example",)}))
    scene.decide()
    assert scene.path.out == [OTHER]


def test_what_is_left_out_stays_so_while_nothing_is_taught() -> None:
    """A refused lesson must not keep a name from the next one."""
    scene = Scene(CURL, "deny host=ads.example")
    scene.path.refuses = True
    scene.decide()
    learn(scene, "ads.example", OTHER)
    scene.path.refuses = False
    scene.decide()
    assert scene.path.taught[-1][0].daddr == bytes(4)
    assert scene.path.out == [OTHER]


def test_the_record_of_another_place_has_its_own_names() -> None:
    scene = Scene(CURL)
    for name, to in (("first.example", SERVER), ("second.example", OTHER)):
        scene.play.send(NamesLearned(START, Answers(name, (to,), 3000)))
    report = scene.decide()
    play = scene.play
    for daddr, names in ((SERVER, ("first.example",)), (OTHER, ("second.example",))):
        one = packet(9, daddr=daddr)
        (told,) = play.pipeline.handle(Repeated(play.now, one, owner(), report, 0.1))
        assert isinstance(told, Report)
        assert told.context.names == names
