"""Lanes, progress and policy of a processor under seeds: handlers end in any way, partitions come and go, commits are refused.

The executor, the clock, the dead-letter topic and the group are the test's own; the lanes, progress and policy are the real ones.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from typing import Any

import pytest

from penstock import ConsumerRecords, OffsetAndMetadata, TopicPartition
from penstock._native import BatchBuilder, decode_batches
from penstock.processing.batch_lanes import BatchLane
from penstock.processing.failure import FailurePolicy, Retry, Skip
from penstock.processing.lanes import Lane, Load, Ownership, RecordLane
from penstock.processing.work import Work

SEEDS = int(os.environ.get("PENSTOCK_SIMULATION_SEEDS", "400"))
TOPIC = "orders"


def log_of(partition: int, count: int, keys: int, chance: random.Random) -> ConsumerRecords:
    builder = BatchBuilder()
    for number in range(count):
        key = None if chance.random() < 0.1 else b"k%d" % chance.randrange(keys)
        builder.append(number, key, b"%d" % number)
    return decode_batches(builder.build(), topic=TOPIC, partition=partition)


class World:
    """One processor with one lane, and what is true of each record."""

    def __init__(self, seed: int, kind: str, order: str | None) -> None:
        self.chance = chance = random.Random(seed)
        self.now_ms = 0.0
        self.kind, self.order = kind, order
        self.relieved_at: list[int] = []
        self.load = Load(10**9, 10**12, lambda: None)
        shared: dict[str, Any] = {
            "concurrency": chance.choice([1, 3, 20]),
            "timeout_s": None,
            "policy": FailurePolicy(
                retry=Retry(attempts=3, backoff="10ms..50ms"), dead_letter="dead", on_error={KeyError: Skip()}
            ),
            "breaker": None,
            "load": self.load,
            "host": self,
            "clock_ms": lambda: self.now_ms,
            "chance": chance.random,
        }
        self.lane: Lane
        if kind == "records":
            self.lane = RecordLane("sim", order, **shared)
        else:
            alone = order == "all"  # as a sink's
            within_ms, batch = chance.choice([0, 30]), chance.choice([1, 3, 10])
            self.lane = BatchLane(
                "sim", None if alone else order, batch=batch, within_ms=within_ms, alone=alone, **shared
            )
        self.logs = {
            partition: log_of(partition, chance.choice([0, 20, 60]), chance.choice([1, 5, 50]), chance)
            for partition in range(chance.choice([1, 3]))
        }
        self.owned: dict[int, Ownership] = {}
        self.read: dict[int, int] = {}
        self.committed: dict[int, OffsetAndMetadata] = {}
        self.out: list[Work] = []
        self.letters: list[Work] = []  # on their way to the dead letters
        self.done: dict[int, set[int]] = defaultdict(
            set
        )  # handled, skipped or dead-lettered, by an owner at the time
        self.ended: dict[tuple[Ownership, bytes], int] = {}

    # ------------------------------------------------------------ the host

    def put_away(self, lane: Lane, work: Work, topic: str, error: BaseException) -> None:
        if isinstance(work.payload, ConsumerRecords):
            assert len(work.payload) == 1, "a batch is put away as a whole"
        self.letters.append(work)

    def put_off(self, *_: object) -> None:
        raise AssertionError("there is no retry topic")

    def deliver(self, *_: object) -> None:
        raise AssertionError("nothing is returned")

    def stop_for(self, error: Exception) -> None:
        raise AssertionError(f"it stops: {error}")

    def relieved(self, partition: Ownership) -> None:
        """Nothing is paused here."""

    def waits_until(self, due_ms: float) -> None:
        """tick() asks at every turn."""

    # ------------------------------------------------------------ what may happen

    def assign(self) -> None:
        free = [partition for partition in self.logs if partition not in self.owned]
        if free:
            partition = self.chance.choice(free)
            stored = self.committed.get(partition)
            self.owned[partition] = Ownership(TopicPartition(TOPIC, partition), stored)
            self.read[partition] = 0 if stored is None else stored.offset

    def poll(self) -> None:
        for partition, owned in self.owned.items():
            log, at = self.logs[partition], self.read[partition]
            end = min(len(log), at + self.chance.randint(0, 12))
            if at < end:
                self.lane.add(owned, log[at:end], end)
                self.read[partition] = end

    def start(self) -> None:
        while self.chance.random() < 0.8 and (work := self.lane.take()) is not None:
            self._check_start(work)
            self.out.append(work)

    def end(self, kindly: bool = False) -> None:
        if not self.out:
            return
        work = self.out.pop(self.chance.randrange(len(self.out)))
        fate = 0.0 if kindly else self.chance.random()
        if fate < 0.7:
            self._note_done(work)
            self.lane.finished(work, None)
        elif fate < 0.9:
            self.lane.failed(work, OSError("passing"))
        elif fate < 0.95:
            skips = not isinstance(work.payload, ConsumerRecords) or len(work.payload) == 1
            if skips:
                self._note_done(work)
            self.lane.failed(work, KeyError("skipped"))
        else:
            self.lane.released(work)

    def store_letter(self) -> None:
        if self.letters:
            work = self.letters.pop(self.chance.randrange(len(self.letters)))
            self._note_done(work)
            self.lane.settled(work)

    def tick(self) -> None:
        self.now_ms += self.chance.choice([0, 5, 40])
        self.lane.due(self.now_ms)

    def commit(self, partitions: list[int] | None = None, refused: bool = False) -> None:
        for partition in list(self.owned) if partitions is None else partitions:
            owned = self.owned[partition]
            entry = owned.to_commit(max_chars=self.chance.choice([0, 40, 4096]))
            if entry is None:
                continue
            if refused:
                owned.not_committed()
                continue
            self._check_commit(partition, entry)
            owned.committed_as(entry)
            self.committed[partition] = entry

    def revoke(self, lost: bool) -> None:
        """Tests 7, 10, 11: withdrawn, some time to end, a commit, fenced; or lost at once."""
        going = [partition for partition in self.owned if self.chance.random() < 0.5]
        mine = [self.owned[partition] for partition in going]
        self.lane.withdraw(mine)
        if not lost:
            for _ in range(self.chance.randint(0, 10)):
                self.chance.choice([self.end, self.store_letter, self.tick])()
            self.commit(going)
        for partition, owned in zip(going, mine, strict=True):
            owned.fenced = True
            del self.owned[partition]
            del self.read[partition]

    # ------------------------------------------------------------ what has to hold

    def _records(self, work: Work) -> list[Any]:
        return list(work.payload) if isinstance(work.payload, ConsumerRecords) else [work.payload]

    def _owner(self, work: Work, record: Any) -> Ownership:
        for span in work.spans:
            if span.partition.topic_partition.partition == record.partition:
                return span.partition  # type: ignore[return-value]
        return work.partition  # type: ignore[return-value]

    def _check_start(self, work: Work) -> None:
        for record in self._records(work):
            owner = self._owner(work, record)
            assert not owner.fenced and not owner.withdrawn, (
                "7: a handler is started after the revocation began"
            )
            assert self.owned.get(record.partition) is owner
        if self.order is None:
            return
        for record in self._records(work):
            for other in self.out:
                for busy in self._records(other):
                    if busy.partition == record.partition and self._owner(other, busy) is self._owner(
                        work, record
                    ):
                        together = (
                            self.order == "partition"
                            or self.kind == "batches"
                            or (record.key is not None and busy.key == record.key)
                        )
                        assert not together, f"6: {record.key} is handled twice at once"

    def _note_done(self, work: Work) -> None:
        for record in self._records(work):
            owner = self._owner(work, record)
            if owner.fenced:
                continue  # it changes nothing: whoever owns it now handles it
            assert record.offset not in self.done[record.partition] or True
            self.done[record.partition].add(record.offset)
            if self.order is not None and (
                record.key is not None or self.order == "partition" or self.kind == "batches"
            ):
                key = (owner, b"" if self.order == "partition" or self.kind == "batches" else record.key)
                assert self.ended.get(key, -1) < record.offset, "6: out of the order of the log"
                self.ended[key] = record.offset

    def _check_commit(self, partition: int, entry: OffsetAndMetadata) -> None:
        done, before = self.done[partition], self.committed.get(partition)
        missing = [offset for offset in range(entry.offset) if offset not in done]
        assert not missing, f"8: committed {entry.offset}, and {missing[:3]} are not done"
        assert before is None or entry.offset >= before.offset, "9: it moves back"
        assert len(entry.metadata) <= 4096
        again = Ownership(TopicPartition(TOPIC, partition), entry)
        for offset in range(len(self.logs[partition])):
            assert not again.was_done(offset) or offset in done, "what was never done is remembered as done"

    def settle(self) -> None:
        """The faults are over: everything comes to its end."""
        for _ in range(10_000):
            while len(self.owned) < len(self.logs):
                self.assign()
            self.poll()
            self.start()
            self.end(kindly=True)
            self.store_letter()
            self.now_ms += 100
            self.lane.due(self.now_ms)
            read_all = all(self.read[partition] == len(log) for partition, log in self.logs.items())
            if read_all and not self.load.records and not self.out:
                break
        self.commit()
        for partition, log in self.logs.items():
            assert self.done[partition] == set(range(len(log))), "a record is lost"
            if len(log):
                assert self.committed[partition].offset == len(log), "not all is committed"
        assert (self.load.records, self.load.bytes) == (0, 0), "memory is counted that is not held"
        assert (
            not self.lane.running and not self.lane.resting and not self.lane.aside and not self.lane.waiting
        )


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        *((kind, order) for kind in ("records", "batches") for order in ("key", "partition", None)),
        ("batches", "all"),
    ],
)
def test_06_to_12_and_32_hold_whatever_the_seed(kind: str, order: str | None) -> None:
    for seed in range(SEEDS):
        world = World(seed, kind, order)
        chance = world.chance
        try:
            for _ in range(chance.choice([20, 200])):
                happens = chance.choices(
                    [
                        world.assign,
                        world.poll,
                        world.start,
                        world.end,
                        world.store_letter,
                        world.tick,
                        world.commit,
                        world.revoke,
                    ],
                    [2, 4, 8, 10, 2, 4, 3, 1],
                )[0]
                if happens == world.revoke:
                    world.revoke(lost=chance.random() < 0.3)
                elif happens == world.commit:
                    world.commit(refused=chance.random() < 0.2)
                else:
                    happens()
            world.settle()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
