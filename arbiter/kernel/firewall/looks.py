"""Looks into the kernel that are asked for again and again: only after a change are they made anew.

What nftables has, iptables-nft's part included, changes by transactions, which the kernel counts.
Nothing counts those of iptables-legacy: where that has tables, each look is a whole one.
"""

from __future__ import annotations

from arbiter.kernel.firewall import legacy, probe
from arbiter.kernel.firewall.apply import Installed, installed
from arbiter.kernel.firewall.probe import Backend, FirewallError


def generation(backend: Backend) -> bytes | None:
    """Equal values: nothing of what `shown` looks at changed in between. None where nothing tells.
    Raises FirewallError."""
    return None if backend.variant == "legacy" else probe.nft_generation()


class Looks:
    """`installed`, for whoever asks often. In any thread."""

    def __init__(self) -> None:
        self._last: tuple[bytes | None, Installed] = (None, Installed())

    def installed(self) -> Installed:
        """As `apply.installed`: what it is now. Raises FirewallError."""
        at = probe.nft_generation()
        seen, found = self._last
        if at is None or at != seen or _has_legacy():
            found = installed()
            self._last = (at, found)  # at most older than what was found: then it is looked again
        return found


def _has_legacy() -> bool:
    try:
        return bool(legacy.state())
    except OSError as error:
        raise FirewallError(f"the tables of iptables-legacy cannot be read: {error}") from error
