"""Exponential backoff with jitter (KIP-144, KIP-580)."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double from `initial_ms` to `max_ms`, each varied by a fifth so that clients do not move in step."""

    def __init__(self, initial_ms: int, max_ms: int) -> None:
        self._initial_ms = max(1, initial_ms)
        self._max_ms = max(self._initial_ms, max_ms)
        self.failures = 0

    def next_ms(self) -> int:
        """The delay after one more failure."""
        delay = min(self._max_ms, self._initial_ms * 2 ** min(self.failures, 30))
        self.failures += 1
        return int(delay * random.uniform(0.8, 1.2))

    def reset(self) -> None:
        self.failures = 0
