"""One connection to one broker: opened, its versions negotiated, requests sent and their answers awaited."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._native import (
    EVENT_CLOSED,
    EVENT_CONNECTED,
    EVENT_HEARTBEAT,
    EVENT_HEARTBEATS_STOPPED,
    EVENT_RESPONSE,
    Connection,
)
from ..cluster import Address
from ..errors import KafkaError, ProtocolError
from ..metrics import ConsumerMetrics
from ..protocol import (
    Api,
    BrokerVersions,
    decode_response,
    encode_request,
    error_for,
    make,
    read_api_versions,
)
from .thread import EngineThread

_log = logging.getLogger("penstock.engine.connection")
_API_VERSIONS_FIRST_TRY = 3
_UNSUPPORTED_VERSION = 35
_NEVER_DELAYED = frozenset({Api.HEARTBEAT, Api.CONSUMER_GROUP_HEARTBEAT, Api.LEAVE_GROUP})
"""A throttled member stays a member, and one that goes does not keep the others waiting."""
_CLIENT_WAITS_FROM = {
    **{Api.PRODUCE: 6, Api.LIST_OFFSETS: 3, Api.METADATA: 6, Api.OFFSET_COMMIT: 4, Api.OFFSET_FETCH: 4},
    **{
        Api.FIND_COORDINATOR: 2,
        Api.JOIN_GROUP: 3,
        Api.SYNC_GROUP: 2,
        Api.DESCRIBE_GROUPS: 2,
        Api.LIST_GROUPS: 2,
    },
    **{Api.CREATE_TOPICS: 3, Api.DELETE_TOPICS: 2, Api.DELETE_RECORDS: 1, Api.INIT_PRODUCER_ID: 1},
    **{Api.DESCRIBE_CONFIGS: 2, Api.CREATE_PARTITIONS: 1, Api.DELETE_GROUPS: 1},
}
"""Before these versions a broker held the answer back itself and its throttle time is in the past (KIP-219). Source: the
shouldClientThrottle() of Kafka's response classes; newer requests have always left waiting to the client."""


class DisconnectedError(KafkaError):
    """The connection ended, or never came up; the message says why. Another try may do better."""

    retriable = True


class RequestTimeoutError(DisconnectedError):
    """The broker did not answer in time. The connection is closed with it: answers come in order, so one that is late
    makes all behind it late."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What all connections of a client have in common."""

    client_id: str
    request_timeout_ms: int = 30_000
    connect_timeout_ms: int = 10_000
    send_buffer_bytes: int = 131_072
    receive_buffer_bytes: int = 65_536
    client_software_version: str = "0"


@dataclass(slots=True)
class _Pending:
    api: Api
    version: int
    future: asyncio.Future[bytes]


class BrokerConnection:
    """Lives in the engine's thread. `native` is handed to the fetch loop once open() has returned.

    Fields: `throttled_ms_total` sums what the broker asked to wait; `_quiet` is done once requests may be sent again, at
    `_quiet_until` of the loop's clock, and None while they may.
    """

    def __init__(
        self,
        engine: EngineThread,
        address: Address,
        node_id: int,
        settings: ConnectionSettings,
        measurements: ConsumerMetrics | None = None,
    ) -> None:
        self.address = address
        self.node_id = node_id
        self.versions: BrokerVersions | None = None
        self.closed_reason: str | None = None
        self.on_closed: list[Any] = []  # functions of (connection), called once
        self.on_heartbeat: Callable[[int, int, Any], None] | None = None  # (event kind, generation, payload)
        self.throttled_ms_total = 0
        self._quiet: asyncio.Future[None] | None = None
        self._quiet_until = 0.0
        self._engine = engine
        self._measurements = measurements
        self._settings = settings
        self._pending: dict[int, _Pending] = {}
        self._correlation_ids = itertools.count(1)
        self._connected: asyncio.Future[None] = engine.loop.create_future()
        self._id = engine.register(self._on_event)
        self.native = Connection(
            engine.events,
            self._id,
            address.host,
            address.port,
            connect_timeout_ms=settings.connect_timeout_ms,
            send_buffer_bytes=settings.send_buffer_bytes,
            receive_buffer_bytes=settings.receive_buffer_bytes,
        )

    @property
    def id(self) -> int:
        return self._id

    @property
    def usable(self) -> bool:
        return self.closed_reason is None and self.versions is not None

    async def open(self) -> None:
        """Connect and negotiate versions. DisconnectedError says why it did not work."""
        try:
            await self._connected
            self.versions = await self._negotiate()
        except BaseException:
            self.close("opening it was given up")
            raise

    async def request(
        self, api: Api, *, at_most: int | None = None, timeout_ms: int | None = None, **fields: Any
    ) -> Any:
        """Send one request in the highest common version and return its decoded response.

        UnsupportedVersionError, DisconnectedError, RequestTimeoutError, ProtocolError. Error codes inside are the caller's.
        Where the broker throttles, the request waits first; timeout_ms begins after that (KIP-219).
        """
        if self.versions is None:
            raise DisconnectedError(f"{self.address}: {self.closed_reason or 'not open yet'}")
        version = self.versions.pick(api, at_most)
        while self._quiet is not None and api not in _NEVER_DELAYED:
            await asyncio.shield(self._quiet)
        frame = await self._exchange(api, version, make(api, version, **fields), timeout_ms)
        try:
            response = decode_response(api, version, frame)
        except ProtocolError as error:
            self.close(str(error))
            raise
        self._heed_throttle(api, version, response)
        return response

    async def send_without_response(self, api: Api, **fields: Any) -> None:
        """Send one request that the broker does not answer (Produce with acks=0)."""
        if self.versions is None or self.closed_reason is not None:
            raise DisconnectedError(f"{self.address}: {self.closed_reason or 'not open yet'}")
        version = self.versions.pick(api)
        correlation_id = next(self._correlation_ids)
        payload = encode_request(
            api, version, correlation_id, self._settings.client_id, make(api, version, **fields)
        )
        self.native.send(correlation_id, payload, False)

    def encode(self, api: Api, **fields: Any) -> tuple[int, bytes]:
        """(version, frame) of a request that the native connection is to send by itself; it replaces the correlation id, 0."""
        if self.versions is None:
            raise DisconnectedError(f"{self.address}: {self.closed_reason or 'not open yet'}")
        version = self.versions.pick(api)
        request = make(api, version, **fields)
        return version, encode_request(api, version, 0, self._settings.client_id, request)

    def close(self, reason: str) -> None:
        """Idempotent; whoever waits for an answer gets DisconnectedError with this reason."""
        self._end(reason)
        self.native.close()

    # ------------------------------------------------------------ inside

    async def _negotiate(self) -> BrokerVersions:
        """ApiVersions (KIP-35): the newest form first, then the one that the broker says it knows (KIP-511)."""
        version = _API_VERSIONS_FIRST_TRY
        for _ in range(2):
            request = make(
                Api.API_VERSIONS,
                version,
                client_software_name="penstock",
                client_software_version=self._settings.client_software_version,
            )
            frame = await self._exchange(
                Api.API_VERSIONS, version, request, self._settings.connect_timeout_ms
            )
            try:
                error_code, ranges, features = read_api_versions(version, frame)
            except ProtocolError as error:
                raise DisconnectedError(f"{self.address}: {error}; is this a Kafka broker?") from error
            if error_code == 0:
                return BrokerVersions(str(self.address), ranges, features)
            if error_code != _UNSUPPORTED_VERSION:
                raise error_for(error_code, f"asking {self.address} for its API versions")
            version = next((high for key, _, high in ranges if key == Api.API_VERSIONS), 0)
            version = min(version, _API_VERSIONS_FIRST_TRY - 1)
        raise DisconnectedError(f"{self.address}: refused every version of ApiVersions")

    def _heed_throttle(self, api: Api, version: int, response: Any) -> None:
        throttle = getattr(response, "throttle_time", None)
        throttle_s = throttle.total_seconds() if throttle is not None else 0.0
        if throttle_s <= 0:
            return
        self.throttled_ms_total += round(throttle_s * 1000)
        if self.closed_reason is not None or version < _CLIENT_WAITS_FROM.get(api, 0):
            return
        loop = self._engine.loop
        self._quiet_until = max(self._quiet_until, loop.time() + throttle_s)
        if self._quiet is None:
            self._quiet = loop.create_future()
            loop.call_at(self._quiet_until, self._end_quiet)

    def _end_quiet(self) -> None:
        loop = self._engine.loop
        if self._quiet is None:
            return
        if self.closed_reason is None and loop.time() < self._quiet_until:  # another answer prolonged it
            loop.call_at(self._quiet_until, self._end_quiet)
            return
        self._quiet.set_result(None)
        self._quiet = None

    async def _exchange(self, api: Api, version: int, request: Any, timeout_ms: int | None) -> bytes:
        if self.closed_reason is not None:
            raise DisconnectedError(f"{self.address}: {self.closed_reason}")
        correlation_id = next(self._correlation_ids)
        payload = encode_request(api, version, correlation_id, self._settings.client_id, request)
        future: asyncio.Future[bytes] = self._engine.loop.create_future()
        self._pending[correlation_id] = _Pending(api, version, future)
        limit_ms = self._settings.request_timeout_ms if timeout_ms is None else timeout_ms
        timer = self._engine.loop.call_later(limit_ms / 1000, self._on_timeout, correlation_id, limit_ms)
        sent_s = self._engine.loop.time()
        self.native.send(correlation_id, payload)
        try:
            answer = await future
        finally:
            timer.cancel()
        if self._measurements is not None:
            now_s = self._engine.loop.time()
            took_ms = (now_s - sent_s) * 1000
            self._measurements.request_finished(
                now_s * 1000, self.node_id, took_ms, len(payload), len(answer)
            )
        return answer

    def _on_timeout(self, correlation_id: int, limit_ms: int) -> None:
        pending = self._pending.get(correlation_id)
        if pending is None or pending.future.done():
            return
        reason = f"no answer to {pending.api.name} within {limit_ms} ms"
        pending.future.set_exception(RequestTimeoutError(f"{self.address}: {reason}"))
        self.close(reason)

    def _on_event(self, kind: int, number: int, payload: Any) -> None:
        if kind == EVENT_RESPONSE:
            pending = self._pending.pop(number, None)
            if pending is not None and not pending.future.done():  # done: its caller was cancelled meanwhile
                pending.future.set_result(payload)
        elif kind == EVENT_CONNECTED:
            if not self._connected.done():
                self._connected.set_result(None)
        elif kind in (EVENT_HEARTBEAT, EVENT_HEARTBEATS_STOPPED):
            if self.on_heartbeat is not None:
                self.on_heartbeat(kind, number, payload)
        elif kind == EVENT_CLOSED:
            self._end(payload)

    def _end(self, reason: str) -> None:
        if self.closed_reason is not None:
            return
        self.closed_reason = reason
        self._engine.unregister(self._id)
        self._end_quiet()  # who waits there is told that the connection is closed
        error = DisconnectedError(f"{self.address}: {reason}")
        if not self._connected.done():
            self._connected.set_exception(error)
            self._connected.exception()  # nobody may be waiting any more
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(error)
                pending.future.exception()
        self._pending.clear()
        for callback in self.on_closed:
            callback(self)
