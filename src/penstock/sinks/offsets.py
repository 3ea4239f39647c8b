"""What an owner knows of its partitions: under which epoch it has them, and what is stored. The statements are each database's."""

from __future__ import annotations

import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from .._native import ConsumerRecords
from ..errors import FencedError
from ..types import TopicPartition

_log = logging.getLogger("penstock.sinks")

S = TypeVar("S")


class Offsets(ABC, Generic[S]):
    """`_epochs` since it took a partition over, `_next` what is stored, `_from` what was stored then. Only the sink's calls write them, one
    at a time."""

    def __init__(self) -> None:
        self.group_id = ""
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._epochs: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}
        self._from: dict[TopicPartition, int] = {}

    @property
    def owns_any(self) -> bool:
        return bool(self._epochs)

    # ------------------------------------------------------------ the database's

    @abstractmethod
    def create(self, session: S) -> None:
        """The table, if it is missing. Two that create it at once: the one that fails finds it there."""

    @abstractmethod
    def take(self, session: S, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Raise the epochs; taken() tells what was found. Waits for a transaction of an owner before."""

    @abstractmethod
    def read(self, session: S) -> None:
        """What is stored of what this owner has, told to found(); FencedError if another has taken some of it over."""

    @abstractmethod
    def advance(self, session: S, records: ConsumerRecords) -> None:
        """Within the transaction of the rows, before these: the offsets after them. FencedError where an epoch is not this owner's."""

    # ------------------------------------------------------------ what is known

    def taken(self, rows: Iterable[Any]) -> dict[TopicPartition, int]:
        """Rows of (topic, partition, next offset or None, epoch): they are this owner's. Where to go on."""
        positions = {}
        for topic, partition, next_offset, epoch in rows:
            tp = TopicPartition(topic, partition)
            self._epochs[tp] = epoch
            self._next.pop(tp, None)
            self._from.pop(tp, None)
            if next_offset is not None:
                positions[tp] = self._next[tp] = self._from[tp] = next_offset
        return positions

    def found(self, rows: Iterable[Any]) -> None:
        """Rows as for taken(), read again after a loss."""
        stored = {TopicPartition(topic, number): (offset, epoch) for topic, number, offset, epoch in rows}
        self._check({tp for tp, epoch in self._epochs.items() if tp not in stored or stored[tp][1] != epoch})
        for tp in self._epochs:
            offset = stored[tp][0]
            if offset is not None:
                self._next[tp] = offset

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """They are no longer this owner's."""
        for tp in partitions:
            self._epochs.pop(tp, None)
            self._next.pop(tp, None)
            self._from.pop(tp, None)

    def stored_before(self, records: ConsumerRecords) -> set[int]:
        """The indices of records that are stored already."""
        known = self._next
        first = {tp: records.records(tp)[0].offset for tp in records.partitions}
        if not any(tp in known and offset < known[tp] for tp, offset in first.items()):
            return set()
        for tp, offset in first.items():
            self._warn_of_rewind(tp, offset)
        return {
            index
            for index, record in enumerate(records)
            if record.offset < known.get(record.topic_partition, -1)
        }

    def _warn_of_rewind(self, tp: TopicPartition, offset: int) -> None:
        """Who resumes at what assigned() said never comes with less, unless the position was reset: the log may be another one."""
        start = self._from.get(tp, -1)
        if offset < start:
            del self._from[tp]  # once
            _log.warning(
                "%s: records from offset %d on come, but what lies before %d is stored already and left out. If the topic was deleted and "
                "made again, its offsets mean other records now: stop, delete its rows from the table of offsets, and start again",
                tp,
                offset,
                start,
            )

    def advanced(self, records: ConsumerRecords) -> None:
        """The transaction is committed."""
        for tp, offset in records.next_offsets().items():
            self._next[tp] = max(offset, self._next.get(tp, -1))

    def _check(self, lost: set[TopicPartition]) -> None:
        if lost:
            raise FencedError(
                f"{', '.join(map(str, sorted(lost)[:5]))}: another owner of group {self.group_id!r} has taken over; nothing of this one is "
                "stored any more",
                retriable=False,
            )
