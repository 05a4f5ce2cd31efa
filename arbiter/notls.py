"""asyncio without TLS, which nothing here speaks: OpenSSL takes 5 MB of a daemon's memory.

asyncio uses the `ssl` module where there is one, and goes on without. Import asyncio from here
first. Later importers of `ssl` itself get it.
"""

from __future__ import annotations

import sys

_there = "ssl" in sys.modules
if not _there:
    sys.modules["ssl"] = None  # type: ignore[assignment]  # "there is none", for import
try:
    import asyncio
finally:
    if not _there:
        del sys.modules["ssl"]

__all__ = ["asyncio"]
