"""A spool at work: decides in the event loop what goes to which file and what has to go; one thread reads and writes.

Calls to the disk are done in the order in which they were asked for, so that a frame can be read as soon as it is asked to be written, and
a file that is deleted is gone before another of its name is made. What waits to be written is bounded (`room()`).

Where the disk fails, the spool is switched off for the rest of the run: told once, `on_failure` is called, and whatever is asked for after
that does nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from ..._native import ConsumerRecords, unpack_records
from ...errors import ConfigError
from ...types import TopicPartition
from .disk import JOURNAL_NAME, DamagedError, Disk, Frame, size_of
from .format import HEAD_BYTES, SEGMENT, Identity
from .journal import JournalState
from .shelf import Segment, Shelf, adjoining

_log = logging.getLogger("penstock.processing")

T = TypeVar("T")
_MOST_PENDING_BYTES = 16 * 1024 * 1024
_READ_BYTES = 1024 * 1024
"""What is read at once, or one frame: what a poll returned."""
_MOST_SEGMENT_BYTES = 64 * 1024 * 1024
_LEAST_TRIMMED_BYTES = 256 * 1024
_MOST_SLOTS = 1_000


class Shelved:
    """One partition's files: of an ownership, from assignment to revocation. What is not made by __init__ alone is the store's to write."""

    def __init__(self, identity: Identity, folder: Path, shelf: Shelf) -> None:
        self.identity = identity
        self.folder = folder
        self.shelf = shelf
        self.header = identity.header(SEGMENT)
        self.journal_bytes = 0
        self.compact_at_bytes = 0
        self.counted_bytes = 0  # that the store has counted for it

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.identity.topic, self.identity.partition)

    @property
    def size_bytes(self) -> int:
        return self.shelf.size_bytes + self.journal_bytes


class TakenOver(NamedTuple):
    """What an earlier run has left of a partition: its files, and what its journal says of records from the committed one on."""

    shelved: Shelved
    state: JournalState


class Store:
    """Belongs to the event loop that opens it; `_broken` is set by the thread as well, once."""

    def __init__(
        self, folder: Path, max_bytes: int, unpacking: Mapping[str, Any], on_failure: Callable[[], None]
    ) -> None:
        """`unpacking`: the deserializers, for unpack_records()."""
        self._base = folder
        self._max_bytes = max_bytes
        self._unpacking = unpacking
        self._on_failure = on_failure
        self._disk = Disk()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="penstock spool")
        self._shelved: dict[TopicPartition, Shelved] = {}
        self._idle: dict[Path, int] = {}  # folders of partitions that are not ours now, oldest first; bytes
        self._idle_bytes = 0
        self._ours_bytes = 0
        self._pending_bytes = 0
        self._room = asyncio.Event()
        self._broken = False
        self._failure: BaseException | None = None
        self._lock_fd = -1

    # ------------------------------------------------------------ life

    async def open(self, group_id: str, instance_id: str | None) -> None:
        """ConfigError where the folder cannot be used, or a static member's is in use."""
        self._loop = asyncio.get_running_loop()
        try:
            self._folder, self._lock_fd = await self._run(_slot, self._base, group_id, instance_id)
            self._idle = await self._run(_left_behind, self._folder)
        except OSError as error:
            raise ConfigError(
                f"spool: {self._base} cannot be used: {error}; name a folder that this process may write to"
            ) from error
        self._idle_bytes = sum(self._idle.values())

    async def close(self) -> None:
        """All that was asked for is written; the folder is another's to use."""
        await self._run(self._disk.close)
        await asyncio.to_thread(self._pool.shutdown)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def working(self) -> bool:
        return not self._broken

    @property
    def size_bytes(self) -> int:
        """Of all files; from any thread."""
        return self._ours_bytes + self._idle_bytes

    @property
    def records(self) -> int:
        """On disk, of the partitions that are ours; from any thread."""
        return sum(shelved.shelf.records for shelved in list(self._shelved.values()))

    def _count(self, shelved: Shelved) -> None:
        """After its size has changed."""
        if self._shelved.get(shelved.topic_partition) is shelved:
            self._ours_bytes += shelved.size_bytes - shelved.counted_bytes
            shelved.counted_bytes = shelved.size_bytes

    # ------------------------------------------------------------ partitions that come and go

    async def take_over(self, identity: Identity, committed: int | None) -> TakenOver:
        """The partition is ours from here on; nothing is left of it where the disk fails."""
        folder = self._folder / f"{quote(identity.topic, safe='')}-{identity.partition}"
        try:
            return await self._take_over(identity, committed, folder)
        except OSError as error:
            self.failed(error)
            shelf = Shelf((), -1 if committed is None else committed)
            return TakenOver(Shelved(identity, folder, shelf), JournalState())

    async def _take_over(self, identity: Identity, committed: int | None, folder: Path) -> TakenOver:
        if self._broken:
            raise self._failure or OSError("the spool has failed")
        segments, state = await self._run(self._disk.found, folder, identity)
        kept, gone = adjoining(segments, committed)
        self._forget_idle(folder)
        self._delete(folder, gone)
        taken = committed if committed is not None else kept[0].start if kept else -1
        shelved = Shelved(identity, folder, Shelf(kept, taken))
        resumed = state.resumed(committed)
        self._shelved[shelved.topic_partition] = shelved
        shelved.journal_bytes = await self._run(self._disk.write_journal, folder, identity, resumed)
        shelved.compact_at_bytes = self._compact_at(shelved.journal_bytes)
        self._count(shelved)
        return TakenOver(shelved, resumed)

    def give_up(self, shelved: Shelved) -> None:
        """The partition is another's; its files stay as long as there is room for them."""
        if self._shelved.get(shelved.topic_partition) is shelved:
            del self._shelved[shelved.topic_partition]
            self._ours_bytes -= shelved.counted_bytes
            self._idle[shelved.folder] = shelved.counted_bytes
            self._idle_bytes += shelved.counted_bytes

    def start_again(self, shelved: Shelved, offset: int, *, forget_done: bool = False) -> None:
        """Nothing of the partition is kept; the next frame begins at `offset`."""
        self._delete(shelved.folder, shelved.shelf.clear(offset))
        self._count(shelved)
        if forget_done:
            self._write_journal(shelved, JournalState())

    def _forget_idle(self, folder: Path) -> None:
        self._idle_bytes -= self._idle.pop(folder, 0)

    def _delete(self, folder: Path, segments: Iterable[Segment]) -> None:
        if paths := [folder / segment.name for segment in segments]:
            self._ask(self._disk.delete, paths)

    # ------------------------------------------------------------ records

    def has_room(self, shelved: Shelved, size_bytes: int) -> bool:
        """For so much more of this partition. Half of the whole is for whoever needs it, the rest is shared out evenly."""
        if self._broken:
            return False
        most = self._max_bytes * 15 // 16  # the rest is for journals
        if self._idle_bytes and self.size_bytes + size_bytes > most:
            self._make_room(self.size_bytes + size_bytes - most)
        total = self.size_bytes + size_bytes
        share = most // max(1, len(self._shelved))
        return total <= most and (total <= most // 2 or shelved.size_bytes + size_bytes <= share)

    def _make_room(self, size_bytes: int) -> None:
        """By what is not ours now, the oldest first."""
        while size_bytes > 0 and self._idle:
            folder = next(iter(self._idle))
            size_bytes -= self._idle[folder]
            self._forget_idle(folder)
            self._ask(self._disk.delete_folder, folder)

    def append(self, shelved: Shelved, records: ConsumerRecords, next_offset: int, *, taken: bool) -> bool:
        """A run from the shelf's end on; False where there is no room. `taken`: the lane is given it as well."""
        payload, shelf = records.pack(), shelved.shelf
        if not self.has_room(shelved, len(payload) + HEAD_BYTES + len(shelved.header)):
            return False
        start, count, epoch = shelf.end, len(records), records[-1].leader_epoch
        segment, before = shelf.add(
            next_offset,
            count,
            epoch,
            len(payload),
            header_bytes=len(shelved.header),
            segment_bytes=self._segment_bytes(),
            taken=taken,
        )
        self._count(shelved)
        header = b"" if before else shelved.header
        path = shelved.folder / segment.name
        self._ask(
            self._disk.append_frame,
            path,
            header,
            payload,
            start,
            next_offset,
            count,
            epoch,
            cost=len(payload),
        )
        return True

    def _segment_bytes(self) -> int:
        return min(_MOST_SEGMENT_BYTES, self._max_bytes // (8 * max(1, len(self._shelved))))

    async def read(self, shelved: Shelved, most_records: int) -> list[tuple[ConsumerRecords, int]]:
        """Of what is behind, the next runs for the lane, each with the position after it. DamagedError, OSError: they cannot be read."""
        shelf = shelved.shelf
        place = shelf.next_place()
        path, position = shelved.folder / place.segment.name, place.position or len(shelved.header)
        frames, after = await self._run(
            self._disk.read, path, position, place.offset, _READ_BYTES, most_records
        )
        if not shelf.behind or shelf.taken != place.offset:
            return []  # trimmed, or begun again, while it was read
        runs = [(self._unpacked(frame, place.offset), frame.head.next_offset) for frame in frames]
        shelf.read_to(place, after, frames[-1].head.next_offset)
        return runs

    def _unpacked(self, frame: Frame, offset: int) -> ConsumerRecords:
        """Its records from `offset` on."""
        records = unpack_records(frame.payload, **self._unpacking)
        if frame.head.start >= offset:
            return records
        low, high = 0, len(records)
        while low < high:
            middle = (low + high) // 2
            if records[middle].offset < offset:
                low = middle + 1
            else:
                high = middle
        return records[low:]

    def trim(self, shelved: Shelved, offset: int) -> None:
        """The group has stored this offset."""
        gone = shelved.shelf.trim(offset, min(_LEAST_TRIMMED_BYTES, self._segment_bytes()))
        self._delete(shelved.folder, gone)
        self._count(shelved)

    # ------------------------------------------------------------ the journal

    def note(self, entries: Iterable[tuple[Shelved, bytes]]) -> None:
        """Append to the partitions' journals, in one go; one that has grown is rewritten."""
        new = [(shelved, data) for shelved, data in entries if data]
        if new:
            self._ask(self._disk.append, [(shelved.folder / JOURNAL_NAME, data) for shelved, data in new])
        for shelved, data in new:
            shelved.journal_bytes += len(data)
            self._count(shelved)
            if shelved.journal_bytes >= shelved.compact_at_bytes:
                self._write_journal(shelved, None)

    def _write_journal(self, shelved: Shelved, state: JournalState | None) -> None:
        asked_at = shelved.journal_bytes
        shelved.compact_at_bytes = 2**63  # not again before this is done

        def written(size_bytes: int) -> None:
            shelved.journal_bytes += size_bytes - asked_at
            shelved.compact_at_bytes = self._compact_at(size_bytes)
            self._count(shelved)

        self._ask(self._disk.write_journal, shelved.folder, shelved.identity, state, then=written)

    def _compact_at(self, size_bytes: int) -> int:
        return 4 * size_bytes + min(1024 * 1024, self._max_bytes // (64 * max(1, len(self._shelved))))

    # ------------------------------------------------------------ the thread

    async def room(self) -> None:
        """Until what waits to be written is little enough."""
        while self._pending_bytes > _MOST_PENDING_BYTES and not self._broken:
            self._room.clear()
            await self._room.wait()

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.wrap_future(self._pool.submit(function, *args))

    def _ask(
        self, function: Callable[..., T], *args: Any, cost: int = 0, then: Callable[[T], None] | None = None
    ) -> None:
        """Have it done; who asks does not wait."""
        if not self._broken:
            self._pending_bytes += cost
            future = self._pool.submit(self._unless_broken, function, *args)
            future.add_done_callback(functools.partial(self._done_in_thread, cost, then))

    def _unless_broken(self, function: Callable[..., T], *args: Any) -> T | None:
        """After a failure nothing is written: it would lie behind what is missing."""
        if self._broken:
            return None
        try:
            return function(*args)
        except OSError:
            self._broken = True
            raise

    def _done_in_thread(self, cost: int, then: Callable[[Any], None] | None, future: Future[Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._done, cost, then, future)
        except RuntimeError:
            return  # the loop is closed: nobody asks any more

    def _done(self, cost: int, then: Callable[[Any], None] | None, future: Future[Any]) -> None:
        self._pending_bytes -= cost
        self._room.set()
        error = future.exception()
        if error is not None:
            self.failed(error)
        elif then is not None and (found := future.result()) is not None:
            then(found)

    def failed(self, error: BaseException) -> None:
        """The disk did: go on without. Told once."""
        self._broken = True
        self._room.set()
        if self._failure is None:
            self._failure = error
            _log.error(
                "the spool in %s is switched off until the next start, and records are held in memory alone: %s",
                self._base,
                error,
            )
            self._on_failure()


def _slot(base: Path, group_id: str, instance_id: str | None) -> tuple[Path, int]:
    """The folder of this instance, and the descriptor that holds its lock: the system lets go of it when the process ends, however."""
    group = base / quote(group_id, safe="")
    names = [f"static-{quote(instance_id, safe='')}"] if instance_id else [str(n) for n in range(_MOST_SLOTS)]
    for name in names:
        folder = group / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # records are nobody else's to read
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        else:
            return folder, fd
    raise ConfigError(
        f"spool: {group / names[-1]} is in use by another process; give each instance a group.instance.id, or a folder, of its own"
    )


def _left_behind(folder: Path) -> dict[Path, int]:
    folders = sorted(
        (path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    return {path: size_of(path) for path in folders}


__all__ = ["DamagedError", "Shelved", "Store", "TakenOver"]
