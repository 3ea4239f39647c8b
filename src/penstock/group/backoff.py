"""How long to wait before the next try. Pure: chance comes from outside."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Delays that double from try to try up to a longest one, each spread by a fifth either way, so that clients do not all come at
    once. `failures` counts the tries since reset()."""

    def __init__(self, first_ms: int, longest_ms: int, jitter: Callable[[], float]) -> None:
        """`jitter` gives numbers from 0 to 1."""
        self.failures = 0
        self._first_ms = first_ms
        self._longest_ms = longest_ms
        self._jitter = jitter

    def next_ms(self) -> int:
        """The delay after one more failure, at least a millisecond."""
        delay_ms = min(self._longest_ms, self._first_ms * 2 ** min(self.failures, 30))
        self.failures += 1
        return max(1, int(delay_ms * (0.8 + 0.4 * self._jitter())))

    def reset(self) -> None:
        """A try has succeeded."""
        self.failures = 0
