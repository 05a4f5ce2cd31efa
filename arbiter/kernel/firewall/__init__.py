"""The firewall: a pure plan, its two renderings, and putting it in force.

`Plan` says what must hold; `nft` and `iptables` render it; `probe` finds a backend this kernel
has; `apply` puts it in force and takes it away; `overlap` finds others who use our mark bits.
"""

from arbiter.kernel.firewall.apply import Installed, apply, installed, remove
from arbiter.kernel.firewall.classes import why_no_classes
from arbiter.kernel.firewall.overlap import Overlap, look, overlaps
from arbiter.kernel.firewall.plan import Plan, describe
from arbiter.kernel.firewall.probe import Backend, FirewallError, probe_backend

__all__ = [
    "Backend",
    "FirewallError",
    "Installed",
    "Overlap",
    "Plan",
    "apply",
    "describe",
    "installed",
    "look",
    "overlaps",
    "probe_backend",
    "remove",
    "why_no_classes",
]
