"""For all tests: hypothesis judges what is found, never how fast a shared machine found it."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("arbiter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("arbiter")

# A shell that starts the tests in the background ignores SIGINT; programs under test inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
