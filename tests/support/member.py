"""A consumer in a process of its own that notes all it does: penstock's, librdkafka's or kafka-python's.

    python -m tests.support.member '{"kind": "penstock", "name": ..., "bootstrap": ..., "group": ..., "topic": ...}'

Each note is one line of JSON on standard output, written whole and at once, so that a kill loses nothing of what came before:

    {"t": ns, "e": "given" | "taken" | "lost", "p": [[topic, partition], ...]}
    {"t": ns, "e": "read", "r": [[topic, partition, offset, value], ...]}
    {"t": ns, "e": "commit", "id": n, "o": [[topic, partition, offset], ...]}      before it is sent
    {"t": ns, "e": "committed", "id": n, "x": null or the error}
    {"t": ns, "e": "error", "x": what poll raised}   {"t": ns, "e": "closed"}

It ends in order, leaving its group, when its standard input ends. Records are noted before they are committed.
tests/support/java/Member.java is the same for Java's client.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

POLL_MS = 100
Offsets = Mapping[tuple[str, int], int]


class Notes:
    """What this process does, on its standard output."""

    def __init__(self, pace_ms: int) -> None:
        self.stop = threading.Event()
        self._pace_s = pace_ms / 1000
        self._ids = itertools.count()
        self._lock = threading.Lock()
        threading.Thread(target=self._wait_for_the_end, daemon=True).start()

    def _wait_for_the_end(self) -> None:
        sys.stdin.read()
        self.stop.set()

    def note(self, event: str, **fields: Any) -> None:
        line = json.dumps({"t": time.monotonic_ns(), "e": event, **fields}) + "\n"
        with self._lock:
            os.write(1, line.encode())

    def partitions(self, event: str, partitions: Iterable[Any]) -> None:
        self.note(event, p=[[tp.topic, tp.partition] for tp in partitions])

    def read(self, records: list[tuple[str, int, int, bytes]]) -> None:
        if records:
            self.note("read", r=[[t, p, o, value.decode()] for t, p, o, value in records])
            if self._pace_s:
                time.sleep(self._pace_s)

    def commit(self, offsets: Offsets, send: Callable[[], object]) -> None:
        """A failed commit is noted: a member that has been away for too long is refused."""
        if not offsets:
            return
        number = next(self._ids)
        self.note("commit", id=number, o=[[t, p, o] for (t, p), o in offsets.items()])
        error = None
        try:
            send()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        self.note("committed", id=number, x=error)

    def guarded(
        self, poll: Callable[[], list[tuple[str, int, int, bytes]]]
    ) -> list[tuple[str, int, int, bytes]]:
        """What poll() returns; an error that it raises is noted, and reading goes on."""
        try:
            return poll()
        except Exception as raised:
            self.note("error", x=f"{type(raised).__name__}: {raised}")
            return []


def next_offsets(records: Iterable[tuple[str, int, int, bytes]], before: dict[tuple[str, int], int]) -> None:
    for topic, partition, offset, _ in records:
        before[(topic, partition)] = offset + 1


def run_penstock(given: dict[str, Any], notes: Notes) -> None:
    from penstock import KafkaConsumer, TopicPartition

    logging.basicConfig(format="%(asctime)s %(name)s %(message)s")  # standard error: shown when a test fails
    logging.getLogger("penstock").setLevel("DEBUG")

    done: dict[tuple[str, int], int] = {}

    def commit() -> None:
        offsets = {TopicPartition(*place): offset for place, offset in done.items()}
        notes.commit(dict(done), lambda: consumer.commit(offsets))

    class Listener:
        def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
            notes.partitions("given", partitions)

        def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
            commit()
            self._forget(partitions)
            notes.partitions("taken", partitions)

        def on_partitions_lost(self, partitions: list[TopicPartition]) -> None:
            self._forget(partitions)
            notes.partitions("lost", partitions)

        def _forget(self, partitions: list[TopicPartition]) -> None:
            for tp in partitions:
                done.pop(tuple(tp), None)

    config = {
        "bootstrap.servers": given["bootstrap"],
        "group.id": given["group"],
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        **given["config"],
    }
    with KafkaConsumer(**config) as consumer:
        if given["assign"] is None:
            consumer.subscribe([given["topic"]], listener=Listener())
        else:
            own = [TopicPartition(given["topic"], number) for number in given["assign"]]
            consumer.assign(own)
            notes.partitions("given", own)
        while not notes.stop.is_set():
            records = notes.guarded(
                lambda: [
                    (r.topic, r.partition, r.offset, r.raw_value or b"")
                    for r in consumer.poll(timeout=POLL_MS)
                ]
            )
            notes.read(records)
            next_offsets(records, done)
            if records and given["assign"] is None:
                commit()


def run_confluent(given: dict[str, Any], notes: Notes) -> None:
    from confluent_kafka import Consumer, TopicPartition

    done: dict[tuple[str, int], int] = {}

    def commit() -> None:
        offsets = [TopicPartition(topic, partition, offset) for (topic, partition), offset in done.items()]
        notes.commit(dict(done), lambda: consumer.commit(offsets=offsets, asynchronous=False))

    def forget(event: str, partitions: list[Any]) -> None:
        if event == "taken":
            commit()
        for tp in partitions:
            done.pop((tp.topic, tp.partition), None)
        notes.partitions(event, partitions)

    consumer = Consumer(
        {
            "bootstrap.servers": given["bootstrap"],
            "group.id": given["group"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 2,
            **given["config"],
        }
    )
    consumer.subscribe(
        [given["topic"]],
        on_assign=lambda _, partitions: notes.partitions("given", partitions),
        on_revoke=lambda _, partitions: forget("taken", partitions),
        on_lost=lambda _, partitions: forget("lost", partitions),
    )

    def poll() -> list[tuple[str, int, int, bytes]]:
        messages = consumer.consume(500, timeout=POLL_MS / 1000)
        return [
            (m.topic(), m.partition(), m.offset(), m.value() or b"") for m in messages if m.error() is None
        ]

    while not notes.stop.is_set():
        records = notes.guarded(poll)
        notes.read(records)
        next_offsets(records, done)
        if records:
            commit()
    consumer.close()


def run_kafka_python(given: dict[str, Any], notes: Notes) -> None:
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
    from kafka.coordinator.assignors.range import RangePartitionAssignor
    from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
    from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

    import kafka

    known = (
        RangePartitionAssignor,
        RoundRobinPartitionAssignor,
        StickyPartitionAssignor,
        CooperativeStickyAssignor,
    )
    config = {name.replace(".", "_"): value for name, value in given["config"].items()}
    assignor = config.pop("partition_assignment_strategy")
    done: dict[Any, int] = {}

    def commit() -> None:
        offsets = {tp: kafka.OffsetAndMetadata(offset, "", -1) for tp, offset in done.items()}
        notes.commit({tuple(tp): offset for tp, offset in done.items()}, lambda: consumer.commit(offsets))

    class Listener(kafka.ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned: Any) -> None:
            notes.partitions("given", assigned)

        def on_partitions_revoked(self, revoked: Any) -> None:
            commit()
            self._forget("taken", revoked)

        def on_partitions_lost(self, lost: Any) -> None:
            self._forget("lost", lost)

        def _forget(self, event: str, partitions: Any) -> None:
            for tp in partitions:
                done.pop(tp, None)
            notes.partitions(event, partitions)

    consumer = kafka.KafkaConsumer(
        bootstrap_servers=given["bootstrap"],
        group_id=given["group"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        partition_assignment_strategy=[next(each for each in known if each.name == assignor)],
        **config,
    )
    consumer.subscribe([given["topic"]], listener=Listener())

    def poll() -> list[tuple[str, int, int, bytes]]:
        found = consumer.poll(timeout_ms=POLL_MS)
        return [
            (r.topic, r.partition, r.offset, r.value or b"") for records in found.values() for r in records
        ]

    while not notes.stop.is_set():
        records = notes.guarded(poll)
        notes.read(records)
        for topic, partition, offset, _ in records:
            done[kafka.TopicPartition(topic, partition)] = offset + 1
        if records:
            commit()
    consumer.close()


RUNS = {"penstock": run_penstock, "confluent": run_confluent, "kafka-python": run_kafka_python}


def main() -> None:
    given = json.loads(sys.argv[1])
    notes = Notes(given.get("pace_ms", 0))
    RUNS[given["kind"]](given, notes)
    notes.note("closed")


if __name__ == "__main__":
    main()
