"""What clients tell of themselves (KIP-714): who wants what, and what was pushed. Pure: time is a parameter.

Source: org.apache.kafka.server.ClientMetricsManager and ClientMetricsInstance.
"""

from __future__ import annotations

import gzip
import uuid
import zlib
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

DEFAULT_INTERVAL_MS: Final = 300_000
DEFAULT_MAX_BYTES: Final = 1_048_576  # telemetry.max.bytes
GZIP: Final = 1
_MOST_CLIENTS: Final = 1_000
_MOST_PUSHES: Final = 1_000


class TelemetryCode(IntEnum):
    """The error codes of these two APIs."""

    NONE = 0
    INVALID_REQUEST = 42
    UNSUPPORTED_COMPRESSION_TYPE = 76
    THROTTLING_QUOTA_EXCEEDED = 89
    UNKNOWN_SUBSCRIPTION_ID = 117
    TELEMETRY_TOO_LARGE = 118


@dataclass(frozen=True, slots=True)
class TelemetryPush:
    """One push that was taken. `metrics` is a MetricsData of OpenTelemetry in protobuf, no longer compressed."""

    client_instance_id: uuid.UUID
    client_id: str
    terminating: bool
    compression_type: int
    metrics: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """What all clients are asked for. `metrics`: prefixes, "*" for all, none for nothing."""

    metrics: tuple[str, ...] = ()
    interval_ms: int = DEFAULT_INTERVAL_MS
    delta: bool = True
    max_bytes: int = DEFAULT_MAX_BYTES
    compression_types: tuple[int, ...] = (GZIP,)


@dataclass(slots=True)
class _Client:
    subscription_id: int
    asked_ms: float = float("-inf")
    pushed_ms: float = float("-inf")
    terminated: bool = False


class Telemetry:
    """Belongs to the broker's thread. At most 1000 clients are remembered, the latest, and as many pushes."""

    def __init__(self) -> None:
        self.wanted = Wanted()
        self.pushes: deque[TelemetryPush] = deque(maxlen=_MOST_PUSHES)
        self._clients: OrderedDict[uuid.UUID, _Client] = OrderedDict()

    def ask(
        self, client_instance_id: uuid.UUID | None, now_ms: float
    ) -> tuple[TelemetryCode, uuid.UUID, int]:
        """GetTelemetrySubscriptions: (error code, client instance id, subscription id)."""
        instance_id = client_instance_id or uuid.uuid4()
        client = self._client(instance_id)
        if now_ms - max(client.asked_ms, client.pushed_ms) < self.wanted.interval_ms:
            return TelemetryCode.THROTTLING_QUOTA_EXCEEDED, instance_id, 0
        client.asked_ms = now_ms
        return TelemetryCode.NONE, instance_id, client.subscription_id

    def push(self, push: TelemetryPush, subscription_id: int, now_ms: float) -> TelemetryCode:
        """PushTelemetry, as it came: `push.metrics` is still compressed."""
        client = self._client(push.client_instance_id)
        if client.terminated:
            return TelemetryCode.INVALID_REQUEST
        client.terminated = push.terminating
        fresh = (
            client.asked_ms > client.pushed_ms
        )  # the first push after an answer may come early: its time is jittered
        if not fresh and not push.terminating and now_ms - client.pushed_ms < self.wanted.interval_ms:
            return TelemetryCode.THROTTLING_QUOTA_EXCEEDED
        client.pushed_ms = now_ms
        if subscription_id != client.subscription_id:
            return TelemetryCode.UNKNOWN_SUBSCRIPTION_ID
        if push.compression_type not in (0, *self.wanted.compression_types):
            return TelemetryCode.UNSUPPORTED_COMPRESSION_TYPE
        if len(push.metrics) > self.wanted.max_bytes:
            return TelemetryCode.TELEMETRY_TOO_LARGE
        try:
            metrics = gzip.decompress(push.metrics) if push.compression_type == GZIP else push.metrics
        except (OSError, EOFError, zlib.error):
            return TelemetryCode.INVALID_REQUEST
        self.pushes.append(
            TelemetryPush(
                push.client_instance_id, push.client_id, push.terminating, push.compression_type, metrics
            )
        )
        return TelemetryCode.NONE

    def _client(self, instance_id: uuid.UUID) -> _Client:
        """What is known of a client; another wish makes all known clients ask again."""
        subscription_id = zlib.crc32(repr((self.wanted, instance_id)).encode()) & 0x7FFF_FFFF
        client = self._clients.get(instance_id)
        if client is None or client.subscription_id != subscription_id:
            client = self._clients[instance_id] = _Client(subscription_id)
        self._clients.move_to_end(instance_id)
        if len(self._clients) > _MOST_CLIENTS:
            self._clients.popitem(last=False)
        return client
