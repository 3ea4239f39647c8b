"""Fixtures for every folder of tests. The servers are real, start on first use and serve the whole run."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from tools.mariadb.mariadb import RealMariaDB
    from tools.postgres import RealPostgres
    from tools.redis import RealRedis
    from tools.server import RealServer

    from tests.support.kafka import RealKafka
    from tests.support.proxy import Proxy

Server = TypeVar("Server", bound="RealServer")


@pytest.fixture(scope="session")
def kafka_session() -> Iterator[RealKafka]:
    """One broker for the run. Ask for `kafka` instead: it checks that the broker still lives."""
    yield from _real_kafka(1)


@pytest.fixture(scope="session")
def kafka3_session() -> Iterator[RealKafka]:
    """Three brokers for the run. Ask for `kafka3` instead."""
    yield from _real_kafka(3)


def _real_kafka(brokers: int) -> Iterator[RealKafka]:
    from tests.support.kafka import RealKafka

    cluster = RealKafka(brokers)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def kafka(kafka_session: RealKafka) -> Iterator[RealKafka]:
    """A real Apache Kafka of one broker, shared by the run."""
    yield kafka_session
    _mend(kafka_session)


@pytest.fixture
def kafka3(kafka3_session: RealKafka) -> Iterator[RealKafka]:
    """A real Apache Kafka of three brokers, shared by the run; what a test killed or paused comes up again."""
    yield kafka3_session
    _mend(kafka3_session)


def _mend(cluster: RealKafka) -> None:
    hurt = False
    for node in cluster.nodes.values():
        if node.paused:
            cluster.resume(node.id)
            hurt = True
        if not node.running:
            cluster.restart(node.id, wait=False)
            hurt = True
    if hurt:
        cluster.wait_ready()


@pytest.fixture
def kafka_proxies(kafka: RealKafka) -> Iterator[dict[int, Proxy]]:
    """A proxy before the broker; connect clients to `kafka.proxied_bootstrap_servers`."""
    with kafka.open_proxies() as proxies:
        yield proxies


@pytest.fixture
def kafka3_proxies(kafka3: RealKafka) -> Iterator[dict[int, Proxy]]:
    """A proxy before each of three brokers, by node id; clients use `kafka3.proxied_bootstrap_servers`."""
    with kafka3.open_proxies() as proxies:
        yield proxies


def _served(server: Server) -> Iterator[Server]:
    try:
        yield server.start()
    finally:
        server.stop()


def _started_again(server: Server) -> Iterator[Server]:
    """For the test after one that has killed it."""
    yield server
    if server.process is None:
        server.start()


@pytest.fixture(scope="session")
def postgres_session() -> Iterator[RealPostgres]:
    """One PostgreSQL for the run. Ask for `postgres` instead."""
    from tools.postgres import RealPostgres

    yield from _served(RealPostgres())


@pytest.fixture
def postgres(postgres_session: RealPostgres) -> Iterator[RealPostgres]:
    """A real PostgreSQL, shared by the run: `.dsn`, `.create_database(name)`, `.kill()`, `.start()`."""
    yield from _started_again(postgres_session)


@pytest.fixture(scope="session")
def mariadb_session() -> Iterator[RealMariaDB]:
    """One MariaDB for the run. Ask for `mariadb` instead."""
    from tools.mariadb.mariadb import RealMariaDB

    yield from _served(RealMariaDB())


@pytest.fixture
def mariadb(mariadb_session: RealMariaDB) -> Iterator[RealMariaDB]:
    """A real MariaDB, shared by the run: `.create_database(name)`, `.kill()`, `.start()`."""
    yield from _started_again(mariadb_session)


@pytest.fixture(scope="session")
def redis_session() -> Iterator[RealRedis]:
    """One Redis for the run. Ask for `redis` instead."""
    from tools.redis import RealRedis

    yield from _served(RealRedis())


@pytest.fixture
def redis(redis_session: RealRedis) -> Iterator[RealRedis]:
    """A real Redis, shared by the run: `.url`, `.kill()`, `.start()`."""
    yield from _started_again(redis_session)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """unique("group") is a name that no other test and no other run has, and that says whose it is."""
    test = re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)[:60].strip("-")
    return lambda prefix: f"{prefix}-{test}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topic(unique: Callable[[str], str]) -> str:
    """The name of a topic that does not exist yet."""
    return unique("topic")
