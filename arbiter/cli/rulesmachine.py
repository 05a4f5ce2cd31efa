"""What this machine has of what rules name: programs, users, groups, links."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from pathlib import Path

from arbiter.cli.appfiles import AppFiles
from arbiter.cli.appnames import other_name
from arbiter.cli.profilewords import unknown_profile
from arbiter.cli.rulestore import unknown_user
from arbiter.linknumbers import names_had
from arbiter.linkstate import read_files, read_numbers
from arbiter.model import RESERVED_LINKS
from arbiter.rules import Here, Rule
from arbiter.rules.words import nearest
from arbiter.store import Store, StoreError


class Machine:
    """Asked only for what a rule names; looked up once."""

    def __init__(self, config: Path, state: Path, db: Path) -> None:
        self._config, self._state, self._db = config, state, db
        self._names: frozenset[str] | None = None
        self._listed: frozenset[str] = frozenset()
        self.problem = ""
        """Why links are not known, so that nothing is said of them."""

    def here(self, profiles: Collection[str] | None, *, apps: bool = True) -> Here:
        """For `dead`; without `apps` nothing is said of programs, nor of profiles if None."""
        return Here(
            app=AppFiles().gone if apps else lambda app: "",
            user=functools.lru_cache(None)(unknown_user),
            link=self.no_link,
            other=functools.lru_cache(None)(other_name) if apps else lambda app: "",
            profile=lambda name: "" if profiles is None else unknown_profile(name, profiles),
        )

    def doubts(self, rule: Rule, store: Store) -> Iterator[str]:
        """What to say about a rule that somebody adds: it names what is not here, or has another
        name. A program may be installed later: nothing is said of one that is not there."""
        yield unknown_user(rule.user)
        yield unknown_profile(rule.profile, store.profiles.names())
        yield from map(other_name, dict.fromkeys((rule.app, rule.parent)))
        yield from (self.no_link(name) for name in rule.decision.via if name not in RESERVED_LINKS)
        yield self.problem

    def no_link(self, name: str) -> str:
        """Why `via=` names no link of this machine; "" where it does, or that is not known."""
        if self._names is None:
            self._names = self._links()
        if self.problem or name in self._names:
            return ""
        meant = nearest(name, sorted(self._listed))
        hint = f"did you mean {meant}? " if meant else ""
        return f"no link is or was called {name}: {hint}`arbiter links` lists those there are"

    def _links(self) -> frozenset[str]:
        """Names of files, of links there are and were, and of those that carried something."""
        # Most rules name no link, and asyncio and D-Bus take longer to load than all else.
        import asyncio

        from arbiter.cli.linklook import Look

        try:
            files, problems = read_files(self._config / "links.d")
            known = read_numbers(self._state / "links.json")
            present = asyncio.run(Look(known, files).once())
            used = self._used()
        except (OSError, StoreError) as error:
            self.problem = f"links are not looked at: {error}"
            return frozenset()
        if problems:
            self.problem = f"links are not looked at: {problems[0]}"
        self._listed = frozenset({file.name for file in files} | {link.name for link in present})
        return names_had(known) | self._listed | used - {""}

    def _used(self) -> set[str]:
        if not self._db.exists():
            return set()
        with Store.open(self._db, readonly=True) as store:
            return {used.account.link for used in store.usage()}
