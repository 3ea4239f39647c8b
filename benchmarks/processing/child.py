"""One contender in a process of its own: python -m benchmarks.processing.child NAME BOOTSTRAP TOPIC COUNT. Prints a JSON object."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

HANDLER_S = 0.01
CONCURRENCY = 1_000
LIMIT_S = 15.0


class Meter:
    """Counts from the first record after a twentieth of all, to the end or the time limit; then calls `stop`."""

    def __init__(self, count: int, stop: Callable[[], object]) -> None:
        self.count = 0
        self._first = count // 20
        self._last = count
        self._stop = stop
        self._began: tuple[float, float, int] | None = None
        self.result: dict[str, float] = {}

    def add(self, number: int = 1) -> None:
        self.count += number
        if self._began is None:
            if self.count >= self._first:
                self._began = time.perf_counter(), time.process_time(), self.count
            return
        if self.result or (self.count % 256 and number == 1 and self.count < self._last):
            return
        wall_s = time.perf_counter() - self._began[0]
        if self.count >= self._last or wall_s >= LIMIT_S:
            done = self.count - self._began[2]
            self.result = {
                "records_per_s": done / wall_s,
                "cpu_us_per_record": (time.process_time() - self._began[1]) / done * 1e6,
            }
            self._stop()


def processor(bootstrap: str) -> Any:
    from penstock import Processor

    config = {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    return Processor(config, drain_timeout="1s")


def penstock_wait(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    runs = processor(bootstrap)
    meter = Meter(count, runs.stop)

    @runs.handler(topic, order_by="key", concurrency=CONCURRENCY)
    async def handle(record: Any) -> None:
        await asyncio.sleep(HANDLER_S)
        meter.add()

    runs.run()
    return meter.result


def penstock_nothing(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    runs = processor(bootstrap)
    meter = Meter(count, runs.stop)

    @runs.handler(topic, order_by="key", concurrency=CONCURRENCY)
    async def handle(record: Any) -> None:
        meter.add()

    runs.run()
    return meter.result


def penstock_batches(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    runs = processor(bootstrap)
    meter = Meter(count, runs.stop)

    @runs.handler(topic, order_by="partition", batch=500, within="50ms")
    async def handle(records: Any) -> None:
        meter.add(len(records))

    runs.run()
    return meter.result


def penstock_threads(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    runs = processor(bootstrap)
    meter = Meter(count, runs.stop)

    @runs.handler(topic, order_by="key", concurrency=8)
    def handle(record: Any) -> None:
        meter.add()

    runs.run()
    return meter.result


def bare_asyncio(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    """No Kafka at all: as many tasks as there may be handlers, that sleep as long as these."""

    async def main() -> dict[str, float]:
        over = asyncio.Event()
        meter = Meter(count, over.set)

        async def work() -> None:
            while not over.is_set():
                await asyncio.sleep(HANDLER_S)
                meter.add()

        tasks = [asyncio.create_task(work()) for _ in range(CONCURRENCY)]
        await over.wait()
        await asyncio.gather(*tasks)
        return meter.result

    return asyncio.run(main())


def faststream(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    """FastStream's subscriber with its own concurrency, which gives up order and acknowledges before handling."""
    import logging

    from faststream import FastStream
    from faststream.confluent import KafkaBroker

    async def main() -> dict[str, float]:
        broker = KafkaBroker(bootstrap, logger=None)
        app = FastStream(broker, logger=None)
        meter = Meter(count, app.exit)

        @broker.subscriber(
            topic, group_id=uuid.uuid4().hex, auto_offset_reset="earliest", max_workers=CONCURRENCY
        )
        async def handle(message: bytes) -> None:
            await asyncio.sleep(HANDLER_S)
            meter.add()

        await app.run(log_level=logging.ERROR)
        return meter.result

    return asyncio.run(main())


def confluent_loop(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    """The loop of every tutorial: poll, handle, commit now and then; one record at a time."""
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    going = [True]
    meter = Meter(2_000, going.clear)
    while going:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        time.sleep(HANDLER_S)
        meter.add()
        if meter.count % 100 == 0:
            consumer.commit(asynchronous=True)
    consumer.close()
    return meter.result


CONTENDERS: dict[str, Callable[[str, str, int], dict[str, float]]] = {
    "penstock-wait": penstock_wait,
    "bare-asyncio": bare_asyncio,
    "faststream": faststream,
    "confluent-loop": confluent_loop,
    "penstock-nothing": penstock_nothing,
    "penstock-threads": penstock_threads,
    "penstock-batches": penstock_batches,
}

if __name__ == "__main__":
    _, _name, _bootstrap, _topic, _count = sys.argv
    print(json.dumps(CONTENDERS[_name](_bootstrap, _topic, int(_count))), flush=True)
    os._exit(0)  # other clients' threads are not what is measured
