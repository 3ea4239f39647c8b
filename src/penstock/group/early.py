"""Heartbeats ahead of their interval, for a while, where a change of the assignment is likely to follow."""

from __future__ import annotations

from typing import Final

FIRST_MS: Final = 50


class EarlyHeartbeats:
    """When the next one is due: after 50 ms, then after twice as long each time. A handful in all, whatever the interval: a group of a
    thousand members is not to drown its coordinator. Written by the machine only."""

    def __init__(self, allowed: bool) -> None:
        self.at_ms: int | None = None
        self._allowed = allowed
        self._delay_ms = 0
        self._longest_ms = 0
        self._until_ms = 0

    def begin(self, now_ms: int, interval_ms: int, longest_ms: int) -> None:
        """Until an interval has passed, with at most `longest_ms` between two."""
        self.at_ms, self._delay_ms = now_ms + FIRST_MS if self._allowed else None, FIRST_MS
        self._longest_ms, self._until_ms = max(FIRST_MS, longest_ms), now_ms + interval_ms

    def end(self) -> None:
        self.at_ms = None

    def take(self, now_ms: int) -> bool:
        """Whether one is due; the next is then due later."""
        if self.at_ms is None or now_ms < self.at_ms:
            return False
        self._delay_ms = min(2 * self._delay_ms, self._longest_ms)
        at_ms = now_ms + self._delay_ms
        self.at_ms = at_ms if at_ms < self._until_ms else None
        return True
