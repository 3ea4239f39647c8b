"""Idempotence: which sequence number a batch carries, and what to do when the broker misses one. Pure.

A broker remembers, per producer id and partition, the epoch and the sequence it expects next: it takes a batch once, in
order, and tells a repeated one from a new one (KIP-98). Sources: KIP-98, KIP-360, and the broker's ProducerAppendInfo.

The epoch is kept per partition: the broker checks it per partition, and a producer without a transactional id has nobody
to share it with. A partition whose sequence has a hole goes on under its next epoch from sequence 0; others are not touched.
A transactional producer's epoch is its coordinator's: a partition takes it over with its next batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

MAX_SEQUENCE: Final = 2**31 - 1
MAX_EPOCH: Final = 2**15 - 2  # Kafka keeps the last one for itself
BROKER_REMEMBERS: Final = 5
"""Batches per producer and partition of which the broker can tell that it has them already (KAFKA-5494)."""


class SequencedBatch(Protocol):
    """What is read and written of a batch here."""

    count: int
    producer_id: int
    epoch: int
    base_sequence: int
    on_wire: bool
    lost: bool


@dataclass(slots=True)
class ProducerIdentity:
    """Who writes: given by InitProducerId. `producer_id` is -1 until it is known. With a `transactional_id` the epoch is the
    coordinator's, and a new one begins with many transactions: with all, by transaction.version 2."""

    producer_id: int = -1
    epoch: int = -1
    transactional_id: str | None = None

    @property
    def known(self) -> bool:
        return self.producer_id >= 0

    def forget(self) -> None:
        """Ask for another id: this one has no epochs left."""
        self.producer_id = self.epoch = -1


def after(sequence: int, count: int) -> int:
    """The sequence number `count` records on; after 2^31-1 comes 0."""
    return (sequence + count) & MAX_SEQUENCE


class PartitionSequences:
    """The sequence numbers of one partition. Written by the sender only.

    `in_flight` holds, in sequence order, every batch that has a number and no final outcome, whether it is on the wire or
    waits for another try. A batch of it is `lost` when it is not stored and cannot be under the number it has, since one
    before it is missing in the broker's log for good. Lost batches get numbers of the next epoch, once none of them is on
    the wire (KIP-360).

    `broken`: the last batch that was given up may have left such a hole. Nothing new gets a number until that is known:
    what is in flight is tried again as it is, since the batch that was given up may be stored after all, and then this one
    as well, and a new number would store it twice.

    `known_to_broker`: a batch of this producer id was stored. From a producer it does not know the broker takes any number
    (KIP-360), so that a second batch could pass a first one that was refused: the first goes alone.
    """

    __slots__ = ("broken", "epoch", "in_flight", "known_to_broker", "next_sequence", "producer_id")

    def __init__(self) -> None:
        self.producer_id = -1
        self.epoch = -1
        self.next_sequence = 0
        self.in_flight: list[SequencedBatch] = []
        self.broken = False
        self.known_to_broker = False

    def may_send_new(self) -> bool:
        """Whether a batch without a number may get one now."""
        if any(batch.lost for batch in self.in_flight):
            return all(batch.lost and not batch.on_wire for batch in self.in_flight)
        if self.broken or not self.known_to_broker:
            return not self.in_flight
        return len(self.in_flight) < BROKER_REMEMBERS

    def may_send_again(self, batch: SequencedBatch) -> bool:
        """Whether a numbered batch may be tried again: if it is the first in line and nothing of the partition is on the wire."""
        return (
            bool(self.in_flight) and self.in_flight[0] is batch and not any(b.on_wire for b in self.in_flight)
        )

    def comes_after_another(self, batch: SequencedBatch) -> bool:
        """Whether one before it is still without an outcome."""
        return batch in self.in_flight and self.in_flight[0] is not batch

    def number(self, batch: SequencedBatch, identity: ProducerIdentity) -> None:
        """Give a batch its number, just before it is sent; one that is tried again keeps its own, unless it is lost.

        If no epoch is left, identity.forget() has been called when this returns, and the batch has no number: it is sent
        once there is a new producer id. In a transaction a batch behind a hole has none either: the coordinator does not know
        of an epoch that we raise, and markers under the one that it knows would not end what was written under ours.
        """
        if batch.base_sequence >= 0 and not batch.lost:
            return
        differs = self.producer_id != identity.producer_id or self.epoch < identity.epoch
        is_news = self.producer_id < 0 or (differs and not self.in_flight)
        if is_news or self.broken or any(b.lost for b in self.in_flight):
            if identity.transactional_id is not None and not is_news:
                return
            self._next_epoch(identity)
            if self.producer_id < 0:
                return
        batch.producer_id, batch.epoch, batch.base_sequence = self.producer_id, self.epoch, self.next_sequence
        batch.lost = False
        self.next_sequence = after(self.next_sequence, batch.count)
        self.in_flight.append(batch)

    def stored(self, batch: SequencedBatch) -> None:
        """The broker has it, now or from an earlier attempt."""
        self.known_to_broker = self.known_to_broker or batch.producer_id == self.producer_id
        if batch in self.in_flight:
            if self.in_flight[0] is batch:
                self.broken = False  # no hole before it: what was given up before it was stored
            self.in_flight.remove(batch)

    def given_up(self, batch: SequencedBatch, *, surely_not_stored: bool) -> None:
        """It will not be tried again under its number. If it surely is not stored, those after it are lost."""
        if batch in self.in_flight:
            place = self.in_flight.index(batch)
            del self.in_flight[place]
            self.broken = True
            if surely_not_stored:
                for later in self.in_flight[place:]:
                    later.lost = True

    def split(self, batch: SequencedBatch, parts: Sequence[SequencedBatch]) -> None:
        """It is not stored, and its records go on as these batches: under the numbers that they had in it, so that no hole is left.
        What was sent after it is refused as out of order, and tried again after them."""
        if batch not in self.in_flight:
            return
        place = self.in_flight.index(batch)
        self.in_flight[place : place + 1] = parts
        sequence = batch.base_sequence
        for part in parts:
            part.producer_id, part.epoch, part.lost = batch.producer_id, batch.epoch, batch.lost
            part.base_sequence = sequence
            sequence = after(sequence, part.count)

    def out_of_order(self, batch: SequencedBatch) -> None:
        """The broker expected another number, or knows nothing of this producer: this batch is not stored.

        If nothing before it is undecided, what the broker misses will not come: all in flight is lost. Else it only
        overtook the batch before it, which is tried first.
        """
        if self.in_flight and self.in_flight[0] is batch:
            for later in self.in_flight:
                later.lost = True

    def _next_epoch(self, identity: ProducerIdentity) -> None:
        """Start at sequence 0 under the next epoch; what was in flight waits in the queue for new numbers, in order."""
        for batch in self.in_flight:
            batch.base_sequence, batch.lost = -1, False
        self.in_flight.clear()
        self.broken = False
        self.next_sequence = 0
        if self.producer_id != identity.producer_id or self.epoch < identity.epoch:
            self.producer_id, self.epoch = identity.producer_id, identity.epoch
            self.known_to_broker = False
        elif self.epoch >= MAX_EPOCH:
            identity.forget()
            self.producer_id = self.epoch = -1
        else:
            self.epoch += 1
