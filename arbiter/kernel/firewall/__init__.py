"""The firewall: a pure plan, its two renderings, and putting it in force.

`Plan` says what must hold; `nft` and `iptables` render it; `probe` finds a backend this kernel
has; `apply` puts it in force and takes it away; `shown` and
`listen` tell whether others changed it since, and `looks` spares looks after nothing changed;
`overlap` finds others who use our mark bits.
"""

from arbiter.kernel.firewall.apply import Installed, apply, installed, remove
from arbiter.kernel.firewall.changes import listen
from arbiter.kernel.firewall.classes import why_no_classes
from arbiter.kernel.firewall.looks import Looks, generation
from arbiter.kernel.firewall.overlap import Overlap, look, overlaps
from arbiter.kernel.firewall.plan import Plan, describe
from arbiter.kernel.firewall.probe import Backend, FirewallError, probe_backend
from arbiter.kernel.firewall.shown import Shown, shown, whole

__all__ = [
    "Backend",
    "FirewallError",
    "Installed",
    "Looks",
    "Overlap",
    "Plan",
    "Shown",
    "apply",
    "describe",
    "generation",
    "installed",
    "listen",
    "look",
    "overlaps",
    "probe_backend",
    "remove",
    "shown",
    "whole",
    "why_no_classes",
]
