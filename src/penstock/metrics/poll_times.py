"""The times of poll(), gathered in so few steps that twenty thousand polls a second do not feel them."""

from __future__ import annotations

import math

from .sensors import Sensor


class PollTimes:
    """Written by the thread that polls, read by the engine's: sums only grow, and `_longest_gap` is set back by whoever reads it (a gap
    that is written at that very moment may be missed in the maximum, never in the sums)."""

    __slots__ = (
        "_finished_ms", "_gap_count", "_gap_total", "_idle_count", "_idle_total", "_longest_gap", "_seen", "started_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.started_ms = math.nan
        self._finished_ms = -1.0  # not yet
        self._gap_count = self._idle_count = 0
        self._gap_total = self._idle_total = 0.0
        self._longest_gap = 0.0
        self._seen = (0, 0.0, 0, 0.0)  # the engine's thread

    def started(self, now_ms: float) -> None:
        """poll() was entered."""
        gap = now_ms - self.started_ms
        self.started_ms = now_ms
        if gap >= 0:  # not NaN: not the first one
            self._gap_total += gap
            self._gap_count += 1
            if gap > self._longest_gap:  # noqa: PLR1730 (a call of max() takes as long as all the rest)
                self._longest_gap = gap

    def finished(self, now_ms: float) -> None:
        """poll() is about to return, or to raise."""
        idle = now_ms - self.started_ms
        since = idle if self._finished_ms < 0 else now_ms - self._finished_ms
        self._finished_ms = now_ms
        if since > 0:
            self._idle_total += idle / since if idle < since else 1.0
            self._idle_count += 1

    def tell(self, now_ms: float, between: Sensor, idle_ratio: Sensor) -> None:
        """Record what came since the last call."""
        gaps, gap_total, idles, idle_total = self._seen
        self._seen = now = (self._gap_count, self._gap_total, self._idle_count, self._idle_total)
        longest, self._longest_gap = self._longest_gap, 0.0
        if (count := now[0] - gaps) > 0:
            mean = (now[1] - gap_total) / count
            between.record_many(now[1] - gap_total, count, min(mean, longest), max(mean, longest), now_ms)
        if (count := now[2] - idles) > 0:
            mean = (now[3] - idle_total) / count
            idle_ratio.record_many(now[3] - idle_total, count, mean, mean, now_ms)
