"""Ownerships whose progress is noted in a journal; and what is new of one until it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from ...types import OffsetAndMetadata, TopicPartition
from ..finished import MAX_CHARS, Ranges
from ..lanes import Ownership
from . import journal
from .journal import Resting


class Notes:
    """What is new of one partition. `tell` is called for the first new thing after take(), and for what has to be written at once.

    `base`: the position from which on the ownership's progress counts; -1: nothing but commits is noted. `has_done`: whether what is done
    is noted.
    """

    __slots__ = ("_tell", "_written_to", "base", "done", "entries", "has_done", "runs", "told")

    def __init__(self, base: int, tell: Callable[[bool], None], *, has_done: bool) -> None:
        """`tell(at_once)`."""
        self.base = base
        self.has_done = has_done
        self.done: list[int] = []
        self.runs: list[tuple[int, int]] = []
        self.entries: list[bytes] = []
        self.told = False
        self._tell = tell
        self._written_to = -1

    def tell(self, *, at_once: bool = False) -> None:
        self.told = True
        self._tell(at_once)

    def take(self, watermark: int) -> bytes:
        """All that is new, as entries; all before `watermark` is done."""
        self.told = False
        parts, self.entries = self.entries, []
        if self.has_done:
            parts += self._take_done(watermark)
        return b"".join(parts)

    def _take_done(self, watermark: int) -> list[bytes]:
        parts = []
        done, self.done = self.done, []
        runs, self.runs = self.runs, []
        if self.base < 0:
            return []
        beyond = [offset for offset in done if offset >= watermark]
        if beyond or watermark > self._written_to:
            parts.append(journal.progress(self.base, watermark, beyond))
            self._written_to = watermark
        if ahead := [run for run in runs if run[0] >= watermark]:
            parts.append(journal.runs(ahead))
        return parts


class SpooledOwnership(Ownership):
    """Notes commits, and retries. `on_committed` is told of each offset that the group has stored."""

    __slots__ = ("_clock_ms", "_on_committed", "_resting", "notes")

    def __init__(
        self,
        tp: TopicPartition,
        committed: OffsetAndMetadata | None,
        number: int,
        *,
        notes: Notes,
        clock_ms: Callable[[], float],
        on_committed: Callable[[int], None],
        also_done: Ranges,
        resting: Mapping[int, Resting],
    ) -> None:
        super().__init__(tp, committed, number, also_done)
        self.notes = notes
        self.has_resting = bool(resting)
        self._resting = dict(resting)
        self._clock_ms = clock_ms
        self._on_committed = on_committed

    def retried(self, offset: int, attempts: int, due_ms: float) -> None:
        if self.notes.base >= 0:
            due_epoch_ms = int(time.time() * 1000 + max(0.0, due_ms - self._clock_ms()))
            self._note(journal.retry(offset, Resting(attempts, due_epoch_ms)))

    def resting(self, offset: int) -> tuple[float, int] | None:
        found = self._resting.pop(offset, None)
        self.has_resting = bool(self._resting)
        if found is None:
            return None
        return self._clock_ms() + max(0.0, found.due_epoch_ms - time.time() * 1000), found.attempts

    def to_commit(self, max_chars: int = MAX_CHARS) -> OffsetAndMetadata | None:
        entry = super().to_commit(max_chars)
        if entry is not None:  # before it is sent: whoever is killed after that knows it for his own
            self.notes.entries.append(journal.attempted(entry.offset))
            self.notes.tell(at_once=True)
        return entry

    def committed_as(self, entry: OffsetAndMetadata) -> None:
        super().committed_as(entry)
        self._note(journal.committed(entry.offset))
        self._on_committed(entry.offset)

    def _note(self, entry: bytes) -> None:
        self.notes.entries.append(entry)
        if not self.notes.told:
            self.notes.tell()


class JournaledOwnership(SpooledOwnership):
    """Notes what is done, too: a handler's that leaves nothing behind in memory."""

    __slots__ = ()

    def done(self, offset: int) -> None:
        end = self._ends.get(offset, -1) if self._ends else -1
        super().done(offset)
        notes = self.notes
        if end < 0:
            notes.done.append(offset)
        else:
            notes.runs.append((offset, end))
        if not notes.told:
            notes.tell()
