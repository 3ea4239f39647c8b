"""Effects that are not repeated: processors with `deduplicate`, against the embedded broker."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    Deduplicate,
    DevBroker,
    KafkaConsumer,
    KafkaProducer,
    MemoryStore,
    OffsetAndMetadata,
    Processor,
    Reject,
    Retry,
    RetryTopic,
    Skip,
    SqliteStore,
    TopicPartition,
)
from penstock.errors import DeduplicationError, HandlerStoppedError, HandlerTimeoutError
from penstock.processing import dead_letters
from penstock.processing.deduplication import Answer
from tests.devbroker.test_processor import Running, all_of, committed, made, processor_of, until
from tests.support import handlers, processors


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


def rewind(broker: DevBroker, group: str, topic: str, partitions: int = 3) -> None:
    """Back to the beginning, and what is done beyond it is forgotten as well."""
    with KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id=group) as consumer:
        offsets = {TopicPartition(topic, number): OffsetAndMetadata(0) for number in range(partitions)}
        consumer.commit(offsets, allow_rewind=True)


def counted(processor: Processor, what: str) -> int:
    return sum(handler[what] for handler in processor.health().details.get("handlers", {}).values())


@pytest.mark.parametrize("executor", ["async", "thread", "process"])
@pytest.mark.parametrize("batch", [0, 50])
def test_a_group_whose_offsets_are_rewound_does_not_repeat_effects(
    broker: DevBroker, executor: Any, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, group, effects = made(broker, 300), uuid.uuid4().hex, tmp_path / "effects"
    monkeypatch.setenv("PENSTOCK_TEST_EFFECTS", str(effects))

    async def note(given: Any) -> None:
        handlers.note(given)

    def life() -> Processor:
        processor = processor_of(broker, group)
        deduplicate = Deduplicate(SqliteStore(tmp_path / "done.db"))
        declare = processor.handler(
            topic, executor=executor, batch=batch, within="20ms", deduplicate=deduplicate, name="note"
        )
        declare(note if executor == "async" else handlers.note)
        return processor

    for turn in range(2):
        processor = life()
        with Running(processor) as running:
            until(
                lambda: sum(committed(broker, group, topic).values()) == 300 or running.error, "all committed"
            )
            assert running.error is None
            assert counted(processor, "duplicates") == 300 * turn
            assert counted(processor, "failed_calls") == 0
        rewind(broker, group, topic)
    lines = effects.read_bytes().split()
    assert len(lines) == len(set(lines)) == 300


def test_a_worker_that_died_leaves_no_claim_behind(
    broker: DevBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is tried again long before the lease is over."""
    topic, group, effects = made(broker, 30), uuid.uuid4().hex, tmp_path / "effects"
    monkeypatch.setenv("PENSTOCK_TEST_EFFECTS", str(effects))
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for value in (b"die", b"hang", b"die"):
            producer.send(topic, value)
    processor = processor_of(broker, group)
    processor.handler(
        topic,
        executor="process",
        timeout="2s",
        retry=Retry(attempts=2, backoff="1ms"),
        deduplicate=Deduplicate(SqliteStore(tmp_path / "done.db"), lease="1h"),
    )(handlers.note_or_die)
    with Running(processor) as running:
        until(lambda: sum(committed(broker, group, topic).values()) == 33 or running.error, "all committed")
        assert running.error is None
    lines = effects.read_bytes().split()
    assert len(lines) == len(set(lines)) == 33


def test_a_business_key_is_done_once_in_whatever_group_has_the_namespace(broker: DevBroker) -> None:
    topic, seen, store = made(broker, 200, keys=40), Counter[bytes](), MemoryStore()

    def life(namespace: str | None) -> Processor:
        processor = processor_of(broker)

        @processor.handler(
            topic, order_by=None, deduplicate=Deduplicate(store, by="key", namespace=namespace)
        )
        async def handle(record: Any) -> None:
            await asyncio.sleep(0.001)
            seen[record.key] += 1

        return processor

    first = life("mails")
    with Running(first):
        until(lambda: counted(first, "duplicates") == 160, "all but one of each key")
    assert set(seen.values()) == {1} and len(seen) == 40
    second = life("mails")
    with Running(second):
        until(lambda: counted(second, "duplicates") == 200, "all")
    assert set(seen.values()) == {1}
    with Running(life(None)):
        until(lambda: set(seen.values()) == {2}, "another namespace is another effect")


def test_what_another_is_at_waits_and_holds_back_its_key_alone(broker: DevBroker) -> None:
    topic, store, let_go = made(broker, 60, keys=6), MemoryStore(), threading.Event()
    at, seen, slow_seen = threading.Event(), [], []

    def deduplicate() -> Deduplicate:
        return Deduplicate(store, namespace="mails")

    slow, group = processor_of(broker), uuid.uuid4().hex

    @slow.handler(topic, concurrency=1, deduplicate=deduplicate())
    def stuck(record: Any) -> None:
        slow_seen.append(record)
        at.set()
        let_go.wait(60)

    other = processor_of(broker, group)

    @other.handler(topic, deduplicate=deduplicate())
    async def handle(record: Any) -> None:
        seen.append(record)

    with Running(slow):
        until(at.is_set, "the first")
        with Running(other) as running:
            until(lambda: len(seen) == 50, "all other keys")
            until(lambda: counted(other, "postponed") > 1, "asked again")
            assert counted(other, "failed_calls") == 0 and running.error is None
            let_go.set()
            until(lambda: sum(committed(broker, group, topic).values()) == 60, "all committed")
            until(lambda: counted(other, "duplicates") + len(seen) == 60, "what the slow one did was skipped")
    assert counted_places(slow_seen + seen) == 60


def counted_places(records: Sequence[Any]) -> int:
    places = [(record.partition, record.offset) for record in records]
    assert len(places) == len(set(places))
    return len(places)


class Fragile(MemoryStore):
    """Is away while `error` is set."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.asked = 0

    def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return super().claim(ids, owner, lease_ms)

    def confirm(self, ids: Sequence[bytes], owner: str, expires_ms: int) -> list[bytes]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return super().confirm(ids, owner, expires_ms)


@pytest.mark.parametrize("executor", ["async", "thread"])
def test_a_store_that_is_away_is_no_attempt_and_no_dead_letter(broker: DevBroker, executor: str) -> None:
    topic, dead, group = made(broker, 50, keys=50), made(broker, partitions=1), uuid.uuid4().hex
    away = DeduplicationError("away", retriable=True)
    store, seen = Fragile(away), Counter[int]()
    processor = processor_of(broker, group)

    def handle(record: Any) -> None:
        number = int(record.value)
        seen[number] += 1
        if number == 7 and seen[number] < 2:
            raise ConnectionError("the one attempt that it has fails")
        if (
            number == 20
        ):  # while this is at work the store goes away, and is not there to be told that it is done
            store.error = away

    async def handle_async(record: Any) -> None:
        handle(record)

    declare = processor.handler(
        topic,
        retry=Retry(attempts=2, backoff="1ms"),
        dead_letter=dead,
        concurrency=4,
        deduplicate=Deduplicate(store),
        name="handle",
    )
    declare(handle_async if executor == "async" else handle)
    with Running(processor) as running:
        until(lambda: counted(processor, "postponed") > 60, "some tries")
        assert not seen and running.error is None
        store.error = None
        until(lambda: store.error is not None, "it goes away again")
        asked = store.asked
        until(lambda: store.asked > asked, "asked meanwhile")
        store.error = None
        until(lambda: sum(committed(broker, group, topic).values()) == 50, "all committed")
    assert seen == Counter(dict.fromkeys(range(50), 1) | {7: 2}), "an effect that was done is not repeated"
    assert not all_of(broker, dead)


def test_a_store_that_hangs_is_no_attempt_either(broker: DevBroker) -> None:
    """The handler's timeout ends the waiting, not the record's chances; handlers that hang are ended as ever."""
    topic, group = made(broker, 20, keys=20), uuid.uuid4().hex
    gate, seen, hung = threading.Event(), Counter[bytes](), Counter[bytes]()

    class Hanging(MemoryStore):
        def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
            assert gate.wait(60)
            return super().claim(ids, owner, lease_ms)

    processor = processor_of(broker, group)

    @processor.handler(
        topic,
        concurrency=5,
        timeout="100ms",
        on_error={HandlerTimeoutError: Retry(attempts=2, backoff="1ms", then=Skip())},
        deduplicate=Deduplicate(Hanging()),
    )
    async def handle(record: Any) -> None:
        if record.value == b"7":
            hung[record.value] += 1
            await asyncio.sleep(1_000)
        seen[record.value] += 1

    with Running(processor) as running:
        until(lambda: counted(processor, "postponed") > 20, "some tries")
        assert not seen and not hung and running.error is None and counted(processor, "failed_calls") == 0
        gate.set()
        until(lambda: sum(committed(broker, group, topic).values()) == 20, "all committed")
    assert seen == Counter(b"%d" % n for n in range(20) if n != 7) and hung == {b"7": 2}


def test_a_store_that_refuses_ends_the_processor(broker: DevBroker) -> None:
    topic, dead = made(broker, 5, partitions=1), made(broker, partitions=1)
    processor = processor_of(broker)

    @processor.handler(
        topic, dead_letter=dead, deduplicate=Deduplicate(Fragile(DeduplicationError("no table for you")))
    )
    async def handle(record: Any) -> None:
        raise AssertionError("unguarded")

    with Running(processor) as running:
        running.ended()
    assert isinstance(running.error, HandlerStoppedError) and "no table for you" in str(running.error)
    assert not all_of(broker, dead)


def test_retry_topics_and_redriven_dead_letters_keep_their_identity(broker: DevBroker) -> None:
    topic, later, dead, group = (
        made(broker, 20),
        made(broker, partitions=1),
        made(broker, partitions=1),
        uuid.uuid4().hex,
    )
    calls: dict[bytes, int] = defaultdict(int)
    deduplicate = Deduplicate(MemoryStore())
    ids: dict[bytes, set[str | None]] = defaultdict(set)
    processor = processor_of(broker, group)

    @processor.handler(
        topic,
        order_by=None,
        dead_letter=dead,
        on_error={ConnectionError: RetryTopic(later, delay="1ms", attempts=3)},
        deduplicate=deduplicate,
    )
    async def handle(record: Any) -> None:
        calls[record.value] += 1
        ids[record.value].add(deduplicate.id_of(record))
        if record.value == b"3" and calls[b"3"] < 3:
            raise ConnectionError
        if record.value == b"4" and calls[b"4"] < 2:
            raise Reject("not yet")

    with Running(processor):
        until(lambda: calls[b"3"] == 3, "the retries")
        until(lambda: len(all_of(broker, dead)) == 1, "the dead letter")
        (letter,) = all_of(broker, dead)
        headers = [header for header in letter.headers if header[0] not in dead_letters.REPLACED]
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for _ in range(3):  # redriven, and twice too often
                producer.send(topic, letter.raw_value, letter.raw_key, headers)
        until(lambda: sum(committed(broker, group, topic).values()) == 23, "all committed")
        assert counted(processor, "duplicates") == 2
    assert calls == {b"%d" % n: 1 for n in range(20)} | {b"3": 3, b"4": 2}
    assert all(len(of_one) == 1 for of_one in ids.values())
    assert len(set.union(*ids.values())) == 20


def test_whatever_is_killed_when_what_was_confirmed_is_not_repeated(
    broker: DevBroker, tmp_path: Path
) -> None:
    """kill -9, again and again. Only what was under way at a kill may be done twice."""
    topic, group = made(broker, 2_000, keys=2_000), uuid.uuid4().hex
    store, effects = tmp_path / "done.db", tmp_path / "effects"
    confirmed: dict[str, int] = {}  # how often its effect had been done when it was known to be confirmed

    def done() -> Counter[str]:
        return Counter(effects.read_text().split()) if effects.exists() else Counter()

    for kill in range(4):
        with processors.child(
            "mail", broker.bootstrap_servers, group, topic, str(store), str(effects)
        ) as process:
            until(lambda: done().total() > 350 * (kill + 1), "some effects")  # noqa: B023
            processors.ended(process, signal.SIGKILL)
        times = done()
        with sqlite3.connect(store) as connection:
            known = [row[0].hex() for row in connection.execute("SELECT id FROM penstock_done WHERE done")]
        connection.close()
        assert known
        confirmed.update({each: times[each] for each in known if each not in confirmed})
    other = uuid.uuid4().hex  # which reads all from the beginning, and has the same namespace
    with processors.child(
        "mail", broker.bootstrap_servers, other, topic, str(store), str(effects)
    ) as process:
        until(lambda: sum(committed(broker, other, topic).values()) == 2_000, "all committed")
        errors = processors.ended(process, signal.SIGTERM)
        assert process.returncode == 0, errors
    times = done()
    assert len(times) == 2_000, "each effect was done"
    assert {each: times[each] for each in confirmed} == confirmed, "what was confirmed was repeated"
    assert times.total() - 2_000 <= 4 * 20, "more than what was under way was repeated"
