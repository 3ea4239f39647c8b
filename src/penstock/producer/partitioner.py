"""Where a record without a key goes: to one partition until a batch's worth of bytes is there, then to another.

Source: KIP-480 (sticky), KIP-794 (switching by bytes, and away from partitions whose queues are long). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StickyPartitioner:
    """The choice for one topic. `chance()` gives a number in [0, 1)."""

    __slots__ = ("_bytes_here", "_chance", "_current", "_switch_bytes")

    def __init__(self, switch_bytes: int, chance: Callable[[], float]) -> None:
        self._switch_bytes = switch_bytes
        self._chance = chance
        self._current = -1
        self._bytes_here = 0

    def choose(self, partition_count: int, weights: Callable[[], Sequence[float]]) -> int:
        """The partition for the next record. `weights()`, called at a switch only, gives one weight per partition; those
        with weight 0 are avoided unless all have it."""
        if not 0 <= self._current < partition_count or self._bytes_here >= self._switch_bytes:
            self._current = self._draw(partition_count, weights())
            self._bytes_here = 0
        return self._current

    def added(self, size_bytes: int) -> None:
        """This much went to the partition that was chosen."""
        self._bytes_here += size_bytes

    def _draw(self, partition_count: int, weights: Sequence[float]) -> int:
        total = sum(weights[:partition_count])
        if total <= 0:
            return int(self._chance() * partition_count)
        mark = self._chance() * total
        for partition in range(partition_count):
            mark -= weights[partition]
            if mark < 0:
                return partition
        return max(
            p for p in range(partition_count) if weights[p] > 0
        )  # rounding took mark past the last one


def queue_weights(lengths: Sequence[int], available: Sequence[bool], adaptive: bool) -> list[float]:
    """Weights for StickyPartitioner: the longer a partition's queue, the less of the new goes there (KIP-794)."""
    if not adaptive:
        return [1.0 if there else 0.0 for there in available]
    longest = max(lengths, default=0)
    return [
        float(longest + 1 - length) if there else 0.0
        for length, there in zip(lengths, available, strict=True)
    ]
