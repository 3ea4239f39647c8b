"""AsyncKafkaConsumer against the embedded broker: the same as against a real Kafka, and what only processes of their own can show."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import AsyncKafkaConsumer, DevBroker, KafkaConsumer, KafkaProducer, TopicPartition
from penstock.errors import ForkedError
from tests.kafka.async_behaviour import *  # noqa: F403 - the tests that both brokers pass
from tests.kafka.async_life_behaviour import *  # noqa: F403
from tests.support.async_consumer import *  # noqa: F403 - their fixtures
from tests.support.async_consumer import WAIT_S, Run


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as broker:
        yield broker


@pytest.fixture
def bootstrap(broker: DevBroker) -> str:
    return broker.bootstrap_servers


@pytest.fixture
def own_broker() -> Iterator[DevBroker]:
    """One that the test may stop; its topic t holds one record."""
    with DevBroker() as broker:
        broker.create_topic("t")
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            producer.send("t", b"one")
        yield broker


def test_close_ends_though_the_broker_is_dead(run: Run[Any], own_broker: DevBroker) -> None:
    async def main() -> None:
        threads = threading.active_count()
        consumer = AsyncKafkaConsumer(
            "t", bootstrap_servers=own_broker.bootstrap_servers, group_id="g", auto_offset_reset="earliest"
        )
        async with asyncio.timeout(WAIT_S):
            while not await consumer.poll():
                pass
        await asyncio.to_thread(own_broker.stop)
        threads = threading.active_count()
        async with asyncio.timeout(WAIT_S):
            await consumer.close(timeout=1000)
        assert threading.active_count() < threads

    run(main())


def test_a_forked_child_is_told_and_the_parent_unharmed(run: Run[Any], own_broker: DevBroker) -> None:
    async def polls(consumer: AsyncKafkaConsumer) -> None:
        await consumer.poll(timeout=100)

    def child(consumer: AsyncKafkaConsumer, in_a_loop: bool) -> int:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                if in_a_loop:  # of its own
                    asyncio.run(polls(consumer))
                else:
                    polls(consumer).send(None)
            except ForkedError as error:
                code = 0 if "child" in str(error) else 2
        return code

    async def main() -> None:
        config = {"bootstrap_servers": own_broker.bootstrap_servers, "auto_offset_reset": "earliest"}
        async with AsyncKafkaConsumer(**config) as consumer:
            await consumer.assign([TopicPartition("t", 0)])
            assert [r.value for r in await consumer.poll(timeout=WAIT_S * 1000)] == [b"one"]
            pid = os.fork()
            if pid == 0:
                os._exit(child(consumer, in_a_loop=False))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            with KafkaProducer(bootstrap_servers=own_broker.bootstrap_servers) as producer:
                producer.send("t", b"two")
            assert [r.value for r in await consumer.poll(timeout=WAIT_S * 1000)] == [b"two"]

    run(main())
    consumer = AsyncKafkaConsumer(bootstrap_servers=own_broker.bootstrap_servers)
    pid = os.fork()
    if pid == 0:
        os._exit(child(consumer, in_a_loop=True))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    run(consumer.close())


@pytest.mark.parametrize("alive", [True, False], ids=["broker alive", "broker dead"])
@pytest.mark.parametrize("waits_in", ["poll", "async for", "listener"])
def test_ctrl_c_ends_asyncio_run(own_broker: DevBroker, loop_name: str, waits_in: str, alive: bool) -> None:
    body = """
        import asyncio, signal, sys, threading
        import uvloop
        from penstock import AsyncKafkaConsumer

        signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background process inherits may be otherwise

        class Listener:
            async def on_partitions_assigned(self, partitions):
                if {waits_in!r} == "listener":
                    print("waits", flush=True)
                    await asyncio.Event().wait()

        async def main():
            config = dict(bootstrap_servers={bootstrap!r}, group_id="g", auto_offset_reset="earliest")
            consumer = AsyncKafkaConsumer(**config)
            try:
                await consumer.subscribe(["t"], listener=Listener())
                if {waits_in!r} == "async for":
                    async for record in consumer:
                        print("waits", flush=True)
                while True:
                    if await consumer.poll(timeout=60_000):
                        print("waits", flush=True)
            finally:
                await consumer.close(timeout=2000)

        loops = dict(asyncio=asyncio.new_event_loop, uvloop=uvloop.new_event_loop)
        try:
            with asyncio.Runner(loop_factory=loops[{loop_name!r}]) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted", threading.active_count(), flush=True)
    """
    source = textwrap.dedent(body).format(
        bootstrap=own_broker.bootstrap_servers, waits_in=waits_in, loop_name=loop_name
    )
    child = started(source)
    assert child.stdout is not None
    assert child.stdout.readline() == "waits\n"
    if not alive:
        own_broker.stop()
    child.send_signal(signal.SIGINT)
    out, err = ended(child)
    assert out == "interrupted 1\n", err
    assert "Traceback" not in err


def started(source: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(child: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed until its end. If it does not end, it is made to tell where its threads stand."""
    try:
        return child.communicate(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGABRT)
        out, err = child.communicate()
        raise AssertionError(f"does not end; {out!r}, {err}") from None


def test_a_ctrl_c_that_the_loop_sleeps_through_is_heard(own_broker: DevBroker) -> None:
    """The signal arrives after the interpreter has looked for one, and before asyncio's loop sleeps in the selector: the handler is due
    and the selector goes on. interrupt_main() from another thread makes just that."""
    body = f"""
        import _thread, asyncio, signal, threading
        from penstock import AsyncKafkaConsumer

        signal.signal(signal.SIGINT, signal.default_int_handler)

        async def main():
            async with AsyncKafkaConsumer("t", bootstrap_servers={own_broker.bootstrap_servers!r}, group_id="g") as consumer:
                while not consumer.assignment():
                    await consumer.poll(timeout=10)
                threading.Timer(0.5, _thread.interrupt_main).start()
                await consumer.poll(timeout=600_000)

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    out, err = ended(started(textwrap.dedent(body)))
    assert out == "interrupted\n", err


def test_a_sync_consumer_refuses_coroutine_functions(own_broker: DevBroker) -> None:
    class Listener:
        async def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None: ...

    async def callback(offsets: Any, error: Any) -> None: ...

    config: dict[str, Any] = {
        "bootstrap_servers": own_broker.bootstrap_servers,
        "auto_offset_reset": "earliest",
        "group_id": "g",
    }
    with KafkaConsumer(**config) as consumer:
        consumer.subscribe(["t"], listener=Listener())
        with pytest.raises(TypeError, match="coroutine function; only AsyncKafkaConsumer"):
            for _ in range(10):
                consumer.poll(timeout=WAIT_S * 100)
        assert [r.value for r in consumer.poll(timeout=WAIT_S * 1000)] == [b"one"]
        consumer.commit_async(callback=callback).result(WAIT_S)
        with pytest.raises(TypeError, match="coroutine function; only AsyncKafkaConsumer"):
            for _ in range(10):
                consumer.poll(timeout=100)


def test_close_awaits_what_commit_async_began(own_broker: DevBroker) -> None:
    """KafkaConsumer as well: the callback runs in close(), after the answer has come."""
    told: list[tuple[int, BaseException | None]] = []
    tp = TopicPartition("t", 0)
    with KafkaConsumer(
        "t",
        bootstrap_servers=own_broker.bootstrap_servers,
        auto_offset_reset="earliest",
        group_id="g",
        enable_auto_commit=False,
    ) as consumer:
        assert [r.value for r in consumer.poll(timeout=WAIT_S * 1000)] == [b"one"]
        consumer.commit_async(callback=lambda offsets, error: told.append((offsets[tp].offset, error)))
    assert told == [(1, None)]
    assert own_broker.committed("g") == {("t", 0): 1}
