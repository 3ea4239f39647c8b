"""Limits that follow what calls take, on a dependency that can do so much at once."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.processing import resources
from penstock.processing.adaptive import Adaptive, AdaptiveLimit, Budget, IntakeShare, Window
from penstock.processing.units import to_size_bytes


class Dependency:
    """Serves `capacity` calls at once in `call_s`; more wait in line."""

    def __init__(self, capacity: int, call_s: float) -> None:
        self.capacity, self.call_s = capacity, call_s

    def window(self, out: int, overloaded: bool = False, demand: int = 10**9) -> Window:
        at_once = min(out, demand)
        mean_s = self.call_s * max(1.0, at_once / self.capacity)
        return Window(1.0, at_once, round(at_once / mean_s), demand > out, overloaded)


@given(
    capacity=st.integers(2, 400),
    call_s=st.sampled_from([0.001, 0.02, 0.5]),
    start=st.sampled_from([1, 20, 1_000]),
)
def test_it_finds_what_the_dependency_can_take(capacity: int, call_s: float, start: int) -> None:
    limit = AdaptiveLimit(Adaptive(most=1_000, start=start))
    dependency = Dependency(capacity, call_s)
    for _ in range(400):
        limit.decide(dependency.window(limit.limit))
    seen = [limit.decide(dependency.window(limit.limit)) for _ in range(100)]
    # Enough to keep it busy, and a line of about the tolerance before it; one window in fifty is a probe at a quarter of it.
    assert sum(at >= min(capacity, 1_000) for at in seen) >= 90
    assert max(seen) <= 3 * capacity + 20


def test_it_follows_a_dependency_that_changes() -> None:
    limit = AdaptiveLimit(Adaptive())
    for _ in range(100):
        limit.decide(Dependency(200, 0.01).window(limit.limit))
    assert limit.limit > 150
    for _ in range(100):
        limit.decide(Dependency(10, 0.01).window(limit.limit))
    assert limit.limit < 50
    for _ in range(
        200
    ):  # as wide as before, and ten times as slow for good: a probe finds that waiting is not the cause
        limit.decide(Dependency(200, 0.1).window(limit.limit))
    assert limit.limit > 150


def test_without_demand_it_stays() -> None:
    limit = AdaptiveLimit(Adaptive(start=50))
    for _ in range(200):
        assert limit.decide(Dependency(10, 0.01).window(limit.limit, demand=5)) == 50
    assert limit.decide(Window(1.0, 0, 0, False, False)) == 50


def test_over_the_budget_it_falls_to_the_least_and_comes_back() -> None:
    limit = AdaptiveLimit(Adaptive(least=3, most=500))
    for _ in range(100):
        limit.decide(Dependency(100, 0.01).window(limit.limit))
    for _ in range(30):
        limit.decide(Dependency(100, 0.01).window(limit.limit, overloaded=True))
    assert limit.limit == 3
    for _ in range(100):
        limit.decide(Dependency(100, 0.01).window(limit.limit))
    assert limit.limit >= 100


@given(
    least=st.integers(1, 50),
    more=st.integers(0, 1_000),
    windows=st.lists(
        st.builds(
            Window,
            st.floats(0.01, 60),
            st.floats(0, 1e6),
            st.integers(0, 10**7),
            st.booleans(),
            st.booleans(),
        ),
        max_size=200,
    ),
)
def test_whatever_is_measured_it_keeps_to_its_bounds(least: int, more: int, windows: list[Window]) -> None:
    limit = AdaptiveLimit(Adaptive(least=least, most=least + more))
    assert least <= limit.limit <= least + more
    for window in windows:
        assert least <= limit.decide(window) <= least + more


def test_what_may_be_held_shrinks_above_the_budget_and_grows_below() -> None:
    intake = IntakeShare(Budget(memory_bytes=1_000))
    assert intake.decide(900) == 1.0, "between the two nothing changes"
    shares = [intake.decide(1_001) for _ in range(50)]
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] <= 0.01
    assert intake.exhausted, "and it never falls to nothing"
    assert intake.decide(900) == shares[-1]
    for _ in range(100):
        intake.decide(500)
    assert intake.share == 1.0
    assert IntakeShare(Budget()).decide(10**12) == 1.0


def test_budgets() -> None:
    assert Budget(cpu_cores=1.5).exceeded(0, 1.6)
    assert not Budget(cpu_cores=1.5).exceeded(10**12, 1.4)
    assert Budget(memory_bytes=10).exceeded(11, 0)
    assert not Budget().exceeded(10**12, 64)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adaptive(least=0),
        lambda: Adaptive(least=5, most=4),
        lambda: Adaptive(start=2_000),
        lambda: Adaptive(tolerance=1),
        lambda: Budget(memory_bytes=0),
        lambda: Budget(cpu_cores=0),
        lambda: to_size_bytes("12"),
        lambda: to_size_bytes("12 XB"),
        lambda: to_size_bytes(-1),
    ],
)
def test_nonsense_is_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_sizes() -> None:
    assert to_size_bytes("64MiB") == 64 << 20
    assert to_size_bytes(" 1.5 gb ") == 1_500_000_000
    assert to_size_bytes("12b") == to_size_bytes(12) == 12


def test_what_the_system_tells_of_this_process() -> None:
    before = resources.memory_bytes()
    assert before > 1_000_000
    held = bytearray(os.urandom(1) * 50_000_000)
    assert resources.memory_bytes() >= before + 40_000_000
    assert resources.memory_bytes([os.getpid()]) >= 2 * before
    assert resources.memory_bytes([2**30]) < 2 * resources.memory_bytes()
    assert resources.cpu_s([os.getpid()]) >= resources.cpu_s() > 0
    del held
