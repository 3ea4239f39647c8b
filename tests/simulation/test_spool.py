"""A processor with a spool under seeds: killed at any point of what it writes, set back, owned by others in between.

The intake, the store, the lane and the files are the real ones. The disk's thread is a list of calls that the world makes when it likes, so
that a kill finds any of them not made yet, or half of one. The consumer, the log and the group are the world's own.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import OffsetAndMetadata, Spool, TopicPartition
from penstock._native import BatchBuilder, decode_batches
from penstock.processing.failure import FailurePolicy, Retry, Skip
from penstock.processing.lanes import Load, Ownership, RecordLane
from penstock.processing.runtime import Station
from penstock.processing.spool import feeding
from penstock.processing.spool.disk import Disk
from penstock.processing.spool.feeding import SpooledIntake
from penstock.processing.spool.format import Identity
from penstock.processing.spool.journal import JournalState
from penstock.processing.work import Work

SEEDS = int(os.environ.get("PENSTOCK_SIMULATION_SEEDS", "400")) // 4
TP = TopicPartition("orders", 0)
OURS = Identity("group", *TP, bytes(16))


class LatePool:
    """Stands for the store's thread: calls are made by run_some(), in order."""

    def __init__(self) -> None:
        self.calls: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls.append((future, function, args))
        return future

    def run_one(self) -> None:
        future, function, args = self.calls.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            found = function(*args)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(found)

    def shutdown(self) -> None:
        while self.calls:
            self.run_one()


class World:
    """The log, the group and the consumer; and one processor at a time."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = chance = random.Random(seed)
        self.folder = folder
        self.size = chance.choice([10, 3_000, 12_000])
        self.order = chance.choice(["key", "partition", None])
        self.spoils = chance.random() < 0.5
        self.commit_weight = chance.choice([0.1, 1, 3])
        self.ends = chance.choice([0.01, 0.002])
        self.spool = Spool(folder, max_bytes=2**20, read_ahead=chance.random() < 0.8)
        count = chance.choice([40, 400 if self.size < 10_000 else 150])
        builder = BatchBuilder()
        for number in range(count):
            key = None if chance.random() < 0.1 else b"k%d" % chance.randrange(chance.choice([2, 50]))
            builder.append(0, key, b"%d" % number + b"." * self.size)
        self.log = decode_batches(builder.build(), topic=TP.topic, partition=TP.partition)
        self.stored: OffsetAndMetadata | None = None
        self.done: set[int] = set()  # by anybody
        self.seen_done: set[int] = set()  # that a journal had, and that still counted, when a process began
        self.attempts: dict[int, int] = {}  # failed calls, as the journal had them when the process began
        self.now_ms = (
            time.monotonic() * 1000
        )  # the loop's clock, which tells a spool when a retry is due; then it runs ahead

    # ------------------------------------------------------------ the consumer

    def assignment(self) -> set[TopicPartition]:
        return {TP}

    async def pause(self, *partitions: TopicPartition) -> None:
        self.paused = True

    async def resume(self, *partitions: TopicPartition) -> None:
        self.paused = False

    async def seek(self, tp: TopicPartition, place: int | OffsetAndMetadata) -> None:
        self.position_ = place if isinstance(place, int) else place.offset

    async def position(self, tp: TopicPartition, timeout: float) -> int:
        return self.position_

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, bytes]:
        return dict.fromkeys(topics, bytes(16))

    def wakeup(self) -> None:
        """poll() never waits here."""

    # ------------------------------------------------------------ the lane's host

    def stop_for(self, error: Exception) -> None:
        raise AssertionError(f"it stops: {error}")

    def relieved(self, partition: Ownership) -> None:
        self.intake.relief.set()

    def waits_until(self, due_ms: float) -> None:
        """tick() asks."""

    def kick(self) -> None:
        """start() asks."""

    # ------------------------------------------------------------ a process

    async def begin(self) -> None:
        chance = self.chance
        self.pool = LatePool()
        self.out: list[Work] = []
        self.handled: list[int] = []  # by this process, in the order in which it was begun
        self.owned: dict[TopicPartition, Ownership] = {}
        self.paused, self.position_ = False, 0 if self.stored is None else self.stored.offset
        self.load = Load(chance.choice([5, 50, 500]), 10**9, lambda: self.intake.relief.set())
        self.lane = RecordLane(
            "sim",
            self.order,
            concurrency=chance.choice([1, 10]),
            timeout_s=None,
            policy=FailurePolicy(retry=Retry(attempts=4, backoff="1s", then=Skip())),
            breaker=None,
            load=self.load,
            host=self,
            clock_ms=lambda: self.now_ms,
            chance=chance.random,
        )
        station = Station(SimpleNamespace(sink=None, batch=0), self.lane, self)  # type: ignore[arg-type]
        self.intake = SpooledIntake(
            self,
            self.owned,
            {TP.topic: station},
            self.load,
            spool=self.spool,
            config={"group.id": "group"},
            exactly_once=False,
            until_it_works=lambda what, call: call(),
        )
        self.intake._store._pool = self.pool  # type: ignore[assignment]
        await self.meanwhile(self.intake.open())
        self.note_what_is_known()
        await self.meanwhile(self.intake.assigned({TP: self.stored}))
        self.flow = asyncio.ensure_future(self.intake.flow())
        self.began_at = self.position_

    def note_what_is_known(self) -> None:
        """As whoever reads the files now would have it."""
        state = self.journal()
        committed = None if self.stored is None else self.stored.offset
        resumed = state.resumed(committed)
        self.seen_done = {offset for start, end in resumed.runs for offset in range(start, end)}
        assert self.seen_done <= self.done, "a journal calls done what never was"
        self.attempts = {offset: resting.attempts for offset, resting in resumed.retries.items()}
        self.fails: dict[int, int] = {}

    def journal(self) -> JournalState:
        return Disk().found(self.folder / "group" / "0" / "orders-0", OURS)[1]

    async def meanwhile(self, waiting: Any) -> Any:
        task = asyncio.ensure_future(waiting)
        while not task.done():
            await asyncio.sleep(0)
            if self.pool.calls:
                self.pool.run_one()
        return await task

    async def kill(self) -> None:
        """What was not written yet is lost, and of the next write perhaps a part."""
        self.flow.cancel()
        await asyncio.gather(self.flow, return_exceptions=True)
        store, calls = self.intake._store, self.pool.calls
        if calls and self.chance.random() < 0.5:
            before = {path: path.stat().st_size for path in self.folder.rglob("*") if path.is_file()}
            function = calls[0][2][0] if calls[0][2] else None
            self.pool.run_one()
            if function in (store._disk.append_frame, store._disk.append):
                for path in self.folder.rglob("*"):
                    if path.is_file() and path.stat().st_size > before.get(path, 0):
                        os.truncate(path, self.chance.randint(before.get(path, 0), path.stat().st_size))
        calls.clear()
        store._disk.close()
        os.close(store._lock_fd)

    async def leave(self) -> None:
        """In order: what runs is given up, the rest is committed."""
        self.flow.cancel()
        await asyncio.gather(self.flow, return_exceptions=True)
        mine = list(self.owned.values())
        self.lane.withdraw(mine)
        self.commit()
        for owned in mine:
            owned.fenced = True
        self.intake.gone(TP)
        await self.meanwhile(self.intake.close())

    # ------------------------------------------------------------ what happens

    async def poll(self) -> None:
        await self.intake.mend()
        end = min(len(self.log), self.position_ + self.chance.randint(1, 15))
        if not self.paused and self.position_ < end:
            run = self.log[self.position_ : end]
            self.position_ = end
            await self.intake.take_in(run)
            await self.intake.hold_back()

    async def write(self) -> None:
        for _ in range(self.chance.randint(1, 5)):
            if self.pool.calls:
                self.pool.run_one()
        await asyncio.sleep(0)

    async def start(self) -> None:
        while self.chance.random() < 0.8 and (work := self.lane.take()) is not None:
            offset = work.payload.offset  # type: ignore[union-attr]
            assert work.payload.value == b"%d" % offset + b"." * self.size  # type: ignore[union-attr]
            assert offset not in self.seen_done, "the journal had it"
            assert work.attempts == self.attempts.get(offset, 0) + self.fails.get(offset, 0), (
                "attempts are lost"
            )
            if self.order is not None:
                busy = [w.payload.raw_key for w in self.out]  # type: ignore[union-attr]
                key = work.payload.raw_key  # type: ignore[union-attr]
                assert key is None or key not in busy, "a key is handled twice at once"
            self.out.append(work)

    async def end(self, kindly: bool = False) -> None:
        if not self.out:
            return
        work = self.out.pop(self.chance.randrange(len(self.out)))
        offset = work.payload.offset  # type: ignore[union-attr]
        if kindly or self.chance.random() < 0.8:
            assert offset not in self.handled, "handled twice by one process"
            self.handled.append(offset)
            self.done.add(offset)
            self.lane.finished(work, None)
        else:
            self.fails[offset] = self.fails.get(offset, 0) + 1
            if work.attempts == 3:
                self.done.add(offset)  # it is skipped
            self.lane.failed(work, OSError("passing"))

    async def tick(self) -> None:
        self.now_ms += self.chance.choice([0, 500])
        self.lane.due(self.now_ms)

    async def spoil(self) -> None:
        """A byte changes; or, seldom, the disk refuses a write."""
        if self.chance.random() < 0.1:
            disk = self.intake._store._disk

            def refuse(*_: object) -> None:
                del disk._append  # type: ignore[method-assign]
                raise OSError("no space left")

            disk._append = refuse  # type: ignore[method-assign]
        elif found := sorted(self.folder.rglob("*.records")):
            path = self.chance.choice(found)
            data = bytearray(path.read_bytes())
            data[self.chance.randrange(len(data))] ^= 1 << self.chance.randrange(8)
            path.write_bytes(data)

    async def flush(self) -> None:
        self.intake._flush()

    def commit(self) -> None:
        entry = self.owned[TP].to_commit(max_chars=self.chance.choice([0, 40, 4096]))
        if entry is None:
            return
        fate = self.chance.random()
        if fate < 0.2:
            self.owned[TP].not_committed()
            return
        missing = [offset for offset in range(entry.offset) if offset not in self.done]
        assert not missing, f"committed {entry.offset}, and {missing[:3]} are not done"
        self.stored = entry
        if fate < 0.9:  # else: the answer is lost
            self.owned[TP].committed_as(entry)
        else:
            self.owned[TP].not_committed()

    async def commits(self) -> None:
        self.commit()

    async def by_others(self) -> None:
        """While no process of ours runs."""
        at = 0 if self.stored is None else self.stored.offset
        fate = self.chance.random()
        if fate < 0.15:
            to = self.chance.randint(0, at)
            if self.journal().is_ours(
                to
            ):  # of several commits whose answers were lost; it cannot be told from those
                return
            self.stored = OffsetAndMetadata(to)
            self.done -= set(range(to, len(self.log)))  # they are to be done again
        elif fate < 0.3:
            end = min(len(self.log), at + self.chance.randint(1, 30))
            self.done.update(range(end))
            self.stored = OffsetAndMetadata(end)

    async def settle(self) -> None:
        for _ in range(20_000):
            await self.poll()
            await self.write()
            await self.start()
            await self.end(kindly=True)
            self.now_ms += 500
            self.lane.due(self.now_ms)
            self.commit()
            if self.stored is not None and self.stored.offset == len(self.log) and not self.load.records:
                break
        assert self.done == set(range(len(self.log))), "a record is lost"
        assert self.stored is not None and self.stored.offset == len(self.log), "not all is committed"
        assert (self.load.records, self.load.bytes) == (0, 0), "memory is counted that is not held"


async def live(world: World) -> None:
    chance = world.chance
    await world.begin()
    for _ in range(chance.choice([100, 1000])):
        happens = chance.choices(
            [
                world.poll,
                world.write,
                world.start,
                world.end,
                world.tick,
                world.flush,
                world.commits,
                world.spoil,
            ],
            [4, 4, 8, 10, 3, 2, world.commit_weight, 0.1 if world.spoils else 0],
        )[0]
        await happens()
        if chance.random() < world.ends:
            await (world.kill() if chance.random() < 0.7 else world.leave())
            await world.by_others()
            await world.begin()
    await world.settle()
    await world.leave()


def test_nothing_is_lost_nor_done_twice_that_the_journal_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "_JOURNAL_EVERY_S", 1e6)  # the world flushes
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder:
            try:
                asyncio.run(live(World(seed, Path(folder))))
            except Exception as error:
                error.add_note(f"seed {seed}")
                raise


async def fill_and_begin_anew(world: World) -> None:
    """Memory has room and the disk has none: records go to the lane alone. Later the commit passes all that is on disk."""
    await world.begin()
    world.load.limit_records = 10**6
    feed = world.intake._feeds[TP]
    while feed.spooling:
        await world.poll()
    for _ in range(3):
        await world.poll()
    end, position = feed.shelved.shelf.end, feed.position
    assert end < position and not feed.behind
    world.lane.concurrency = 10**6
    while (work := world.lane.take()) is not None:
        offset = work.payload.offset  # type: ignore[union-attr]
        if offset <= end:
            world.done.add(offset)
            world.lane.finished(work, None)
    while world.stored is None or world.stored.offset <= end:
        world.commit()
    assert world.stored.offset < position, "the gap is not done"
    while not feed.spooling:
        world.commit()
    while feed.shelved.shelf.end == position and world.position_ < len(world.log):
        await world.poll()
    assert feed.shelved.shelf.segments[0].start == position
    while world.pool.calls:
        world.pool.run_one()
    await world.kill()
    await world.begin()
    await world.settle()
    await world.leave()


def test_a_spool_that_was_full_begins_anew_behind_the_gap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(feeding, "_JOURNAL_EVERY_S", 1e6)
    world = World(0, tmp_path)
    world.order, world.size = None, 12_000
    builder = BatchBuilder()
    for number in range(200):
        builder.append(0, None, b"%d" % number + b"." * world.size)
    world.log = decode_batches(builder.build(), topic=TP.topic, partition=TP.partition)
    asyncio.run(fill_and_begin_anew(world))
