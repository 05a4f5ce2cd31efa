"""A review under way: keys in, what is to be stored out. Knows no terminal, store or clock.

Nothing is allowed by accident: what has been looked at stays undecided until one of `a`, `d`, `s`
or `A` is pressed; every other key, Return before all, decides nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence

from msgspec import Struct

from arbiter.model import DENY, Action
from arbiter.rules import Domain, Entry, Layer, Name, Rule, conditions, rank
from arbiter.rules.propose import Proposal
from arbiter.rules.relate import apart, host_covers
from arbiter.rules.seen import Program, Seen, matches


class Mark(enum.StrEnum):
    """What became of a proposal."""

    OPEN = "open"
    ALLOWED = "allowed"
    DENIED = "denied"
    SKIPPED = "skipped"
    COVERED = "covered"
    """Rules that were made for others of this program decide all of it."""


class Item:
    """One proposal: how wide it is now, and what became of it."""

    def __init__(self, proposal: Proposal) -> None:
        self.proposal = proposal
        self.steps = (proposal.rule, *proposal.wider)
        self.step = 0
        self.mark = Mark.OPEN
        self.made: tuple[int, Rule] | None = None
        """Id and rule, once it is in force."""

    @property
    def rule(self) -> Rule:
        """As it would be remembered now, or is."""
        return self.made[1] if self.made else self.steps[self.step]


class Card:
    """One program with its proposals."""

    def __init__(self, program: Program, proposals: Sequence[Proposal]) -> None:
        self.program = program
        self.items = [Item(proposal) for proposal in proposals]

    @property
    def done(self) -> int:
        """How many need no decision any more."""
        return sum(item.mark is not Mark.OPEN for item in self.items)

    def covered(self, rule: Rule) -> list[Seen]:
        """What a rule about this program matches of all that was seen of it."""
        return [one for one in self.program.seen if matches(rule, one)]

    def look(self) -> None:
        """Which proposals are covered, after rules were made or taken back."""
        made = [item.made[1] for item in self.items if item.made]
        for item in self.items:
            if item.mark in (Mark.OPEN, Mark.COVERED):
                all_of_it = all(any(matches(r, s) for r in made) for s in item.proposal.seen)
                item.mark = Mark.COVERED if all_of_it else Mark.OPEN


class Keep(Struct, frozen=True):
    """Remember these rules in one step, then call `kept` with their ids."""

    rules: tuple[Rule, ...]


class TakeBack(Struct, frozen=True):
    """Remove this rule, then call `taken_back`."""

    id: int


class Quit(Struct, frozen=True):
    """It is over; what was stored stays."""


Effect = Keep | TakeBack | Quit


class Review:
    """Which card and proposal is looked at, and the way through them. `cards` is not empty.

    `denials` are the rules in force that deny: people are told which a wider rule would precede.
    """

    def __init__(self, cards: Sequence[Card], denials: Sequence[Entry] = ()) -> None:
        self.cards = cards
        self.card_at = self.item_at = 0
        self.help = False
        self.message = ""
        self._denials = list(denials)
        self._waiting: list[Item] = []
        self._mark = Mark.OPEN

    @property
    def card(self) -> Card:
        """The program that is looked at."""
        return self.cards[self.card_at]

    @property
    def item(self) -> Item:
        """The proposal that is looked at."""
        return self.card.items[self.item_at]

    def count(self, mark: Mark) -> int:
        """Proposals of all cards with this mark."""
        return sum(item.mark is mark for card in self.cards for item in card.items)

    def key(self, key: str) -> Effect | None:
        """One key: a character, or a name ("enter", "several", ...)."""
        self.message = ""
        if self.help:
            self.help = False
            return None
        item = self.item
        match key:
            case "?":
                self.help = True
            case "q":
                return Quit()
            case "b":
                self._back()
            case "s" if item.made:
                return TakeBack(item.made[0])
            case "s":
                item.mark = Mark.SKIPPED
                self._on()
            case "a" | "d" | "w" | "n" if item.made:
                self.message = f"rule {item.made[0]} says so: s takes it back, then choose anew"
            case "a":
                return self._keep([item], Mark.ALLOWED)
            case "d":
                return self._keep([item], Mark.DENIED)
            case "A":
                return self._all()
            case "w" | "n":
                self._widen(1 if key == "w" else -1)
            case "enter":
                self.message = "Return decides nothing: a allows, d denies, s skips"
            case "several":
                self.message = "several keys at once may have been pasted, and decide nothing"
            case _:
                self.message = "this key decides nothing: ? says what keys do"
        return None

    def kept(self, ids: Sequence[int]) -> None:
        """The rules of the last `Keep` are on disk, with these ids."""
        by_conditions = dict(zip(self._wanted(), ids, strict=True))
        for item in self._waiting:
            rule = self._as_marked(item)
            item.made, item.mark = (by_conditions[conditions(rule)], rule), self._mark
        self.card.look()
        self._on()

    def taken_back(self) -> None:
        """The rule of the last `TakeBack` is gone."""
        self.item.made, self.item.mark = None, Mark.OPEN
        self.card.look()

    def changed(self, gone: Collection[int], new: Sequence[Entry]) -> None:
        """Rules went out of force, and others came, by whomever: show what holds now.

        What somebody else decided of an open proposal is shown as decided, so that nobody
        overrules it unseen.
        """
        self._denials = [entry for entry in self._denials if entry.id not in gone]
        self._denials += denials(new)
        like = {conditions(entry.rule): entry for entry in new if entry.process is None}
        for card in self.cards:
            for item in card.items:
                if item.made and item.made[0] not in gone:
                    continue
                entry = None if item.mark is Mark.SKIPPED else like.get(conditions(item.rule))
                if entry:
                    denied = entry.rule.decision.action is Action.DENY
                    item.made = (entry.id, entry.rule)
                    item.mark = Mark.DENIED if denied else Mark.ALLOWED
                elif item.made:
                    item.made, item.mark = None, Mark.OPEN
            card.look()

    def preceded(self, rule: Rule) -> list[Entry]:
        """Rules in force that deny, and that `rule` would come before where both match."""
        newest = max((entry.created for entry in self._denials), default=0.0)
        entry = Entry((1 << 63) - 1, rule, Layer.REMEMBERED, newest, "")
        return [
            other
            for other in self._denials
            if _meet(rule, other.rule) and rank(entry) < rank(other)
        ]

    # --- inside -----------------------------------------------------------------------------

    def _keep(self, items: list[Item], mark: Mark) -> Keep:
        self._waiting, self._mark = items, mark
        return Keep(tuple(self._wanted().values()))

    def _wanted(self) -> dict[str, Rule]:
        """One rule for each conditions: two may have been widened to the same."""
        rules = [self._as_marked(item) for item in self._waiting]
        return {conditions(rule): rule for rule in rules}

    def _as_marked(self, item: Item) -> Rule:
        rule = item.steps[item.step]
        return rule.replace(decision=DENY) if self._mark is Mark.DENIED else rule

    def _all(self) -> Keep | None:
        if not self.card.program.app:
            self.message = "rules for every program are allowed one by one"
            return None
        items = [item for item in self.card.items if item.mark is Mark.OPEN]
        if not items:
            self.message = "nothing of this program is open"
            return None
        return self._keep(items, Mark.ALLOWED)

    def _widen(self, by: int) -> None:
        item = self.item
        step = item.step + by
        if step < 0:
            self.message = "this is the narrowest that matches what was seen"
            if item.proposal.summary:
                self.message = "this is the narrowest sum; --each has every destination by itself"
        elif step == len(item.steps):
            self.message = "there is nothing wider"
        else:
            item.step = step

    def _places(self) -> list[tuple[int, int]]:
        return [(c, i) for c, card in enumerate(self.cards) for i in range(len(card.items))]

    def _on(self) -> None:
        """To the next that is open, from here on; at the end, the first one left."""
        here = (self.card_at, self.item_at)
        places = self._places()
        ahead = [place for place in places if place > here]
        for card, item in (*ahead, *places):
            if self.cards[card].items[item].mark is Mark.OPEN:
                self.card_at, self.item_at = card, item
                return
        self.message = "every proposal is decided or skipped: q ends the review, b goes back"

    def _back(self) -> None:
        here = (self.card_at, self.item_at)
        before = [place for place in self._places() if place < here]
        if before:
            self.card_at, self.item_at = before[-1]
        else:
            self.message = "this is the first"


def _meet(one: Rule, other: Rule) -> bool:
    """Whether people would say that both speak of the same; any two names may be one address."""
    ours, theirs = one.host, other.host
    if isinstance(ours, Name | Domain) and isinstance(theirs, Name | Domain):
        return host_covers(ours, theirs) or host_covers(theirs, ours)
    return not apart(one, other)


def denials(entries: Sequence[Entry]) -> list[Entry]:
    """Those that deny."""
    return [entry for entry in entries if entry.rule.decision.action is Action.DENY]
