"""A lab: links and an internet behind each, in network namespaces on one machine."""

from arbiter.lab.build import Lab
from arbiter.lab.config import LabConfig, LabError, LinkConfig, Seen

__all__ = ["Lab", "LabConfig", "LabError", "LinkConfig", "Seen"]
