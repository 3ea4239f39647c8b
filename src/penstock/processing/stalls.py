"""Partitions that stand still although records are held: behind a handler that hangs, say, while heartbeats go on. Pure: time is given."""

from __future__ import annotations

from collections.abc import Iterable

from .lanes import Ownership


class Stalls:
    """`since_ms` is written by look() alone."""

    def __init__(self, limit_ms: float) -> None:
        """`limit_ms`: how long a partition may not move. For a handler of so long, the group would hold a plain consumer to be dead
        (max.poll.interval.ms)."""
        self.limit_ms = limit_ms
        self._seen: dict[Ownership, tuple[int, float]] = {}  # where it was, and since when
        self._told: set[Ownership] = set()

    def look(self, owned: Iterable[Ownership], now_ms: float) -> list[Ownership]:
        """Those that have begun to stall since the last look."""
        seen: dict[Ownership, tuple[int, float]] = {}
        for partition in owned:
            if partition.held:
                at, before = partition.commit_offset, self._seen.get(partition)
                seen[partition] = before if before is not None and before[0] == at else (at, now_ms)
        self._seen = seen
        stalled = {partition for partition, (_, since) in seen.items() if now_ms - since >= self.limit_ms}
        new = [partition for partition in seen if partition in stalled and partition not in self._told]
        self._told = stalled
        return new

    def told(self) -> list[str]:
        """Which stalled at the last look. From any thread."""
        return sorted(str(partition.topic_partition) for partition in self._told)
