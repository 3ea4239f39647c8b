"""Virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Clock:
    """What happens when, in order of time; equal times in order of asking."""

    def __init__(self) -> None:
        self.now_ms = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, ms: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now_ms + max(0, ms), self._count, action))

    def run(self, until_ms: int, each: Callable[[], None]) -> None:
        """Everything up to a time; `each` looks at the world after every step."""
        while self._queue and self._queue[0][0] <= until_ms:
            self.now_ms, _, action = heapq.heappop(self._queue)
            action()
            each()
        self.now_ms = until_ms


class Wait:
    """Something that a simulated thread waits for; whoever asked is called once it is over, at once if it is over already."""

    def __init__(self) -> None:
        self.over = False
        self._then: list[Callable[[], None]] = []

    def then(self, action: Callable[[], None]) -> None:
        if self.over:
            action()
        else:
            self._then.append(action)

    def done(self) -> None:
        if not self.over:
            self.over = True
            for action in self._then:
                action()
