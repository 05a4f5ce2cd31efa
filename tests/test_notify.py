"""Notifications without a bus: what they say, which there are, what a click means."""

from __future__ import annotations

import html
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_daemon import ask_to, example_ask

from arbiter.protocol import (
    Answer,
    AppView,
    Ask,
    Away,
    Choice,
    Decided,
    Notice,
    Refused,
    RefusedReason,
    Scope,
    Snooze,
    Snoozed,
    SnoozeView,
    Undo,
    Undone,
    Welcome,
    Withdraw,
    WithdrawReason,
)
from prompts.client import Event, Lost
from prompts.notify import notes, opener
from prompts.notify.desk import GUARD_SECONDS, LOST_SECONDS, MOST, Desk, Key, Open, Out, Send
from prompts.notify.notes import OPEN, RULE_LIMIT, Note, Server, Urgency

NOW = 1700000000.0
WELCOME = Welcome(1, "0.1.0", "alice", False, "ask", "deny", 0)
ALL = Server()


class Scene:
    """A playbook: what comes in, what is sent, what is on the screen; a second between steps."""

    def __init__(self, *asks: Ask, welcome: Welcome = WELCOME, server: Server = ALL) -> None:
        self.desk = Desk(clock=lambda at: f"+{at - NOW:g}s")
        self.now = NOW
        self.sent: list[Any] = []
        self.opened = 0
        self._take(self.desk.serve(server))
        self << welcome
        for ask in asks:
            self << ask
        self.look()

    def _take(self, outs: list[Out]) -> Scene:
        for out in outs:
            if isinstance(out, Open):
                self.opened += 1
            else:
                assert isinstance(out, Send)
                self.sent.append(out.message)
        return self

    def __lshift__(self, event: Event) -> Scene:
        return self._take(self.desk.event(event, self.now))

    def look(self) -> dict[Key, Note]:
        """As the shell does: everything wanted is shown now."""
        found = self.desk.wanted(self.now)
        for key in found:
            self.desk.shown(key, self.now)
        return found

    def wait(self, seconds: float = 1.0) -> Scene:
        self.look()
        self.now += seconds
        return self

    def click(self, key: Key, label: str, *, closes: bool = True) -> Scene:
        note = self.look()[key]
        actions = {text: name for name, text in note.actions if name != OPEN} | {"": OPEN}
        self._take(self.desk.click(key, actions[label], self.now))
        if closes:
            self.desk.closed(key, 2, self.now + 0.01)
        return self

    @property
    def asked(self) -> list[int]:
        return [id for kind, id in self.look() if kind == "ask"]

    def text(self, kind: str) -> str:
        return "\n".join(
            f"{note.summary}\n{note.body}" for key, note in self.look().items() if key[0] == kind
        )


def answer(ask: Ask, decision: Choice, lifetime: str = "forever") -> Answer:
    return Answer(ask.id, decision, "connection", lifetime, (), ask.scopes[0].conditions)


# --- what it says ---------------------------------------------------------------------------


def test_a_question_says_who_where_the_rule_and_what_happens_without_an_answer() -> None:
    note = Scene(example_ask()).look()["ask", 7]
    assert note.summary == "curl, from deploy.sh, wants to connect"
    assert note.body.split("\n") == [
        "192.0.2.7, port 443 (https), tcp, internet",
        "rule: allow (or deny) app=/usr/bin/curl host=192.0.2.7 port=443 proto=tcp",
        "without an answer: deny at +30s",
        "why: no rule matches yet",
        "over wifi",
        "its package says: curl: Fetches what you ask it for; if denied: the transfer fails; "
        "it suggests allow",
    ]
    assert [label for _, label in note.actions] == ["Deny", "Allow", "More…", "More…"]
    assert (note.urgency, note.expires) == (Urgency.NORMAL, 0)


def test_the_rule_is_the_one_that_the_answer_makes() -> None:
    scene = Scene(example_ask()).wait().click(("ask", 7), "Allow")
    assert scene.sent == [answer(example_ask(), Choice.ALLOW)]
    assert scene.sent[0].shown in Scene(example_ask()).look()["ask", 7].body


def test_a_rule_too_long_to_be_shown_whole_is_not_made() -> None:
    long = Scope("connection", f"app=/{'x' * RULE_LIMIT}")
    scene = Scene(example_ask(scopes=(long,))).wait()
    assert "this time only: nothing is remembered" in scene.text("ask")
    assert scene.click(("ask", 7), "Allow").sent[0].lifetime == "once"


def test_allow_about_a_spent_budget_means_that_link_and_not_for_long() -> None:
    asked = example_ask(obstacle=True, via=("lte",), why="lte is over its budget")
    scene = Scene(asked).wait()
    assert "rule: route via=lte (or deny) app=/usr/bin/curl" in scene.text("ask")
    (sent,) = scene.click(("ask", 7), "Allow").sent
    assert (sent.decision, sent.via, sent.lifetime) == (Choice.ROUTE, ("lte",), "1h")
    (sent,) = Scene(asked).wait().click(("ask", 7), "Deny").sent
    assert (sent.decision, sent.via) == (Choice.DENY, ())


def test_warnings_come_before_the_rule() -> None:
    process = msgspec.structs.replace(example_ask().processes[0], note="it was replaced")
    lines = Scene(example_ask(processes=(process,))).look()["ask", 7].body.split("\n")
    assert lines[1] == "!! curl (pid 4711): it was replaced"


def test_once_the_time_is_up_it_says_so_by_itself_and_stays() -> None:
    scene = Scene(example_ask())
    assert scene.desk.wake(NOW) == NOW + 30
    scene.now = NOW + 30
    assert "deny by now; an answer serves the next try" in scene.text("ask")
    assert scene.look()["ask", 7].urgency is Urgency.LOW
    assert scene.desk.wake(scene.now) is None


def test_a_server_without_buttons_or_body_gets_what_it_can_show() -> None:
    scene = Scene(example_ask(), server=Server(actions=False, markup=False))
    note = scene.look()["ask", 7]
    assert "answer: arbiter prompt terminal, or arbiter answer 7 allow | deny" in note.body
    assert notes.actions_for(note, Server(actions=False)) == []
    bare = Server(actions=False, body=False)
    assert notes.body_for(note, bare) == ""
    assert notes.summary_for(note, bare) == (
        "curl, from deploy.sh, wants to connect: 192.0.2.7, port 443 (https), tcp, internet"
    )


class _Tags(HTMLParser):
    """What a server would take for markup."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


HOSTILE = st.text(
    alphabet=st.characters() | st.sampled_from('<>&"\x1b\u202e\n/abi='), max_size=400
) | st.sampled_from(["<b>allow</b>", "<img src=http://x/>", "&lt;b&gt;", "<a href='x'>y</a>"])


@given(HOSTILE)
def test_whatever_a_process_is_called_it_is_no_markup_and_no_line_of_its_own(text: str) -> None:
    process = example_ask().processes[0]
    process = msgspec.structs.replace(process, app=AppView(text, text, text), note=text)
    to = msgspec.structs.replace(example_ask().destination, name=text, service=text)
    ask = example_ask(processes=(process,), destination=to, why=text)
    note = notes.question(ask, "forever", 1, ALL, NOW)
    body = notes.body_for(note, ALL)
    reader = _Tags()
    reader.feed(body)
    assert reader.tags == []
    assert html.unescape(body) == note.body
    assert len([line for line in note.body.split("\n") if line.startswith("rule: ")]) == 1
    for line in (note.summary, *note.body.split("\n")):
        assert all(c.isprintable() for c in line)
    plain = Server(markup=False)
    assert notes.body_for(note, plain) == note.body


# --- clicks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "decision"), [("Allow", Choice.ALLOW), ("Deny", Choice.DENY)])
def test_a_button_answers_once_and_its_notification_goes(label: str, decision: Choice) -> None:
    scene = Scene(example_ask()).wait().click(("ask", 7), label)
    assert scene.sent == [answer(example_ask(), decision)]
    assert scene.asked == []


def test_the_click_on_the_notification_itself_never_answers_and_opens_the_full_question() -> None:
    scene = Scene(example_ask()).wait().click(("ask", 7), "")
    assert (scene.sent, scene.opened, scene.asked) == ([], 1, [])
    assert Scene(example_ask()).wait().click(("ask", 7), "More…").opened == 1


def test_a_full_question_that_cannot_be_shown_gives_the_notification_back() -> None:
    scene = Scene(example_ask(), ask_to(8)).wait()
    scene.desk.closed(("ask", 8), 2, scene.now)
    scene.click(("ask", 7), "More…").desk.not_opened("no terminal was found")
    assert scene.asked == [7], "not the one that was dismissed"
    assert "no terminal was found" in scene.text("notice")


def test_a_click_before_one_could_read_it_does_not_answer_and_it_is_shown_again() -> None:
    scene = Scene(example_ask()).wait(GUARD_SECONDS - 0.01).click(("ask", 7), "Allow")
    assert scene.sent == []
    assert "that click came before you could read this" in scene.text("ask")
    assert scene.click(("ask", 7), "Allow").sent == [], "the guard begins again"
    assert scene.wait(GUARD_SECONDS).click(("ask", 7), "Allow").sent != []


def test_on_a_server_that_leaves_it_there_after_a_click_the_guard_begins_again_too() -> None:
    scene = Scene(example_ask()).wait(0.2).click(("ask", 7), "Allow", closes=False)
    scene.wait(GUARD_SECONDS - 0.1).click(("ask", 7), "Allow", closes=False)
    assert scene.sent == []
    assert scene.wait(GUARD_SECONDS).click(("ask", 7), "Allow", closes=False).sent != []


@pytest.mark.parametrize("reason", [3, 4, 99])
def test_what_something_else_took_from_the_screen_is_shown_again(reason: int) -> None:
    scene = Scene(example_ask()).wait()
    scene.desk.closed(("ask", 7), reason, scene.now)
    assert scene.asked == [7]
    assert scene.click(("ask", 7), "Allow").sent == [], "it is to be read again"


def test_a_click_on_what_was_shown_before_the_ask_changed_answers_nothing() -> None:
    scene = Scene(example_ask()).wait()
    (_, old), *_ = [(label, key) for key, label in scene.look()["ask", 7].actions]
    scene << example_ask(scopes=(Scope("connection", "app=/bin/evil"),))
    scene.wait(5)
    scene._take(scene.desk.click(("ask", 7), old, scene.now))
    assert scene.sent == []
    assert "app=/bin/evil" in scene.text("ask")


def test_one_more_packet_is_no_other_question() -> None:
    scene = Scene(example_ask()).wait()
    before = scene.look()
    scene << example_ask(waiting=9)
    assert scene.look() == before
    assert scene.click(("ask", 7), "Allow").sent != []


@pytest.mark.parametrize("reason", [1, 2])
def test_dismissed_is_not_denied_and_not_shown_again(reason: int) -> None:
    scene = Scene(example_ask()).wait()
    scene.desk.closed(("ask", 7), reason, scene.now)
    scene << example_ask(waiting=5)
    assert (scene.sent, scene.asked) == ([], [])


def test_an_answer_that_was_refused_or_not_sent_is_asked_again_and_says_why() -> None:
    scene = Scene(example_ask()).wait().click(("ask", 7), "Allow")
    scene << Refused(RefusedReason.INVALID, "it changed\x1b", 7)
    assert scene.asked == [7]
    assert "refused: it changed\ufffd" in scene.text("ask")
    scene.wait().click(("ask", 7), "Deny").desk.unsent(scene.sent[-1], "not connected")
    assert "not answered: not connected" in scene.text("ask")
    scene.wait().click(("ask", 7), "Deny")
    scene << Refused(RefusedReason.GONE, "no such ask", 7)
    assert scene.asked == []
    assert "no such ask" in scene.text("notice")


@given(st.lists(st.sampled_from(["Allow", "Deny", "More…", "", "dismiss", "wait", "ask"])))
def test_no_ask_is_answered_twice_or_without_its_button(steps: list[str]) -> None:
    scene, pressed = Scene(example_ask()).wait(), 0
    for step in steps:
        if step == "ask":
            scene << example_ask(waiting=len(steps))
        elif step == "wait":
            scene.wait()
        elif ("ask", 7) in scene.look():
            if step == "dismiss":
                scene.desk.closed(("ask", 7), 2, scene.now)
            else:
                pressed += step in ("Allow", "Deny")
                scene.click(("ask", 7), step)
    assert len(scene.sent) <= min(pressed, 1)


# --- many -----------------------------------------------------------------------------------


def test_of_fifty_asks_three_have_their_own_and_one_stands_for_the_rest() -> None:
    scene = Scene(*(ask_to(id) for id in range(1, 51)))
    assert scene.asked == [1, 2, 3]
    assert len(scene.look()) == MOST + 1
    assert "47 more questions wait\nfrom curl" in scene.text("more")
    scene.wait().click(("ask", 2), "Deny")
    assert scene.asked == [1, 3, 4]
    scene.wait().click(("more", 0), "Show all…")
    assert scene.opened == 1
    assert scene.text("more") == ""
    scene << ask_to(51)
    assert scene.text("more").startswith("1 more question waits")


def test_what_waits_has_a_notification_before_what_does_not() -> None:
    late = [ask_to(id, stale=True, waiting=0) for id in range(1, MOST + 2)]
    scene = Scene(*late)
    assert scene.asked == [1, 2, 3]
    scene << ask_to(9)
    assert scene.asked == [9, 1, 2]
    assert ("more", 0) in scene.look()
    scene << ask_to(9, stale=True, waiting=0)
    assert scene.asked == [1, 2, 3]


def test_an_ask_that_was_put_off_and_changed_does_not_push_another_out() -> None:
    scene = Scene(*(ask_to(id) for id in range(1, 5))).wait()
    scene.desk.closed(("ask", 1), 2, scene.now)
    assert scene.asked == [2, 3, 4]
    scene << msgspec.structs.replace(ask_to(1), scopes=(Scope("connection", "app=/bin/other"),))
    assert scene.asked == [2, 3, 4]
    assert scene.text("more").startswith("1 more question waits")


def test_the_same_asks_want_the_same_notifications() -> None:
    scene = Scene(*(ask_to(id) for id in range(1, 9)))
    assert scene.look() == scene.look()


# --- what came of it ------------------------------------------------------------------------


def test_the_result_has_the_rule_and_an_undo_that_takes_it_back() -> None:
    scene = Scene(example_ask()).wait().click(("ask", 7), "Allow")
    rule = f"allow {example_ask().scopes[0].conditions}"
    scene << Decided(7, "allow", "alice", "notify", 2, rule, 12)
    assert scene.text("result") == f"allowed curl\nrule 12: {rule}"
    (key,) = [key for key in scene.look() if key[0] == "result"]
    scene.click(key, "Undo", closes=False)
    assert scene.sent[-1] == Undo(12)
    scene << Undone(12, ("deny app=/usr/bin/curl",))
    assert scene.text("result") == ""
    assert "in force again: deny app=/usr/bin/curl" in scene.text("notice")


def test_a_decision_that_is_not_remembered_has_no_undo() -> None:
    scene = Scene(example_ask()).wait().click(("ask", 7), "Deny")
    scene << Decided(7, "deny", "alice", "notify", 2)
    (note,) = [note for key, note in scene.look().items() if key[0] == "result"]
    assert (note.summary, note.actions) == ("denied curl → 192.0.2.7:443 (https) once", ())


@pytest.mark.parametrize(
    "end",
    [
        Withdraw(7, WithdrawReason.EXITED),
        Decided(7, "allow", "bob", "tui", 1),
        Lost("gone"),
    ],
)
def test_an_ask_that_ended_elsewhere_has_no_notification(end: Event) -> None:
    scene = Scene(example_ask()) << end
    assert scene.look() == {}


def test_somebody_faster_is_said() -> None:
    scene = Scene(example_ask()).wait().click(("ask", 7), "Deny")
    scene << Decided(7, "allow", "bob", "tui", 1)
    assert "answered by bob from tui: allow" in scene.text("notice")


def test_news_do_not_pile_up() -> None:
    scene = Scene()
    for number in range(20):
        scene << Notice(NOW, f"link {number} is down")
    assert [note.body for note in scene.look().values()] == [
        f"link {number} is down" for number in (17, 18, 19)
    ]


# --- nobody there, snoozes, modes -----------------------------------------------------------


def test_without_a_server_or_with_do_not_disturb_it_counts_as_away() -> None:
    scene = Scene(example_ask())
    scene._take(scene.desk.serve(None))
    assert scene.look() == {}
    scene._take(scene.desk.serve(ALL))
    scene._take(scene.desk.serve(ALL, True))
    scene._take(scene.desk.serve(ALL, True))
    assert scene.sent == [Away(True), Away(False), Away(True)]
    scene << Lost("gone") << WELCOME
    assert scene.sent[3:] == [Away(True)], "a daemon that is back does not know it"
    assert Scene().sent == []


def test_a_server_that_was_restarted_gets_everything_again_with_a_new_guard() -> None:
    scene = Scene(example_ask()).wait()
    before = scene.look()
    scene.desk.serve(None)
    scene.desk.serve(ALL)
    assert scene.look() == before
    assert scene.click(("ask", 7), "Allow").sent == []


def test_a_lost_daemon_is_said_after_a_while_and_an_answer_on_its_way_at_once() -> None:
    scene = Scene(example_ask(), ask_to(8)).wait().click(("ask", 8), "Allow")
    scene << Lost("arbiter ended the connection")
    assert scene.text("lost") == ""
    assert "your answer may be lost\ncurl → 192.0.2.8:443 (https)" in scene.text("notice")
    assert scene.desk.wake(scene.now) == scene.now + LOST_SECONDS
    scene.wait(LOST_SECONDS)
    assert "arbiter ended the connection; trying again" in scene.text("lost")
    scene << WELCOME
    assert scene.text("lost") == ""


def test_a_snooze_is_shown_with_its_end_and_one_of_ones_own_can_be_ended() -> None:
    own = SnoozeView(1000, "alice", "deny", NOW + 600, "alice")
    scene = Scene() << Snoozed((own,))
    assert "what is new of alice is denied unasked until +600s" in scene.text("snooze")
    assert scene.click(("snooze", 0), "Ask again").sent == [Snooze(Choice.DENY, 0)]
    scene << Snoozed((SnoozeView(None, "", "allow", NOW + 60, "root"),))
    assert scene.look()["snooze", 0].actions == ()
    scene.wait(61)
    assert scene.text("snooze") == ""


def test_modes_in_which_nobody_is_asked_are_said() -> None:
    observing = msgspec.structs.replace(WELCOME, mode="observe")
    assert "learning" in Scene(welcome=observing).text("mode")
    assert Scene().text("mode") == ""


# --- the full question ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "env", "begins"),
    [
        ({"xdg-terminal-exec", "xterm"}, {"TERMINAL": "foot"}, ["xdg-terminal-exec"]),
        ({"foot", "xterm"}, {"TERMINAL": "foot"}, ["foot"]),
        ({"kgx", "xterm"}, {"TERMINAL": "/usr/bin/kgx"}, ["kgx", "--"]),
        ({"mine", "xterm"}, {"TERMINAL": "mine --big"}, ["mine", "--big", "-e"]),
        ({"xterm"}, {"TERMINAL": "missing"}, ["xterm", "-e"]),
        ({"xterm"}, {"TERMINAL": "unclosed '"}, ["xterm", "-e"]),
        ({"x-terminal-emulator", "xterm"}, {}, ["x-terminal-emulator", "-e"]),
    ],
)
def test_the_terminal_is_the_persons_own(
    there: set[str], env: dict[str, str], begins: list[str]
) -> None:
    which = lambda name: name if name.rpartition("/")[2] in there else None  # noqa: E731
    known = frozenset({"terminal"})
    argv = opener.command("auto", "/run/a b", env, which, known)
    at = argv.index("arbiter")
    assert [word.rpartition("/")[2] for word in argv[: at - 3]] == begins
    assert argv[at:] == ["arbiter", "prompt", "terminal", "--socket", "/run/a b"]


def test_what_cannot_be_opened_is_said_with_the_next_step() -> None:
    with pytest.raises(opener.OpenError, match="set TERMINAL, or run `arbiter prompt tui`"):
        opener.command("auto", "/s", {}, lambda _: None, frozenset({"terminal", "tui"}))
    web = opener.command("web", "/s", {}, lambda name: name, frozenset({"web"}))
    assert web[0] == "xdg-terminal-exec", "it prints its address"
    with pytest.raises(opener.OpenError, match=r"nfarbiter\[web\]"):
        opener.command("web", "/s", {}, lambda _: None, frozenset({"terminal"}))
    assert "terminal" in opener.prompts_here()
