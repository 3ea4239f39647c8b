"""A long run of a processor of whose records one in a hundred fails: is its memory flat, and is every record accounted for?

python tools/soak_processing.py [--minutes 10] [--rate 5000] [--bootstrap HOST:PORT]

Records are produced at the rate; the processor runs in a process of its own and tells its memory. It passes if in the end each record was
handled or is a dead letter, all is committed, and the memory of the last quarter is that of the second one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    # Run as a file: the repository stands in for this folder.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from penstock import Admin, KafkaConsumer, KafkaProducer, Processor, Retry, TopicPartition
from penstock.admin import NewTopic
from penstock.processing.resources import memory_bytes

ROOT = Path(__file__).resolve().parent.parent
PARTITIONS, KEYS, BAD_EVERY = 3, 1_000, 100
CATCH_UP_S = 120.0
GROWTH_BYTES, GROWTH_SHARE = 12_000_000, 0.10
"""What the memory may grow by between the two quarters: the larger one. A leak of a record in a hundred is far more in ten minutes."""
SAMPLE_S = 0.25


def main() -> int:
    parser = argparse.ArgumentParser(description="A processor with failing records, for a long time")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=int, default=5_000, help="records a second (default 5,000)")
    parser.add_argument("--bootstrap", help="a broker that runs already")
    parser.add_argument("--child", nargs=3, metavar=("BOOTSTRAP", "TOPIC", "GROUP"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        process(*given.child)
        return 0
    if given.bootstrap:
        return run(given.bootstrap, given.minutes * 60, given.rate)
    from tools.kafka.kafka import KafkaCluster

    with KafkaCluster() as cluster:
        return run(cluster.bootstrap_servers, given.minutes * 60, given.rate)


# ---------------------------------------------------------------- the processor


def process(bootstrap: str, topic: str, group: str) -> None:
    """Runs until it is told to stop, and prints its memory and counts."""
    logging.basicConfig(level=logging.ERROR)  # a line for each dead letter would be all there is to see
    config = {"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest"}
    processor = Processor(config)

    @processor.handler(
        topic,
        concurrency=200,
        retry=Retry(attempts=2, backoff="20ms"),
        dead_letter=f"{topic}.dlq",
        name="soak",
    )
    async def handle(record: Any) -> None:
        await asyncio.sleep(0.002)
        if int(record.value) % BAD_EVERY == 0:
            raise ValueError(f"{record.value!r} is one of those that fail")

    def tell() -> None:
        while True:
            time.sleep(SAMPLE_S)
            handlers: Any = processor.health().details.get("handlers", {})
            print(json.dumps({"memory": memory_bytes(), **handlers.get("soak", {})}), flush=True)

    threading.Thread(target=tell, daemon=True).start()
    processor.run()


# ---------------------------------------------------------------- the judge


class Samples:
    """What the child has told, read by a thread."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.memory: list[int] = []
        self.last: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            with contextlib.suppress(ValueError):
                self.last = json.loads(line)
                self.memory.append(self.last["memory"])


def run(bootstrap: str, seconds: float, rate: int) -> int:
    """0 if all is as it should be."""
    topic, group = f"soak-{uuid.uuid4().hex[:8]}", f"soak-{uuid.uuid4().hex[:8]}"
    with Admin(bootstrap_servers=bootstrap) as admin:
        admin.create_topics([NewTopic(topic, PARTITIONS), NewTopic(f"{topic}.dlq", 1)])
    command = [sys.executable, str(Path(__file__)), "--child", bootstrap, topic, group]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        samples = Samples(child)
        count = feed(bootstrap, topic, seconds, rate, samples)
        flat = samples.memory[:]
        done = caught_up(bootstrap, topic, group, count, child)
        child.terminate()
        code = child.wait(30)
        return judge(bootstrap, topic, count, done, code, flat)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def feed(bootstrap: str, topic: str, seconds: float, rate: int, samples: Samples) -> int:
    """Produce at the rate; how many."""
    count = 0
    began_s = told_s = time.monotonic()
    with KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5) as producer:
        while (now_s := time.monotonic()) < began_s + seconds:
            due = int((now_s - began_s) * rate)
            while count < due:
                producer.produce(topic, b"%d" % count, b"key-%d" % (count % KEYS))
                count += 1
            if now_s - told_s > 30:
                told_s = now_s
                print(f"{now_s - began_s:6.0f} s  {count:,} produced  {samples.last}", flush=True)
            time.sleep(0.01)
        producer.flush()
    return count


def caught_up(bootstrap: str, topic: str, group: str, count: int, child: subprocess.Popen[str]) -> bool:
    """Whether all is committed, within some time."""
    partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
    deadline_s = time.monotonic() + CATCH_UP_S
    with KafkaConsumer(bootstrap_servers=bootstrap, group_id=group) as consumer:
        while time.monotonic() < deadline_s and child.poll() is None:
            committed = consumer.committed(partitions)
            if sum(entry.offset for entry in committed.values() if entry is not None) == count:
                return True
            time.sleep(0.2)
    return False


def dead_letters(bootstrap: str, topic: str) -> list[int]:
    found: list[int] = []
    with KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        tp = TopicPartition(f"{topic}.dlq", 0)
        consumer.assign([tp])
        consumer.seek_to_beginning()
        end = consumer.end_offsets([tp])[tp]
        while len(found) < end:
            found += [int(record.value) for record in consumer.poll(1000)]
    return found


def judge(bootstrap: str, topic: str, count: int, done: bool, code: int, memory: list[int]) -> int:
    quarter = len(memory) // 4
    second, last = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    letters = dead_letters(bootstrap, topic)
    expected = list(range(0, count, BAD_EVERY))
    print(
        f"{count:,} records, {len(letters):,} dead letters; memory {second / 1e6:.1f} MB in the second quarter, {last / 1e6:.1f} MB in "
        f"the last ({len(memory)} samples)"
    )
    wrong = []
    if not done:
        wrong.append("not all is committed")
    if code:
        wrong.append(f"the processor ended with {code}")
    if sorted(letters) != expected:
        wrong.append(f"{len(expected):,} dead letters were expected, each once")
    if last - second > max(GROWTH_BYTES, second * GROWTH_SHARE):
        wrong.append("the memory grows")
    for text in wrong:
        print(f"error: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
