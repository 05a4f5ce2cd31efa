"""Between the pipeline and the clients: who is told what, in which words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from arbiter import __version__, protocol, views
from arbiter.archive import Archive
from arbiter.events import (
    Announce,
    Answered,
    Effect,
    Event,
    Notify,
    PromptsChanged,
    Refuse,
    Reply,
    RunVia,
    ShowAsk,
    SnoozeWanted,
    TellSnoozes,
    WithdrawAsk,
)
from arbiter.kernel.procfs import ProcessTable, details
from arbiter.memory import now
from arbiter.model import Peer
from arbiter.pipeline import Pipeline
from arbiter.server import Server
from arbiter.socketkeeper import SocketKeeper
from arbiter.startup import Paths
from arbiter.tariff import Price

NOBODY = 0
"""The id of no client (theirs count from 1): a reply to it goes nowhere."""


class FrontDesk:
    """The server's handler, and the one who carries out what clients are to be told."""

    def __init__(
        self,
        pipeline: Pipeline,
        dispatch: Callable[[Event], None],
        paths: Paths,
        admins: frozenset[int],
        *,
        status: Callable[[int, Peer], None],
        changed: Callable[[int], None],
        undo: Callable[[int, Peer, int], None],
        follow: Callable[[int, Peer], None],
        used: Callable[[str], Mapping[str, int]],
        left: Callable[[], Mapping[str, int]],
        processes: ProcessTable,
        prices: Callable[[], Mapping[str, Price]],
    ) -> None:
        self._pipeline = pipeline
        self._dispatch = dispatch
        self._status = status
        self._changed = changed
        self._undo, self._follow = undo, follow
        self._used = used
        """App id → bytes of this month, by link."""
        self._left = left
        """Bytes left of the budgets, by link."""
        self._processes = processes
        self.server = Server(paths.socket, self, admins=admins)
        self._socket = SocketKeeper(self.server, lambda: changed(NOBODY))
        self._archive = Archive(paths.database, self.server.send, prices)
        self.started = time.time()
        self._cwds: dict[int, str] = {}
        """Ask id → working directory of its program, as it was when the ask was first shown."""

    async def start(self) -> None:
        """Let clients in. Raises ServerError."""
        await self._socket.start()

    @property
    def problems(self) -> tuple[str, ...]:
        """Why clients cannot come."""
        return self._socket.problems

    async def close(self) -> None:
        """Close every connection, and what was opened for them."""
        await self._socket.close()
        await self._archive.close()

    # --- to clients -------------------------------------------------------------------------

    def do(self, effect: Effect) -> None:
        """Tell clients what an effect says. Others' effects are nothing here."""
        match effect:
            case ShowAsk(ask_id):
                self.show(ask_id)
            case WithdrawAsk():
                self.withdraw(effect)
            case Announce():
                self.announce(effect)
            case Refuse():
                self.refuse(effect)
            case Notify():
                self.notify(effect)
            case TellSnoozes():
                self.tell_snoozes(effect)
            case Reply():
                self.reply(effect)

    def show(self, ask_id: int) -> None:
        """Send an ask, as it is now, to every prompt that may answer it."""
        ask = self._pipeline.asks.get(ask_id)
        if ask is None:
            return  # closed by a later effect of the same event
        subject = ask.example.subject
        if ask_id not in self._cwds and subject is not None:
            self._cwds[ask_id] = details(subject).cwd
        self.server.broadcast(ask.uid, lambda peer: self._ask_for(ask_id, peer))

    def withdraw(self, effect: WithdrawAsk) -> None:
        """Tell that an ask is gone."""
        self._cwds.pop(effect.ask, None)
        message = protocol.Withdraw(effect.ask, effect.reason, effect.text)
        self.server.broadcast(effect.uid, lambda _: message)

    def announce(self, effect: Announce) -> None:
        """Tell how an ask was decided; commands too, one of which may have answered it."""
        self._cwds.pop(effect.message.ask, None)
        self.server.broadcast(effect.uid, lambda _: effect.message, commands=True)

    def notify(self, effect: Notify) -> None:
        """Tell prompts what needs no answer."""
        message = protocol.Notice(time.time(), effect.text)
        self.server.broadcast(effect.uid, lambda _: message, everyone=effect.uid is None)

    def tell_snoozes(self, effect: TellSnoozes) -> None:
        """Tell which snoozes are on."""
        snoozes = self._pipeline.snoozes
        self.server.broadcast(
            effect.uid,
            lambda peer: protocol.Snoozed(snoozes.views(peer)),
            commands=True,
            everyone=effect.uid is None,
        )

    def reply(self, effect: Reply) -> None:
        """Tell one client that its message was carried out."""
        self.server.send(effect.client, effect.message)

    def refuse(self, effect: Refuse) -> None:
        """Tell one client that its message was not carried out."""
        self.server.send(effect.client, effect.message)

    def _ask_for(self, ask_id: int, peer: Peer) -> protocol.Ask:
        ask = self._pipeline.asks.get(ask_id)
        assert ask is not None
        subject = ask.example.subject
        used = self._used(subject.app.id) if subject is not None else {}
        links = views.link_views(self._pipeline.ways, ask.example, used, self._left(), ask.via)
        advice = views.advice_view(self._pipeline.advice, ask.example)
        cwd, profile = self._cwds.get(ask_id, ""), self._pipeline.profiles.active
        return views.ask_message(ask, peer, links, cwd, advice, profile)

    # --- from clients -----------------------------------------------------------------------

    def arrived(self, client: int, peer: Peer) -> list[protocol.DaemonMessage]:
        """Every open ask that the new client may answer."""
        asks = self._pipeline.asks
        return [self._ask_for(ask.id, peer) for ask in asks if peer.may_answer(ask.uid)]

    def welcome(self, peer: Peer, asks: int) -> protocol.Welcome:
        """The answer to hello."""
        settings = self._pipeline.settings
        return protocol.Welcome(
            version=protocol.VERSION,
            daemon=__version__,
            user=peer.user,
            admin=peer.admin,
            mode=settings.mode.value,
            fallback=settings.fallback.value,
            asks=asks,
            snoozes=self._pipeline.snoozes.views(peer),
        )

    def prompts_changed(self, peers: tuple[Peer, ...]) -> None:
        """Who is connected with a prompt, now."""
        self._dispatch(PromptsChanged(now(), peers))

    def message(self, client: int, peer: Peer, message: protocol.ClientMessage) -> None:
        """A client sent this."""
        match message:
            case protocol.Answer():
                self._dispatch(Answered(now(), client, peer, message))
            case protocol.Changed():
                self._changed(client)
            case protocol.Query():
                self._status(client, peer)
            case protocol.Snooze():
                self._dispatch(SnoozeWanted(now(), client, peer, message))
            case protocol.Undo(rule):
                self._undo(client, peer, rule)
            case protocol.Follow():
                self._follow(client, peer)
            case protocol.ReadRecords() | protocol.SumRecords():
                self._archive.ask(client, peer, message)
            case protocol.RunVia(link):
                self._run_via(client, peer, link)

    def _run_via(self, client: int, peer: Peer, link: str) -> None:
        start, text = self._processes.start_time(peer.pid), ""
        if start is None:
            text = "your process cannot be seen from here (another pid namespace?)"
        elif not self._processes.here(peer.pid):
            text = "this arbiter does not decide in your network namespace: run-via would keep "
            text += "nothing on the link; run it where arbiter runs"
        if start is None or text:
            self.server.send(client, protocol.Refused(protocol.RefusedReason.INVALID, text))
            return
        self._dispatch(RunVia(now(), client, peer, (peer.pid, start), link))
