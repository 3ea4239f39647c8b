"""Between poll() and the lanes: who is given what, and what is held back because there is too much of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .._native import ConsumerRecords
from ..consumer import AsyncKafkaConsumer
from ..errors import IllegalStateError
from ..types import OffsetAndMetadata, TopicPartition
from .lanes import Load, Ownership, RecordLane

if TYPE_CHECKING:
    from .runtime import Station

_log = logging.getLogger("penstock.processing")

_AHEAD_MS = 1_000.0
"""So long before they are due records of retry topics are taken in."""
_MOST_AHEAD = 100_000
"""How many records of a partition may be kept in mind behind one that is not done; then the partition is held back."""


class Intake:
    """What poll() returns goes to the lanes at once. Partitions of which there is too much are paused. All in the event loop.

    `held`: partitions whose lanes are given nothing more for now. Written here; `owned` is the runtime's, filled by assigned().
    """

    def __init__(
        self,
        consumer: AsyncKafkaConsumer,
        owned: dict[TopicPartition, Ownership],
        station_of: Mapping[str, Station],
        load: Load,
    ) -> None:
        self.held: set[TopicPartition] = set()
        self.relief = asyncio.Event()
        self._consumer = consumer
        self._owned = owned
        self._station_of = station_of
        self._load = load
        self._epochs = itertools.count()
        self._not_due: dict[TopicPartition, float] = {}  # of retry topics: when their next record is (ms)

    # ------------------------------------------------------------ life

    async def open(self) -> None:
        """Before the first partition is assigned."""

    async def close(self) -> None:
        """After the last one is gone."""

    async def assigned(self, stored: Mapping[TopicPartition, OffsetAndMetadata | None]) -> None:
        """These partitions are ours from here on, from the offsets that are stored."""
        for tp, entry in stored.items():
            self._owned[tp] = Ownership(tp, entry, next(self._epochs))

    def gone(self, tp: TopicPartition) -> None:
        """The partition is not ours any more."""
        self.held.discard(tp)
        self._not_due.pop(tp, None)

    def health(self) -> dict[str, object]:
        """Its share of the processor's. From any thread."""
        return {"paused_partitions": len(self.held)}

    # ------------------------------------------------------------ records in

    @property
    def room(self) -> int:
        """How many records a poll may return."""
        return self._load.room

    async def take_in(self, records: ConsumerRecords) -> None:
        """What poll() has returned."""
        next_offsets = records.next_offsets()
        touched: dict[Station, None] = {}
        partitions = records.partitions
        for tp in partitions:
            if tp not in self._owned:
                raise IllegalStateError(f"records of {tp} came, which was never taken over")
            run, next_offset = records if len(partitions) == 1 else records.records(tp), next_offsets[tp]
            station = self._station_of[tp.topic]
            if tp.topic in station.lane.retry_topics:
                run, next_offset = await self._due_part(tp, station, run, next_offset)
            if run:
                await self._take_run(tp, run, next_offset)
            touched[station] = None
        for station in touched:
            station.executor.kick()

    async def mend(self) -> None:
        """Called between two polls, in the task that polls."""
        now_ms = asyncio.get_running_loop().time() * 1000
        due = [tp for tp, due_ms in self._not_due.items() if due_ms - _AHEAD_MS <= now_ms]
        for tp in due:
            del self._not_due[tp]
        if mine := [tp for tp in due if not self._is_paused(tp) and tp in self._consumer.assignment()]:
            await self._consumer.resume(*mine)

    async def _due_part(
        self, tp: TopicPartition, station: Station, run: ConsumerRecords, next_offset: int
    ) -> tuple[ConsumerRecords, int]:
        """Of a retry topic's records those that are due, or will be soon. The others stay at the broker: the partition is paused until the
        first of them is due. In memory, those that wait for an hour would be in the way of all others."""
        lane, soon_ms = station.lane, asyncio.get_running_loop().time() * 1000 + _AHEAD_MS
        assert isinstance(lane, RecordLane) and lane.later is not None
        for index, record in enumerate(run):
            due_ms = lane.later(record)[0]
            if due_ms > soon_ms:
                self._not_due[tp] = due_ms
                await self._pause([tp])
                await self._seek(tp, record.offset)
                return run[:index], record.offset
        return run, next_offset

    def _is_paused(self, tp: TopicPartition) -> bool:
        return tp in self.held

    async def _take_run(self, tp: TopicPartition, run: ConsumerRecords, next_offset: int) -> None:
        self._give(tp, run, next_offset)

    def _give(self, tp: TopicPartition, run: ConsumerRecords, next_offset: int) -> None:
        """To the lane. Offsets that it has been given already are records of another log: it was cut (KIP-320), or the topic made again."""
        owned, station = self._owned[tp], self._station_of[tp.topic]
        if run[0].offset < owned.next_offset:
            _log.warning(
                "%s goes back from offset %d to %d: the log was cut, or the topic made again. What was under way of it counts no more",
                tp,
                owned.next_offset,
                run[0].offset,
            )
            station.lane.withdraw([owned])
            owned.fenced = True
            station.executor.cancel(station.lane.running_of([owned]))
            owned = self._owned[tp] = self._anew(tp)
            owned.rewinds = True
        station.lane.add(owned, run, next_offset)

    def _anew(self, tp: TopicPartition) -> Ownership:
        """Of a partition of which nothing is known any more."""
        return Ownership(tp, None, next(self._epochs))

    # ------------------------------------------------------------ too much, and enough again

    async def hold_back(self) -> None:
        """What there is too much of: all, or a partition that has more than its share, behind a key that stands still, say."""
        too_much = []
        if self._load.full:
            self._load.pressed = True
            too_much = [tp for tp in self._owned if tp not in self.held]
        else:
            share = max(self._load.limit_records // max(1, len(self._owned)), 1_000)
            for tp, owned in self._owned.items():
                if (owned.held >= share or owned.ahead >= _MOST_AHEAD) and tp not in self.held:
                    owned.low_water = owned.held // 2
                    too_much.append(tp)
        if too_much:
            self._hurry(self._station_of[tp.topic] for tp in too_much)
            self.held.update(too_much)
            await self._hold(too_much)

    @staticmethod
    def _hurry(stations: Iterable[Station]) -> None:
        """No more will come for a batch that waits to be full."""
        for station in set(stations):
            station.lane.hurry()
            station.executor.kick()

    async def _hold(self, partitions: Iterable[TopicPartition]) -> None:
        await self._pause(partitions)

    async def _pause(self, partitions: Iterable[TopicPartition]) -> None:
        assigned = self._consumer.assignment()
        if mine := [tp for tp in partitions if tp in assigned]:
            with contextlib.suppress(
                IllegalStateError
            ):  # one is lost already, and the next poll() will say so
                await self._consumer.pause(*mine)

    async def _seek(self, tp: TopicPartition, place: int | OffsetAndMetadata) -> None:
        with contextlib.suppress(IllegalStateError):  # as in _pause()
            await self._consumer.seek(tp, place)

    async def flow(self) -> None:
        """For ever: let go on what was held back, once enough of it is done."""
        while True:
            await self.relief.wait()
            self.relief.clear()
            if self._load.pressed:
                continue
            back = []
            for tp in list(self.held):
                owned = self._owned.get(tp)
                if owned is None:
                    self.held.discard(tp)
                elif owned.low_water < 0:
                    back.append(tp)
            self.held.difference_update(back)
            await self._let_go(back)

    async def _let_go(self, partitions: list[TopicPartition]) -> None:
        if mine := [tp for tp in partitions if tp in self._consumer.assignment()]:
            await self._consumer.resume(*mine)
