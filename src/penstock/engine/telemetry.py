"""Reading the measurements, and pushing them to brokers that ask for them (KIP-714)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from .._native import VERSION
from ..config import Config
from ..errors import KafkaError, UnsupportedVersionError
from ..metrics import Consumed, ConsumerMetrics, MetricName, Place
from ..metrics.push import DEFAULT_INTERVAL_MS, LEAST_DELAY_MS, Next, PushLedger, PushMachine, Subscription
from ..protocol import Api, error_name
from ..types import TopicPartition
from .backoff import Backoff
from .client import ClusterClient
from .connection import BrokerConnection
from .thread import EngineThread

_log = logging.getLogger("penstock.engine.telemetry")

OBSERVE_INTERVAL_MS: Final = 1_000
CLOSE_TIMEOUT_MS: Final = 1_000
_NO_COMPRESSION, _GZIP = 0, 1
_LABELS: Final = {
    "group.id": "group_id",
    "group.instance.id": "group_instance_id",
    "client.rack": "client_rack",
}


class Counters(Protocol):
    """What the native Fetcher counts."""

    def stats(self) -> dict[str, int]: ...
    def places(self, handles: Sequence[int]) -> list[Place]: ...
    def partition_stats(self, handle: int) -> tuple[int, int]: ...


class Meter:
    """Carries the native plane's counters into the measurements. Lives in the engine's thread."""

    def __init__(
        self,
        engine: EngineThread,
        metrics: ConsumerMetrics,
        counters: Counters,
        handles: Mapping[TopicPartition, int],
        *,
        preferred_replicas: Callable[[], Mapping[TopicPartition, int]] = dict,
        heartbeats: Callable[[], tuple[int, int, int] | None] = lambda: None,
    ) -> None:
        """`handles` is the engine's own map of what is assigned; `preferred_replicas` tells what is read from followers;
        `heartbeats` of the connection that repeats them: (its id, how many it sent, milliseconds since the last answer)."""
        self._engine = engine
        self._metrics = metrics
        self._counters = counters
        self._handles = handles
        self._preferred_replicas = preferred_replicas
        self._heartbeats = heartbeats

    async def run(self) -> None:
        """Observe until cancelled: every second, with more than 500 partitions more rarely, so that it stays far below a
        hundredth of a core."""
        while True:
            self.observe()
            await asyncio.sleep(max(OBSERVE_INTERVAL_MS, 2 * len(self._handles)) / 1000)

    def observe(self) -> None:
        """Take note of the counters now. Also called before partitions are given up, whose counters go with them."""
        places, consumed = self._partitions()
        self._metrics.observe(self._engine.now_ms(), self._counters.stats(), places, consumed)
        self._observe_heartbeats()

    def _observe_heartbeats(self) -> None:
        beats = self._heartbeats()
        if beats is not None:
            self._metrics.heartbeats(self._engine.now_ms(), *beats)

    def snapshot(self) -> dict[MetricName, float]:
        """All measurements as they stand."""
        self._observe_heartbeats()
        places, consumed = self._partitions()
        return self._metrics.snapshot(
            self._engine.now_ms(),
            self._counters.stats(),
            places,
            len(self._handles),
            consumed,
            self._preferred_replicas(),
        )

    def _partitions(self) -> tuple[dict[TopicPartition, Place], dict[TopicPartition, Consumed]]:
        handles = dict(self._handles)
        places = dict(zip(handles, self._counters.places(list(handles.values())), strict=True))
        consumed = {}
        for tp, handle in handles.items():
            try:
                consumed[tp] = Consumed(handle, *self._counters.partition_stats(handle))
            except KeyError:
                break  # the fetcher was closed by the user's thread meanwhile, and has forgotten all
        return places, consumed


class TelemetryPusher:
    """Asks a broker what it wants to be told, and tells it. Lives in the engine's thread; no failure of it reaches anyone.

    `member_id` is the group's name for this consumer, empty while it has none; written by whoever drives the group.
    """

    def __init__(
        self, client: ClusterClient, config: Config, snapshot: Callable[[], Mapping[MetricName, float]]
    ) -> None:
        """`snapshot` reads the measurements; it is called in the engine's thread before each push."""
        self.member_id = ""
        self._client = client
        self._engine = client.engine
        self._snapshot = snapshot
        self._labels = {label: str(config[name]) for name, label in _LABELS.items() if config.get(name)}
        self._machine = PushMachine(self._engine.now_ms())
        self._ledger = PushLedger(time.time_ns())
        self._backoff = Backoff(LEAST_DELAY_MS, DEFAULT_INTERVAL_MS)
        self._closing = asyncio.Event()
        self._instance_id: asyncio.Future[uuid.UUID] = self._engine.loop.create_future()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin in the background. In the engine's thread."""
        self._task = self._engine.spawn(self._run(), "telemetry")

    async def client_instance_id(self) -> uuid.UUID:
        """What brokers call this client; waits until one has named it, so bound it with ClusterClient.within().

        UnsupportedVersionError where no broker takes telemetry.
        """
        return await asyncio.shield(self._instance_id)

    async def close(self, timeout_ms: float = CLOSE_TIMEOUT_MS) -> None:
        """Push once more, as the last time, if anything was asked for; then end. Takes at most `timeout_ms`."""
        self._closing.set()
        if self._task is not None:
            if self._machine.next is Next.PUSH:
                await asyncio.wait({self._task}, timeout=timeout_ms / 1000)
            self._task.cancel()
        self._machine.end()
        self._no_instance_id("it was closed")

    # ------------------------------------------------------------ inside

    async def _run(self) -> None:
        if self._client.snapshot.version == 0:
            await self._client.updated()  # the first connection is for what the user waits for
        while self._machine.next is not Next.NOTHING:
            if await self._closed_before(self._machine.due_ms):
                if self._machine.next is Next.PUSH:
                    await self._step(terminating=True)
                return
            await self._step()
        if not self._instance_id.done():
            self._no_instance_id("every broker that was asked refused to take telemetry")

    async def _closed_before(self, due_ms: float) -> bool:
        left_s = (due_ms - self._engine.now_ms()) / 1000
        if left_s > 0:
            try:
                async with asyncio.timeout(left_s):
                    await self._closing.wait()
            except TimeoutError:
                pass
        return self._closing.is_set()

    async def _step(self, terminating: bool = False) -> None:
        try:
            connection = await self._broker()
            if connection is None:
                self._machine.not_offered(self._engine.now_ms())
                self._no_instance_id(
                    "no broker that can be reached offers GetTelemetrySubscriptions: it takes an Apache Kafka from 3.7 on with a "
                    "metrics plugin (metric.reporters) that receives clients' telemetry"
                )
            elif self._machine.next is Next.SUBSCRIBE:
                await self._subscribe(connection)
            else:
                await self._push(connection, terminating)
        except Exception as error:  # whatever it is, consuming goes on
            expected = isinstance(error, KafkaError)
            _log.debug(
                "telemetry was not sent: %s; trying again", error, exc_info=None if expected else error
            )
            self._machine.not_sent(self._engine.now_ms(), self._backoff.next_ms())

    async def _broker(self) -> BrokerConnection | None:
        """A connection whose broker offers the API, preferably the one that is there anyway; None if none does."""
        connection = await self._client.any_connection()
        opened = (self._client.opened(node_id) for node_id in self._client.snapshot.brokers)
        for candidate in (connection, *opened):
            versions = None if candidate is None else candidate.versions
            if versions is not None and versions.offers(Api.GET_TELEMETRY_SUBSCRIPTIONS):
                return candidate
        return None

    async def _subscribe(self, connection: BrokerConnection) -> None:
        before = self._machine.subscription
        response = await connection.request(
            Api.GET_TELEMETRY_SUBSCRIPTIONS,
            client_instance_id=None if before is None else before.client_instance_id,
        )
        now_ms = self._engine.now_ms()
        self._backoff.reset()
        code = int(response.error_code)
        if code:
            _log.debug("%s refuses to say what telemetry it wants: %s", connection.address, error_name(code))
            self._machine.refused(code, now_ms)
        else:
            subscription = _subscription(response, before)
            if before is not None and before.delta != subscription.delta:
                self._ledger.reset()
            self._machine.subscribed(subscription, now_ms, random.uniform(0.5, 1.5))
            _log.debug("%s wants telemetry: %s", connection.address, subscription)
            self._named(subscription.client_instance_id)
        self._heed_throttle(response, now_ms)

    async def _push(self, connection: BrokerConnection, terminating: bool) -> None:
        subscription = self._machine.subscription
        assert subscription is not None
        packed = self._pack(subscription)
        if packed is None:
            _log.debug("nothing that fits into the %d bytes that a push may have", subscription.max_bytes)
            self._machine.pushed(self._engine.now_ms())
            return
        compression, payload = packed
        response = await connection.request(
            Api.PUSH_TELEMETRY,
            client_instance_id=subscription.client_instance_id,
            subscription_id=subscription.subscription_id,
            terminating=terminating,
            compression_type=compression,
            metrics=payload,
        )
        now_ms = self._engine.now_ms()
        self._backoff.reset()
        code = int(response.error_code)
        if code:
            _log.debug("%s refuses telemetry: %s", connection.address, error_name(code))
            self._machine.refused(code, now_ms)
        else:
            self._ledger.taken()
            self._machine.pushed(now_ms)
        self._heed_throttle(response, now_ms)

    def _pack(self, subscription: Subscription) -> tuple[int, bytes] | None:
        """(compression type, bytes) of what is to be told, with less detail where the whole would be too much; None if nothing fits."""
        values = self._snapshot()
        labels = self._labels | ({"group_member_id": self.member_id} if self.member_id else {})
        while True:
            payload = self._ledger.payload(
                values,
                subscription,
                time.time_ns(),
                resource=labels,
                version=VERSION,
                left_out=self._machine.left_out,
            )
            compression = _NO_COMPRESSION
            if _GZIP in subscription.compression_types and not self._machine.compression_refused:
                compression, payload = _GZIP, _gzip(payload)
            if subscription.max_bytes <= 0 or len(payload) <= subscription.max_bytes:
                return compression, payload
            if not self._machine.too_large():
                return None

    def _heed_throttle(self, response: Any, now_ms: int) -> None:
        throttled_ms = response.throttle_time.total_seconds() * 1000
        self._machine.due_ms = max(self._machine.due_ms, now_ms + throttled_ms)

    def _named(self, instance_id: uuid.UUID) -> None:
        if self._instance_id.done() and self._instance_id.exception() is not None:
            self._instance_id = self._engine.loop.create_future()
        if not self._instance_id.done():
            self._instance_id.set_result(instance_id)
            _log.info("%s: brokers call this client %s in its telemetry", self._engine.name, instance_id)

    def _no_instance_id(self, reason: str) -> None:
        if not self._instance_id.done():
            self._instance_id.set_exception(
                UnsupportedVersionError(f"this client has no client instance id: {reason}")
            )
            self._instance_id.exception()  # nobody may be waiting


def _subscription(response: Any, before: Subscription | None) -> Subscription:
    """From the answer's fields. A broker leaves the id out that the client has already."""
    interval_ms = int(response.push_interval.total_seconds() * 1000)
    instance_id = response.client_instance_id
    if before is not None:
        instance_id = before.client_instance_id
    if instance_id is None:
        raise KafkaError("the broker has given this client no client instance id")
    return Subscription(
        client_instance_id=instance_id,
        subscription_id=int(response.subscription_id),
        push_interval_ms=interval_ms if interval_ms > 0 else DEFAULT_INTERVAL_MS,
        max_bytes=int(response.telemetry_max_bytes),
        delta=bool(response.delta_temporality),
        requested=tuple(response.requested_metrics),
        compression_types=tuple(int(kind) for kind in response.accepted_compression_types),
    )


def _gzip(payload: bytes) -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # 16: with gzip's header
    return packer.compress(payload) + packer.flush()
