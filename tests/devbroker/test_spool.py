"""A processor with a spool against the embedded broker: kills, outages, rewinds, topics made again, disks that fill."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    ConsumerRecords,
    DevBroker,
    KafkaConsumer,
    KafkaProducer,
    Output,
    Processor,
    Spool,
    TopicPartition,
)
from penstock.errors import ConfigError
from tests.devbroker.test_processor import Orders, Running, committed, processor_of, through_rebalances, until
from tests.devbroker.test_processor import made as made_with_keys
from tests.support.spooling import Child

_FETCH = 1


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


def made(broker: DevBroker, values: list[str], name: str | None = None) -> str:
    """A topic of one partition with these, each of another key."""
    name = name or f"t-{uuid.uuid4().hex[:8]}"
    broker.create_topic(name, partitions=1)
    write(broker, name, values)
    return name


def write(broker: DevBroker, topic: str, values: list[str]) -> None:
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number, value in enumerate(values):
            producer.send(topic, value=value.encode(), key=b"k%d" % number)


def fetched_from(broker: DevBroker, seen: list[int]) -> Any:
    """The fetch offsets that are asked for from now on."""

    def look(request: Any, connection: Any) -> None:
        seen.extend(partition.fetch_offset for topic in request.body.topics for partition in topic.partitions)

    return broker.intercept(_FETCH, look)


def test_after_a_kill_nothing_is_fetched_twice_nor_handled_twice(broker: DevBroker, tmp_path: Path) -> None:
    values = ["hangs" if number == 3 else "x" for number in range(1000)]
    topic = made(broker, values)
    with Child(
        broker.bootstrap_servers, topic, tmp_path / "spool", hangs=True, commit_interval="1h"
    ) as child:
        until(lambda: len(child.handled()) == 999 and child.done() == 999, "all but one")
        child.kill()
    assert committed(broker, f"g-{topic}", topic, 1) == {}, "nothing was committed"
    write(broker, topic, ["later"] * 5)
    asked: list[int] = []
    remove = fetched_from(broker, asked)
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool") as child:
        until(lambda: committed(broker, f"g-{topic}", topic, 1) == {0: 1005}, "all committed")
        child.stop()
    remove()
    assert sorted(child.handled()) == [3, *range(1000, 1005)]
    assert min(asked) == 1000, "what was on disk was fetched again"


def test_a_rewind_by_people_wins(broker: DevBroker, tmp_path: Path) -> None:
    topic = made(broker, ["hangs" if number == 50 else "x" for number in range(100)])
    group, tp = f"g-{topic}", TopicPartition(topic, 0)
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool", hangs=True) as child:
        until(lambda: committed(broker, group, topic, 1) == {0: 50} and child.done() == 99, "all but one")
        until(lambda: child.journal().committed == 50, "the commit is noted")
        child.kill()
    with KafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        group_id=group,
        group_instance_id="1",  # the place of the one that was killed
        enable_auto_commit=False,
    ) as consumer:
        until(lambda: consumer.poll(100) or tp in consumer.assignment(), "membership")
        consumer.commit({tp: 0}, allow_rewind=True)
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool") as child:
        until(lambda: committed(broker, group, topic, 1) == {0: 100}, "all committed")
        child.stop()
    assert sorted(child.handled()) == list(range(100))


def test_attempts_go_on_where_they_were(broker: DevBroker, tmp_path: Path) -> None:
    topic = made(broker, ["x", "fails", "x"])
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool", backoff="1s") as child:
        until(lambda: child.journal().retries and child.done() == 2, "the first failure")
        child.kill()
    before = child.handled().count(1)
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool", backoff="1ms") as child:
        until(lambda: committed(broker, f"g-{topic}", topic, 1) == {0: 3}, "it is skipped in the end")
        child.stop()
    assert child.handled() == [1] * (5 - before), "five attempts in all, and nothing else"


def test_a_topic_that_is_made_again_is_another_one(broker: DevBroker, tmp_path: Path) -> None:
    topic = made(broker, ["hangs", *["old"] * 99])
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool", hangs=True) as child:
        until(lambda: child.done() == 99, "all but one")
        child.kill()
    broker.delete_topic(topic)
    made(broker, ["new"] * 50, topic)
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool") as child:
        until(lambda: committed(broker, f"g-{topic}", topic, 1) == {0: 50}, "all committed")
        child.stop()
    assert child.notes.read_text().count("new") == 50 and "old" not in child.notes.read_text()


def test_a_topic_may_be_made_again_while_it_is_read(broker: DevBroker, tmp_path: Path) -> None:
    topic, group, seen = made(broker, ["old"] * 40), uuid.uuid4().hex, []
    processor = processor_of(broker, group, spool=tmp_path, metadata_max_age_ms=200)

    @processor.handler(topic)
    async def handle(record: Any) -> None:
        seen.append(record.value)

    with Running(processor):
        until(lambda: committed(broker, group, topic, 1) == {0: 40}, "all committed")
        broker.delete_topic(topic)
        made(broker, ["new"] * 30, topic)
        until(lambda: len(seen) == 70, "the new ones")
        until(lambda: committed(broker, group, topic, 1) == {0: 30}, "committed, and so the commit goes back")
    assert seen == [b"old"] * 40 + [b"new"] * 30


def test_records_that_the_log_has_lost_are_not_taken_from_the_spool(
    broker: DevBroker, tmp_path: Path
) -> None:
    topic = made(broker, [])
    for value in ("kept", "lost"):
        write(broker, topic, [value] * 10)
    with Child(
        broker.bootstrap_servers, topic, tmp_path / "spool", takes_s=1000, commit_interval="1h"
    ) as child:
        until(lambda: child.records_on_disk().count(b"lost") == 10, "spooled")
        child.kill()
    broker.elect(topic, end_offset=10)
    write(broker, topic, ["new"] * 5)
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool") as child:
        until(lambda: committed(broker, f"g-{topic}", topic, 1) == {0: 15}, "all committed")
        child.stop()
    assert [line.split()[2] for line in child.notes.read_text().splitlines()] == ["kept"] * 10 + ["new"] * 5


def test_bytes_that_have_changed_on_disk_are_fetched_again(broker: DevBroker, tmp_path: Path) -> None:
    topic = made(broker, [f"value-{number}" for number in range(500)])
    with Child(
        broker.bootstrap_servers, topic, tmp_path / "spool", takes_s=1000, max_buffered_records=100
    ) as child:
        until(lambda: b"value-499" in child.records_on_disk(), "spooled")
        child.kill()
    for path in child.folder.rglob("*.records"):
        data = bytearray(path.read_bytes())
        data[data.index(b"value-250")] ^= 1
        path.write_bytes(data)
    with Child(broker.bootstrap_servers, topic, tmp_path / "spool") as child:
        until(lambda: committed(broker, f"g-{topic}", topic, 1) == {0: 500}, "all committed")
        child.stop()
    lines = [line.split() for line in child.notes.read_text().splitlines()]
    assert sorted((int(offset), value) for _, offset, value in lines) == [
        (n, f"value-{n}") for n in range(500)
    ]


def test_a_disk_that_is_full_costs_nothing_but_the_spool(broker: DevBroker, tmp_path: Path) -> None:
    topic = made(broker, [f"value-{number}" for number in range(1000)])
    with Child(
        broker.bootstrap_servers,
        topic,
        tmp_path / "spool",
        takes_s=0.005,
        max_buffered_records=50,
        most_file_bytes=40_000,
    ) as child:
        until(lambda: committed(broker, f"g-{topic}", topic, 1) == {0: 1000}, "all committed")
        errors = child.stop()
    assert sorted(child.handled()) == list(range(1000))
    assert errors.count("is switched off") == 1 and "File too large" in errors


def test_during_an_outage_the_spool_is_worked_off(tmp_path: Path) -> None:
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        topic, may_go = made_with_keys(broker, 600, keys=10), asyncio.Event()
        orders, loops = Orders(), []
        processor = processor_of(
            broker, spool=tmp_path, max_buffered_records=30, max_poll_records=20, request_timeout_ms=1000
        )

        @processor.handler(topic, concurrency=5)
        async def handle(record: Any) -> None:
            loops.append(asyncio.get_running_loop())
            await may_go.wait()
            orders.begin(record)
            await asyncio.sleep(0)
            orders.end(record)

        with Running(processor) as running:
            until(lambda: processor.health().details.get("spooled_records") == 600, "all are on disk")
            until(lambda: loops, "a call")
            assert processor.health().details["held_records"] < 100, "most are on disk only"
            broker.stop()
            loops[0].call_soon_threadsafe(may_go.set)
            until(lambda: sum(map(len, orders.seen.values())) == 600, "all handled")
            assert running.error is None and not orders.faults
            broker.start()


def test_the_limit_holds(broker: DevBroker, tmp_path: Path) -> None:
    topic, group, limit = made(broker, []), uuid.uuid4().hex, 1024 * 1024
    write(broker, topic, ["x" * 10_000] * 400)
    may_go, seen, sizes = threading.Event(), [], []
    processor = processor_of(
        broker, group, spool=Spool(tmp_path, max_bytes=limit), max_buffered_records=20, max_poll_records=10
    )

    def on_disk() -> int:
        found = 0
        for path in tmp_path.rglob("*"):
            try:
                found += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue
        return found

    @processor.handler(topic, order_by="partition")
    def handle(record: Any) -> None:
        may_go.wait()
        sizes.append(on_disk())
        seen.append(record.offset)

    with Running(processor):
        until(lambda: int(processor.health().details.get("spool_bytes", 0)) > limit // 2, "it is filled")
        sizes.append(on_disk())
        may_go.set()
        until(lambda: committed(broker, group, topic, 1) == {0: 400}, "all committed")
    assert seen == list(range(400))
    assert limit // 2 < max(sizes) <= limit


@pytest.mark.parametrize("read_ahead", [True, False])
def test_rebalances_lose_nothing_and_overlap_nowhere(
    broker: DevBroker, tmp_path: Path, read_ahead: bool
) -> None:
    group, spool = uuid.uuid4().hex, Spool(tmp_path, read_ahead=read_ahead)
    through_rebalances(broker, group, 2_000, spool=spool, max_buffered_records=100, max_poll_records=50)
    assert {path.name for path in (tmp_path / group).iterdir()} == {"0", "1"}, "each has a folder of its own"


def test_with_transactions_no_output_is_lost_and_none_repeated(broker: DevBroker, tmp_path: Path) -> None:
    """What is done and not committed has its outputs in memory: a journal must not call it done."""
    topic, target = made(broker, [str(number) for number in range(50)]), made(broker, [])
    group, called, may_go = f"g-{topic}", [], threading.Event()

    def processor() -> Processor:
        made = processor_of(broker, group, exactly_once=True, spool=tmp_path, drain_timeout="10ms")

        @made.handler(topic, output=target)
        async def handle(record: Any) -> Output:
            while record.offset == 3 and not may_go.is_set():
                await asyncio.sleep(0.01)
            called.append(record.offset)
            return Output(record.value)

        return made

    with Running(processor()):
        until(lambda: len(called) == 49 and committed(broker, group, topic, 1) == {0: 3}, "all but one")
    may_go.set()
    with Running(processor()):
        until(lambda: committed(broker, group, topic, 1) == {0: 50}, "all committed")
        time.sleep(0.3)  # and the processor has heard of it
    assert sorted(called) == sorted([*range(3), 3, *(list(range(4, 50)) * 2)])
    found: list[int] = []
    with KafkaConsumer(
        target,
        bootstrap_servers=broker.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        group_id=uuid.uuid4().hex,
    ) as consumer:
        until(
            lambda: found.extend(int(r.value) for r in consumer.poll(100)) or len(found) >= 50, "all outputs"
        )
        found.extend(int(record.value) for record in consumer.poll(300))
    assert found == list(range(50))


class Rows:
    """A sink that keeps rows and offsets in memory; `may_go` lets it write."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []
        self.offsets: dict[TopicPartition, int] = {}
        self.may_go = threading.Event()

    def open(self, group_id: str) -> None:
        """Nothing to connect to."""

    def assigned(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.offsets[tp] for tp in partitions if tp in self.offsets}

    def write(self, records: ConsumerRecords) -> None:
        self.may_go.wait()
        self.rows.extend((record.partition, record.offset) for record in records)
        self.offsets.update(records.next_offsets())

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Nobody else writes."""

    def close(self) -> None:
        """Nothing to give back."""


def test_a_sink_goes_on_from_the_spool_at_its_own_offsets(broker: DevBroker, tmp_path: Path) -> None:
    topic, group, rows = made_with_keys(broker, 900), uuid.uuid4().hex, Rows()

    def processor(drain_timeout: str) -> Processor:
        made = processor_of(
            broker,
            group,
            spool=tmp_path,
            max_buffered_records=60,
            max_poll_records=20,
            drain_timeout=drain_timeout,
        )
        made.sink(topic, sink=rows, batch=10)
        return made

    first = processor("10ms")
    with Running(first):
        until(lambda: first.health().details.get("spooled_records") == 900, "all are on disk")
        first.stop()
        rows.may_go.set()
    before = len(rows.rows)
    assert before < 100
    asked: list[int] = []
    remove = fetched_from(broker, asked)
    with Running(processor("10s")):
        until(lambda: len(rows.rows) == 900, "all rows")
        until(lambda: sum(committed(broker, group, topic).values()) == 900, "all committed")
    remove()
    assert asked and min(asked) > 200, "what was on disk was fetched again"
    for partition in range(3):
        offsets = [offset for where, offset in rows.rows if where == partition]
        assert offsets == list(range(len(offsets)))


def test_a_folder_that_cannot_be_used_is_told_at_once(broker: DevBroker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    processor = processor_of(broker, spool=tmp_path / "file")
    processor.handler(made(broker, []))(print)
    with pytest.raises(ConfigError, match="cannot be used"):
        processor.run()
