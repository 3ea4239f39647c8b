"""When which telemetry request is due, and what a push tells. Time and chance are parameters."""

from __future__ import annotations

import math
import uuid
from dataclasses import replace

import pytest

from penstock.metrics import ConsumerMetrics, MetricName, Scope
from penstock.metrics.push import (
    DEFAULT_INTERVAL_MS,
    Next,
    PushLedger,
    PushMachine,
    Subscription,
    telemetry_name,
)
from penstock.types import TopicPartition
from tests.support.telemetry import Told, read_push

ME = uuid.uuid4()
WANTED = Subscription(ME, 7, 10_000, 1_000, True, ("org.apache.kafka.consumer.",), (1,))
UNKNOWN, TOO_LARGE, THROTTLED, COMPRESSION, INVALID_REQUEST = 117, 118, 89, 76, 42


def subscribed(jitter: float = 0.5) -> PushMachine:
    machine = PushMachine(0)
    machine.subscribed(WANTED, 100, jitter)
    return machine


def test_it_asks_at_once_and_pushes_within_half_to_one_and_a_half_intervals() -> None:
    machine = PushMachine(5)
    assert (machine.next, machine.due_ms) == (Next.SUBSCRIBE, 5)
    for jitter in (0.5, 1.5):
        machine = subscribed(jitter)
        assert (machine.next, machine.due_ms) == (Next.PUSH, 100 + 10_000 * jitter)
    machine.pushed(20_000)
    assert (machine.next, machine.due_ms) == (Next.PUSH, 30_000)


def test_without_a_wish_it_asks_again_after_the_interval() -> None:
    machine = PushMachine(0)
    machine.subscribed(replace(WANTED, requested=()), 100, 0.5)
    assert (machine.next, machine.due_ms) == (Next.SUBSCRIBE, 10_100)


@pytest.mark.parametrize(
    ("code", "next_request", "due_ms"),
    [
        (UNKNOWN, Next.SUBSCRIBE, 6_000),
        (COMPRESSION, Next.SUBSCRIBE, 6_000),
        (TOO_LARGE, Next.SUBSCRIBE, 16_000),
        (THROTTLED, Next.SUBSCRIBE, 16_000),
        (INVALID_REQUEST, Next.NOTHING, math.inf),
        (87, Next.NOTHING, math.inf),
        (35, Next.NOTHING, math.inf),
        (-1, Next.NOTHING, math.inf),
    ],
)
def test_what_follows_a_refused_push(code: int, next_request: Next, due_ms: float) -> None:
    machine = subscribed()
    machine.refused(code, 6_000)
    assert (machine.next, machine.due_ms) == (next_request, due_ms)
    assert machine.compression_refused == (code == COMPRESSION)


def test_a_question_that_is_refused_over_and_over_is_not_repeated_without_a_pause() -> None:
    machine = PushMachine(0)
    machine.refused(UNKNOWN, 10)
    assert machine.due_ms >= 1_000
    machine.refused(THROTTLED, 2_000)
    assert machine.due_ms == 2_000 + DEFAULT_INTERVAL_MS


def test_each_push_that_is_too_large_tells_less_until_the_wish_is_another() -> None:
    machine = subscribed()
    assert machine.left_out == ()
    machine.refused(TOO_LARGE, 0)
    assert machine.left_out == (Scope.PARTITION,)
    machine.subscribed(WANTED, 0, 0.5)
    assert machine.left_out == (Scope.PARTITION,)
    assert machine.too_large()
    assert set(machine.left_out) == {Scope.PARTITION, Scope.TOPIC, Scope.NODE}
    assert not machine.too_large()
    machine.subscribed(replace(WANTED, subscription_id=8), 0, 0.5)
    assert machine.left_out == ()


def test_what_could_not_be_sent_is_sent_later() -> None:
    machine = subscribed()
    machine.not_sent(1_000, 250)
    assert (machine.next, machine.due_ms) == (Next.PUSH, 1_250)
    machine.not_offered(1_000)
    assert machine.due_ms == 1_000 + DEFAULT_INTERVAL_MS


def test_the_end_is_the_end() -> None:
    machine = subscribed()
    machine.end()
    machine.subscribed(WANTED, 0, 1)
    machine.pushed(0)
    machine.refused(UNKNOWN, 0)
    assert (machine.next, machine.due_ms) == (Next.NOTHING, math.inf)


# ------------------------------------------------------------ names and wishes


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        # The standard names that KIP-714 lists for consumers.
        ("connection-creation-rate", "consumer-metrics", "org.apache.kafka.consumer.connection.creation.rate"),
        ("request-latency-avg", "consumer-node-metrics", "org.apache.kafka.consumer.node.request.latency.avg"),
        ("poll-idle-ratio-avg", "consumer-metrics", "org.apache.kafka.consumer.poll.idle.ratio.avg"),
        ("commit-latency-max", "consumer-coordinator-metrics", "org.apache.kafka.consumer.coordinator.commit.latency.max"),
        ("assigned-partitions", "consumer-coordinator-metrics", "org.apache.kafka.consumer.coordinator.assigned.partitions"),
        ("rebalance-latency-total", "consumer-coordinator-metrics", "org.apache.kafka.consumer.coordinator.rebalance.latency.total"),
        ("fetch-latency-avg", "consumer-fetch-manager-metrics", "org.apache.kafka.consumer.fetch.manager.fetch.latency.avg"),
    ],
)  # fmt: skip
def test_telemetry_names(name: str, group: str, expected: str) -> None:
    assert telemetry_name(MetricName(name, group, "", (("client-id", "me"),))) == expected


def test_own_measurements_do_not_pass_for_kafkas() -> None:
    name = MetricName("commit-failed-total", "consumer-coordinator-metrics", "", (("client-id", "me"),))
    assert telemetry_name(name) == "penstock.consumer.coordinator.commit.failed.total"


def test_wishes() -> None:
    assert WANTED.wants("org.apache.kafka.consumer.x")
    assert not WANTED.wants("org.apache.kafka.producer.x")
    for everything in (("*",), ("",)):
        assert replace(WANTED, requested=everything).wants("anything")
    assert not replace(WANTED, requested=()).wants("anything")


# ------------------------------------------------------------ what a push tells


def told(
    ledger: PushLedger, metrics: ConsumerMetrics, now_ms: int, wanted: Subscription = WANTED, **given: object
) -> dict[str, Told]:
    snapshot = metrics.snapshot(now_ms, {}, {TopicPartition("t", 0): (1, 5, 5, 0)}, 1)
    payload = ledger.payload(
        snapshot,
        wanted,
        now_ms * 1_000_000,
        resource={},
        version="0",
        left_out=given.get("left_out", ()),  # type: ignore[arg-type]
    )
    return {entry.name.removeprefix("org.apache.kafka.consumer."): entry for entry in read_push(payload)[1]}


COMMITS = "coordinator.commit.total"


def test_deltas_count_from_the_last_push_that_was_taken() -> None:
    metrics, ledger = ConsumerMetrics("me"), PushLedger(0)
    metrics.commit_finished(0, 1)
    first = told(ledger, metrics, 10)[COMMITS]
    assert (first.value, first.kind, first.start_ns, first.time_ns) == (1, "delta", 0, 10_000_000)
    metrics.commit_finished(0, 1)
    second = told(ledger, metrics, 20)[COMMITS]  # the first one was not taken
    assert (second.value, second.start_ns) == (2, 0)
    ledger.taken()
    metrics.commit_finished(0, 1)
    third = told(ledger, metrics, 30)[COMMITS]
    assert (third.value, third.start_ns, third.time_ns) == (1, 20_000_000, 30_000_000)


def test_whole_sums_count_from_the_start() -> None:
    metrics, ledger = ConsumerMetrics("me"), PushLedger(7)
    wanted = replace(WANTED, delta=False)
    for now_ms in (10, 20):
        metrics.commit_finished(0, 1)
        entry = told(ledger, metrics, now_ms, wanted)[COMMITS]
        ledger.taken()
        assert (entry.value, entry.kind, entry.start_ns) == (now_ms / 10, "cumulative", 7)


def test_another_temporality_begins_anew() -> None:
    metrics, ledger = ConsumerMetrics("me"), PushLedger(0)
    metrics.commit_finished(0, 1)
    told(ledger, metrics, 10)
    ledger.taken()
    ledger.reset()
    assert told(ledger, metrics, 20)[COMMITS].value == 1


def test_values_that_are_not_there_are_not_told() -> None:
    entries = told(PushLedger(0), ConsumerMetrics("me"), 10)
    assert "coordinator.commit.latency.avg" not in entries
    assert entries[COMMITS].value == 0
    assert all(not math.isnan(entry.value) for entry in entries.values())


def test_what_is_left_out() -> None:
    metrics = ConsumerMetrics("me")
    metrics.request_finished(0, 1, 5, 10, 10)
    name, node = "fetch.manager.records.lag", "node.request.latency.avg"
    whole = told(PushLedger(0), metrics, 10)
    assert whole[name].attributes == {"topic": "t", "partition": "0"}
    assert whole[node].attributes == {"node_id": "node-1"}
    less = told(PushLedger(0), metrics, 10, left_out=(Scope.PARTITION,))
    assert name not in less
    assert node in less
    least = told(PushLedger(0), metrics, 10, left_out=(Scope.PARTITION, Scope.TOPIC, Scope.NODE))
    assert node not in least
    assert COMMITS in least
