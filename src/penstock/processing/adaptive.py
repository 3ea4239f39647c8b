"""How many calls at once: as many as what they call can take. Pure: a window's measurements are given.

A call takes some time when nothing is in its way, `base`. More at once bring more, until a database, a service or the processor cores are
full; from there on calls only take longer. So the limit follows what calls take, by Little's law: their mean time is how many were out,
divided by how many ended a second. Nothing is measured per call.

    limit  <-  limit * gradient + sqrt(limit)      gradient = tolerance * base / mean time, within 0.5 to 1

It rests where calls take about `tolerance` times `base`. Source of the idea: TCP Vegas, and the limits by gradient that services use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigError

_START = 20
_LEAST_GRADIENT = 0.5
_SMOOTHING = 0.5
_OVERLOAD = 0.7
"""What the limit is multiplied by in a window over the budget."""
_LEAST_S = 1e-9
_PROBE_SHARE = 0.25
_NEWS = 0.8
_PROBE_WINDOWS, _SOON_WINDOWS = 50, 10
"""After so many windows one is spent at a quarter of the limit. It finds `base` where the first calls were too many already; and whether
calls became slower for good, which looks like too many calls otherwise. Where it found something, the next comes soon."""


@dataclass(frozen=True, slots=True)
class Adaptive:
    """`concurrency=Adaptive(least=4, most=500)`: between these, by what calls take.

    `start`: the first limit (20, within the bounds). `tolerance`: how many times its undisturbed time a call may take.
    """

    least: int = 1
    most: int = 1_000
    start: int | None = None
    tolerance: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ConfigError(
                f"Adaptive(least={self.least!r}, most={self.most!r}): 1 <= least <= most calls at once"
            )
        if self.start is not None and not self.least <= self.start <= self.most:
            raise ConfigError(
                f"Adaptive(start={self.start!r}): a number of calls within {self.least} and {self.most}"
            )
        if not self.tolerance > 1:
            raise ConfigError(f"Adaptive(tolerance={self.tolerance!r}): a factor above 1")

    @property
    def first(self) -> int:
        """The limit to begin with."""
        return self.start if self.start is not None else min(self.most, max(self.least, _START))


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured of one handler. `out`: calls that were out at a time, on average. `ended`: how many ended within `seconds`.
    `pressed`: whether more would have run, if the limit had let them. `overloaded`: the processor is over its budget."""

    seconds: float
    out: float
    ended: int
    pressed: bool
    overloaded: bool


class AdaptiveLimit:
    """One handler's limit. `limit` changes in decide() alone."""

    def __init__(self, given: Adaptive) -> None:
        self._given = given
        self._at = float(given.first)
        self._base_s: float | None = None
        self._before_s = 0.0  # what calls took in the window before a probe
        self._until_probe = _SOON_WINDOWS
        self._probing = False

    @property
    def limit(self) -> int:
        """Calls at once, from now on."""
        at = self._at * _PROBE_SHARE if self._probing else self._at
        return min(self._given.most, max(self._given.least, round(at)))

    def decide(self, window: Window) -> int:
        """After each window; the new limit."""
        was_probe, self._probing = self._probing, False
        if window.overloaded:
            self._at = max(self._given.least, self._at * _OVERLOAD)
        elif window.ended and window.out > 0:
            self._follow(max(_LEAST_S, window.out * window.seconds / window.ended), window.pressed, was_probe)
        return self.limit

    def _slower_for_good(self, mean_s: float) -> bool:
        """Whether a quarter of the calls took hardly less: then it is not for waiting in line that they take longer than they did."""
        healthy = 1 / self._given.tolerance
        return mean_s >= self._before_s * (1 + healthy) / 2

    def _follow(self, mean_s: float, pressed: bool, was_probe: bool) -> None:
        if was_probe and self._base_s is not None:
            found = mean_s < self._base_s * _NEWS or self._slower_for_good(mean_s)
            self._until_probe = _SOON_WINDOWS if found else _PROBE_WINDOWS
        if self._base_s is None or mean_s < self._base_s or (was_probe and self._slower_for_good(mean_s)):
            self._base_s = mean_s
        if was_probe or not pressed:
            return  # nothing is known about more than what was out
        self._before_s = mean_s
        gradient = min(1.0, max(_LEAST_GRADIENT, self._given.tolerance * self._base_s / mean_s))
        wanted = self._at * gradient + math.sqrt(self._at)
        at = self._at + (wanted - self._at) * _SMOOTHING
        self._at = min(float(self._given.most), max(float(self._given.least), at))
        self._until_probe -= 1
        self._probing = self._until_probe <= 0


@dataclass(frozen=True, slots=True)
class Budget:
    """What a processor may use, its worker processes included. None: no limit."""

    memory_bytes: int | None = None
    cpu_cores: float | None = None

    def __post_init__(self) -> None:
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ConfigError(f"memory_budget={self.memory_bytes!r}: a number of bytes, or text as '1GiB'")
        if self.cpu_cores is not None and not self.cpu_cores > 0:
            raise ConfigError(f"cpu_budget={self.cpu_cores!r}: a number of processor cores, as 1.5")

    def exceeded(self, memory_bytes: int, cpu_cores: float) -> bool:
        """Whether a window used more."""
        return self.memory_exceeded(memory_bytes) or (
            self.cpu_cores is not None and cpu_cores > self.cpu_cores
        )

    def memory_exceeded(self, memory_bytes: int) -> bool:
        return self.memory_bytes is not None and memory_bytes > self.memory_bytes


_SHRINK, _GROW, _LEAST_SHARE, _CALM = 0.7, 1.1, 0.01, 0.85


class IntakeShare:
    """Which share of `max_buffered_*` may be held, so that memory stays within its budget. `share` changes in decide() alone."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.share = 1.0

    @property
    def exhausted(self) -> bool:
        """Nothing is left to give up: something else needs the memory."""
        return self.share <= _LEAST_SHARE

    def decide(self, memory_bytes: int) -> float:
        """After each window; the new share. It never falls to nothing: memory that was given back to nobody must not stop the work."""
        most = self._budget.memory_bytes
        if most is not None:
            if memory_bytes > most:
                self.share = max(_LEAST_SHARE, self.share * _SHRINK)
            elif memory_bytes < most * _CALM:
                self.share = min(1.0, self.share * _GROW)
        return self.share
