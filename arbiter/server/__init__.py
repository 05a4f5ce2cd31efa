"""The Unix socket: who speaks (SO_PEERCRED), what they may, and lines in and out."""

from arbiter.server.place import ServerError
from arbiter.server.server import RATE, Handler, Server

__all__ = ["RATE", "Handler", "Server", "ServerError"]
