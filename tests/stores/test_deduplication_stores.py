"""One contract for all stores, against the real servers."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as redis_client
from hypothesis import HealthCheck, given, settings
from tools.postgres import RealPostgres
from tools.redis import RealRedis

from penstock import Deduplicate, DevBroker, MemoryStore, PostgresStore, RedisStore, SqliteStore
from penstock.errors import ConfigError, DeduplicationError
from penstock.processing.deduplication import DeduplicationStore
from penstock.processing.deduplication.store import SWEEP_ROWS
from tests.devbroker.test_processor import Running, committed, made, processor_of, until
from tests.support.stores import IDS, STEPS, Clock, Model, Step, many, meet, won, won_at_once

WAIT_S = 30.0
LONG_MS = 600_000
Make = Callable[[], DeduplicationStore]

SERVED = [
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("redis", marks=pytest.mark.redis),
]


@pytest.fixture(params=["memory", "sqlite", *SERVED])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Stores of one place, with nothing in it; one of memory is always the same."""
    made: list[DeduplicationStore] = []
    memory = MemoryStore()
    name = f"t_{uuid.uuid4().hex[:12]}"

    def make() -> DeduplicationStore:
        match request.param:
            case "memory":
                return memory
            case "sqlite":
                made.append(SqliteStore(tmp_path / "done.db"))
            case "postgres":
                made.append(PostgresStore(request.getfixturevalue("postgres").dsn, table=name))
            case "redis":
                made.append(RedisStore(request.getfixturevalue("redis").url, prefix=f"{name}:"))
        return made[-1]

    yield make
    for store in made:
        store.close()


def test_claimed_confirmed_released(make: Make) -> None:
    store, other = make(), make()
    store.open()
    assert store.claim(IDS, "a", LONG_MS) == ["new"] * 4
    assert other.claim(IDS, "b", LONG_MS) == ["busy"] * 4
    assert store.claim(IDS[:1], "a", LONG_MS) == ["new"], "the answer may have been lost"
    other.release(IDS, "b")
    assert other.claim(IDS, "b", LONG_MS) == ["busy"] * 4, "a claim was released that was another's"
    assert store.confirm(IDS[:2], "a", LONG_MS) == store.confirm(IDS[:2], "a", LONG_MS) == []
    store.release(IDS, "a")
    assert other.claim([IDS[3], *IDS[:3]], "b", LONG_MS) == ["new", "done", "done", "new"]
    assert store.claim(IDS, "a", LONG_MS) == ["done", "done", "busy", "busy"]
    assert sorted(store.confirm(IDS, "a", LONG_MS)) == IDS[2:]
    assert other.confirm(IDS[2:], "b", LONG_MS) == []
    assert store.claim(IDS, "a", LONG_MS) == ["done"] * 4
    assert store.claim([], "a", LONG_MS) == store.confirm([], "a", LONG_MS) == []
    store.release([], "a")


def test_a_lease_ends_and_another_takes_over(make: Make) -> None:
    store, other = make(), make()
    store.claim(IDS[:3], "a", 50)
    store.claim(IDS[3:], "a", LONG_MS)
    until(lambda: other.claim(IDS[:2], "b", LONG_MS) == ["new", "new"], "the lease is over")
    assert other.claim(IDS[3:], "b", LONG_MS) == ["busy"]
    assert store.confirm(IDS, "a", LONG_MS) == IDS[:2], "two are another's"
    other.confirm(IDS[:1], "b", LONG_MS)
    assert make().claim(IDS, "c", LONG_MS) == ["done", "busy", "done", "done"]


def test_what_is_done_expires(make: Make) -> None:
    store = make()
    store.claim(IDS, "a", LONG_MS)
    store.confirm(IDS[:2], "a", 50)
    store.confirm(IDS[2:], "a", LONG_MS)
    until(lambda: store.claim(IDS[:2], "b", LONG_MS) == ["new", "new"], "it expires")
    assert store.claim(IDS, "c", LONG_MS) == ["busy", "busy", "done", "done"]


def test_of_threads_that_claim_at_once_one_gets_it(make: Make) -> None:
    ids, got = many(300), Counter[bytes]()
    lock = threading.Lock()
    shared = make()

    def race(number: int) -> None:
        mine = won(shared if number % 2 else make(), f"owner-{number}", ids)
        with lock:
            got.update(mine)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert got == Counter(ids)


def test_of_processes_that_claim_at_once_one_gets_it(make: Make) -> None:
    store, ids = make(), many(1_500)
    if store.one_process:
        pytest.skip("of one process")
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    with ProcessPoolExecutor(2, mp_context=context, initializer=meet, initargs=(ready,)) as pool:
        racing = [pool.submit(won_at_once, store, f"owner-{number}", ids) for number in range(2)]
        got = [each.result(WAIT_S) for each in racing]
    assert Counter(got[0] + got[1]) == Counter(ids)
    assert all(got), "there was no race"


def test_thousands_of_ids(make: Make) -> None:
    store, ids = make(), many(2_500)
    assert store.claim(ids, "a", LONG_MS) == ["new"] * 2_500
    assert store.confirm(ids[:2_000], "a", LONG_MS) == []
    assert Counter(store.claim(ids, "b", LONG_MS)) == {"done": 2_000, "busy": 500}


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_it_does_as_the_model_while_no_time_passes(make: Make, steps: list[Step]) -> None:
    store, model = make(), Model(Clock())
    salt = uuid.uuid4().bytes[:8]
    for what, ids, owner, _ in steps:
        mine = [salt + each[:8] for each in ids]
        match what:
            case "claim":
                assert store.claim(mine, owner, LONG_MS) == [
                    model.claim(each, owner, LONG_MS) for each in ids
                ]
            case "confirm":
                lost = [
                    m for m, each in zip(mine, ids, strict=True) if not model.confirm(each, owner, LONG_MS)
                ]
                assert sorted(store.confirm(mine, owner, LONG_MS)) == sorted(lost)
            case "release":
                store.release(mine, owner)
                for each in ids:
                    model.release(each, owner)
    store.close()


# ---------------------------------------------------------------- servers


@pytest.mark.parametrize("kind", SERVED)
def test_a_server_that_was_killed_is_away_and_then_there_again(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: RealPostgres | RealRedis = request.getfixturevalue(kind)
    store: Any = PostgresStore(server.dsn) if isinstance(server, RealPostgres) else RedisStore(server.url)
    ids = many(4, of=int.from_bytes(uuid.uuid4().bytes[:7]))
    assert store.claim(ids, "a", LONG_MS) == ["new"] * 4
    assert store.confirm(ids[:2], "a", LONG_MS) == []
    server.kill()
    for call in (
        store.open,
        lambda: store.claim(ids, "a", LONG_MS),
        lambda: store.confirm(ids, "a", LONG_MS),
    ):
        with pytest.raises(DeduplicationError) as away:
            call()
        assert away.value.retriable
    server.start()
    assert store.claim(ids, "b", LONG_MS) == ["done", "done", "busy", "busy"]
    server.kill()
    server.start()
    assert store.claim(ids, "b", LONG_MS) == ["done", "done", "busy", "busy"], (
        "a lost connection is made again"
    )
    store.close()


@pytest.mark.postgres
def test_postgres_is_swept_in_small_steps(postgres: RealPostgres) -> None:
    name = f"swept_{uuid.uuid4().hex[:8]}"
    store = PostgresStore(postgres.dsn, table=name)
    store.confirm(many(2 * SWEEP_ROWS + 5), "a", 1)
    left = []
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        until(
            lambda: _count(connection, f"{name} WHERE until <= now()") == 2 * SWEEP_ROWS + 5, "all are over"
        )
        for _ in range(4):
            store.claim([], "a", LONG_MS)
            left.append(_count(connection, name))
    assert left == [SWEEP_ROWS + 5, 5, 0, 0]
    store.close()


def _count(connection: Any, rows: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])


@pytest.mark.postgres
def test_postgres_what_has_expired_and_is_taken_at_this_moment_is_busy(postgres: RealPostgres) -> None:
    """The statement began when the row was done, and over; another takes it, and this one waits for the other's transaction."""
    name = f"raced_{uuid.uuid4().hex[:8]}"
    store = PostgresStore(postgres.dsn, table=name)
    store.confirm(IDS[:1], "a", 1)
    answers: list[Any] = []
    with psycopg.connect(postgres.dsn) as other, psycopg.connect(postgres.dsn, autocommit=True) as watch:
        until(lambda: _count(watch, f"{name} WHERE until <= now()") == 1, "it is over")
        other.execute(f"UPDATE {name} SET owner = 'b', done = false, until = now() + interval '1 h'")
        thread = threading.Thread(target=lambda: answers.extend(store.claim(IDS[:1], "c", LONG_MS)))
        thread.start()
        waiting = f"pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{name}%'"
        until(lambda: _count(watch, waiting) == 1, "it waits")
        other.commit()
        thread.join(WAIT_S)
    assert answers == ["busy"]
    store.close()


@pytest.mark.postgres
def test_postgres_that_refuses_is_no_reason_to_wait(postgres: RealPostgres) -> None:
    schema, user = f"s_{uuid.uuid4().hex[:8]}", f"u_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            f'CREATE SCHEMA {schema}; CREATE TABLE {schema}."Other" (x int); CREATE ROLE {user} LOGIN'
        )
    allowed = PostgresStore(postgres.dsn, table=f"{schema}.Done")
    allowed.open()
    assert allowed.claim(IDS, "a", LONG_MS) == ["new"] * 4, "a name with capitals, in a schema"
    refused = PostgresStore(postgres.dsn.replace("postgres@", f"{user}@"), table=f"{schema}.Done")
    for store in (refused, PostgresStore(postgres.dsn, table=f"{schema}.Other")):
        with pytest.raises(DeduplicationError, match="refuses") as told:
            store.claim(IDS, "a", LONG_MS)
        assert not told.value.retriable
        store.close()
    allowed.close()


@pytest.mark.postgres
def test_postgres_by_a_function_that_connects(postgres: RealPostgres) -> None:
    store = PostgresStore(lambda: psycopg.connect(postgres.dsn), table=f"t_{uuid.uuid4().hex[:8]}")
    assert store.claim(IDS, "a", LONG_MS) == ["new"] * 4
    store.close()
    assert store.claim(IDS, "b", LONG_MS) == ["busy"] * 4
    store.close()


@pytest.mark.redis
def test_redis_by_a_client_and_what_it_refuses(redis: RealRedis) -> None:
    prefix = f"{uuid.uuid4().hex}:"
    with redis_client.Redis.from_url(redis.url) as client:
        store = RedisStore(client, prefix=prefix)
        assert store.claim(IDS, "a", LONG_MS) == ["new"] * 4
        store.close()
        assert store.claim(IDS, "b", LONG_MS) == ["busy"] * 4
        with pytest.raises(TypeError, match="give it a URL"):
            pickle.dumps(store)
        assert all(0 < client.pttl(key) <= LONG_MS for key in client.scan_iter(f"{prefix}*"))
        client.rpush(f"{prefix}{bytes([9] * 16).hex()}", "a list")
        with pytest.raises(DeduplicationError, match="refuses") as told:
            store.claim([bytes([9] * 16)], "a", LONG_MS)
        assert not told.value.retriable


def test_a_password_is_never_told(caplog: pytest.LogCaptureFixture) -> None:
    texts = []
    for make in (
        lambda: PostgresStore("postgresql//user:hunter2@host/db"),
        lambda: RedisStore("rediss//:hunter2@localhost:1/0"),
        lambda: RedisStore("redis://:hunter2@localhost:port/0"),
    ):
        with pytest.raises(ConfigError) as told:
            make()
        texts += [repr(told.value), repr(told.value.__cause__)]
    for store in (
        PostgresStore("postgresql://user:hunter2@127.0.0.1:1/db"),
        RedisStore("redis://user:hunter2@127.0.0.1:1/0"),
    ):
        with pytest.raises(DeduplicationError) as away:
            store.claim(IDS, "a", LONG_MS)
        assert away.value.retriable
        texts += [repr(store), repr(away.value), repr(away.value.__cause__)]
    assert "hunter2" not in "".join([*texts, caplog.text])


@pytest.mark.parametrize("kind", SERVED)
def test_effects_are_done_once_while_the_server_comes_and_goes(
    kind: str, request: pytest.FixtureRequest
) -> None:
    server: RealPostgres | RealRedis = request.getfixturevalue(kind)
    store: Any = PostgresStore(server.dsn) if isinstance(server, RealPostgres) else RedisStore(server.url)
    seen: Counter[bytes] = Counter()
    with DevBroker(group_initial_rebalance_delay_ms=0) as broker:
        topic, group = made(broker, 1_000, keys=1_000), uuid.uuid4().hex
        processor = processor_of(broker, group)

        @processor.handler(topic, concurrency=10, deduplicate=Deduplicate(store), name="handle")
        async def handle(record: Any) -> None:
            await asyncio.sleep(0.002)
            seen[record.value] += 1

        with Running(processor) as running:
            until(lambda: len(seen) > 200, "some effects")
            server.kill()
            until(lambda: processor.health().details["handlers"]["handle"]["postponed"] > 0, "some wait")  # type: ignore[index]
            server.start()
            until(lambda: sum(committed(broker, group, topic).values()) == 1_000 or running.error, "all")
            assert running.error is None
    assert seen == Counter({b"%d" % number: 1 for number in range(1_000)})
