"""What a journal tells of a partition: which records are done beyond the commit, and which wait for another attempt. Pure.

    attempted  a commit of this offset is on its way
    committed  the group has stored this offset
    progress   all from a position up to another is done, and these offsets beyond it
    runs       these runs of offsets are done
    retry      a record has had so many attempts, and rests until a time

Commits are noted so that it is known, at the next assignment, whether the offset that the group has is one of ours. If it is not, somebody
has moved it (`penstock groups reset`), or another member has owned the partition: then nothing here counts any more.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .. import finished
from .format import encode_entry

ATTEMPTED, COMMITTED, PROGRESS, RUNS, RETRY = 1, 2, 3, 4, 5
_OFFSET = struct.Struct("<q")
_RETRY = struct.Struct("<qIq")
_MOST_ATTEMPTS = 2**32 - 1


class Resting(NamedTuple):
    """How often a record's handler has failed, and from when on it is to be called again (ms since 1970)."""

    attempts: int
    due_epoch_ms: int


def attempted(offset: int) -> bytes:
    return encode_entry(ATTEMPTED, _OFFSET.pack(offset))


def committed(offset: int) -> bytes:
    return encode_entry(COMMITTED, _OFFSET.pack(offset))


def progress(base: int, watermark: int, beyond: Iterable[int]) -> bytes:
    return encode_entry(PROGRESS, _packed([base, watermark, *beyond]))


def runs(done: Iterable[tuple[int, int]]) -> bytes:
    return encode_entry(RUNS, _packed([offset for run in done for offset in run]))


def retry(offset: int, resting: Resting) -> bytes:
    attempts = min(resting.attempts, _MOST_ATTEMPTS)
    return encode_entry(RETRY, _RETRY.pack(offset, attempts, resting.due_epoch_ms))


def _packed(offsets: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(offsets)}q", *offsets)


def _unpacked(body: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f"<{len(body) // 8}q", body)


@dataclass
class JournalState:
    """What the entries come to. `committed` is None while no commit is known."""

    committed: int | None = None
    attempted: list[int] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    runs: list[tuple[int, int]] = field(default_factory=list)
    retries: dict[int, Resting] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Sequence[tuple[int, bytes]]) -> JournalState:
        """Entries of kinds or sizes that are not known tell nothing."""
        state = cls()
        for kind, body in entries:
            state._take(kind, body)
        return state

    def _take(self, kind: int, body: bytes) -> None:
        if kind == RETRY and len(body) == _RETRY.size:
            offset, attempts, due_epoch_ms = _RETRY.unpack(body)
            self.retries[offset] = Resting(attempts, due_epoch_ms)
        elif kind == RUNS:
            ends = _unpacked(body)
            self.runs.extend((a, b) for a, b in zip(ends[::2], ends[1::2], strict=False) if a < b)
        elif kind == PROGRESS and len(body) >= 2 * _OFFSET.size:
            base, watermark, *beyond = _unpacked(body)
            self._has_passed(base, watermark)
            self.done.update(beyond)
        elif kind == ATTEMPTED and len(body) == _OFFSET.size:
            self.attempted.append(_OFFSET.unpack(body)[0])
        elif kind == COMMITTED and len(body) == _OFFSET.size:
            self.committed = offset = _OFFSET.unpack(body)[0]
            self.attempted = [other for other in self.attempted if other > offset]

    def _has_passed(self, base: int, watermark: int) -> None:
        """Most entries only move the end of the run before."""
        if self.runs and self.runs[-1][0] == base:
            self.runs[-1] = (base, max(self.runs[-1][1], watermark))
        elif base < watermark:
            self.runs.append((base, watermark))

    def is_ours(self, offset: int | None) -> bool:
        """Whether what the group has is what this journal's owner committed last, or was about to commit when it ended."""
        if offset is None:
            return self.committed is None
        return offset == self.committed or offset in self.attempted

    def resumed(self, offset: int | None) -> JournalState:
        """What still counts for whoever goes on at the group's `offset`."""
        if not self.is_ours(offset):
            return JournalState(committed=offset)
        done = self.ranges(offset)
        at = _Places(done)
        first = -1 if offset is None else offset
        retries = {k: v for k, v in self.retries.items() if k >= first and not at.has(k)}
        return JournalState(committed=offset, runs=done, retries=retries)

    def ranges(self, offset: int | None) -> finished.Ranges:
        """Runs of offsets, from the committed one on, that are done."""
        first = 0 if offset is None else offset
        found = [*self.runs, *((one, one + 1) for one in self.done)]
        return finished.merged((max(start, first), end) for start, end in found)

    def entries(self) -> bytes:
        """The journal that comes to this, after resumed()."""
        parts = [committed(self.committed)] if self.committed is not None else []
        parts += [attempted(offset) for offset in self.attempted]
        if self.runs:
            parts.append(runs(self.runs))
        parts += [retry(offset, resting) for offset, resting in self.retries.items()]
        return b"".join(parts)

    def compacted(self) -> JournalState:
        """The same in fewer entries."""
        kept = JournalState(self.committed, self.attempted, runs=self.ranges(self.committed))
        at = _Places(kept.runs)
        first = -1 if self.committed is None else self.committed
        kept.retries = {k: v for k, v in self.retries.items() if k >= first and not at.has(k)}
        return kept


class _Places:
    """Whether offsets lie in runs."""

    def __init__(self, ranges: finished.Ranges) -> None:
        self._starts = [start for start, _ in ranges]
        self._ends = [end for _, end in ranges]

    def has(self, offset: int) -> bool:
        index = bisect_right(self._starts, offset) - 1
        return index >= 0 and offset < self._ends[index]
