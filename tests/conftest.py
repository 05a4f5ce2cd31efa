"""For all tests: hypothesis judges what is found, never how fast a shared machine found it."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("arbiter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("arbiter")
