"""AsyncKafkaConsumer among tasks, loops and threads, and its end, on whichever broker: who imports these tests gives a
`bootstrap` fixture.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from penstock import AsyncKafkaConsumer, TopicPartition
from penstock.errors import ClosedError, ConcurrentUseError, ConfigError, IllegalStateError, WakeupError
from tests.support.async_consumer import (
    SESSION_MS,
    WAIT_S,
    Held,
    PlainListener,
    Run,
    consumer_of,
    engines,
    produce,
    raised_by,
    read,
    until,
    values,
)

# ---------------------------------------------------------------- several tasks


def test_two_tasks_may_not_poll_but_another_may_commit(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic, group = filled(10), unique("group")
    tp = TopicPartition(topic, 0)

    async def main() -> None:
        async with consumer_of(bootstrap, topic, group_id=group) as consumer:
            await read(consumer, 10)
            polling = asyncio.create_task(consumer.poll(timeout=60_000))
            await asyncio.sleep(0)
            assert isinstance(await raised_by(consumer.poll()), ConcurrentUseError)
            async with asyncio.timeout(WAIT_S):
                await consumer.commit()
            stored = await consumer.committed(tp)
            assert stored is not None and stored.offset == 10
            # the positions of the call, though the poll that waits returns more before they are sent
            committing = asyncio.create_task(consumer.commit())
            await asyncio.sleep(0)
            produce(bootstrap, topic, range(10, 11))
            assert values(list(await polling)) == [10]
            await committing
            stored = await consumer.committed(tp)
            assert stored is not None and stored.offset == 10

    run(main())


def test_unsubscribe_while_another_task_polls(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic = filled(10)

    async def main() -> None:
        listener = Held()
        listener.go_on.set()
        async with consumer_of(bootstrap, group_id=unique("group")) as consumer:
            await consumer.subscribe([topic], listener=listener)
            await read(consumer, 10)
            polling = asyncio.create_task(consumer.poll(timeout=60_000))
            await asyncio.sleep(0)
            async with asyncio.timeout(WAIT_S):
                await consumer.unsubscribe()
            assert listener.ended == ["assigned", "revoked"]
            assert consumer.assignment() == set() and await consumer.subscription() == set()
            assert consumer.group_metadata().member_id == ""
            await consumer.subscribe([topic])
            assert values(list(await polling)) == list(range(10))  # nothing was committed

    run(main())


def test_wakeup_from_a_thread(run: Run[Any], bootstrap: str, filled: Callable[..., str]) -> None:
    topic = filled(0)

    async def main() -> None:
        async with consumer_of(bootstrap) as consumer:
            await consumer.assign([TopicPartition(topic, 0)])
            polling = asyncio.create_task(consumer.poll(timeout=60_000))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(consumer.wakeup)
            assert isinstance(await raised_by(polling), WakeupError)
            assert not await consumer.poll(timeout=0)

    run(main())


def test_a_blocked_loop_costs_no_membership(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic = filled(10)

    async def main() -> None:
        listener = PlainListener()
        async with consumer_of(bootstrap, group_id=unique("group"), heartbeat_interval_ms=500) as consumer:
            await consumer.subscribe([topic], listener=listener)
            await read(consumer, 10)
            before = consumer.group_metadata()
            time.sleep(SESSION_MS / 1000 * 1.3)  # the loop is blocked, as by a library that knows no asyncio
            await consumer.commit()
            await consumer.poll(timeout=0)
            assert consumer.group_metadata() == before
            assert listener.events == [("assigned", 1)]

    run(main())


def test_it_belongs_to_one_loop(run: Run[Any], bootstrap: str, filled: Callable[..., str]) -> None:
    topic = filled(3)
    consumer = consumer_of(bootstrap)

    async def first() -> None:
        await consumer.assign([TopicPartition(topic, 0)])
        await read(consumer, 3)

        def from_a_thread() -> list[BaseException | None]:
            tries: list[Awaitable[object]] = [consumer.poll(), consumer.topics(), consumer.close()]
            return [asyncio.run(raised_by_all([each]))[0] for each in tries]

        errors = await asyncio.to_thread(from_a_thread)
        assert [type(error) for error in errors] == [IllegalStateError] * 3, errors
        assert "event loop" in str(errors[0])
        assert not await consumer.poll(timeout=0)

    async def second() -> None:
        assert isinstance(await raised_by(consumer.poll()), IllegalStateError)
        await consumer.close()  # the first loop is over, and nobody else can
        assert isinstance(await raised_by(consumer.poll()), ClosedError)

    run(first())
    run(second())


async def raised_by_all(awaitables: list[Awaitable[object]]) -> list[BaseException | None]:
    return [await raised_by(each) for each in awaitables]


# ---------------------------------------------------------------- the end


def test_close_by_another_task_ends_poll_and_loop(
    run: Run[Any], bootstrap: str, filled: Callable[..., str]
) -> None:
    topic = filled(10)

    async def main() -> None:
        before = engines()
        for waits_in_poll in (True, False):
            consumer = consumer_of(bootstrap)
            await consumer.assign([TopicPartition(topic, 0)])
            seen: list[int] = []
            handed = asyncio.Event()

            async def loop(consumer: AsyncKafkaConsumer, seen: list[int], handed: asyncio.Event) -> None:
                async for record in consumer:
                    seen.append(record.offset)
                    handed.set()
                    if not waits_in_poll:  # noqa: B023 - both tasks end within the turn
                        await asyncio.sleep(0.01)

            reading = asyncio.create_task(loop(consumer, seen, handed))
            await handed.wait()
            await (until(lambda: len(seen) == 10) if waits_in_poll else asyncio.sleep(0))  # noqa: B023
            async with asyncio.timeout(WAIT_S):
                await consumer.close()
                await reading
            assert (len(seen) == 10) == waits_in_poll
        consumer = consumer_of(bootstrap)
        await consumer.assign([TopicPartition(topic, 0)])
        await read(consumer, 10)
        polling = asyncio.create_task(consumer.poll(timeout=60_000))
        await asyncio.sleep(0)
        await consumer.close()
        assert isinstance(await raised_by(polling), ClosedError)
        assert engines() == before

    run(main())


def test_close_while_a_revocation_waits_tells_the_listener_once(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic, group = filled(10, 2), unique("group")

    async def main() -> None:
        listener = PlainListener()
        one = consumer_of(bootstrap, group_id=group, heartbeat_interval_ms=100)
        await one.subscribe([topic], listener=listener)
        await read(one, 10)
        async with consumer_of(bootstrap, topic, group_id=group) as two:
            await until(
                lambda: one._core.user.callbacks, two
            )  # the revocation, for a poll() that does not come
            await one.close()
            assert listener.events == [("assigned", 2), ("revoked", 2)]
            assert len(await read(two, 10)) == 10

    run(main())


def test_enforce_rebalance(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic = filled(1)

    async def main() -> None:
        async with consumer_of(bootstrap, topic, group_id=unique("group")) as consumer:
            await read(consumer, 1)
            before = consumer.group_metadata().generation_id
            await consumer.enforce_rebalance("the test asks")
            await until(lambda: consumer.group_metadata().generation_id > before, consumer)

    run(main())


def test_close_cancelled_and_called_again(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic, group = filled(10), unique("group")

    async def main() -> None:
        before = engines()
        listener = Held()
        listener.go_on.set()
        consumer = consumer_of(bootstrap, group_id=group, enable_auto_commit=True)
        await consumer.subscribe([topic], listener=listener)
        await read(consumer, 10)
        listener.begun.clear()
        listener.go_on.clear()
        closing = asyncio.create_task(consumer.close())
        await listener.begun.wait()
        closing.cancel()
        assert isinstance(await raised_by(closing), asyncio.CancelledError)
        assert isinstance(await raised_by(consumer.poll()), ClosedError)
        again = asyncio.create_task(consumer.close())
        await asyncio.sleep(0)
        assert not again.done()
        listener.go_on.set()
        async with asyncio.timeout(WAIT_S):
            await again
            await consumer.close()
        assert listener.ended == ["assigned", "revoked"]
        assert engines() == before
        async with consumer_of(bootstrap, topic, group_id=group) as successor:
            produce(bootstrap, topic, range(10, 11))
            assert values(await read(successor, 1)) == [10]

    run(main())


def test_close_cancels_a_listener_that_hangs(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic = filled(10)

    async def main() -> None:
        before = engines()
        for hangs_in in ("on_partitions_assigned", "on_partitions_revoked"):
            listener = Held()
            consumer = consumer_of(bootstrap, group_id=unique("group"))
            await consumer.subscribe([topic], listener=listener)
            if hangs_in == "on_partitions_revoked":
                listener.go_on.set()
                await read(consumer, 10)
                listener.go_on.clear()
            else:
                polling = asyncio.create_task(consumer.poll())
                await listener.begun.wait()
                polling.cancel()
            async with asyncio.timeout(WAIT_S):
                await consumer.close(timeout=300)
            assert "revoked" not in listener.ended
        assert engines() == before

    run(main())


def test_the_end_of_the_loop_closes_what_was_being_closed(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic = filled(10)
    before = engines()

    async def main() -> AsyncKafkaConsumer:
        listener = Held()
        consumer = consumer_of(bootstrap, group_id=unique("group"))
        await consumer.subscribe([topic], listener=listener)
        polling = asyncio.create_task(consumer.poll())
        await listener.begun.wait()
        polling.cancel()
        asyncio.create_task(consumer.close(timeout=300))  # noqa: RUF006 - the loop's end cancels it
        await asyncio.sleep(0.01)
        return consumer

    consumer = run(main())
    assert repr(consumer) and engines() == before


def test_an_unclosed_consumer_warns_and_ends(
    run: Run[Any], bootstrap: str, filled: Callable[..., str]
) -> None:
    topic = filled(1)

    async def main() -> None:
        before = set(engines())
        consumer = consumer_of(bootstrap)
        await consumer.assign([TopicPartition(topic, 0)])
        await read(consumer, 1)
        with pytest.warns(ResourceWarning, match="unclosed"):
            del consumer
        await until(lambda: set(engines()) <= before)

    run(main())


# ---------------------------------------------------------------- the rest of the surface


def test_positions_and_lookups(
    run: Run[Any], bootstrap: str, filled: Callable[..., str], unique: Callable[[str], str]
) -> None:
    topic = filled(20, 2)
    zero, one = TopicPartition(topic, 0), TopicPartition(topic, 1)

    async def main() -> None:
        async with consumer_of(bootstrap, group_id=unique("group")) as consumer:
            await consumer.assign([zero, one])
            assert consumer.assignment() == {zero, one}
            assert await consumer.beginning_offsets([zero, one]) == {zero: 0, one: 0}
            assert await consumer.end_offsets([zero]) == {zero: 10}
            assert [info.partition for info in await consumer.partitions_for(topic)] == [0, 1]
            assert topic in await consumer.topics()
            found = (await consumer.offsets_for_times({zero: 0}))[zero]
            assert found is not None and found.offset == 0
            await consumer.seek(zero, 8)
            await consumer.pause(one)
            assert await consumer.paused() == {one}
            assert [r.offset for r in await read(consumer, 2)] == [8, 9]
            assert await consumer.current_lag(zero) == 0
            await consumer.resume(one)
            await consumer.seek_to_end(zero)
            assert await consumer.position(zero) == 10
            assert {r.topic_partition for r in await read(consumer, 10)} == {one}
            await consumer.seek_to_beginning(zero)
            assert [r.offset for r in await read(consumer, 10)] == list(range(10))
            assert await consumer.committed([zero]) == {zero: None}
            measured = {name.name: value for name, value in (await consumer.metrics()).items()}
            assert measured["records-consumed-total"] >= 22
            consumer.note_progress()
            with pytest.raises(ValueError, match="timeout"):
                await consumer.poll(timeout=-1)

    run(main())


def test_what_needs_a_group_says_so(run: Run[Any], bootstrap: str, filled: Callable[..., str]) -> None:
    topic = filled(1)

    async def main() -> None:
        async with consumer_of(bootstrap) as consumer:
            await consumer.assign([TopicPartition(topic, 0)])
            for call in (
                consumer.commit(),
                consumer.subscribe([topic]),
                consumer.committed(TopicPartition(topic, 0)),
                consumer.enforce_rebalance(),
            ):
                with pytest.raises(ConfigError, match=r"group\.id"):
                    await call
            with pytest.raises(ConfigError):
                consumer.commit_async()

    run(main())
