"""Arbiter: decides, connection by connection, what may connect and over which link."""

__version__ = "0.1.0"
