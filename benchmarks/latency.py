"""Latency and start-up: `python -m benchmarks.latency KIND CONTENDER '{"bootstrap": ...}'` runs one, in its own process.

latency   another process stores a record every 5 ms and writes the time into it; here, the time between that and the
          moment the record is in the user's hands. Both read the same clock (CLOCK_MONOTONIC of one machine).
startup   from calling the constructor to the first assignment of a new group with one member.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INTERVAL_MS = 5
WARMUP_RECORDS = 50
DEADLINE_S = 30.0


# ---------------------------------------------------------------- the producing side
def produce(bootstrap: str, topic: str, count: int) -> None:
    """A record every 5 ms whose value is the time, in ns, at which it was handed to the producer."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": 1})
    due = time.monotonic()
    for _ in range(count):
        due += INTERVAL_MS / 1000
        time.sleep(max(0.0, due - time.monotonic()))
        producer.produce(topic, str(time.monotonic_ns()).encode(), b"key")
        producer.poll(0)
    producer.flush(10)


@contextmanager
def _producing(bootstrap: str, topic: str, count: int) -> Iterator[None]:
    arguments = json.dumps({"bootstrap": bootstrap, "topic": topic, "count": count})
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.latency", "produce", "-", arguments])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


class _Sample:
    """Delays in ms; the first ones, in which connections and caches warm up, do not count."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._delays_ms: list[float] = []
        self._deadline = time.monotonic() + DEADLINE_S + count * INTERVAL_MS / 1000

    def add(self, value: bytes) -> None:
        self._delays_ms.append((time.monotonic_ns() - int(value)) / 1e6)

    @property
    def done(self) -> bool:
        if time.monotonic() > self._deadline:
            raise RuntimeError(f"only {len(self._delays_ms)} of {self._count} records arrived in time")
        return len(self._delays_ms) >= self._count

    def result(self) -> dict[str, float]:
        delays_ms = self._delays_ms[WARMUP_RECORDS:]
        hundredths = statistics.quantiles(delays_ms, n=100)
        return {"p50_ms": hundredths[49], "p99_ms": hundredths[98], "max_ms": max(delays_ms)}


def _latency_penstock(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    from penstock import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    consumer.poll(timeout=500)
    sample = _Sample(count)
    with _producing(bootstrap, topic, count):
        while not sample.done:
            for record in consumer.poll(timeout=200):
                sample.add(record.value)
    consumer.close()
    return sample.result()


def _latency_confluent(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "latency", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    consumer.poll(0.5)
    sample = _Sample(count)
    with _producing(bootstrap, topic, count):
        while not sample.done:
            message = consumer.poll(0.2)
            if message is not None and not message.error():
                sample.add(message.value() or b"")
    consumer.close()
    return sample.result()


def _latency_aiokafka(bootstrap: str, topic: str, count: int) -> dict[str, float]:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    async def read() -> dict[str, float]:
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
        await consumer.start()
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek(TopicPartition(topic, 0), 0)
        await consumer.getmany(timeout_ms=500)
        sample = _Sample(count)
        with _producing(bootstrap, topic, count):
            while not sample.done:
                found = await consumer.getmany(timeout_ms=200)
                for messages in found.values():
                    for message in messages:
                        sample.add(message.value)
        await consumer.stop()
        return sample.result()

    return asyncio.run(read())


# ---------------------------------------------------------------- start-up
class _Assigned:
    """A rebalance listener in everybody's shape; remembers when partitions were assigned first."""

    def __init__(self) -> None:
        self.at_s: float | None = None
        self.begin_s = time.monotonic()

    def note(self, *_: Any) -> None:
        if self.at_s is None:
            self.at_s = time.monotonic()

    on_partitions_assigned = note

    def on_partitions_revoked(self, *_: Any) -> None:
        """Not of interest."""

    on_partitions_lost = on_partitions_revoked

    @property
    def waiting(self) -> bool:
        if time.monotonic() > self.begin_s + DEADLINE_S:
            raise RuntimeError(f"no assignment within {DEADLINE_S} s")
        return self.at_s is None

    @property
    def took_s(self) -> float:
        assert self.at_s is not None
        return self.at_s - self.begin_s


def _startup_penstock(bootstrap: str, topic: str, group: str) -> float:
    from penstock import KafkaConsumer

    assigned = _Assigned()
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    consumer.subscribe([topic], listener=assigned)
    while assigned.waiting:
        consumer.poll(timeout=100)
    consumer.close()
    return assigned.took_s


def _startup_confluent(bootstrap: str, topic: str, group: str) -> float:
    from confluent_kafka import Consumer

    assigned = _Assigned()
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    consumer.subscribe([topic], on_assign=assigned.note)
    while assigned.waiting:
        consumer.poll(0.1)
    consumer.close()
    return assigned.took_s


def _startup_aiokafka(bootstrap: str, topic: str, group: str) -> float:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.abc import ConsumerRebalanceListener

    class Listener(_Assigned, ConsumerRebalanceListener):
        pass

    async def join() -> float:
        assigned = Listener()
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
        consumer.subscribe([topic], listener=assigned)
        await consumer.start()
        while assigned.waiting:
            await consumer.getmany(timeout_ms=100)
        await consumer.stop()
        return assigned.took_s

    return asyncio.run(join())


def _startup_kafka_python(bootstrap: str, topic: str, group: str) -> float:
    from kafka import ConsumerRebalanceListener, KafkaConsumer

    class Listener(_Assigned, ConsumerRebalanceListener):
        pass

    assigned = Listener()
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    consumer.subscribe([topic], listener=assigned)
    while assigned.waiting:
        consumer.poll(timeout_ms=100)
    consumer.close()
    return assigned.took_s


LATENCY: dict[str, Callable[[str, str, int], dict[str, float]]] = {
    "penstock": _latency_penstock,
    "confluent-kafka": _latency_confluent,
    "aiokafka": _latency_aiokafka,
}
STARTUP: dict[str, Callable[[str, str, str], float]] = {
    "penstock": _startup_penstock,
    "confluent-kafka": _startup_confluent,
    "aiokafka": _startup_aiokafka,
    "kafka-python": _startup_kafka_python,
}


# ---------------------------------------------------------------- both, from the outside
def run(bootstrap: str, quick: bool, rounds: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Latency and start-up, `rounds` times each in shuffled order (the medians count); a contender may be absent.

    A first round of latency does not count: in it the broker's JVM compiles what single records go through, at the cost of
    whoever comes first.
    """
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": bootstrap})

    def new_topic() -> str:
        topic = f"bench-latency-{uuid.uuid4().hex[:8]}"
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
        return topic

    found_latency: dict[str, list[dict[str, Any]]] = {name: [] for name in LATENCY}
    for number in range(1 + rounds):
        for name in random.sample(list(LATENCY), len(LATENCY)):
            order = {"bootstrap": bootstrap, "topic": new_topic(), "count": 300 if quick else 1_200}
            one = _child("latency", name, order)
            report(f"latency, round {number}, {name}: {one}")
            if number:
                found_latency[name].append(one)
    latency = {name: _median_of(found) for name, found in found_latency.items()}
    startup: dict[str, Any] = {}
    topic = new_topic()
    for name in STARTUP:
        found = []
        for _ in range(rounds):
            order = {"bootstrap": bootstrap, "topic": topic, "group": f"bench-{uuid.uuid4().hex[:8]}"}
            found.append(_child("startup", name, order))
        problems = [one for one in found if "problem" in one]
        times_ms = [one["startup_ms"] for one in found if "startup_ms" in one]
        startup[name] = problems[0] if problems else {"startup_ms": statistics.median(times_ms)}
        report(f"start-up, {name}: {startup[name]}")
    return {"latency": latency, "startup": startup}


def _median_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    problems = [one for one in found if "problem" in one]
    return (
        problems[0] if problems else {key: statistics.median(one[key] for one in found) for key in found[0]}
    )


def _child(kind: str, contender: str, order: dict[str, Any]) -> dict[str, Any]:
    arguments = [sys.executable, "-m", "benchmarks.latency", kind, contender, json.dumps(order)]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired:
        return {"problem": "did not end within 90 s"}
    if done.returncode != 0:
        return {"problem": (done.stderr.strip() or "no output").splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    kind, contender, order = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    if kind == "produce":
        produce(**order)
        return
    try:
        if kind == "latency":
            print(json.dumps(LATENCY[contender](**order)))
        else:
            print(json.dumps({"startup_ms": STARTUP[contender](**order) * 1000}))
    except ImportError as error:
        print(json.dumps({"problem": f"not built or not installed ({type(error).__name__}: {error.name})"}))


if __name__ == "__main__":
    sys.modules["hypothesis"] = None  # type: ignore[assignment]  # see child.py
    main()
