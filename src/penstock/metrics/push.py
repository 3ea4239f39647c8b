"""Telemetry push (KIP-714) as a pure machine: which request is due when, and what it carries.

Source: KIP-714; org.apache.kafka.common.telemetry.internals.ClientTelemetryReporter and ClientTelemetryUtils;
org.apache.kafka.server.ClientMetricsManager.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

from .names import MONOTONIC, MetricName, Scope
from .otlp import Point, Series, encode_metrics
from .table import METRICS

DEFAULT_INTERVAL_MS: Final = 300_000
PREFIX: Final = "org.apache.kafka."
OWN_PREFIX: Final = "penstock."
LEAST_DELAY_MS: Final = 1_000

_NONE = 0
_UNKNOWN_SUBSCRIPTION_ID = 117
_UNSUPPORTED_COMPRESSION_TYPE = 76
_TELEMETRY_TOO_LARGE = 118
_THROTTLING_QUOTA_EXCEEDED = 89

# By name, group and number of tags, which tells the scopes of one group apart.
_ROW: Final = {(metric.name, metric.group, 1 + len(metric.scope.value)): metric for metric in METRICS}
_SHED: Final = ((), (Scope.PARTITION,), (Scope.PARTITION, Scope.TOPIC, Scope.NODE))
"""What is left out of a push, step by step, when brokers find it too large."""


def telemetry_name(metric: MetricName) -> str:
    """org.apache.kafka.consumer.coordinator.rebalance.latency.avg for rebalance-latency-avg of consumer-coordinator-metrics.

    Source: TelemetryMetricNamingConvention.
    """
    return _telemetry_name(metric.name, metric.group, len(metric.tags))


@cache
def _telemetry_name(name: str, group: str, tags: int) -> str:
    row = _ROW.get((name, group, tags))
    prefix = OWN_PREFIX if row is not None and row.own else PREFIX
    group = group.lower().replace("-", ".").replace(".metrics", "")
    return f"{prefix}{group}.{name.lower().replace('-', '.')}"


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a broker wants to be told. `requested`: prefixes of telemetry names; "*" or an empty one is everything."""

    client_instance_id: uuid.UUID
    subscription_id: int
    push_interval_ms: int
    max_bytes: int
    delta: bool
    requested: tuple[str, ...]
    compression_types: tuple[int, ...]

    def wants(self, name: str) -> bool:
        return any(prefix == "*" or name.startswith(prefix) for prefix in self.requested)


class Next(Enum):
    """The request that is due at `PushMachine.due_ms`."""

    SUBSCRIBE = "GetTelemetrySubscriptions"
    PUSH = "PushTelemetry"
    NOTHING = "telemetry has ended"


class PushMachine:
    """What to ask or push next. Written by the engine's thread only; `jitter` is a number from 0.5 to 1.5, drawn by the caller.

    `next` and `due_ms` say what comes; `subscription` is the last one that a broker gave, and its client instance id stays this
    client's whatever happens later; `compression_refused`: a broker did not take what it was sent, so nothing is compressed any more.
    """

    def __init__(self, now_ms: float) -> None:
        self.next = Next.SUBSCRIBE
        self.due_ms = now_ms
        self.subscription: Subscription | None = None
        self.compression_refused = False
        self._shed = 0

    @property
    def left_out(self) -> tuple[Scope, ...]:
        """Scopes that do not go into a push, since brokers found it too large."""
        return _SHED[self._shed]

    def subscribed(self, subscription: Subscription, now_ms: float, jitter: float) -> None:
        """GetTelemetrySubscriptions was answered. The first push is spread over the interval, so that clients that started at once
        do not push at once; without a wish the question is repeated after the interval."""
        if self.next is Next.NOTHING:
            return
        if (
            self.subscription is not None
            and self.subscription.subscription_id != subscription.subscription_id
        ):
            self._shed = 0
        self.subscription = subscription
        self.next = Next.PUSH if subscription.requested else Next.SUBSCRIBE
        self.due_ms = now_ms + subscription.push_interval_ms * (jitter if subscription.requested else 1.0)

    def pushed(self, now_ms: float) -> None:
        """PushTelemetry was taken."""
        if self.next is not Next.NOTHING:
            self.next = Next.PUSH
            self.due_ms = now_ms + self._interval_ms

    def refused(self, code: int, now_ms: float) -> None:
        """Either request was answered with this error code; both lead back to the subscription, if to anything."""
        if self.next is Next.NOTHING:
            return
        again, self.next = self.next is Next.SUBSCRIBE, Next.SUBSCRIBE
        if code in (_UNKNOWN_SUBSCRIPTION_ID, _UNSUPPORTED_COMPRESSION_TYPE):
            self.compression_refused |= code == _UNSUPPORTED_COMPRESSION_TYPE
            self.due_ms = now_ms + (LEAST_DELAY_MS if again else 0)
        elif code in (_THROTTLING_QUOTA_EXCEEDED, _TELEMETRY_TOO_LARGE):
            if code == _TELEMETRY_TOO_LARGE:
                self.too_large()
            self.due_ms = now_ms + self._interval_ms
        else:  # INVALID_REQUEST, INVALID_RECORD, UNSUPPORTED_VERSION and what is not known: asking again would not help
            self.end()

    def not_sent(self, now_ms: float, delay_ms: float) -> None:
        """There was no broker to ask, or the connection ended before the answer: the same again, later."""
        self.due_ms = now_ms + delay_ms

    def not_offered(self, now_ms: float) -> None:
        """No broker that can be reached has this API. An upgraded one may, some day."""
        self.due_ms = now_ms + DEFAULT_INTERVAL_MS

    def too_large(self) -> bool:
        """Leave out more from now on; whether there was more to leave out."""
        more = self._shed + 1 < len(_SHED)
        self._shed += more
        return more

    def end(self) -> None:
        """Ask and push nothing any more."""
        self.next = Next.NOTHING
        self.due_ms = math.inf

    @property
    def _interval_ms(self) -> int:
        return DEFAULT_INTERVAL_MS if self.subscription is None else self.subscription.push_interval_ms


class PushLedger:
    """What was told already, so that the next push tells what was added since. Written by the engine's thread only.

    A push counts once the broker has taken it: what a lost one told is told again by the next.
    """

    def __init__(self, now_ns: int) -> None:
        self._start_ns = now_ns
        self._told: dict[MetricName, tuple[float, int]] = {}
        self._telling: dict[MetricName, tuple[float, int]] = {}

    def payload(
        self,
        values: Mapping[MetricName, float],
        subscription: Subscription,
        now_ns: int,
        *,
        resource: Mapping[str, str],
        version: str,
        left_out: Iterable[Scope] = (),
    ) -> bytes:
        """MetricsData of the values that the broker wants; of sums, if it wants deltas, what was added since the last push taken."""
        self._told = {metric: told for metric, told in self._told.items() if metric in values}
        self._telling = {}
        shed = {scope.value for scope in left_out if scope is not Scope.CLIENT}
        series: dict[str, tuple[Series, list[Point]]] = {}
        wanted: dict[str, bool] = {}
        for metric, value in values.items():
            row = _ROW.get((metric.name, metric.group, len(metric.tags)))
            if row is None or row.scope.value in shed or math.isnan(value):
                continue
            name = telemetry_name(metric)
            if name not in wanted:
                wanted[name] = subscription.wants(name)
            if not wanted[name]:
                continue
            monotonic = row.stat in MONOTONIC
            if name not in series:
                points: list[Point] = []
                series[name] = Series(name, "", row.unit.value, monotonic, points), points
            series[name][1].append(self._point(metric, value, monotonic and subscription.delta, now_ns))
        return encode_metrics(
            (entry for entry, _ in series.values()),
            resource=resource,
            scope_name="penstock",
            scope_version=version,
            delta=subscription.delta,
        )

    def _point(self, metric: MetricName, value: float, delta: bool, now_ns: int) -> Point:
        # Without client-id, which the broker knows from the request. Source: ClientTelemetryReporter.EXCLUDE_LABELS.
        attributes = tuple((key.replace("-", "_"), text) for key, text in metric.tags if key != "client-id")
        if not delta:
            return Point(value, attributes, self._start_ns, now_ns)
        told, since_ns = self._told.get(metric, (0.0, self._start_ns))
        self._telling[metric] = (value, now_ns)
        if value < told:  # it has begun anew: a topic that was forgotten meanwhile
            told = 0.0
        return Point(value - told, attributes, since_ns, now_ns)

    def taken(self) -> None:
        """The broker has taken the last payload."""
        self._told = {**self._told, **self._telling}
        self._telling = {}

    def reset(self) -> None:
        """Another temporality: what was told counts no more."""
        self._told = {}
        self._telling = {}
