"""What is done, in this process's memory: gone with it."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...errors import ConfigError
from .store import Answer

_log = logging.getLogger("penstock.processing")

_SWEEP = 100
"""How many expired entries a call takes away beside its own, at most."""


class MemoryStore:
    """For tests, and for duplicates that come soon after each other: what it knows is lost when the process ends.

    At most about `max_entries` ids, of 300 bytes or so each. When it is full, what expires soonest is forgotten, with a warning: its effect
    may be repeated then. `clock_ms` is for tests. One process only.
    """

    one_process = True

    def __init__(
        self, max_entries: int = 100_000, *, clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000
    ) -> None:
        if max_entries < 1:
            raise ConfigError(f"MemoryStore(max_entries={max_entries!r}): a number from 1 on")
        self._max_entries = max_entries
        self._clock_ms = clock_ms
        self._lock = threading.Lock()
        self._claims = _Shelf()  # both under the lock
        self._done = _Shelf()
        self.forgotten = 0
        """Ids that were forgotten before they expired, since the store was full."""

    def open(self) -> None:
        pass

    def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
        with self._lock:
            now_ms = self._clock_ms()
            self._claims.sweep(now_ms, _SWEEP + len(ids))
            self._done.sweep(now_ms, _SWEEP + len(ids))
            answers = [self._claim(each, owner, lease_ms, now_ms) for each in ids]
            self._make_room()
            return answers

    def _claim(self, each: bytes, owner: str, lease_ms: int, now_ms: float) -> Answer:
        if self._done.get(each, now_ms) is not None:
            return "done"
        claim = self._claims.get(each, now_ms)
        if claim is not None and claim.owner != owner:
            return "busy"
        self._claims.put(each, _Entry(owner, now_ms + lease_ms))
        return "new"

    def confirm(self, ids: Sequence[bytes], owner: str, expires_ms: int) -> list[bytes]:
        lost = []
        with self._lock:
            now_ms = self._clock_ms()
            for each in ids:
                before = self._done.get(each, now_ms) or self._claims.get(each, now_ms)
                if before is not None and before.owner != owner:
                    lost.append(each)
                    continue
                self._claims.entries.pop(each, None)
                self._done.put(each, _Entry(owner, now_ms + expires_ms))
            self._make_room()
        return lost

    def release(self, ids: Sequence[bytes], owner: str) -> None:
        with self._lock:
            for each in ids:
                claim = self._claims.entries.get(each)
                if claim is not None and claim.owner == owner:
                    del self._claims.entries[each]

    def close(self) -> None:
        pass

    def _make_room(self) -> None:
        """Claims are not dropped: their effects are under way."""
        while self._done.entries and len(self) > self._max_entries:
            if self._done.drop_soonest() > self._clock_ms():
                self.forgotten += 1
                if (
                    self.forgotten & (self.forgotten - 1) == 0
                ):  # at the first, and then each time there are twice as many
                    _log.warning(
                        "MemoryStore is full (max_entries=%d): %d ids were forgotten before they expired, and their effects may be "
                        "repeated; raise max_entries, let them expire sooner, or use SqliteStore",
                        self._max_entries,
                        self.forgotten,
                    )

    def __len__(self) -> int:
        return len(self._claims.entries) + len(self._done.entries)

    def __repr__(self) -> str:
        return f"MemoryStore(max_entries={self._max_entries})"


class _Entry(NamedTuple):
    owner: str
    until_ms: float


class _Shelf:
    """Entries, and in which order they end. `_ends` may have more: those of entries that were replaced, or taken away."""

    def __init__(self) -> None:
        self.entries: dict[bytes, _Entry] = {}
        self._ends: list[tuple[float, bytes]] = []

    def get(self, each: bytes, now_ms: float) -> _Entry | None:
        entry = self.entries.get(each)
        return None if entry is None or entry.until_ms <= now_ms else entry

    def put(self, each: bytes, entry: _Entry) -> None:
        self.entries[each] = entry
        heapq.heappush(self._ends, (entry.until_ms, each))
        if len(self._ends) > 2 * len(self.entries) + 1_000:
            self._ends = [(entry.until_ms, each) for each, entry in self.entries.items()]
            heapq.heapify(self._ends)

    def sweep(self, now_ms: float, most: int) -> None:
        while most and self._ends and self._ends[0][0] <= now_ms:
            self._pop()
            most -= 1

    def drop_soonest(self) -> float:
        """Take the entry away that ends first, and tell when it would have; there has to be one."""
        while (until_ms := self._pop()) is None:
            pass
        return until_ms

    def _pop(self) -> float | None:
        """None if the end at the top was no entry's any more."""
        until_ms, each = heapq.heappop(self._ends)
        entry = self.entries.get(each)
        if entry is None or entry.until_ms != until_ms:
            return None
        del self.entries[each]
        return until_ms
