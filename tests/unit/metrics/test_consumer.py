"""What the hooks and the counters become in a snapshot."""

from __future__ import annotations

import math

import pytest

from penstock.metrics import Consumed, ConsumerMetrics, MetricName, Place, Windows
from penstock.types import TopicPartition

A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b.c", 0)
COORDINATOR, FETCH, CONSUMER = (
    "consumer-coordinator-metrics",
    "consumer-fetch-manager-metrics",
    "consumer-metrics",
)


def values(metrics: ConsumerMetrics, now_ms: float, **given: object) -> dict[MetricName, float]:
    arguments: dict[str, object] = {"fetch_stats": {}, "places": {}, "assigned": 0, **given}
    return metrics.snapshot(now_ms, **arguments)  # type: ignore[arg-type]


def one(snapshot: dict[MetricName, float], name: str, group: str, **tags: str) -> float:
    wanted = {key.replace("_", "-"): value for key, value in tags.items()}
    (value,) = [
        value
        for metric, value in snapshot.items()
        if (metric.name, metric.group) == (name, group) and dict(metric.tags[1:]) == wanted
    ]
    return value


def test_before_anything_happened() -> None:
    snapshot = values(ConsumerMetrics("me"), 5_000, assigned=3)
    assert one(snapshot, "assigned-partitions", COORDINATOR) == 3
    assert one(snapshot, "last-poll-seconds-ago", CONSUMER) == -1
    assert one(snapshot, "last-heartbeat-seconds-ago", COORDINATOR) == -1
    assert one(snapshot, "last-rebalance-seconds-ago", COORDINATOR) == -1
    assert math.isnan(one(snapshot, "commit-latency-avg", COORDINATOR))
    assert one(snapshot, "commit-total", COORDINATOR) == 0


def test_polls() -> None:
    metrics = ConsumerMetrics("me")
    metrics.polls.started(1_000)
    metrics.polls.finished(1_300)  # 300 of 300 ms idle: the user's code has not had its turn
    metrics.polls.started(2_000)
    metrics.polls.finished(2_300)  # 300 of 1000
    snapshot = values(metrics, 4_300)
    assert one(snapshot, "time-between-poll-avg", CONSUMER) == 1_000
    assert one(snapshot, "poll-idle-ratio-avg", CONSUMER) == pytest.approx((1 + 0.3) / 2)
    assert one(snapshot, "last-poll-seconds-ago", CONSUMER) == 2


def test_polls_that_take_no_time() -> None:
    metrics = ConsumerMetrics("me")
    for _ in range(3):
        metrics.polls.started(5)
        metrics.polls.finished(5)
    assert math.isnan(one(values(metrics, 5), "poll-idle-ratio-avg", CONSUMER))


def test_waiting_for_commits_is_told_in_nanoseconds() -> None:
    metrics = ConsumerMetrics("me")
    metrics.commit_waited(0, 2.5)
    metrics.commit_waited(0, 1)
    metrics.committed_waited(0, 4)
    snapshot = values(metrics, 0)
    assert one(snapshot, "commit-sync-time-ns-total", CONSUMER) == 3_500_000
    assert one(snapshot, "committed-time-ns-total", CONSUMER) == 4_000_000


def test_commits() -> None:
    metrics = ConsumerMetrics("me")
    metrics.commit_finished(0, 10)
    metrics.commit_finished(0, 30, failed=True)
    snapshot = values(metrics, 0)
    assert one(snapshot, "commit-latency-avg", COORDINATOR) == 20
    assert one(snapshot, "commit-latency-max", COORDINATOR) == 30
    assert one(snapshot, "commit-total", COORDINATOR) == 2
    assert one(snapshot, "commit-failed-total", COORDINATOR) == 1


def test_a_rebalance_that_fails_first_takes_as_long_as_both() -> None:
    metrics = ConsumerMetrics("me")
    metrics.rebalance_started(0)
    metrics.rebalance_finished(100, failed=True)
    metrics.rebalance_started(150)
    metrics.join_finished(200, 40)
    metrics.sync_finished(250, 50)
    metrics.rebalance_finished(400)
    metrics.rebalance_finished(500)  # none runs
    snapshot = values(metrics, 3_400)
    assert one(snapshot, "rebalance-latency-avg", COORDINATOR) == 400
    assert one(snapshot, "rebalance-latency-total", COORDINATOR) == 400
    assert one(snapshot, "rebalance-total", COORDINATOR) == 1
    assert one(snapshot, "failed-rebalance-total", COORDINATOR) == 1
    assert one(snapshot, "last-rebalance-seconds-ago", COORDINATOR) == 3
    assert one(snapshot, "join-time-max", COORDINATOR) == 40
    assert one(snapshot, "sync-time-max", COORDINATOR) == 50
    # one in 30 whole seconds, and what has passed of the next 30
    assert one(snapshot, "rebalance-rate-per-hour", COORDINATOR) == pytest.approx(3_600 / 33.0, rel=1e-3)


def test_leaving_ends_a_rebalance_without_an_outcome() -> None:
    metrics = ConsumerMetrics("me")
    metrics.rebalance_started(0)
    metrics.rebalance_abandoned()
    metrics.rebalance_finished(10)
    snapshot = values(metrics, 10)
    assert one(snapshot, "rebalance-total", COORDINATOR) == 0
    assert one(snapshot, "failed-rebalance-total", COORDINATOR) == 0


def test_heartbeats_of_the_engine_and_of_connections_that_repeat_them() -> None:
    metrics = ConsumerMetrics("me")
    metrics.heartbeat_sent(0)
    metrics.heartbeat_answered(7, 7)
    metrics.heartbeats(9_000, 5, 1, -1)
    metrics.heartbeats(10_000, 5, 3, 500)
    metrics.heartbeats(11_000, 5, 3, 1_500)
    metrics.heartbeats(20_000, 6, 4, 1_000)  # another connection
    snapshot = values(metrics, 20_000)
    assert one(snapshot, "heartbeat-total", COORDINATOR) == 1 + 3 + 4
    assert one(snapshot, "last-heartbeat-seconds-ago", COORDINATOR) == 1
    assert one(snapshot, "heartbeat-response-time-max", COORDINATOR) == 7


def test_listeners() -> None:
    metrics = ConsumerMetrics("me")
    metrics.partitions_revoked(0, 1)
    metrics.partitions_assigned(0, 2)
    metrics.partitions_lost(0, 3)
    snapshot = values(metrics, 0)
    for what, expected in (("revoked", 1), ("assigned", 2), ("lost", 3)):
        assert one(snapshot, f"partition-{what}-latency-max", COORDINATOR) == expected


def test_connections_and_requests_by_broker() -> None:
    metrics = ConsumerMetrics("me")
    metrics.connection_opened(0)
    metrics.connection_opened(0)
    metrics.connection_closed(0)
    metrics.request_finished(0, 1, 12, 100, 1_000)
    metrics.request_finished(0, 2, 20, 300, 50)
    metrics.authentication_finished(0, 5, failed=False)
    metrics.authentication_finished(0, 5, failed=True)
    metrics.authentication_finished(0, 6, failed=False, again=True)
    snapshot = values(metrics, 0)
    assert one(snapshot, "connection-count", CONSUMER) == 1
    assert one(snapshot, "connection-creation-total", CONSUMER) == 2
    assert one(snapshot, "request-total", CONSUMER) == 2
    assert one(snapshot, "request-size-avg", CONSUMER) == 200
    assert one(snapshot, "outgoing-byte-total", CONSUMER) == 400
    assert one(snapshot, "incoming-byte-total", CONSUMER) == 1_050
    assert one(snapshot, "network-io-total", CONSUMER) == 4
    assert one(snapshot, "request-latency-max", "consumer-node-metrics", node_id="node-2") == 20
    assert one(snapshot, "request-total", "consumer-node-metrics", node_id="node-1") == 1
    for name, expected in (
        ("successful-authentication", 1),
        ("failed-authentication", 1),
        ("successful-reauthentication", 1),
    ):
        assert one(snapshot, f"{name}-total", CONSUMER) == expected
    assert one(snapshot, "reauthentication-latency-avg", CONSUMER) == 6


def test_fetches_by_the_native_counters() -> None:
    metrics = ConsumerMetrics("me")
    first = {"fetches": 2, "responses": 2, "fetch_latency_us_total": 30_000, "fetch_latency_us_max": 20_000}
    first |= {"fetch_bytes": 1_000, "records": 10, "records_returned": 8, "bytes_returned": 80}
    metrics.observe(0, first)
    second = {"fetches": 4, "responses": 3, "fetch_latency_us_total": 36_000, "fetch_latency_us_max": 20_000}
    second |= {
        "throttle_ms_total": 9,
        "throttle_ms_max": 9,
        "fetch_bytes": 1_500,
        "bytes": 1_700,
        "records": 40,
    }
    second |= {"records_returned": 40, "bytes_returned": 400, "full_waits": 2}
    snapshot = values(metrics, 10_000, fetch_stats=second)
    assert one(snapshot, "fetch-total", FETCH) == 3
    assert one(snapshot, "fetch-latency-avg", FETCH) == pytest.approx(12)
    assert one(snapshot, "fetch-latency-max", FETCH) == 20
    assert one(snapshot, "fetch-throttle-time-max", FETCH) == 9
    assert one(snapshot, "fetch-throttle-time-avg", FETCH) == 3
    assert one(snapshot, "fetch-size-avg", FETCH) == 500
    assert one(snapshot, "records-per-request-avg", FETCH) == pytest.approx(40 / 3)
    assert one(snapshot, "records-consumed-total", FETCH) == 40
    assert one(snapshot, "bytes-consumed-total", FETCH) == 400
    assert one(snapshot, "records-consumed-rate", FETCH) == pytest.approx(1)  # 40 records in 30 s and 10 s
    assert one(snapshot, "buffer-full-waits-total", FETCH) == 2
    assert one(snapshot, "request-total", CONSUMER) == 4
    assert one(snapshot, "incoming-byte-total", CONSUMER) == 1_700


@pytest.mark.parametrize(("read_committed", "lag"), [(False, 90), (True, 40)])
def test_lag_and_lead(read_committed: bool, lag: int) -> None:
    metrics = ConsumerMetrics("me", read_committed=read_committed)
    places: dict[TopicPartition, Place] = {A0: (10, 100, 50, 4), A1: (20, 20, 20, 0)}
    snapshot = values(metrics, 0, places=places, preferred_replicas={A1: 3})
    assert one(snapshot, "records-lag", FETCH, topic="a", partition="0") == lag
    assert one(snapshot, "records-lag", FETCH, topic="a", partition="1") == 0
    assert one(snapshot, "records-lag-max", FETCH) == lag
    assert one(snapshot, "records-lead", FETCH, topic="a", partition="0") == 6
    assert one(snapshot, "records-lead-min", FETCH) == 6
    assert one(snapshot, "preferred-read-replica", FETCH, topic="a", partition="0") == -1
    assert one(snapshot, "preferred-read-replica", FETCH, topic="a", partition="1") == 3


def test_a_partition_without_position_or_end_has_no_lag() -> None:
    snapshot = values(ConsumerMetrics("me"), 0, places={A0: (-1, 100, 100, 0), A1: (5, -1, -1, -1)})
    for partition in ("0", "1"):
        assert math.isnan(one(snapshot, "records-lag", FETCH, topic="a", partition=partition))
        assert math.isnan(one(snapshot, "records-lead", FETCH, topic="a", partition=partition))
    assert math.isnan(one(snapshot, "records-lag-max", FETCH))


def test_a_partition_that_is_given_up_is_forgotten_with_its_lag() -> None:
    metrics = ConsumerMetrics("me", windows=Windows(2, 1_000))
    values(metrics, 0, places={A0: (0, 10, 10, 0)})
    assert not any(metric.tag("partition") for metric in values(metrics, 10))
    snapshot = values(metrics, 3_000, places={A0: (10, 10, 10, 0)})
    assert one(snapshot, "records-lag-max", FETCH, topic="a", partition="0") == 0


def test_topics_are_told_apart_and_keep_their_dots() -> None:
    metrics = ConsumerMetrics("me")
    metrics.observe(0, {}, {}, {A0: Consumed(1, 5, 50), A1: Consumed(2, 1, 10), B0: Consumed(3, 7, 70)})
    # A0 was revoked and given back: its counters begin anew under another handle.
    snapshot = values(metrics, 1_000, consumed={A0: Consumed(9, 2, 20), A1: Consumed(2, 4, 40)})
    assert one(snapshot, "records-consumed-total", FETCH, topic="a") == 5 + 1 + 2 + 3
    assert one(snapshot, "bytes-consumed-total", FETCH, topic="a") == 50 + 10 + 20 + 30
    assert one(snapshot, "records-consumed-total", FETCH, topic="b.c") == 7


def test_topics_that_come_and_go_do_not_add_up_without_end() -> None:
    metrics = ConsumerMetrics("me")
    for number in range(1_200):
        tp = TopicPartition(f"t{number}", 0)
        metrics.observe(number, {}, {tp: (0, 0, 0, 0)}, {tp: Consumed(number, 1, 1)})
    topics = {metric.tag("topic") for metric in values(metrics, 1_200)} - {None}
    assert len(topics) <= 1_001
    assert "t1199" in topics


def test_names_can_be_looked_up_and_read() -> None:
    snapshot = values(ConsumerMetrics("me"), 0, places={A0: (0, 5, 5, 0)})
    (name,) = [metric for metric in snapshot if metric.name == "records-lag"]
    assert (name.tag("topic"), name.tag("partition"), name.tag("client-id"), name.tag("x")) == (
        "a",
        "0",
        "me",
        None,
    )
    assert str(name) == "consumer-fetch-manager-metrics:records-lag{client-id=me,topic=a,partition=0}"
