"""Ids of records, and what stands between an executor and a handler that must not do a thing twice."""

from __future__ import annotations

import asyncio
import pickle
import struct
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from penstock import ConsumerRecord, ConsumerRecords, Deduplicate, MemoryStore, Processor, SqliteStore
from penstock._native import BatchBuilder, decode_batches
from penstock.errors import ConfigError, DeduplicationError, IllegalStateError, ProcessingError
from penstock.processing import dead_letters
from penstock.processing.deduplication import Answer
from penstock.processing.deduplication.claims import Claims
from penstock.processing.deduplication.guard import CoroutineGuard, PlainGuard
from penstock.processing.deduplication.identity import Identity
from penstock.processing.failure import NotNow
from penstock.processing.work import Duplicates

Header = tuple[str, bytes | None]


def records_of(
    *values: bytes | None, keys: Sequence[bytes | None] = (), headers: Sequence[Header] = (), topic: str = "t"
) -> ConsumerRecords:
    builder = BatchBuilder()
    for index, value in enumerate(values):
        builder.append(1_700_000_000_000 + index, keys[index] if keys else None, value, list(headers))
    return decode_batches(builder.build(), topic=topic, partition=2)


def record_of(value: bytes | None = b"v", key: bytes | None = None, **rest: Any) -> ConsumerRecord:
    return records_of(value, keys=[key], **rest)[0]


def id_by(by: Any, record: ConsumerRecord, scope: Sequence[str] = ("g", "h")) -> bytes | None:
    return Identity(by, scope, ["t"]).of(record)


# ---------------------------------------------------------------- ids


def test_an_id_is_of_a_place_and_of_a_namespace() -> None:
    first, second = records_of(b"v", b"v")
    assert id_by("record", first) == id_by("record", record_of(b"another value, the same place"))
    assert id_by("record", first) != id_by("record", second)
    assert id_by("record", first) != id_by("record", first, ("g", "other"))
    assert id_by("record", first, ("ab", "c")) != id_by("record", first, ("a", "bc"))
    assert len(id_by("record", first) or b"") == 16


def origin(topic: bytes, offset: int, timestamp: int) -> list[Header]:
    return [
        (dead_letters.TOPIC, topic),
        (dead_letters.PARTITION, struct.pack(">i", 2)),
        (dead_letters.OFFSET, struct.pack(">q", offset)),
        (dead_letters.TIMESTAMP, struct.pack(">q", timestamp)),
    ]


def test_a_record_that_came_back_has_the_id_of_its_first_place() -> None:
    first = record_of()
    back = records_of(b"w", b"v", headers=origin(b"t", 0, first.timestamp))[1]
    assert id_by("record", back) == id_by("record", first)
    retried = records_of(b"w", b"v", headers=origin(b"t", 0, first.timestamp), topic="t.later")[1]
    assert id_by("record", retried) == id_by("record", first)


def test_headers_that_were_copied_from_another_topic_are_not_believed() -> None:
    one, two = records_of(b"v", b"v", headers=origin(b"upstream", 0, 5))
    assert id_by("record", one) != id_by("record", two)
    short, other = records_of(
        b"v", b"v", headers=[(dead_letters.TOPIC, b"t"), (dead_letters.PARTITION, b"2")]
    )
    assert id_by("record", short) != id_by("record", other)


def test_a_topic_that_was_made_again_has_other_ids() -> None:
    builder = BatchBuilder()
    builder.append(1_800_000_000_000, None, b"v")
    again = decode_batches(builder.build(), topic="t", partition=2)[0]
    assert id_by("record", again) != id_by("record", record_of())


def test_business_keys() -> None:
    assert id_by("key", record_of(key=b"k")) == id_by("key", records_of(b"", b"", keys=[b"", b"k"])[1])
    assert id_by("key", record_of(key=None)) is None
    assert id_by("header:id", record_of(headers=[("id", b"7")])) != id_by(
        "header:id", record_of(headers=[("id", b"8")])
    )
    assert id_by("header:id", record_of()) is None
    field = [
        id_by("value.a.b", record_of(b'{"a": {"b": %s}}' % raw)) for raw in (b"1", b'"1"', b"1", b"[2,1]")
    ]
    assert len(set(field)) == 3 and field[0] == field[2]
    ordered = [id_by("value.a", record_of(raw)) for raw in (b'{"a":{"x":1,"y":2}}', b'{"a": {"y":2, "x":1}}')]
    assert ordered[0] == ordered[1]
    for none in (b'{"a": {}}', b'{"a": {"b": null}}', b"[]", None):
        assert id_by("value.a.b", record_of(none)) is None
    assert id_by(lambda record: record.value.decode(), record_of()) == id_by(lambda record: b"v", record_of())
    assert id_by(lambda record: None, record_of()) is None
    with pytest.raises(ProcessingError, match="t-2 offset 0: the value is no JSON"):
        id_by("value.a", record_of(b"{"))
    with pytest.raises(ProcessingError, match="returned int"):
        id_by(lambda record: 7, record_of())


def test_what_does_not_go_together_is_refused_with_a_remedy() -> None:
    for wrong in ("keys", "header:", "value.", "value", "value.a..b", ""):
        with pytest.raises(ConfigError, match="by is 'record'"):
            Deduplicate(MemoryStore(), by=wrong)
    with pytest.raises(ConfigError, match="needs a store"):
        Deduplicate("done.db")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="longer than 0"):
        Deduplicate(MemoryStore(), lease=0)
    with pytest.raises(IllegalStateError, match="give this to a handler first"):
        Deduplicate(MemoryStore()).id_of(record_of())
    given: dict[str, Any] = {"bootstrap_servers": "localhost:1", "group_id": "g"}
    processor = Processor(given)
    with pytest.raises(ConfigError, match="SqliteStore"):
        processor.handler("a", executor="process", deduplicate=Deduplicate(MemoryStore()))(print)
    with pytest.raises(ConfigError, match="output='x'"):
        processor.handler("a", output="x", deduplicate=Deduplicate(MemoryStore()))(print)
    with pytest.raises(ConfigError, match="longer than the lease"):
        processor.handler("a", timeout="1m", deduplicate=Deduplicate(MemoryStore(), lease="1m"))(print)
    with pytest.raises(ConfigError, match="exactly_once"):
        Processor(given, exactly_once=True).handler("a", deduplicate=Deduplicate(MemoryStore()))(print)
    shared = Deduplicate(MemoryStore())
    processor.handler("a", deduplicate=shared, name="one")(print)
    with pytest.raises(ConfigError, match="make another"):
        processor.handler("b", deduplicate=shared, name="two")(print)


def test_id_of_is_what_the_store_knows_and_names_the_group_and_the_handler() -> None:
    def told(group: str, name: str, namespace: str | None = None) -> str | None:
        deduplicate = Deduplicate(MemoryStore(), namespace=namespace)
        Processor(bootstrap_servers="localhost:1", group_id=group).handler(
            "t", deduplicate=deduplicate, name=name
        )(print)
        return deduplicate.id_of(record_of())

    assert len({told("g", "h"), told("g", "i"), told("f", "h"), told("f", "h", "n")}) == 4
    assert told("f", "h", "n") == told("g", "i", "n")
    found = told("g", "h")
    assert found is not None and len(found) == 32 and int(found, 16)


# ---------------------------------------------------------------- a guard


class Watched(MemoryStore):
    """Counts calls; can be away, or slow."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []
        self.away_for: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def _called(self, what: str, ids: Sequence[bytes]) -> None:
        self.calls.append((what, len(ids)))
        assert self.gate.wait(30)
        if what in self.away_for:
            raise DeduplicationError("away", retriable=True)

    def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
        self._called("claim", ids)
        return super().claim(ids, owner, lease_ms)

    def confirm(self, ids: Sequence[bytes], owner: str, expires_ms: int) -> list[bytes]:
        self._called("confirm", ids)
        return super().confirm(ids, owner, expires_ms)

    def release(self, ids: Sequence[bytes], owner: str) -> None:
        self._called("release", ids)
        super().release(ids, owner)


noted_keys: list[bytes] = []


async def noted(record: Any) -> None:
    """Where another process would find it."""
    await asyncio.sleep(0)
    noted_keys.append(record.key)


def claims_of(store: Any) -> Claims:
    return Claims(store, name="h", lease_ms=60_000, expires_ms=60_000)


def plain(handler: Any, store: Any, by: Any = "record", *, batch: bool = False) -> PlainGuard:
    return PlainGuard(handler, Identity(by, ("g",), ["t"]), claims_of(store), batch=batch)


def coroutine(handler: Any, store: Any, by: Any = "record", *, batch: bool = False) -> CoroutineGuard:
    return CoroutineGuard(handler, Identity(by, ("g",), ["t"]), claims_of(store), batch=batch)


def test_what_is_done_is_left_out_and_what_failed_is_tried_again() -> None:
    seen: list[Any] = []

    def handler(record: Any) -> None:
        seen.append(record.value)
        if len(seen) == 1:
            raise OSError

    store = MemoryStore()
    guard, other = plain(handler, store), plain(handler, store)
    with pytest.raises(OSError):
        guard(record_of())
    assert other(record_of()) is None, "the claim was given back"
    assert guard(record_of()) == other(record_of()) == Duplicates(1, called=False)
    assert len(seen) == 2


def test_what_another_is_at_is_not_run_now_here_or_elsewhere() -> None:
    store = MemoryStore()
    inside: list[PlainGuard] = []

    def handler(record: Any) -> None:
        for each in inside:
            with pytest.raises(NotNow):
                each(record)

    guard = plain(handler, store)
    inside.extend([guard, plain(print, store)])
    assert guard(record_of()) is None


def test_a_batch_has_only_what_is_new_and_each_id_once() -> None:
    seen: list[list[bytes]] = []
    guard = plain(lambda records: seen.append([r.value for r in records]), MemoryStore(), "key", batch=True)
    keys = [b"a", b"b", None, b"a", b"c", None]
    assert guard(records_of(*(b"%d" % n for n in range(6)), keys=keys)) == Duplicates(1, called=True)
    assert guard(records_of(b"6", b"7", b"8", keys=[b"c", b"d", b"a"])) == Duplicates(2, called=True)
    assert guard(records_of(b"9", b"10", keys=[b"c", b"d"])) == Duplicates(2, called=False)
    assert guard(records_of(b"11", keys=[b"e"])) is None
    assert seen == [[b"0", b"1", b"2", b"4", b"5"], [b"7"], [b"11"]]


def test_a_batch_waits_while_another_is_at_one_of_it_and_claims_nothing_meanwhile() -> None:
    store, seen = MemoryStore(), []
    guard = plain(lambda records: seen.extend(records), store, "key", batch=True)
    other = claims_of(store)
    busy = Identity("key", ("g",), ["t"]).of(record_of(key=b"b"))
    assert busy is not None and other.claim([busy]) == ["new"]
    batch = records_of(b"1", b"2", keys=[b"a", b"b"])
    with pytest.raises(NotNow):
        guard(batch)
    assert len(store) == 1 and not seen
    other.release([busy])
    assert guard(batch) is None and len(seen) == 2


def test_a_handler_that_returns_something_is_told_so() -> None:
    with pytest.raises(DeduplicationError, match="returned bytes") as told:
        plain(lambda record: b"x", MemoryStore())(record_of())
    assert not told.value.retriable


def test_a_store_that_is_away_runs_nothing_and_a_confirmation_is_owed() -> None:
    store, seen = Watched(), []
    guard = plain(lambda record: seen.append(record), store)
    store.away_for = {"claim"}
    with pytest.raises(DeduplicationError) as away:
        guard(record_of())
    assert away.value.retriable and not seen
    store.away_for = {"confirm"}
    with pytest.raises(DeduplicationError):
        guard(record_of())
    assert len(seen) == 1 and guard.claims.owed == 1
    with pytest.raises(DeduplicationError):
        guard(record_of())
    assert len(seen) == 1, "its own claim, which it may claim again, must not run it again"
    store.away_for = set()
    assert guard(record_of()) == Duplicates(1, called=False)
    assert guard.claims.owed == 0


def test_an_own_claim_whose_answer_or_release_was_lost_does_not_wait_for_its_lease() -> None:
    store, calls = Watched(), [0]

    def handler(record: Any) -> None:
        calls[0] += 1
        if calls[0] == 1:
            store.away_for = {"release"}
            raise OSError

    guard = plain(handler, store)
    with pytest.raises(OSError):
        guard(record_of())
    store.away_for = set()
    assert guard(record_of()) is None


def test_a_lease_that_was_over_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    store = MemoryStore(clock_ms=lambda: now[0])

    def slow(record: Any) -> None:
        now[0] += 61_000
        assert plain(lambda record: None, store)(record) is None

    assert plain(slow, store)(record_of()) is None
    assert "may be done twice" in caplog.text


def test_a_store_of_others_that_raises_anything_is_no_failure_of_the_handler() -> None:
    class Odd(MemoryStore):
        def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
            raise KeyError("odd")

    with pytest.raises(DeduplicationError, match="KeyError"):
        plain(print, Odd())(record_of())


def test_a_guard_goes_to_workers_as_its_settings(tmp_path: Any) -> None:
    guard = plain(print, SqliteStore(tmp_path / "done.db"))
    one, other = pickle.loads(pickle.dumps(guard)), pickle.loads(pickle.dumps(guard))
    assert one(record_of()) is None
    assert other(record_of()) == guard(record_of()) == Duplicates(1, called=False)
    worker = pickle.loads(pickle.dumps(plain(noted, SqliteStore(tmp_path / "done.db"), "key")))
    assert worker(record_of(key=b"k")) is None and noted_keys == [b"k"]
    assert worker(record_of(key=b"k")) == Duplicates(1, called=False)
    for each in (guard, one, other, worker):
        each.claims.store.close()


# ---------------------------------------------------------------- coroutines


async def test_a_thousand_coroutines_ask_in_few_calls() -> None:
    store, seen = Watched(), []

    async def handler(record: Any) -> None:
        seen.append(record.offset)

    guard = coroutine(handler, store)
    records = records_of(*[b"v"] * 1_000)
    assert await asyncio.gather(*(guard(record) for record in records)) == [None] * 1_000
    assert store.calls == [("claim", 1_000), ("confirm", 1_000)]
    assert (
        await asyncio.gather(*(guard(record) for record in records)) == [Duplicates(1, called=False)] * 1_000
    )
    assert len(seen) == 1_000
    await guard.close()


async def test_a_cancelled_handler_gives_its_claim_back() -> None:
    store, began = Watched(), asyncio.Event()

    async def handler(record: Any) -> None:
        began.set()
        await asyncio.sleep(1_000)

    guard = coroutine(handler, store)
    task = asyncio.create_task(guard(record_of()))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await guard.close()
    assert store.calls[-1] == ("release", 1) and len(store) == 0


async def test_a_claim_that_nobody_waits_for_any_more_is_given_back() -> None:
    store, seen = Watched(), []

    async def handler(record: Any) -> None:
        with pytest.raises(NotNow):
            plain(print, store)(record)
        seen.append(record)

    guard = coroutine(handler, store)
    store.gate.clear()
    task = asyncio.create_task(guard(record_of()))
    while not store.calls:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(DeduplicationError, match="in time"):
        await task
    assert task.cancelling() == 0
    again = asyncio.create_task(guard(record_of()))
    store.gate.set()
    assert await again is None and len(seen) == 1
    await guard.close()


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_timeout_while_it_is_confirmed_does_not_repeat_the_effect(stopping: bool) -> None:
    store, seen = Watched(), []

    async def handler(record: Any) -> None:
        seen.append(record)
        store.gate.clear()

    guard = coroutine(handler, store)
    task = asyncio.create_task(guard(record_of()))
    while ("confirm", 1) not in store.calls:
        await asyncio.sleep(0)
    guard.stopping = stopping
    task.cancel()
    with pytest.raises(asyncio.CancelledError if stopping else DeduplicationError):
        await task
    again = asyncio.create_task(guard(record_of()))
    store.gate.set()
    assert await again == Duplicates(1, called=False)
    assert len(seen) == 1
    await guard.close()


async def test_what_is_owed_is_confirmed_before_anything_is_claimed(caplog: pytest.LogCaptureFixture) -> None:
    store, seen = Watched(), []

    async def handler(record: Any) -> None:
        seen.append(record.offset)

    guard = coroutine(handler, store)
    first, second = records_of(b"v", b"v")
    store.away_for = {"confirm"}
    with pytest.raises(DeduplicationError):
        await guard(first)
    with pytest.raises(DeduplicationError):
        await guard(second)
    assert seen == [0]
    store.away_for = set()
    assert await guard(second) is None
    assert await guard(first) == Duplicates(1, called=False)
    assert caplog.text.count("store is away") == caplog.text.count("store is back") == 1
    store.away_for = {"confirm"}
    with pytest.raises(DeduplicationError):
        await guard(records_of(b"", b"", b"")[2])
    await guard.close()
    assert "1 effects are done, but" in caplog.text
