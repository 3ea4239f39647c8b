"""What a consumer measures: hooks that are called as things happen, and a snapshot of all values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from ..types import TopicPartition
from .names import Metric, MetricName, Scope, Stat, Unit
from .poll_times import PollTimes
from .sensors import HOUR_MS, SECOND_MS, Sensor, Windows
from .table import METRICS

_MOST_TOPICS: Final = 1_000  # whose sensors are kept after the last of their partitions is gone
_OF_SCOPE: Final = {scope: tuple(metric for metric in METRICS if metric.scope is scope) for scope in Scope}
_SENSORS: Final = {
    scope: tuple(dict.fromkeys(metric.sensor for metric in rows if metric.stat is not Stat.GAUGE))
    for scope, rows in _OF_SCOPE.items()
}
Place = tuple[int, int, int, int]
"""(position, high watermark, last stable offset, log start offset) of a partition; -1 where one is not known."""


class Consumed(NamedTuple):
    """What poll() has returned of a partition under one handle, in all. Another handle counts from 0."""

    handle: int
    records: int
    size_bytes: int


_Sensors = dict[str, Sensor]


class ConsumerMetrics:
    """Hooks are cheap and never raise. `now_ms` is any monotonic clock in milliseconds, the same one for all calls; it may have a fraction.

    Who calls what: the hooks under "the user's thread" are called by the thread that is in poll(), one at a time; all else, with
    observe() and snapshot(), by the engine's thread. No sensor is recorded by both.
    """

    def __init__(self, client_id: str, *, windows: Windows = Windows(), read_committed: bool = False) -> None:  # noqa: B008
        """`windows`: metrics.num.samples and metrics.sample.window.ms. `read_committed`: lag is to the last stable offset."""
        self._client_id = client_id
        self._windows = windows
        self._read_committed = read_committed
        self._own = self._sensors(Scope.CLIENT)
        self._nodes: dict[str, _Sensors] = {}
        self._topics: dict[str, _Sensors] = {}
        self._partitions: dict[TopicPartition, _Sensors] = {}
        self._names: dict[tuple[Scope, tuple[str, ...]], list[MetricName]] = {}
        self._stats: dict[str, int] = {}  # as last observed
        self._consumed: dict[TopicPartition, Consumed] = {}  # as last observed
        self._connections = 0
        self.polls = PollTimes()
        self._heartbeat_ms = math.nan
        self._heartbeats_native = (-1, 0)  # connection id, sent
        self._rebalance_started_ms = math.nan
        self._rebalance_finished_ms = math.nan

    def _sensors(self, scope: Scope) -> _Sensors:
        return {name: Sensor(self._windows) for name in _SENSORS[scope]}

    # ------------------------------------------------------------ the user's thread

    def commit_waited(self, now_ms: float, duration_ms: float) -> None:
        """commit(), which waits, has returned or raised."""
        self._own["commit-sync-time"].record(duration_ms * 1e6, now_ms)

    def committed_waited(self, now_ms: float, duration_ms: float) -> None:
        """committed() has returned or raised."""
        self._own["committed-time"].record(duration_ms * 1e6, now_ms)

    def partitions_revoked(self, now_ms: float, latency_ms: float) -> None:
        """on_partitions_revoked() of the listener has returned or raised."""
        self._own["partition-revoked-latency"].record(latency_ms, now_ms)

    def partitions_assigned(self, now_ms: float, latency_ms: float) -> None:
        """on_partitions_assigned() of the listener has returned or raised."""
        self._own["partition-assigned-latency"].record(latency_ms, now_ms)

    def partitions_lost(self, now_ms: float, latency_ms: float) -> None:
        """on_partitions_lost() of the listener has returned or raised."""
        self._own["partition-lost-latency"].record(latency_ms, now_ms)

    # ------------------------------------------------------------ the engine's thread: the group

    def commit_finished(self, now_ms: float, latency_ms: float, *, failed: bool = False) -> None:
        """An OffsetCommit was answered; `failed`: with an error for any partition."""
        self._own["commit-latency"].record(latency_ms, now_ms)
        if failed:
            self._own["commit-failed"].record(1, now_ms)

    def rebalance_started(self, now_ms: float) -> None:
        """A rebalance begins: the member is told of one, or joins for the first time. While one runs, another call changes nothing."""
        if math.isnan(self._rebalance_started_ms):
            self._rebalance_started_ms = now_ms

    def rebalance_finished(self, now_ms: float, *, failed: bool = False) -> None:
        """A rebalance has ended, in an assignment or, `failed`, in an error that makes it begin again; it goes on being one until
        it succeeds. Nothing if none runs."""
        if math.isnan(self._rebalance_started_ms):
            return
        if failed:
            self._own["failed-rebalance"].record(1, now_ms)
            return
        self._own["rebalance-latency"].record(now_ms - self._rebalance_started_ms, now_ms)
        self._rebalance_started_ms = math.nan
        self._rebalance_finished_ms = now_ms

    def rebalance_abandoned(self) -> None:
        """The member leaves while a rebalance runs: it neither succeeds nor fails."""
        self._rebalance_started_ms = math.nan

    def join_finished(self, now_ms: float, latency_ms: float) -> None:
        """A JoinGroup was answered."""
        self._own["join-latency"].record(latency_ms, now_ms)

    def sync_finished(self, now_ms: float, latency_ms: float) -> None:
        """A SyncGroup was answered."""
        self._own["sync-latency"].record(latency_ms, now_ms)

    def heartbeat_sent(self, now_ms: float) -> None:
        """A heartbeat was handed to the connection by the engine."""
        self._own["heartbeats"].record(1, now_ms)
        self._heartbeat_ms = now_ms

    def heartbeat_answered(self, now_ms: float, latency_ms: float) -> None:
        """A heartbeat was answered, whatever the answer."""
        self._own["heartbeat-latency"].record(latency_ms, now_ms)

    def heartbeats(self, now_ms: float, connection_id: int, sent: int, last_ms_ago: float) -> None:
        """Heartbeats that a native connection repeats: how many it has sent in all, and how long ago one was answered (below 0:
        none was). Each connection counts from 0."""
        known = self._heartbeats_native
        new = sent - (known[1] if known[0] == connection_id else 0)
        self._heartbeats_native = (connection_id, sent)
        if new > 0:
            self._own["heartbeats"].record_many(new, new, 1, 1, now_ms)
            self._heartbeat_ms = now_ms - max(0.0, last_ms_ago)

    # ------------------------------------------------------------ the engine's thread: connections

    def connection_opened(self, now_ms: float) -> None:
        """A connection is usable."""
        self._connections += 1
        self._own["connections-created"].record(1, now_ms)

    def connection_closed(self, now_ms: float) -> None:
        """A connection that was usable has ended."""
        self._connections = max(0, self._connections - 1)
        self._own["connections-closed"].record(1, now_ms)

    def authentication_finished(
        self, now_ms: float, latency_ms: float, *, failed: bool, again: bool = False
    ) -> None:
        """SASL has ended on a connection; `again`: on one that was in use (KIP-368)."""
        what = "reauthentication" if again else "authentication"
        self._own[f"{'failed' if failed else 'successful'}-{what}"].record(1, now_ms)
        if again and not failed:
            self._own["reauthentication-latency"].record(latency_ms, now_ms)

    def request_finished(
        self, now_ms: float, node_id: int, latency_ms: float, bytes_out: int, bytes_in: int
    ) -> None:
        """A request, other than a fetch, was answered. `node_id` is -1 while the broker's is not known, as at the bootstrap."""
        node = str(node_id)
        if node not in self._nodes:
            self._nodes[node] = self._sensors(Scope.NODE)
        for sensors in (self._own, self._nodes[node]):
            sensors["requests"].record(1, now_ms)
            sensors["request-bytes"].record(bytes_out, now_ms)
            sensors["responses"].record(1, now_ms)
            sensors["response-bytes"].record(bytes_in, now_ms)
        self._own["network-io"].record_many(2, 2, 1, 1, now_ms)
        self._nodes[node]["request-latency"].record(latency_ms, now_ms)

    # ------------------------------------------------------------ the engine's thread: what the native plane counts

    def observe(
        self,
        now_ms: float,
        fetch_stats: Mapping[str, int],
        places: Mapping[TopicPartition, Place] | None = None,
        consumed: Mapping[TopicPartition, Consumed] | None = None,
    ) -> None:
        """Take note of the native plane's counters, and of the partitions that are assigned (None: no news of them).

        Called every second or so, so that rates and extremes have something to be computed from when somebody asks.
        """
        self.polls.tell(now_ms, self._own["time-between-poll"], self._own["poll-idle-ratio"])
        self._observe_fetches(now_ms, fetch_stats)
        if consumed is not None:
            self._observe_consumed(now_ms, consumed)
        if places is not None:
            self._observe_places(now_ms, places)

    def _observe_fetches(self, now_ms: float, stats: Mapping[str, int]) -> None:
        before, self._stats = self._stats, dict(stats)

        def grown(key: str) -> int:
            return stats.get(key, 0) - before.get(key, 0)

        fetches, answers, own = grown("fetches"), grown("responses"), self._own
        if fetches > 0:
            own["requests"].record_many(fetches, fetches, 1, 1, now_ms)
        if answers > 0:
            own["responses"].record_many(answers, answers, 1, 1, now_ms)
            for sensor, total, most, scale in (
                ("fetch-latency", "fetch_latency_us_total", "fetch_latency_us_max", 1e-3),
                ("fetch-throttle", "throttle_ms_total", "throttle_ms_max", 1.0),
                ("fetch-bytes", "fetch_bytes", "fetch_bytes_max", 1.0),
            ):
                amount = grown(total) * scale
                # The greatest since the start is the greatest of this interval if it has just grown; else the mean is all that is known.
                peak = stats.get(most, 0) * scale if grown(most) > 0 else amount / answers
                own[sensor].record_many(amount, answers, min(peak, amount / answers), peak, now_ms)
            own["response-bytes"].record_many(grown("bytes"), answers, 0, 0, now_ms)
            records = grown("records")
            own["records-per-request"].record_many(records, answers, 0, records / answers, now_ms)
        if fetches + answers > 0:
            own["network-io"].record_many(fetches + answers, fetches + answers, 1, 1, now_ms)
        for sensor, key in (
            ("records-consumed", "records_returned"),
            ("bytes-consumed", "bytes_returned"),
            ("crc-failures", "crc_failures"),
            ("decode-failures", "decode_failures"),
            ("buffer-full-waits", "full_waits"),
        ):
            amount = grown(key)
            if amount > 0:
                own[sensor].record(amount, now_ms)

    def _observe_consumed(self, now_ms: float, consumed: Mapping[TopicPartition, Consumed]) -> None:
        for tp, now in consumed.items():
            before = self._consumed.get(tp)
            same = before is not None and before.handle == now.handle
            records = now.records - (before.records if before is not None and same else 0)
            size = now.size_bytes - (before.size_bytes if before is not None and same else 0)
            if records > 0:
                sensors = self._topic(tp.topic)
                sensors["records-consumed"].record(records, now_ms)
                sensors["bytes-consumed"].record(size, now_ms)
        self._consumed = dict(consumed)

    def _topic(self, topic: str) -> _Sensors:
        if topic not in self._topics:
            if len(self._topics) >= _MOST_TOPICS:
                read = {tp.topic for tp in self._partitions}
                idle = next((name for name in self._topics if name not in read), None)
                if idle is not None:
                    del self._topics[idle]
                    self._names.pop((Scope.TOPIC, (idle,)), None)
            self._topics[topic] = self._sensors(Scope.TOPIC)
        return self._topics[topic]

    def _observe_places(self, now_ms: float, places: Mapping[TopicPartition, Place]) -> None:
        for tp in [tp for tp in self._partitions if tp not in places]:
            del self._partitions[tp]
            self._names.pop((Scope.PARTITION, (tp.topic, str(tp.partition))), None)
        for tp, (position, high_watermark, last_stable_offset, log_start_offset) in places.items():
            sensors = self._partitions.get(tp)
            if sensors is None:
                sensors = self._partitions[tp] = self._sensors(Scope.PARTITION)
            end = last_stable_offset if self._read_committed else high_watermark
            for name, known, distance in (
                ("records-lag", end, end - position),
                ("records-lead", log_start_offset, position - log_start_offset),
            ):
                if position >= 0 and known >= 0:
                    # Not below 0: the position may pass a high watermark that an earlier answer told.
                    sensors[name].record(max(0, distance), now_ms)
                    self._own[name].record(max(0, distance), now_ms)

    # ------------------------------------------------------------ the engine's thread: reading

    def snapshot(
        self,
        now_ms: float,
        fetch_stats: Mapping[str, int],
        places: Mapping[TopicPartition, Place],
        assigned: int,
        consumed: Mapping[TopicPartition, Consumed] | None = None,
        preferred_replicas: Mapping[TopicPartition, int] | None = None,
    ) -> dict[MetricName, float]:
        """All values as they stand, by name. NaN where there is nothing to compute one from, as with Java's.

        `preferred_replicas` holds the partitions that are read from a follower (KIP-392), and its node id.
        """
        self.observe(now_ms, fetch_stats, places, consumed)
        values: dict[MetricName, float] = {}
        values.update(self._measured(now_ms, Scope.CLIENT, (), self._own, self._gauges(now_ms, assigned)))
        for node, sensors in self._nodes.items():
            values.update(self._measured(now_ms, Scope.NODE, (f"node-{node}",), sensors, {}))
        for topic, sensors in self._topics.items():
            values.update(self._measured(now_ms, Scope.TOPIC, (topic,), sensors, {}))
        for tp, sensors in self._partitions.items():
            gauges = {"preferred-read-replica": float((preferred_replicas or {}).get(tp, -1))}
            tags = (tp.topic, str(tp.partition))
            values.update(self._measured(now_ms, Scope.PARTITION, tags, sensors, gauges))
        return values

    def _gauges(self, now_ms: float, assigned: int) -> dict[str, float]:
        def seconds_since(then_ms: float) -> float:
            return -1.0 if math.isnan(then_ms) else float(int((now_ms - then_ms) / 1000))

        return {
            "last-poll": seconds_since(self.polls.started_ms),
            "last-heartbeat": seconds_since(self._heartbeat_ms),
            "last-rebalance": seconds_since(self._rebalance_finished_ms),
            "connections": float(self._connections),
            "assigned": float(assigned),
        }

    def _measured(
        self,
        now_ms: float,
        scope: Scope,
        tags: tuple[str, ...],
        sensors: _Sensors,
        gauges: Mapping[str, float],
    ) -> Iterator[tuple[MetricName, float]]:
        key = (scope, tags)
        if key not in self._names:
            shared = scope.tags(self._client_id, tags)
            self._names[key] = [metric.tagged(shared) for metric in _OF_SCOPE[scope]]
        for metric, name in zip(_OF_SCOPE[scope], self._names[key], strict=True):
            if metric.stat is Stat.GAUGE:
                yield name, gauges[metric.sensor]
            else:
                yield name, sensors[metric.sensor].measure(metric.stat, now_ms, _rate_unit_ms(metric))


def _rate_unit_ms(metric: Metric) -> float:
    return HOUR_MS if metric.unit is Unit.EVENTS_PER_HOUR else SECOND_MS
