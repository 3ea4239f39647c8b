"""Throttled by a broker (KIP-219): it answers at once and says for how long it wants silence."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from penstock import Admin, DevBroker, KafkaConsumer, KafkaProducer
from penstock.cluster import Address
from penstock.engine.connection import BrokerConnection, ConnectionSettings, DisconnectedError
from penstock.engine.thread import EngineThread
from penstock.protocol import Api

WAIT_S = 30.0
THROTTLE_MS = 300


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


@pytest.fixture
def engine() -> Iterator[EngineThread]:
    thread = EngineThread("throttled")
    thread.start()
    yield thread
    thread.stop()


class Arrivals:
    """When requests of some APIs reached the broker, and the first METADATA throttled."""

    def __init__(self, broker: DevBroker, throttle_ms: int) -> None:
        self.order: list[int] = []
        self.at: dict[int, float] = {}
        self._throttle_ms = throttle_ms
        for key in (Api.METADATA, Api.LIST_GROUPS, Api.DESCRIBE_GROUPS, Api.HEARTBEAT):
            broker.intercept(key, self._note)

    def _note(self, request: Any, connection: Any) -> dict[str, Any] | None:
        self.order.append(request.api_key)
        self.at[request.api_key] = time.monotonic()
        if request.api_key == Api.METADATA:
            return {"throttle_time": self._throttle_ms, "brokers": [], "topics": []}
        return None


async def opened(engine: EngineThread, broker: DevBroker) -> BrokerConnection:
    host, port = broker.bootstrap_servers.split(":")
    connection = BrokerConnection(engine, Address(host, int(port)), -1, ConnectionSettings("throttled"))
    await connection.open()
    return connection


def test_the_next_request_waits_and_a_heartbeat_does_not(broker: DevBroker, engine: EngineThread) -> None:
    arrivals = Arrivals(broker, THROTTLE_MS)

    async def run() -> int:
        connection = await opened(engine, broker)
        await connection.request(Api.METADATA, topics=[])
        await asyncio.gather(
            connection.request(Api.LIST_GROUPS),
            connection.request(Api.DESCRIBE_GROUPS, groups=[]),
            connection.request(Api.HEARTBEAT, group_id="g", generation_id=1, member_id="m"),
        )
        connection.close("done")
        return connection.throttled_ms_total

    assert engine.ask(run) == THROTTLE_MS
    assert arrivals.order == [Api.METADATA, Api.HEARTBEAT, Api.LIST_GROUPS, Api.DESCRIBE_GROUPS]
    assert arrivals.at[Api.LIST_GROUPS] - arrivals.at[Api.METADATA] >= THROTTLE_MS / 1000


def test_closing_does_not_wait_and_tells_those_who_do(broker: DevBroker, engine: EngineThread) -> None:
    arrivals = Arrivals(broker, 3_600_000)

    async def run() -> None:
        connection = await opened(engine, broker)
        await connection.request(Api.METADATA, topics=[])
        waiting = asyncio.ensure_future(connection.request(Api.LIST_GROUPS))
        await asyncio.sleep(0)
        connection.close("no patience")
        with pytest.raises(DisconnectedError, match="no patience"):
            await waiting

    engine.call(run).result(WAIT_S)
    assert arrivals.order == [Api.METADATA]


def test_a_waiting_request_can_be_given_up(broker: DevBroker, engine: EngineThread) -> None:
    Arrivals(broker, THROTTLE_MS)

    async def run() -> None:
        connection = await opened(engine, broker)
        await connection.request(Api.METADATA, topics=[])
        first = asyncio.ensure_future(connection.request(Api.LIST_GROUPS))
        second = asyncio.ensure_future(connection.request(Api.LIST_GROUPS))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is not None, "who waits beside it is not given up"
        connection.close("done")

    engine.call(run).result(WAIT_S)


def test_before_the_version_that_says_so_the_wait_is_over_already(
    broker: DevBroker, engine: EngineThread
) -> None:
    Arrivals(broker, 3_600_000)

    async def run() -> int:
        connection = await opened(engine, broker)
        await connection.request(Api.METADATA, at_most=5, topics=[])
        await connection.request(Api.LIST_GROUPS)
        connection.close("done")
        return connection.throttled_ms_total

    assert engine.call(run).result(WAIT_S) == 3_600_000


def test_a_throttled_fetch_is_followed_by_silence(broker: DevBroker) -> None:
    count = itertools.count()
    at: list[float] = []

    def throttle(request: Any, connection: Any) -> dict[str, Any] | None:
        at.append(time.monotonic())
        return {"throttle_time": THROTTLE_MS, "responses": []} if next(count) == 0 else None

    with Admin(bootstrap_servers=broker.bootstrap_servers) as admin:
        admin.create_topics(["t"])
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        producer.send("t", b"v").result(WAIT_S)
    broker.intercept(Api.FETCH, throttle)
    with KafkaConsumer(
        "t", bootstrap_servers=broker.bootstrap_servers, group_id="g", auto_offset_reset="earliest"
    ) as consumer:
        deadline = time.monotonic() + WAIT_S
        while not consumer.poll(timeout=100):
            assert time.monotonic() < deadline
        stats = consumer._core.fetcher.stats()
    assert stats["throttle_ms_total"] == stats["throttle_ms_max"] == THROTTLE_MS
    assert at[1] - at[0] >= THROTTLE_MS / 1000
