"""What AsyncKafkaConsumer does with records, listeners and callbacks, on whichever broker: who imports these tests gives a
`bootstrap` fixture.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from penstock import AsyncKafkaConsumer, ConsumerRecord, OffsetAndMetadata, TopicPartition
from penstock.errors import ClosedError, ConcurrentUseError, IllegalStateError, WakeupError
from tests.support.async_consumer import (
    Held,
    PlainListener,
    Run,
    consumer_of,
    produce,
    raised_by,
    read,
    until,
    values,
)

# ---------------------------------------------------------------- records


def test_poll_reads_and_commit_stores(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic, group = filled(30, 3), unique("group")

    async def main() -> None:
        async with consumer_of(bootstrap, topic, group_id=group, key_deserializer=bytes.decode) as consumer:
            records = await read(consumer, 30)
            assert sorted(values(records)) == list(range(30))
            assert {r.key for r in records} == {f"k{n}" for n in range(30)}
            await consumer.commit()
            assert not await consumer.poll(timeout=0)
        async with consumer_of(bootstrap, topic, group_id=group) as consumer:
            produce(bootstrap, topic, range(30, 33), 3)
            assert sorted(values(await read(consumer, 3))) == [30, 31, 32]

    run(main())


def test_async_for_left_early_loses_nothing_and_counts_only_what_it_was_handed(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic, group = filled(40), unique("group")
    tp = TopicPartition(topic, 0)

    async def main() -> None:
        async with consumer_of(bootstrap, topic, group_id=group, max_poll_records=12) as consumer:
            seen = []
            async for record in consumer:
                seen.append(record)
                if len(seen) == 5:
                    await consumer.commit()
                    assert (await consumer.committed(tp)) == OffsetAndMetadata(
                        5, leader_epoch=record.leader_epoch
                    )
                if len(seen) == 7:
                    break
            assert await consumer.position(tp) == 7
            await consumer.commit()
            committed = await consumer.committed(tp)
            assert committed is not None and committed.offset == 7
            seen += await read(consumer, 10)
            assert len(seen) < 40
            async for record in consumer:
                seen.append(record)
                if len(seen) >= 40:
                    break
            assert values(seen) == list(range(40))

    run(main())


def test_a_poll_inside_async_for_gets_the_rest_and_nothing_comes_twice(
    run: Run[Any], bootstrap: str, filled: Callable[..., str]
) -> None:
    topic = filled(50)

    async def main() -> None:
        async with consumer_of(bootstrap, max_poll_records=20, fetch_max_wait_ms=5) as consumer:
            await consumer.assign([TopicPartition(topic, 0)])
            seen: list[ConsumerRecord] = []
            async for record in consumer:
                seen.append(record)
                if record.offset % 7 == 3:
                    seen += await consumer.poll()
                if len(seen) == 50:
                    break
            assert values(seen) == list(range(50))

    run(main())


def test_cancelled_at_any_moment_every_record_comes_once(
    run: Run[Any], bootstrap: str, filled: Callable[..., str]
) -> None:
    """Polls are cancelled as tasks and by asyncio.timeout while a producer writes; each offset is to come once, in order."""
    count, partitions = 100_000, 3
    topic = filled(0, partitions)
    chance = random.Random(7)
    writer = threading.Thread(target=produce, args=(bootstrap, topic, range(count), partitions))

    async def cancelled(consumer: AsyncKafkaConsumer) -> Any:
        polling = asyncio.create_task(consumer.poll(timeout=100))
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if chance.random() < 0.7:
            await asyncio.sleep(chance.random() * 0.004)
        polling.cancel()
        await asyncio.wait({polling})
        return None if polling.cancelled() else polling.result()

    async def timed_out(consumer: AsyncKafkaConsumer) -> Any:
        try:
            async with asyncio.timeout(chance.random() * 0.004):
                return await consumer.poll(timeout=100)
        except TimeoutError:
            return None

    async def main() -> None:
        read_to = [0] * partitions
        outcomes = Counter[bool]()
        async with consumer_of(bootstrap, max_poll_records=100) as consumer, asyncio.timeout(90):
            await consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
            writer.start()
            while sum(read_to) < count:
                records = await chance.choice([cancelled, timed_out])(consumer)
                outcomes[records is None] += 1
                for record in records or ():
                    assert record.offset == read_to[record.partition], record
                    read_to[record.partition] += 1
        assert outcomes[True] > 20 and outcomes[False] > 20
        assert read_to == [33_334, 33_333, 33_333]

    try:
        run(main())
    finally:
        writer.join()


def test_a_poll_cancelled_while_it_gives_back_lets_no_commit_pass(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    """A loop is left early, the poll that takes the rest back is cancelled at once, and a commit follows in the same turn."""
    topic = filled(400)
    tp = TopicPartition(topic, 0)

    async def main() -> None:
        config = {"group_id": unique("group"), "fetch_max_wait_ms": 5}  # what is given back is fetched again
        async with consumer_of(bootstrap, topic, **config) as consumer:
            read_to = 0
            while read_to < 400:
                async for record in consumer:
                    assert record.offset == read_to
                    read_to += 1
                    if read_to % 4 == 0:
                        break
                polling = asyncio.create_task(consumer.poll(timeout=0))
                for _ in range(read_to // 4 % 4):
                    await asyncio.sleep(0)
                polling.cancel()
                await asyncio.wait({polling})
                if not polling.cancelled() and (more := polling.result()):
                    assert more[0].offset == read_to
                    read_to = more[-1].offset + 1
                stored = await consumer.commit_async()
                assert stored[tp].offset == read_to

    run(main())


def test_an_exception_leaves_what_was_not_handled(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    """With auto-commit: in a loop the record at hand and all after it, else all of the last poll."""
    topic, group = filled(20), unique("group")

    async def first_offset() -> int:
        async with consumer_of(bootstrap, topic, group_id=group) as consumer:
            return (await read(consumer, 1))[0].offset

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with consumer_of(bootstrap, topic, group_id=group, enable_auto_commit=True) as consumer:
                async for record in consumer:
                    1 // (6 - record.offset)
        assert await first_offset() == 6
        with pytest.raises(ZeroDivisionError):
            async with consumer_of(
                bootstrap, topic, group_id=group, enable_auto_commit=True, max_poll_records=4
            ) as consumer:
                await read(consumer, 1)
                for record in await read(consumer, 1):
                    1 // (12 - record.offset)
        assert await first_offset() == 10
        with pytest.raises(WakeupError):  # out of poll(): what came before was handled
            async with consumer_of(
                bootstrap, topic, group_id=group, enable_auto_commit=True, max_poll_records=4
            ) as consumer:
                assert (await read(consumer, 1))[0].offset == 10
                consumer.wakeup()
                await consumer.poll()
        assert await first_offset() == 14

    run(main())


def test_other_tasks_run_while_records_never_end(
    run: Run[Any], bootstrap: str, filled: Callable[..., str]
) -> None:
    topic = filled(20_000)

    async def main() -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with consumer_of(bootstrap, max_poll_records=1) as consumer:
            await consumer.assign([TopicPartition(topic, 0)])
            await read(consumer, 1)
            await until(lambda: consumer._fetcher.buffered_records() > 10_000)
            beside = asyncio.create_task(other())
            for _ in range(10_000):
                assert len(await consumer.poll()) == 1
            beside.cancel()
        assert turns > 2

    run(main())


# ---------------------------------------------------------------- listeners and callbacks


class Listener:
    """Coroutine functions that note what they are told, and commit on revocation."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.consumer: AsyncKafkaConsumer | None = None

    async def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        await asyncio.sleep(0)
        self.events.append(("assigned", len(partitions)))

    async def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        assert self.consumer is not None
        assert set(partitions) <= self.consumer.assignment()
        await self.consumer.commit()
        self.events.append(("revoked", len(partitions)))


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_listeners_of_both_kinds_through_a_rebalance_with_a_commit_in_it(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str], protocol: str
) -> None:
    topic, group = filled(40, 4), unique("group")
    config: dict[str, Any] = {"group_id": group, "group_protocol": protocol}
    if protocol == "consumer":
        config["session_timeout_ms"] = 45_000  # the coordinator's; one's own may not be given

    async def main() -> None:
        first, second = Listener(), PlainListener()
        async with consumer_of(bootstrap, **config) as one, consumer_of(bootstrap, **config) as two:
            first.consumer = one
            await one.subscribe([topic], listener=first)
            assert len(await read(one, 40)) == 40
            await two.subscribe([topic], listener=second)
            stop = False

            async def beside() -> list[ConsumerRecord]:
                found: list[ConsumerRecord] = []
                while not stop:
                    found += await two.poll(timeout=20)
                return found

            other = asyncio.create_task(beside())
            await until(lambda: len(one.assignment()) == 2 and len(two.assignment()) == 2, one)
            produce(bootstrap, topic, range(40, 44), 4)
            mine = await read(one, 2)
            stop = True
            theirs = await other
            if len(theirs) < 2:
                theirs += await read(two, 2 - len(theirs))
            # all of the first forty were committed before they changed hands
            assert sorted(values(mine + theirs)) == [40, 41, 42, 43]
        assert first.events[0] == ("assigned", 4)
        assert sum(n for what, n in first.events if what == "revoked") >= 4
        assert second.events[0][0] == "assigned"
        assert second.events[-1] == ("revoked", 2)

    run(main())


def test_a_listener_outlives_the_poll_that_began_it(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic = filled(10)

    async def main() -> None:
        listener = Held()
        listener.error = ZeroDivisionError("from the listener")
        async with consumer_of(bootstrap, group_id=unique("group")) as consumer:
            await consumer.subscribe([topic], listener=listener)
            for _ in range(3):  # each poll is cancelled while the listener waits
                polling = asyncio.create_task(consumer.poll(timeout=60_000))
                await listener.begun.wait()
                await asyncio.sleep(0)
                polling.cancel()
                assert isinstance(await raised_by(polling), asyncio.CancelledError)
            assert listener.ended == []
            polling = asyncio.create_task(consumer.poll(timeout=0))
            await asyncio.sleep(0.05)
            assert not polling.done()  # nothing is returned before the listener has ended
            listener.go_on.set()
            assert isinstance(await raised_by(polling), ZeroDivisionError)
            assert listener.ended == ["assigned"]
            assert values(await read(consumer, 10)) == list(range(10))
        assert listener.ended == ["assigned", "revoked"]

    run(main())


def test_what_a_listener_may_not_call(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic = filled(1)

    async def main() -> None:
        refused: list[BaseException | None] = []

        class Curious:
            async def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
                refused.append(await raised_by(consumer.poll()))
                refused.append(await raised_by(consumer.close()))

            async def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
                refused.append(await raised_by(consumer.poll()))
                refused.append(await raised_by(consumer.close()))

        async with consumer_of(bootstrap, group_id=unique("group")) as consumer:
            await consumer.subscribe([topic], listener=Curious())
            await read(consumer, 1)
        assert [type(each) for each in refused] == [
            ConcurrentUseError,
            IllegalStateError,
            ClosedError,
            type(None),
        ]

    run(main())


def test_callbacks_of_commit_async(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic, group = filled(10), unique("group")
    tp = TopicPartition(topic, 0)

    async def main() -> None:
        told: list[tuple[str, int, type]] = []

        async def awaited(offsets: dict[TopicPartition, OffsetAndMetadata], error: Any) -> None:
            await asyncio.sleep(0)
            told.append(("awaited", offsets[tp].offset, type(error)))

        def plain(offsets: dict[TopicPartition, OffsetAndMetadata], error: Any) -> None:
            told.append(("plain", offsets[tp].offset, type(error)))

        async with consumer_of(bootstrap, topic, group_id=group) as consumer:
            await read(consumer, 10)
            stored = await consumer.commit_async({tp: 4})
            assert stored[tp].offset == 4
            consumer.commit_async({tp: 5}, awaited)
            consumer.commit_async({tp: 6}, plain)
            refused = consumer.commit_async({tp: 2}, plain)  # back, without saying so
            await until(lambda: len(told) == 3, consumer)
            assert type(refused.exception()).__name__ == "CommitRewindError"
            consumer.commit_async(callback=awaited)  # called in close()
        assert [each[:2] for each in told] == [("awaited", 5), ("plain", 6), ("plain", 2), ("awaited", 10)]
        assert [each[2].__name__ for each in told] == [
            "NoneType",
            "NoneType",
            "CommitRewindError",
            "NoneType",
        ]

    run(main())
