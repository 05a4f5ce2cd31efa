"""Whoever looks again and again looks into the kernel after each change, and only then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from firewallscene import KERNEL_ONLY, PLAN, empty, sh, usable

from arbiter.kernel.firewall import Looks, apply, generation, installed, probe, remove
from arbiter.kernel.firewall.probe import IPTABLES, NFT, Backend

pytestmark = KERNEL_ONLY


@pytest.fixture(autouse=True)
def home() -> Iterator[None]:
    with empty():
        yield


@pytest.fixture(params=[NFT, *IPTABLES], ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    return usable(request.param)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tools that were run, by name."""
    run, said = probe.run, list[str]()

    def counted(argv: list[str], text: str | None = None) -> str:
        said.append(argv[0].rpartition("/")[2])
        return run(argv, text)

    monkeypatch.setattr(probe, "run", counted)
    return said


def test_a_look_is_always_what_a_look_without_memory_is(backend: Backend, tools: list[str]) -> None:
    looks = Looks()
    jump = "-t mangle -I OUTPUT 1 -m comment --comment mine -j ACCEPT"
    change = ["iptables-legacy" if backend.variant == "legacy" else "iptables-nft", *jump.split()]
    states = []
    for step in (
        lambda: None,
        lambda: apply(PLAN, backend),
        lambda: sh(*change),
        lambda: sh(change[0], *jump.replace("-I OUTPUT 1", "-D OUTPUT").split()),
        lambda: remove(),
    ):
        step()
        states.append(looks.installed())
        assert states[-1] == installed()
        tools.clear()
        assert looks.installed() == states[-1]
        if backend.variant != "legacy":
            assert tools == []
        elif len(states) > 1:  # from then on it has tables, for good, and nothing counts changes
            assert tools
    assert [bool(state) for state in states] == [False, True, True, True, False]
    if backend != NFT:
        assert [bool(state.problems) for state in states] == [False, False, True, False, False]


def test_a_generation_tells_of_each_change_of_ours_and_of_others(backend: Backend) -> None:
    seen = [generation(backend)]
    apply(PLAN, backend)
    seen.append(generation(backend))
    assert generation(backend) == seen[-1]
    sh("nft", "add", "table", "ip", "others")
    seen.append(generation(backend))
    remove()
    seen.append(generation(backend))
    if backend.variant == "legacy":
        assert seen == [None] * 4
    else:
        assert len(set(seen)) == 4 and None not in seen
