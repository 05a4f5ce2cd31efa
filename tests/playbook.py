"""The playbook: scenes for the pipeline, told as what comes in and what must come out.

    play = Playbook()
    play.queue(1, curl)            # a packet comes; its owner is found at once
    play >> FindOwner >> WatchProcess >> ShowAsk
    play.answer(1, "allow")
    play >> verdict(1, ACCEPTED) >> Report >> Announce
    play.end()

`>>` takes the next effect in order: a type, or a value that must be equal.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
from msgspec.structs import replace

from arbiter import protocol
from arbiter.asks import Example, Key, OpenAsk, key_of
from arbiter.events import (
    Answered,
    Effect,
    Event,
    FindOwner,
    LinksChanged,
    OwnerFound,
    PacketQueued,
    ProcessExited,
    PromptsChanged,
    Remember,
    Remembered,
    RememberFailed,
    Report,
    RulesChanged,
    SetVerdict,
    Stopping,
    Tick,
)
from arbiter.model import (
    Ancestor,
    App,
    AppKind,
    Flow,
    Link,
    NoOwner,
    NoOwnerReason,
    Now,
    Owner,
    Packet,
    Peer,
    Process,
    Verdict,
)
from arbiter.older import NO_ID, Older
from arbiter.pipeline import Pipeline
from arbiter.rules import Entry, Layer, LifetimeKind, parse
from arbiter.settings import Settings

START = Now(mono=1000.0, wall=1_700_000_000.0)
ALICE = Peer(1000, "alice", False, "terminal")
BOB = Peer(1001, "bob", False, "tui")
ROOT = Peer(0, "root", True, "terminal")
SERVER = b"\xc6\x33\x64\x0a"  # 198.51.100.10
SERVER6 = bytes.fromhex("20010db801000000000000000000000a")
HERE = b"\x0a\x4d\x01\x02"
HERE6 = bytes.fromhex("20010db8000100000000000000000002")


def app(path: str) -> App:
    return App(path, AppKind.PATH, path.rsplit("/", 1)[-1])


SHELL = Ancestor(100, app("/usr/bin/bash"))


def process(path: str = "/usr/bin/curl", pid: int = 4242, uid: int = 1000) -> Process:
    return Process(
        pid=pid, start=pid * 10, uid=uid, app=app(path), exe=path, argv=(path,), ancestors=(SHELL,)
    )


def owner(
    *processes: Process, uid: int = 1000, established: bool = False, tunnels: tuple[int, ...] = ()
) -> Owner:
    user = {0: "root", 1000: "alice", 1001: "bob"}[uid]
    held = processes or (process(uid=uid),)
    return Owner(uid, user, held, inode=7, established=established, tunnels=tunnels)


NOBODY = NoOwner(NoOwnerReason.KERNEL)
NO_SOCKET = NoOwner(NoOwnerReason.CLOSED)
"""The program has closed its socket, or is gone with it."""
WGET = "/usr/bin/wget"
BOTH = owner(process(pid=1), process(WGET, 2))
AS_ROOT = owner(process(uid=0, pid=900), uid=1000)
"""A set-uid (or seteuid) curl: alice's socket, held by a process with root's rights."""
DEPLOY = Ancestor(300, app("/srv/deploy.sh"))


def deployed(pid: int) -> Owner:
    """curl of alice, started by deploy.sh and not by her shell."""
    return owner(replace(process(pid=pid), ancestors=(DEPLOY,)))


def packet(
    id: int,
    daddr: bytes = SERVER,
    dport: int = 443,
    proto: int = 6,
    sport: int = 40000,
    flags: int = 0x02,
    outdev: int = 0,
) -> Packet:
    saddr = HERE if len(daddr) == 4 else HERE6
    return Packet(
        id=id,
        flow=Flow(proto, saddr, sport, daddr, dport),
        tcp_flags=flags if proto == 6 else 0,
        outdev=outdev,
        length=60,
    )


def older(proto: int = 17, daddr: bytes = SERVER, **more: bool) -> Older:
    """A connection that began while nobody decided, as it is found later."""
    return Older(packet(NO_ID, daddr=daddr, proto=proto, flags=0x10), 7, b"", **more)


def example(held: Packet, who: Owner | NoOwner) -> tuple[Key, Example]:
    """What an ask is made of, where no rule decides anything."""
    subject = who.processes[0] if isinstance(who, Owner) else None
    return key_of(held, who), Example(held, who, subject)


def verdict(id: int, value: Verdict) -> SetVerdict:
    return SetVerdict(id, value)


class Playbook:
    """A pipeline with a clock that only `wait` moves, and a store that works unless told not."""

    def __init__(self, *rules: str, **settings: Any) -> None:
        # Converted as from a file: a word that is not converted would be neither of an enum's.
        self.pipeline = Pipeline(msgspec.convert(settings, Settings))
        self.now = START
        self.effects: deque[Effect] = deque()
        self.next_rule = 1
        self.pending: deque[Remember] = deque()
        self.store = True
        self.send(PromptsChanged(self.now, (ALICE, ROOT)))
        self.rules(*rules)
        self.effects.clear()

    # --- in ---------------------------------------------------------------------------------

    def send(self, event: Event) -> Playbook:
        """One event; its effects wait for `>>`."""
        effects = self.pipeline.handle(event)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, Remember):
                self.pending.append(effect)
        while self.store and self.pending:
            self.stored()
        return self

    def queue(self, id: int, who: Owner | NoOwner | None = None, /, **where: Any) -> Playbook:
        """A packet comes, and its owner is found at once (None: curl, of alice)."""
        self.send(PacketQueued(self.now, packet(id, **where)))
        if isinstance(self.effects[-1], FindOwner):
            self.send(OwnerFound(self.now, id, who if who is not None else owner()))
        return self

    def answer(
        self,
        ask: int,
        decision: str,
        peer: Peer = ALICE,
        *,
        scope: str = "connection",
        lifetime: str = "once",
        via: tuple[str, ...] = (),
        shown: str = "",
    ) -> Playbook:
        message = protocol.Answer(ask, protocol.Choice(decision), scope, lifetime, via, shown)
        return self.send(Answered(self.now, 77, peer, message))

    def stored(self, replaced: tuple[int, ...] = ()) -> Playbook:
        """The oldest Remember has reached the disk."""
        effect = self.pending.popleft()
        entry = self.entry(effect.rule, effect.peer.user, effect.process)
        return self.send(Remembered(self.now, effect.ask, entry, replaced))

    def store_fails(self, problem: str = "no space left on device") -> Playbook:
        effect = self.pending.popleft()
        return self.send(RememberFailed(self.now, effect.ask, problem))

    def entry(self, rule: Any, by: str = "root", process: tuple[int, int] | None = None) -> Entry:
        rule = parse(rule) if isinstance(rule, str) else rule
        span = rule.lifetime.kind is LifetimeKind.SPAN
        expires = self.now.wall + rule.lifetime.seconds if span else None
        id, self.next_rule = self.next_rule, self.next_rule + 1
        return Entry(
            id=id,
            rule=rule,
            layer=Layer.REMEMBERED,
            created=self.now.wall,
            by=by,
            expires=expires,
            process=process,
        )

    def rules(self, *lines: str, removed: tuple[int, ...] = ()) -> Playbook:
        """Somebody changed the rules with a command."""
        return self.send(RulesChanged(self.now, tuple(map(self.entry, lines)), removed))

    def links(self, *links: Link) -> Playbook:
        return self.send(LinksChanged(self.now, links))

    def exits(self, pid: int) -> Playbook:
        return self.send(ProcessExited(self.now, pid, pid * 10))

    def prompts(self, *peers: Peer) -> Playbook:
        return self.send(PromptsChanged(self.now, peers))

    def wait(self, seconds: float) -> Playbook:
        """Time passes, with a Tick whenever one is due, as the daemon does it."""
        end = self.now.mono + seconds
        while True:
            due = self.pipeline.next_wake(self.now)
            if due is None or due > end:
                break
            self._clock(max(due, self.now.mono))
            self.send(Tick(self.now))
        self._clock(end)
        return self

    def late(self, seconds: float) -> Playbook:
        """Time passes, and the daemon is busy elsewhere: it is not told by a Tick."""
        self._clock(self.now.mono + seconds)
        return self

    def _clock(self, mono: float) -> None:
        self.now = Now(mono, self.now.wall + mono - self.now.mono)

    def stop(self) -> Playbook:
        return self.send(Stopping(self.now))

    # --- out --------------------------------------------------------------------------------

    def __rshift__(self, expected: Any) -> Playbook:
        assert self.effects, f"no effect left where {expected} was due"
        effect = self.effects.popleft()
        if isinstance(expected, type):
            assert isinstance(effect, expected), f"{effect} where {expected.__name__} was due"
        else:
            assert effect == expected
        return self

    def take(self, kind: type[Any]) -> Any:
        """The next effect, which must be of this kind, to look into."""
        effect = self.effects[0] if self.effects else None
        self >> kind
        return effect

    def skip(self) -> Playbook:
        """What came so far is not what this scene is about."""
        self.effects.clear()
        return self

    def all(self, kind: type[Any]) -> list[Any]:
        """Every effect of a kind, wherever it stands; the others are dropped."""
        found = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects.clear()
        return found

    def end(self) -> None:
        assert not self.effects, f"left over: {list(self.effects)}"


def only_ask(play: Playbook) -> OpenAsk:
    """The one open ask."""
    (ask,) = play.pipeline.asks
    return ask


def said(play: Playbook) -> dict[int, Report]:
    """Every report so far, by packet."""
    return {report.packet.id: report for report in play.all(Report)}
