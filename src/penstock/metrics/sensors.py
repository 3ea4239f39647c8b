"""Windows of recorded values, and what is computed from them, as Java's client does it.

Source: org.apache.kafka.common.metrics.stats.SampledStat, Rate.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from .names import Stat

HOUR_MS: Final = 3_600_000.0
SECOND_MS: Final = 1_000.0


class Windows(NamedTuple):
    """How long values count: `samples` windows of `window_ms` each (metrics.num.samples, metrics.sample.window.ms)."""

    samples: int = 2
    window_ms: int = 30_000


class _Window:
    __slots__ = ("count", "greatest", "last_ms", "least", "start_ms", "total")

    def __init__(self, now_ms: float) -> None:
        self.start_ms = now_ms
        self.last_ms = now_ms
        self.count = 0
        self.total = 0.0
        self.greatest = -math.inf
        self.least = math.inf


class Sensor:
    """Values of one kind. One thread records; any may read, and reading changes nothing.

    A reader in another thread may see a value that is half recorded: counted in the total and not yet in the count, or the
    other way round. The next reading has it right.
    """

    __slots__ = ("_kept", "_windows", "count", "latest", "total")

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        # One window more than asked for: the oldest overlaps the beginning of what is looked at. No deque: there are two sensors
        # to a partition, and an empty deque takes 600 bytes.
        self._kept: list[_Window] = []
        self.total = 0.0  # since the start
        self.count = 0  # since the start
        self.latest = math.nan

    def record(self, value: float, now_ms: float) -> None:
        """One event of this value."""
        self.record_many(value, 1, value, value, now_ms)

    def record_many(self, total: float, count: int, least: float, greatest: float, now_ms: float) -> None:
        """`count` events at once, of which only the sum, the least and the greatest are known."""
        window = self._kept[-1] if self._kept else None
        if window is None or now_ms - window.start_ms >= self._windows.window_ms:
            window = _Window(now_ms)
            self._kept.append(window)
            del self._kept[: -(self._windows.samples + 1)]
        window.last_ms = now_ms
        window.count += count
        window.total += total
        window.greatest = max(window.greatest, greatest)
        window.least = min(window.least, least)
        self.count += count
        self.total += total
        self.latest = greatest

    def measure(self, stat: Stat, now_ms: float, unit_ms: float = SECOND_MS) -> float:
        """The value of a statistic; NaN where there is nothing to compute it from. `unit_ms`: the time a rate is over."""
        if stat is Stat.TOTAL:
            return self.total
        if stat is Stat.COUNT:
            return float(self.count)
        if stat is Stat.LATEST:
            return self.latest
        live = self._live(now_ms)
        count = sum(window.count for window in live)
        if stat in (Stat.RATE, Stat.COUNT_RATE):
            amount = count if stat is Stat.COUNT_RATE else sum(window.total for window in live)
            return amount * unit_ms / self._elapsed_ms(live, now_ms)
        if count == 0:
            return math.nan
        if stat is Stat.AVG:
            return sum(window.total for window in live) / count
        if stat is Stat.MAX:
            return max(window.greatest for window in live)
        if stat is Stat.MIN:
            return min(window.least for window in live)
        raise ValueError(f"{stat} is not computed from a sensor")

    def _live(self, now_ms: float) -> list[_Window]:
        """Those with an event inside the time that counts; one that began before it is kept whole, as Java does."""
        age_ms = self._windows.samples * self._windows.window_ms
        return [window for window in tuple(self._kept) if now_ms - window.last_ms < age_ms]

    def _elapsed_ms(self, live: list[_Window], now_ms: float) -> float:
        """The time that a rate divides by: never less than all windows but one, so that the first event of a new sensor does
        not look like thousands a second. Source: org.apache.kafka.common.metrics.stats.Rate.windowSize."""
        elapsed_ms = now_ms - min((window.start_ms for window in live), default=now_ms)
        full = int(elapsed_ms // self._windows.window_ms)
        missing = max(0, self._windows.samples - 1 - full)
        return max(1.0, elapsed_ms + missing * self._windows.window_ms)
