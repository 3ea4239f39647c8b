"""An intake with a spool: what poll() returns goes to disk, and to the lane at once or when there is room for it.

The lane sees a partition's offsets strictly in order. So as long as some of its records are on disk only, all that come are put behind
them; and whatever goes wrong on that way ends in one thing: the consumer is set back to what the lane has not been given, and fetches it
again. That is done in the task that polls, between two polls (`mend()`), or records that a poll has just returned would be taken for those
of the position that was sought.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from ..._native import ConsumerRecords
from ...errors import IllegalStateError, KafkaError
from ...types import OffsetAndMetadata, TopicPartition
from ..intake import Intake
from ..lanes import Ownership
from .format import Identity
from .journal import JournalState
from .ownership import JournaledOwnership, Notes, SpooledOwnership
from .settings import Spool
from .store import DamagedError, Shelved, Store

_log = logging.getLogger("penstock.processing")

_MOST_POLLED = 1_000_000
_JOURNAL_EVERY_S = 0.02
_VALIDATION_MS = 5_000
_MOST_HEADROOM_BYTES = 4 * 1024 * 1024


class Feed:
    """One partition of ours. `position`: after what poll() has returned last; -1: not known. `spooling`: whether what comes adjoins what is
    on disk, and goes there. `lost`: what is on disk only has to be fetched again."""

    __slots__ = ("lost", "notes", "owned", "position", "shelved", "spooling")

    def __init__(self, shelved: Shelved, notes: Notes, spooling: bool) -> None:
        self.shelved = shelved
        self.notes = notes
        self.position = shelved.shelf.end
        self.spooling = spooling
        self.lost = False
        self.owned: Ownership

    @property
    def behind(self) -> bool:
        return self.shelved.shelf.behind


class SpooledIntake(Intake):
    """See Intake. `_paused`: the partitions that are paused at the consumer, which are fewer than `held` while the spool has room."""

    def __init__(
        self,
        *parts: Any,
        spool: Spool,
        config: Mapping[str, Any],
        exactly_once: bool,
        until_it_works: Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]],
    ) -> None:
        super().__init__(*parts)
        self._config = config
        self._exactly_once = exactly_once
        self._until_it_works = until_it_works
        self._read_ahead = spool.read_ahead
        self._headroom_bytes = min(_MOST_HEADROOM_BYTES, spool.max_bytes // 16)
        unpacking = {f"{part}_deserializer": config.get(f"{part}.deserializer") for part in ("key", "value")}
        self._store = Store(spool.folder, spool.max_bytes, unpacking, self._on_failure)
        self._feeds: dict[TopicPartition, Feed] = {}
        self._paused: set[TopicPartition] = set()
        self._wanted = asyncio.Event()  # there may be something on disk that a lane has room for
        self._dirty: dict[Feed, None] = {}
        self._loop = asyncio.get_running_loop()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._flushed_s = 0.0

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        await self._store.open(self._config["group.id"], self._config.get("group.instance.id"))

    async def close(self) -> None:
        self._flush()
        await self._store.close()

    def health(self) -> dict[str, object]:
        return super().health() | {
            "spool_bytes": self._store.size_bytes,
            "spooled_records": self._store.records,
        }

    # ------------------------------------------------------------ partitions that come and go

    async def assigned(self, stored: Mapping[TopicPartition, OffsetAndMetadata | None]) -> None:
        topics = sorted({tp.topic for tp in stored})
        ids = await self._until_it_works(
            "reading the ids of topics", functools.partial(self._consumer.topic_ids, topics)
        )
        isolation = self._config.get("isolation.level", "read_uncommitted")
        identities = [Identity(self._config["group.id"], *tp, ids[tp.topic], isolation) for tp in stored]
        taken_over = map(self._take_over, stored, stored.values(), identities)
        self._feeds.update(zip(stored, await asyncio.gather(*taken_over), strict=True))
        self._wanted.set()
        await self._match()

    async def _take_over(
        self, tp: TopicPartition, entry: OffsetAndMetadata | None, identity: Identity
    ) -> Feed:
        committed = None if entry is None else entry.offset
        shelved, state = await self._store.take_over(identity, committed)
        shelf = shelved.shelf
        if shelf.behind and not await self._is_still_there(
            tp, OffsetAndMetadata(shelf.end, "", shelf.leader_epoch)
        ):
            again_from = shelf.taken
            self._store.start_again(shelved, again_from, forget_done=True)
            state = JournalState()
            await self._seek(tp, again_from if entry is None else entry)
        # Outputs that a transaction is to write, and a sink's rows, are not done when the lane says so: then a journal must not.
        journals = not self._exactly_once and self._station_of[tp.topic].spec.sink is None
        notes = Notes(shelf.taken, lambda at_once: self._note_soon(feed, at_once), has_done=journals)
        feed = Feed(shelved, notes, self._store.working)
        feed.owned = self._owned[tp] = self._ownership(tp, entry, feed, state)
        return feed

    def _ownership(
        self, tp: TopicPartition, entry: OffsetAndMetadata | None, feed: Feed, state: JournalState
    ) -> Ownership:
        journals = feed.notes.has_done
        kind = JournaledOwnership if journals else SpooledOwnership
        return kind(
            tp,
            entry,
            next(self._epochs),
            notes=feed.notes,
            clock_ms=lambda: self._loop.time() * 1000,
            on_committed=functools.partial(self._committed, feed),
            also_done=state.runs if journals else [],
            resting={} if self._station_of[tp.topic].spec.batch else state.retries,
        )

    async def _is_still_there(self, tp: TopicPartition, place: OffsetAndMetadata) -> bool:
        """Go on behind what is on disk; whether the log still has all that lies before (KIP-320: the consumer asks)."""
        try:
            await self._consumer.seek(tp, place)
            found = await self._consumer.position(tp, _VALIDATION_MS)
        except KafkaError as error:
            _log.warning("%s: what is spooled cannot be validated, and is fetched again: %s", tp, error)
            return False
        if found != place.offset:
            _log.warning("%s: the log was cut: what is spooled is discarded", tp)
        return found == place.offset

    def gone(self, tp: TopicPartition) -> None:
        super().gone(tp)
        self._paused.discard(tp)
        feed = self._feeds.pop(tp, None)
        if feed is not None:
            self._flush()
            self._store.give_up(feed.shelved)

    # ------------------------------------------------------------ records in

    async def _take_run(self, tp: TopicPartition, run: ConsumerRecords, next_offset: int) -> None:
        feed, first = self._feeds[tp], run[0].offset
        if first < feed.position and not await self._went_back(tp, feed, first):
            return
        if feed.position < 0:
            feed.position = feed.notes.base = first
            self._store.start_again(feed.shelved, first)
        waits = tp in self.held or feed.behind
        if feed.spooling and self._store.append(feed.shelved, run, next_offset, taken=not waits):
            feed.position = next_offset
            if waits:
                self._wanted.set()
                return
        elif waits:  # there is no room, nor was it known before: fetched again later
            await self._seek(tp, feed.position)
            return
        else:
            feed.spooling = False
            feed.position = next_offset
        await super()._take_run(tp, run, next_offset)

    @property
    def room(self) -> int:
        """What goes to disk alone needs no room in memory."""
        goes_to_disk = bool(self.held) or any(feed.behind for feed in self._feeds.values())
        return _MOST_POLLED if goes_to_disk else super().room

    async def take_in(self, records: ConsumerRecords) -> None:
        await super().take_in(records)
        await self._store.room()

    async def _went_back(self, tp: TopicPartition, feed: Feed, first: int) -> bool:
        """The log was cut, or the topic made again: what is spooled may be of another log. Whether these records are the next ones."""
        taken, behind = feed.shelved.shelf.taken, feed.behind
        _log.warning(
            "%s goes back from offset %d to %d: what is spooled is discarded", tp, feed.position, first
        )
        feed.notes.base = -1  # what was done of the other log says nothing
        feed.spooling = self._store.working
        feed.position = taken if behind and taken < first else first
        self._store.start_again(feed.shelved, feed.position, forget_done=True)
        if feed.position < first:
            await self._seek(tp, feed.position)
            return False
        return True

    async def mend(self) -> None:
        """Between two polls: what cannot be read from disk is fetched again."""
        await super().mend()
        lost = [(tp, feed) for tp, feed in self._feeds.items() if feed.lost]
        for tp, feed in lost:
            feed.lost = False
            if feed.behind:
                feed.position = feed.shelved.shelf.taken
                self._store.start_again(feed.shelved, feed.position)
                await self._seek(tp, feed.position)
        if lost:
            await self._match()

    def _is_paused(self, tp: TopicPartition) -> bool:
        return tp in self._paused

    def _lose(self, feed: Feed) -> None:
        feed.lost = True
        self._consumer.wakeup()

    def _on_failure(self) -> None:
        for feed in self._feeds.values():
            feed.spooling = False
            self._lose(feed)

    # ------------------------------------------------------------ from disk to the lanes

    async def flow(self) -> None:
        await asyncio.gather(super().flow(), self._feed_on())

    async def _feed_on(self) -> None:
        """For ever: give the lanes what is on disk only, as they have room."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while ready := [item for item in self._feeds.items() if self._may_feed(*item)]:
                for tp, feed in ready:
                    if self._may_feed(tp, feed):  # much may have happened while others were fed
                        await self._feed(tp, feed)
                        await self.hold_back()

    def _may_feed(self, tp: TopicPartition, feed: Feed) -> bool:
        is_ours = self._feeds.get(tp) is feed and not feed.owned.withdrawn
        return is_ours and feed.behind and not feed.lost and tp not in self.held

    async def _feed(self, tp: TopicPartition, feed: Feed) -> None:
        try:
            runs = await self._store.read(feed.shelved, self._load.limit_records - self._load.records)
        except (DamagedError, KafkaError) as error:
            _log.warning("%s: the spool cannot be read, and the records are fetched again: %s", tp, error)
            self._lose(feed)
            return
        except OSError as error:
            self._store.failed(error)
            return
        if self._feeds.get(tp) is not feed or feed.owned.withdrawn:
            return
        for run, next_offset in runs:
            self._give(tp, run, next_offset)
        self._station_of[tp.topic].executor.kick()

    def _anew(self, tp: TopicPartition) -> Ownership:
        feed = self._feeds[tp]
        feed.owned = self._ownership(tp, None, feed, JournalState())
        return feed.owned

    # ------------------------------------------------------------ too much, and enough again

    async def hold_back(self) -> None:
        await super().hold_back()
        await self._match()

    async def _hold(self, partitions: Iterable[TopicPartition]) -> None:
        """_match() does."""

    async def _let_go(self, partitions: list[TopicPartition]) -> None:
        self._wanted.set()
        await self._match()

    async def _match(self) -> None:
        """Pause at the consumer what can go neither to a lane nor to disk, and resume what can."""
        to_pause, to_resume = [], []
        for tp, feed in self._feeds.items():
            if tp in self._paused:
                if self._may_come(tp, feed, 2 * self._headroom_bytes):
                    to_resume.append(tp)
            elif not self._may_come(tp, feed, self._headroom_bytes):
                to_pause.append(tp)
        mine = self._consumer.assignment() if to_pause or to_resume else set()
        with contextlib.suppress(IllegalStateError):  # as in _seek()
            if to_pause := [tp for tp in to_pause if tp in mine]:
                self._paused.update(to_pause)
                await self._consumer.pause(*to_pause)
            if to_resume := [tp for tp in to_resume if tp in mine]:
                self._paused.difference_update(to_resume)
                await self._consumer.resume(*to_resume)

    def _may_come(self, tp: TopicPartition, feed: Feed, room_bytes: int) -> bool:
        if tp not in self.held and not feed.behind:
            return True
        return self._read_ahead and feed.spooling and self._store.has_room(feed.shelved, room_bytes)

    # ------------------------------------------------------------ the journal

    def _committed(self, feed: Feed, offset: int) -> None:
        """The group has stored this: files below it can go, and where records were not spooled for want of room, it may begin anew."""
        self._store.trim(feed.shelved, offset)
        if not feed.spooling and self._store.working and offset >= feed.shelved.shelf.end:
            self._store.start_again(feed.shelved, feed.position)
            feed.spooling = True
        if self._paused:
            self.relief.set()

    def _note_soon(self, feed: Feed, at_once: bool) -> None:
        """Now, but no more often than every 20 ms, for all partitions together; a commit that is about to be sent waits for nothing."""
        self._dirty[feed] = None
        if self._flush_timer is not None and at_once:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._flush_timer is None:
            after_s = 0.0 if at_once else self._flushed_s + _JOURNAL_EVERY_S - self._loop.time()
            self._flush_timer = self._loop.call_later(max(0.0, after_s), self._flush)

    def _flush(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        self._flushed_s = self._loop.time()
        dirty, self._dirty = self._dirty, {}
        self._store.note((feed.shelved, feed.notes.take(feed.owned.commit_offset)) for feed in dirty)
