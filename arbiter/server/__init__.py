"""The Unix socket: who speaks (SO_PEERCRED), what they may, and lines in and out."""

from arbiter.server.place import ServerError
from arbiter.server.server import RATE, Server

__all__ = ["RATE", "Server", "ServerError"]
