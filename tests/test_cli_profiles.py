"""`arbiter profiles`, and profiles in the commands about rules: with the daemon down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import Done, ran
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rule_strategies import rules as any_rule

from arbiter import cli
from arbiter.cli import profileshere
from arbiter.exchange import WRITERS, Format, Source, belongs, read, select, settle
from arbiter.links import FoundLink, LinkKind
from arbiter.rules import (
    FOREVER,
    Entry,
    Layer,
    LifetimeKind,
    Rule,
    format_rule,
    never_matches,
)
from arbiter.store import Store

MAC, SIM = "gateway:02:00:5e:10:00:0a", "89430123456789012345"


Run = Callable[..., Done]


@pytest.fixture
def arbiter(tmp_path: Path) -> Run:
    def run(line: str, *more: str) -> Done:
        env = {
            "ARBITER_DB": str(tmp_path / "a.db"),
            "ARBITER_SOCKET": str(tmp_path / "socket"),
            "ARBITER_CONFIG": str(tmp_path / "etc"),
            "SUDO_UID": "",
        }
        return ran((*line.split(), *more), env)

    return run


@pytest.fixture
def two(arbiter: Run) -> Run:
    assert arbiter("profiles add home --network", MAC, "--network", "ssid:My Home").code == 0
    assert arbiter(f"profiles add travel --network sim:{SIM}").code == 0
    return arbiter


def listed(arbiter: Run) -> list[dict[str, object]]:
    done = arbiter("profiles list --json")
    assert done.code == 0, done.err
    found: list[dict[str, object]] = json.loads(done.out)
    return found


def test_they_work_before_a_daemon_ever_ran(two: Run) -> None:
    two("rules add allow app=/usr/bin/curl profile=home")
    home = {"name": "home", "active": False, "networks": [MAC, '"ssid:My Home"'], "rules": 1}
    travel = {"name": "travel", "active": False, "networks": [f"sim:{SIM}"], "rules": 0}
    assert listed(two) == [home, travel]
    done = two("profiles use home")
    assert "profile home is active, until" in done.out
    assert listed(two) == [home | {"active": True}, travel]
    table = two("profiles list").out.splitlines()
    assert table[0].split() == ["profile", "now", "comes", "with", "rules"]
    assert table[1].split() == ["home", "active", f"{MAC},", '"ssid:My', 'Home"', "1"]


def test_none_is_told_and_so_is_no_database(arbiter: Run) -> None:
    assert arbiter("profiles list").code == 1
    arbiter("rules add allow")
    assert "no profiles" in arbiter("profiles list").out
    assert "no profile was ever active" in arbiter("profiles history").out
    assert json.loads(arbiter("profiles history --json").out) == []


@pytest.mark.parametrize("name", ["none", "a b", "-x", "", "x" * 33, "h\x1bx", "ü"])
def test_a_bad_name_is_a_usage_error_and_never_printed_raw(arbiter: Run, name: str) -> None:
    for command in ("add", "bind", "remove"):
        done = arbiter(f"profiles {command} --", name)
        assert done.code == 2
        assert "\x1b" not in done.err
    assert arbiter("rules list --profile", name).code == 2


def test_a_bad_network_is_a_usage_error_with_what_was_meant(arbiter: Run) -> None:
    done = arbiter("profiles add home --network Home")
    assert (done.code, "did you mean ssid:Home?" in done.err) == (2, True)
    assert arbiter("profiles bind home").code == 2


def test_networks_are_bound_in_one_spelling_and_unbound(two: Run) -> None:
    assert two("profiles bind travel gateway:02-00-5E-10-00-0B").code == 0
    assert "gateway:02:00:5e:10:00:0b" in two("profiles list").out
    done = two("profiles bind travel", "ssid:My Home")
    assert done.code == 1
    assert 'unbind "ssid:My Home"' in done.err
    assert two("profiles unbind", "ssid:My Home").out == (
        'profile home does not come with "ssid:My Home" any more\n'
    )
    assert two("profiles bind travel", "ssid:My Home").code == 0


def test_what_is_removed_leaves_its_rules_which_do_not_match(two: Run) -> None:
    two("rules add allow app=/usr/bin/curl profile=home")
    two("profiles use home")
    done = two("profiles remove home")
    assert done.out.splitlines() == [
        "removed profile home: no profile is active now",
        "1 rule names it, and does not match any more: arbiter rules list --profile home",
    ]
    assert "profile=home" in two("rules list --profile home").out
    assert two("profiles remove home").code == 1


def test_undo_and_history_tell_who_and_why(two: Run) -> None:
    two("profiles use home")
    assert two("profiles use home").out == "profile home is active already\n"
    two("profiles use travel")
    assert two("profiles undo").out.startswith("undo of switch 2: travel → home, until")
    switches = json.loads(two("profiles history --json").out)
    assert [(s["switch"], s["before"], s["after"], s["undone"], s["undoes"]) for s in switches] == [
        (1, None, "home", False, None),
        (2, "home", "travel", True, None),
        (3, "travel", "home", False, 2),
    ]
    table = two("profiles history --last 2").out
    assert "home → travel" in table
    assert "chosen (undone)" in table
    assert "none → home" not in table
    assert two("profiles use none").out.startswith("no profile is active, until")
    for _ in range(3):
        last = two("profiles undo")
    assert last.code == 1
    assert "nothing to undo" in last.err


def link(name: str, metric: int, *networks: str, up: bool = True) -> FoundLink:
    return FoundLink(
        *(name, metric, name, metric, LinkKind.ETHERNET, up, up, 1500, b"", b"", ()),
        metric=metric,
        networks=networks,
    )


class Here:
    """The links of a machine, as Look shows them."""

    links: tuple[FoundLink, ...] = ()

    def __init__(self, known: object, files: object) -> None:
        pass

    async def once(self) -> tuple[FoundLink, ...]:
        return self.links


def test_here_is_the_link_that_is_used_first(arbiter: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profileshere, "Look", Here)
    Here.links = (
        link("lte", 700, f"sim:{SIM}"),
        link("off", 50, "ssid:Off", up=False),
        link("tun", 60),
        link("wifi", 600, MAC, "ssid:Home"),
    )
    done = arbiter("profiles add home --here --network ssid:Home")
    assert done.out == f"added profile home: it comes with ssid:Home, {MAC}\n"
    assert f"not taken: sim:{SIM}, of link lte" in done.err
    Here.links = (link("tun", 60),)
    done = arbiter("profiles bind home --here")
    assert (done.code, "no network is known here" in done.err) == (1, True)


# --- rules ----------------------------------------------------------------------------------


def test_a_rule_of_no_profile_is_noted_found_and_listed(two: Run) -> None:
    assert two("rules add allow app=/usr/bin/curl profile=home").err == ""
    done = two("rules add deny host=lan profile=hmoe")
    assert done.code == 0
    assert "there is no profile hmoe" in done.err
    found = [f for f in json.loads(two("rules check --json").out) if f["kind"] == "no-profile"]
    assert [(f["rule"], f["other"]) for f in found] == [(2, None)]
    assert "arbiter profiles add hmoe" in found[0]["text"]
    assert [r["id"] for r in json.loads(two("rules list --profile home --json").out)] == [1]
    assert two("rules list --profile travel").out == (
        "no rules are remembered with profile=travel\n"
    )


def test_explain_counts_the_active_profile_or_the_one_that_is_named(two: Run) -> None:
    two("rules add allow app=/usr/bin/curl profile=home")
    ask = "explain --app /usr/bin/curl --host 192.0.2.7"
    done = two(ask)
    assert (done.code, "it is of profile home, and no profile is active" in done.out) == (1, True)
    assert two(f"{ask} --profile home").code == 0
    two("profiles use home")
    assert two(ask).code == 0
    assert two(f"{ask} --profile none").code == 1
    done = two(f"{ask} --profile travel")
    assert "it is of profile home, and profile travel is active" in done.out


def test_the_rules_of_a_profile_are_saved_and_restored(two: Run, tmp_path: Path) -> None:
    for line in ("allow app=/a profile=home", "allow app=/b", "deny app=/c profile=travel"):
        two("rules add", line)
    saved = tmp_path / "home.rules"
    saved.write_text(two("rules export --profile home").out)
    assert saved.read_text().splitlines()[1:] == [
        "# Those bound to profile=home only.",
        "allow app=/a profile=home",
    ]
    two("rules remove 1")
    done = two("rules import", str(saved))
    assert (done.code, done.err) == (0, "")
    assert "allow app=/a profile=home" in two("rules list").out


def test_an_import_into_a_profile_refuses_what_is_of_another(two: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.rules"
    file.write_text("allow app=/a\nallow app=/b profile=home\n")
    assert two("rules import --profile home", str(file)).code == 0
    assert len(json.loads(two("rules list --profile home --json").out)) == 2
    done = two("rules import --profile travel", str(file))
    assert done.code == 1
    assert "it has profile=home already" in done.err
    assert two("rules list --profile travel --json").out == "[]\n"
    done = two("rules import --bind profile=office", str(file), "--skip")
    assert "there is no profile office" in done.err


def test_a_sims_rules_are_those_of_its_network_too(two: Run) -> None:
    other = f"{SIM[:-1]}9"
    for line in (
        f"allow app=/a sim={SIM}",
        f"allow app=/b network=sim:{SIM}",
        f"allow app=/c sim={other}",
        "allow app=/d network=ssid:Home",
        "allow app=/e",
    ):
        two("rules add", line)
    of_sim = two(f"rules export --sim {SIM}").out.splitlines()[2:]
    assert of_sim == [f"allow app=/a sim={SIM}", f"allow app=/b network=sim:{SIM}"]
    assert two(f"rules export --network sim:{SIM}").out.splitlines()[2:] == of_sim
    assert two("rules export --network ssid:Home").out.splitlines()[2:] == [
        "allow app=/d network=ssid:Home"
    ]


places = st.sampled_from([("profile", "home"), ("sim", SIM), ("network", "ssid:Home")])


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(any_rule(), max_size=6), places, st.sampled_from(list(WRITERS)))
def test_what_is_exported_of_a_place_is_imported_as_the_same_rules(
    rules: list[Rule], place: tuple[str, str], format: str
) -> None:
    key, value = place
    bound = [rule.replace(**{key: value}) for rule in rules]
    kinds = (LifetimeKind.FOREVER, LifetimeKind.SPAN)
    entries = [
        Entry(
            *(number, rule, Layer.REMEMBERED, float(number), "alice"),
            expires=5e9 if rule.lifetime.kind is LifetimeKind.SPAN else None,
        )
        for number, rule in enumerate([*bound, *rules], 1)
        if rule.lifetime.kind in kinds and not never_matches(rule)
    ]
    kept, _ = select(entries, [place], spans=format != "lines")
    assert all(value in (getattr(e.rule, key), e.rule.network[4:]) for e in kept)
    text = WRITERS[format](kept, f"Those bound to {key}={value} only.")
    batch = settle(read([Source("x", text.encode())], Format(format)), now=0.0)
    again = {(item.rule, item.expires) for item in batch.items}
    wanted = {(e.rule, e.expires) for e in kept}
    assert again <= wanted
    # Two for the same conditions cannot both be in force.
    assert len(batch.cannot()) + len(again) == len(wanted)


# --- restore --------------------------------------------------------------------------------


def in_force(arbiter: Run) -> list[str]:
    return [one["rule"] for one in json.loads(arbiter("rules list --json").out)]


def test_what_was_saved_is_restored_exactly_in_one_step(two: Run, tmp_path: Path) -> None:
    for line in ("allow app=/a profile=home", "deny app=/b profile=home", "allow app=/c"):
        two("rules add", line)
    two("rules add", "allow app=/t profile=travel")
    saved = tmp_path / "home.rules"
    saved.write_text(two("rules export --profile home").out)
    before = in_force(two)
    two("rules add", "allow app=/new profile=home")
    two("rules add", "deny app=/a profile=home")  # in place of the allow
    two("rules add", "allow app=/soon profile=home for=1h")
    two("rules remove 2")
    changed = in_force(two)

    done = two("rules restore --profile home --dry-run", str(saved))
    assert done.code == 0
    assert "remove 5: allow app=/new profile=home" in done.out
    assert "1 rule would be added, 1 would be changed, 0 there already, 1 would be removed" in (
        done.out
    )
    assert in_force(two) == changed

    done = two("rules restore --profile home", str(saved))
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "removed rule 5: allow app=/new profile=home\n"
        "1 rule added, 1 changed, 0 there already, 1 removed\n"
    )
    assert set(in_force(two)) == {*before, "allow app=/soon profile=home for=1h"}
    again = two("rules restore --profile home", str(saved))
    assert again.out == "0 rules added, 0 changed, 2 there already, 0 removed\n"
    assert two("rules undo").code == 0
    assert set(in_force(two)) == set(changed)


@pytest.mark.parametrize("format", ["lines", "toml"])
def test_a_file_of_another_place_wipes_nothing(two: Run, tmp_path: Path, format: str) -> None:
    two("rules add", f"allow app=/a sim={SIM}")
    two("rules add", f"deny app=/b network=sim:{SIM} profile=home")
    before = in_force(two)
    file = tmp_path / "n.rules"
    for place in (("--network", "ssid:My Home"), ("--sim", SIM, "--profile", "home")):
        done = two(f"rules export --format {format}", *place)
        assert done.code == 0
        file.write_text(done.out)
        done = two(f"rules restore --sim {SIM}", str(file))
        assert done.code == 1
        assert f"cannot: {file}: its header says that its rules are those of " in done.err
        assert "nothing was restored" in done.err
        assert in_force(two) == before
    file.write_text(two(f"rules export --format {format} --sim", SIM).out)
    done = two(f"rules restore --sim {SIM}", str(file))
    assert (done.code, done.err) == (0, "")
    file.write_text(two(f"rules export --format {format} --network", "ssid:My Home").out)
    done = two(f"rules restore --force --sim {SIM}", str(file))
    assert done.code == 0
    assert "warning: " in done.err and 'network="ssid:My Home"' in done.err
    assert f"removed rule 1: allow app=/a sim={SIM}" in done.out
    assert in_force(two) == []


@pytest.mark.parametrize("text", ["", "# nothing\n", "[]"])
def test_a_file_without_rules_wipes_a_place_only_by_force(
    two: Run, tmp_path: Path, text: str
) -> None:
    two("rules add", "allow app=/a profile=home")
    file = tmp_path / "x.rules"
    file.write_text(text)
    done = two("rules restore --profile home", str(file))
    assert (done.code, "--force" in done.err) == (1, True)
    assert "remove 1: allow app=/a profile=home\n" in done.out
    assert "1 would be removed" in done.out
    assert in_force(two) == ["allow app=/a profile=home"]
    assert two("rules restore --profile home --dry-run", str(file)).code == 0
    assert two("rules restore --profile travel", str(file)).code == 0  # there is nothing to lose
    done = two("rules restore --profile home --force --json", str(file))
    assert (done.code, [one["outcome"] for one in json.loads(done.out)]) == (0, ["remove"])
    assert in_force(two) == []


def test_a_place_that_is_not_there_is_said(two: Run, tmp_path: Path) -> None:
    two("rules add", "allow app=/a profile=home")
    done = two("rules export --profile nosuch")
    assert done.code == 0
    assert "note: there is no profile nosuch; see `arbiter profiles list`" in done.err
    assert "note: no rule is bound to that place" in done.err
    assert "no rule is bound" in two(f"rules export --sim {SIM}").err
    assert two("rules export --profile home").err == ""
    file = tmp_path / "x.rules"
    file.write_text(done.out)
    done = two("rules restore --profile nosuch", str(file))
    assert (done.code, "there is no profile nosuch" in done.err) == (0, True)


def test_a_rule_of_another_place_is_not_restored_and_then_nothing_is(
    two: Run, tmp_path: Path
) -> None:
    two("rules add", "allow app=/a profile=home")
    file = tmp_path / "x.rules"
    file.write_text("allow app=/b profile=home\nallow app=/c\nallow app=/d profile=travel\n")
    done = two("rules restore --profile home --json", str(file))
    assert done.code == 1
    said = json.loads(done.out)
    assert [one["place"].rpartition(":")[2] for one in said if one["outcome"] == "cannot"] == [
        *("2", "3")
    ]
    assert "nothing was restored" in done.err
    assert in_force(two) == ["allow app=/a profile=home"]
    file.write_text("alow app=/b profile=home\n")
    assert two("rules restore --profile home", str(file)).code == 1
    assert in_force(two) == ["allow app=/a profile=home"]


def test_one_place_is_restored_at_a_time(two: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.rules"
    file.write_text("")
    assert two("rules restore", str(file)).code == 2
    assert two(f"rules restore --profile home --sim {SIM}", str(file)).code == 2
    assert two("rules restore --sim 12", str(file)).code == 2
    assert two("rules restore --profile none", str(file)).code == 2
    assert two("rules restore --profile home", str(tmp_path / "none")).code == 1


def test_a_place_without_rules_is_restored_too(two: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.rules"
    file.write_text(two(f"rules export --sim {SIM}").out)
    two("rules add", f"allow app=/a sim={SIM}")
    two("rules add", f"allow app=/b network=sim:{SIM}")
    two("rules add", "allow app=/c")
    done = two(f"rules restore --sim {SIM} --force --json", str(file))
    assert [(one["outcome"], one["id"]) for one in json.loads(done.out)] == [
        ("remove", 1),
        ("remove", 2),
    ]
    assert in_force(two) == ["allow app=/c"]


@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=examples(25),
)
@given(st.lists(any_rule(), max_size=4), st.lists(any_rule(), max_size=4), places)
def test_restore_brings_back_what_was_exported_whatever_came_between(
    tmp_path_factory: pytest.TempPathFactory,
    saved: list[Rule],
    later: list[Rule],
    place: tuple[str, str],
) -> None:
    """By the whole way: database, file, database."""
    key, value = place
    folder = tmp_path_factory.mktemp("restore")
    env = {"ARBITER_DB": str(folder / "a.db"), "ARBITER_SOCKET": str(folder / "socket")}
    runner = CliRunner(env=env)

    def add(rules: list[Rule]) -> None:
        with Store.open(folder / "a.db") as store:
            for number, rule in enumerate(rules):
                if not never_matches(rule):
                    made = rule.replace(**{key: value}, lifetime=FOREVER)
                    made = rule.replace(lifetime=FOREVER) if number % 3 == 2 else made
                    store.remember(made, by="alice", created=float(number))

    def rules() -> set[str]:
        with Store.open(folder / "a.db", readonly=True) as store:
            of_place = [e for e in store.rules(1e9, "", "") if belongs(e.rule, place)]
            return {format_rule(entry.rule) for entry in of_place}

    add(saved)
    Store.open(folder / "a.db").close()
    before = rules()
    for format in WRITERS:
        done = runner.invoke(cli.cli, ["rules", "export", f"--{key}", value, "--format", format])
        assert done.exit_code == 0, done.output
        (folder / format).write_text(done.stdout)
        add(later)
        force = [] if before else ["--force"]  # the file holds no rule
        argv = ["rules", "restore", *force, f"--{key}", value, str(folder / format)]
        done = runner.invoke(cli.cli, argv)
        assert done.exit_code == 0, done.output
        assert rules() == before
