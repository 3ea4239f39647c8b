"""The one table of what a consumer measures; docs/metrics.md is generated from it.

Names, groups and tags are Java's. Source: FetchMetricsRegistry, KafkaConsumerMetrics, Selector.SelectorMetrics,
AbstractCoordinator, ConsumerCoordinator and RebalanceCallbackMetricsManager of org.apache.kafka.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .names import Metric, Scope, Stat, Unit

CONSUMER: Final = "consumer-metrics"
NODE: Final = "consumer-node-metrics"
COORDINATOR: Final = "consumer-coordinator-metrics"
FETCH: Final = "consumer-fetch-manager-metrics"

_MS = Unit.MILLISECONDS


def _latency(group: str, name: str, of: str, sensor: str, scope: Scope = Scope.CLIENT) -> Iterator[Metric]:
    """The mean and the greatest time that something took."""
    yield Metric(f"{name}-avg", group, f"The mean time {of}.", _MS, Stat.AVG, sensor, scope)
    yield Metric(f"{name}-max", group, f"The longest time {of}.", _MS, Stat.MAX, sensor, scope)


def _counted(group: str, name: str, of: str, sensor: str, scope: Scope = Scope.CLIENT) -> Iterator[Metric]:
    """Events, by second and since the start."""
    per_second, events = Unit.EVENTS_PER_SECOND, Unit.EVENTS
    yield Metric(f"{name}-rate", group, f"{of} per second.", per_second, Stat.COUNT_RATE, sensor, scope)
    yield Metric(f"{name}-total", group, f"{of} since the start.", events, Stat.COUNT, sensor, scope)


def _summed(
    group: str, name: str, of: str, units: tuple[Unit, Unit], sensor: str, scope: Scope = Scope.CLIENT
) -> Iterator[Metric]:
    """Amounts, by second and since the start."""
    yield Metric(f"{name}-rate", group, f"{of} per second.", units[0], Stat.RATE, sensor, scope)
    yield Metric(f"{name}-total", group, f"{of} since the start.", units[1], Stat.TOTAL, sensor, scope)


_BYTES = (Unit.BYTES_PER_SECOND, Unit.BYTES)
_RECORDS = (Unit.RECORDS_PER_SECOND, Unit.RECORDS)


def _consumer() -> Iterator[Metric]:
    yield Metric(
        "last-poll-seconds-ago", CONSUMER, "Seconds since poll() was last entered; -1 before the first time.",
        Unit.SECONDS, Stat.GAUGE, "last-poll",
    )  # fmt: skip
    between = "time from the beginning of one poll() to that of the next"
    yield Metric(
        "time-between-poll-avg", CONSUMER, f"The mean {between}.", _MS, Stat.AVG, "time-between-poll"
    )
    yield Metric(
        "time-between-poll-max", CONSUMER, f"The longest {between}.", _MS, Stat.MAX, "time-between-poll"
    )
    yield Metric(
        "poll-idle-ratio-avg", CONSUMER,
        "The part of the time that is spent in poll(), waiting for records, rather than in the user's code. Near 0: the user's code "
        "is the bottleneck; near 1: the consumer has time to spare. (Java counts the waiting twice, so that its value stays below a half.)",
        Unit.RATIO, Stat.AVG, "poll-idle-ratio",
    )  # fmt: skip
    yield Metric(
        "commit-sync-time-ns-total", CONSUMER, "Time spent waiting in commit() since the start.",
        Unit.NANOSECONDS, Stat.TOTAL, "commit-sync-time",
    )  # fmt: skip
    yield Metric(
        "committed-time-ns-total", CONSUMER, "Time spent waiting in committed() since the start.",
        Unit.NANOSECONDS, Stat.TOTAL, "committed-time",
    )  # fmt: skip


def _connections() -> Iterator[Metric]:
    yield Metric(
        "connection-count", CONSUMER, "Connections that are open now.", Unit.EVENTS, Stat.GAUGE, "connections"
    )
    yield from _counted(CONSUMER, "connection-creation", "Connections opened", "connections-created")
    yield from _counted(CONSUMER, "connection-close", "Connections closed", "connections-closed")
    for what in ("authentication", "reauthentication"):
        done = "Connections authenticated" + (" again (KIP-368)" if what.startswith("re") else "")
        yield from _counted(CONSUMER, f"successful-{what}", done, f"successful-{what}")
        failed = f"Connections whose {what} failed"
        yield from _counted(CONSUMER, f"failed-{what}", failed, f"failed-{what}")
    yield from _latency(
        CONSUMER,
        "reauthentication-latency",
        "of an authentication on a connection in use (KIP-368)",
        "reauthentication-latency",
    )
    yield from _traffic(CONSUMER, Scope.CLIENT)
    yield from _counted(CONSUMER, "network-io", "Requests sent and responses received", "network-io")
    yield from _traffic(NODE, Scope.NODE)
    yield from _latency(
        NODE,
        "request-latency",
        "from a request other than a fetch to its answer",
        "request-latency",
        Scope.NODE,
    )


def _traffic(group: str, scope: Scope) -> Iterator[Metric]:
    client = scope is Scope.CLIENT
    to, of = (
        ("", "")
        if client
        else (" to this broker, other than fetches,", " from this broker, other than to fetches,")
    )
    yield from _counted(group, "request", f"Requests sent{to}", "requests", scope)
    size = "size of a request" + (", fetches apart" if client else "")
    yield Metric("request-size-avg", group, f"The mean {size}.", Unit.BYTES, Stat.AVG, "request-bytes", scope)
    yield Metric(
        "request-size-max", group, f"The greatest {size}.", Unit.BYTES, Stat.MAX, "request-bytes", scope
    )
    sent = "Bytes sent, fetches apart," if client else f"Bytes sent{to}"
    yield from _summed(group, "outgoing-byte", sent, _BYTES, "request-bytes", scope)
    yield from _counted(group, "response", f"Responses received{of}", "responses", scope)
    yield from _summed(group, "incoming-byte", f"Bytes received{of}", _BYTES, "response-bytes", scope)


def _coordinator() -> Iterator[Metric]:
    group = COORDINATOR
    yield Metric(
        "assigned-partitions",
        group,
        "Partitions that this consumer reads now.",
        Unit.EVENTS,
        Stat.GAUGE,
        "assigned",
    )
    yield from _latency(group, "commit-latency", "from a commit to its answer", "commit-latency")
    yield from _counted(group, "commit", "Commits answered", "commit-latency")
    yield Metric(
        "commit-failed-total",
        group,
        "Commits that failed, since the start.",
        Unit.EVENTS,
        Stat.COUNT,
        "commit-failed",
        own=True,
    )
    yield Metric(
        "heartbeat-response-time-max", group, "The longest time that the coordinator took to answer a heartbeat.",
        _MS, Stat.MAX, "heartbeat-latency",
    )  # fmt: skip
    yield from _counted(group, "heartbeat", "Heartbeats sent", "heartbeats")
    yield Metric(
        "last-heartbeat-seconds-ago", group, "Seconds since the last heartbeat was sent; -1 before the first one.",
        Unit.SECONDS, Stat.GAUGE, "last-heartbeat",
    )  # fmt: skip
    yield from _latency(group, "join-time", "from a JoinGroup to its answer", "join-latency")
    yield from _counted(group, "join", "JoinGroups answered", "join-latency")
    yield from _latency(group, "sync-time", "from a SyncGroup to its answer", "sync-latency")
    yield from _counted(group, "sync", "SyncGroups answered", "sync-latency")
    yield from _rebalances()
    for what in ("revoked", "assigned", "lost"):
        yield from _latency(
            group,
            f"partition-{what}-latency",
            f"in the listener's on_partitions_{what}()",
            f"partition-{what}-latency",
        )


def _rebalances() -> Iterator[Metric]:
    group, sensor = COORDINATOR, "rebalance-latency"
    yield from _latency(
        group,
        "rebalance-latency",
        "of a rebalance that succeeded, from its beginning to the assignment",
        sensor,
    )
    yield Metric(
        "rebalance-latency-total",
        group,
        "Time spent in rebalances that succeeded, since the start.",
        _MS,
        Stat.TOTAL,
        sensor,
    )
    for name, of, source in (
        ("rebalance", "Rebalances that succeeded", sensor),
        ("failed-rebalance", "Rebalances that failed", "failed-rebalance"),
    ):
        yield Metric(f"{name}-total", group, f"{of}, since the start.", Unit.EVENTS, Stat.COUNT, source)
        per_hour = Unit.EVENTS_PER_HOUR
        yield Metric(f"{name}-rate-per-hour", group, f"{of}, per hour.", per_hour, Stat.COUNT_RATE, source)
    yield Metric(
        "last-rebalance-seconds-ago", group, "Seconds since the last rebalance that succeeded; -1 before the first one.",
        Unit.SECONDS, Stat.GAUGE, "last-rebalance",
    )  # fmt: skip


def _fetching() -> Iterator[Metric]:
    group = FETCH
    yield from _latency(
        group, "fetch-latency", "from a fetch to its answer, the broker's waiting included", "fetch-latency"
    )
    yield from _counted(group, "fetch", "Fetches answered", "fetch-latency")
    yield Metric(
        "fetch-size-avg",
        group,
        "The mean size of the record batches in a fetch's answer, as they came.",
        Unit.BYTES,
        Stat.AVG,
        "fetch-bytes",
    )
    yield Metric(
        "fetch-size-max",
        group,
        "The greatest such size, by the means of seconds.",
        Unit.BYTES,
        Stat.MAX,
        "fetch-bytes",
    )
    held = "time that a broker held this client back for its quota, by what its answers to fetches say"
    yield Metric("fetch-throttle-time-avg", group, f"The mean {held}.", _MS, Stat.AVG, "fetch-throttle")
    yield Metric("fetch-throttle-time-max", group, f"The longest {held}.", _MS, Stat.MAX, "fetch-throttle")
    yield Metric(
        "records-per-request-avg", group, "The mean number of records in a fetch's answer.", Unit.RECORDS, Stat.AVG,
        "records-per-request",
    )  # fmt: skip
    yield from _consumed(Scope.CLIENT)
    yield Metric(
        "records-lag-max", group, "The greatest lag of any partition in the window, by position, not by committed offset.",
        Unit.RECORDS, Stat.MAX, "records-lag",
    )  # fmt: skip
    yield Metric(
        "records-lead-min", group, "The least lead of any partition in the window. Near 0: retention is about to pass the position.",
        Unit.RECORDS, Stat.MIN, "records-lead",
    )  # fmt: skip
    for name, of in (
        ("crc-failures", "Record batches whose checksum was wrong"),
        ("decode-failures", "Record batches that could not be read"),
        (
            "buffer-full-waits",
            "Times that a fetch loop waited for room, since poll() had not taken what was there",
        ),
    ):
        yield Metric(
            f"{name}-total", group, f"{of}, since the start.", Unit.EVENTS, Stat.TOTAL, name, own=True
        )


def _consumed(scope: Scope) -> Iterator[Metric]:
    yield from _summed(
        FETCH,
        "bytes-consumed",
        "Bytes of the keys and values that poll() returned",
        _BYTES,
        "bytes-consumed",
        scope,
    )
    yield from _summed(
        FETCH, "records-consumed", "Records that poll() returned", _RECORDS, "records-consumed", scope
    )


def _partitions() -> Iterator[Metric]:
    yield from _consumed(Scope.TOPIC)
    scope = Scope.PARTITION
    lag = "lag of the partition: what is there to read and poll() has not returned"
    lead = "lead of the partition: the position's distance from the first record that is still kept"
    for name, of, sensor, stat in (
        ("records-lag", f"The {lag}, in offsets.", "records-lag", Stat.LATEST),
        ("records-lag-avg", f"The mean {lag}.", "records-lag", Stat.AVG),
        ("records-lag-max", f"The greatest {lag}.", "records-lag", Stat.MAX),
        ("records-lead", f"The {lead}, in offsets.", "records-lead", Stat.LATEST),
        ("records-lead-avg", f"The mean {lead}.", "records-lead", Stat.AVG),
        ("records-lead-min", f"The least {lead}.", "records-lead", Stat.MIN),
    ):
        yield Metric(name, FETCH, of, Unit.RECORDS, stat, sensor, scope)
    yield Metric(
        "preferred-read-replica", FETCH, "The follower that the partition is read from (KIP-392), or -1 for its leader.",
        Unit.NODE, Stat.GAUGE, "preferred-read-replica", scope,
    )  # fmt: skip


METRICS: Final[tuple[Metric, ...]] = (
    *_consumer(),
    *_connections(),
    *_coordinator(),
    *_fetching(),
    *_partitions(),
)
"""All that a consumer measures."""
