"""Telemetry push (KIP-714) to the embedded broker; OpenTelemetry's own classes judge what arrives."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer, TopicPartition
from penstock._native import Fetcher
from penstock.engine.telemetry import Meter
from penstock.engine.thread import EngineThread
from penstock.errors import UnsupportedVersionError
from penstock.metrics import ConsumerMetrics
from tests.support.telemetry import Told, lag_of, pushing, read_push

WAIT_S = 30.0
WAITED = "org.apache.kafka.consumer.commit.sync.time.ns.total"
CREATED = "org.apache.kafka.consumer.connection.creation.total"
GET, PUSH = 71, 72


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker() as broker:
        yield broker


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
    return found


def of_name(told: list[Told], name: str) -> list[float]:
    return [entry.value for entry in told if entry.name == name]


def test_what_is_wanted_is_pushed_and_the_last_time_said(broker: DevBroker) -> None:
    broker.create_topic("t", 2)
    broker.want_telemetry("org.apache.kafka.consumer.", interval_ms=100)
    options = {
        "bootstrap_servers": broker.bootstrap_servers,
        "client_id": "me",
        "client_rack": "r1",
        "group_id": "g",
    }
    with pushing("t", **options) as (consumer, _, _):
        instance_id = consumer.client_instance_id(WAIT_S * 1000)
        until(lambda: len(broker.telemetry()) >= 2)
    pushes = broker.telemetry()
    assert {push.client_instance_id for push in pushes} == {instance_id}
    assert {push.client_id for push in pushes} == {"me"}
    assert [push.terminating for push in pushes] == [False] * (len(pushes) - 1) + [True]
    assert {push.compression_type for push in pushes} == {1}, "gzip, which the broker accepts"
    resource, told = read_push(pushes[0].metrics)
    assert resource == {"client_rack": "r1", "group_id": "g"}
    assert told
    assert all(entry.name.startswith("org.apache.kafka.consumer.") for entry in told)
    assert not any("client_id" in entry.attributes for entry in told), "the broker knows it from the request"


def test_only_what_is_asked_for_is_told(broker: DevBroker) -> None:
    broker.want_telemetry("org.apache.kafka.consumer.connection.", interval_ms=50, compression_types=())
    with pushing(bootstrap_servers=broker.bootstrap_servers):
        push = until(broker.telemetry)[0]
    assert push.compression_type == 0
    names = {entry.name for entry in read_push(push.metrics)[1]}
    assert CREATED in names
    assert {name.rsplit(".", 2)[0] for name in names} <= {
        "org.apache.kafka.consumer.connection", "org.apache.kafka.consumer"
    }  # fmt: skip


def test_the_lag_is_told(broker: DevBroker) -> None:
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for n in range(10):
            producer.send("t", b"%d" % n, partition=0).result(WAIT_S)
    broker.want_telemetry("*", interval_ms=50)
    with pushing(bootstrap_servers=broker.bootstrap_servers, max_poll_records=4) as (consumer, _, _):
        consumer.assign([TopicPartition("t", 0)])
        assert len(consumer.poll(WAIT_S * 1000)) == 4

        def lag() -> float | None:
            pushes = broker.telemetry()
            return lag_of(read_push(pushes[-1].metrics)[1], TopicPartition("t", 0)) if pushes else None

        until(lambda: lag() == 6)


def test_sums_tell_what_was_added_and_a_lost_push_is_told_again(broker: DevBroker) -> None:
    lost: list[int] = []

    def lose_the_second(request: Any, connection: Any) -> Any:
        lost.append(1)
        return {"error_code": 117} if len(lost) == 2 else None

    broker.intercept(PUSH, lose_the_second)
    broker.want_telemetry(WAITED, interval_ms=100)
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, metrics, _):
        until(lambda: broker.telemetry())
        for _ in range(3):
            metrics.commit_waited(consumer._core.engine.now_ms(), 1e-6)
        until(lambda: len(broker.telemetry()) >= 3)
    told = [read_push(push.metrics)[1][0] for push in broker.telemetry()]
    assert {entry.kind for entry in told} == {"delta"}
    assert sum(entry.value for entry in told) == 3
    assert max(entry.value for entry in told) == 3
    for before, after in itertools.pairwise(told):
        assert after.start_ns == before.time_ns, "one interval begins where the one before ended"


def test_without_delta_sums_are_whole(broker: DevBroker) -> None:
    broker.want_telemetry(WAITED, interval_ms=50, delta=False)
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, metrics, _):
        metrics.commit_waited(consumer._core.engine.now_ms(), 1e-6)
        until(lambda: len(broker.telemetry()) >= 3)
    told = [read_push(push.metrics)[1][0] for push in broker.telemetry()]
    assert {entry.kind for entry in told} == {"cumulative"}
    assert [entry.value for entry in told[1:]] == [1] * (len(told) - 1)
    assert len({entry.start_ns for entry in told}) == 1


def test_another_wish_is_learned(broker: DevBroker) -> None:
    broker.want_telemetry(CREATED, interval_ms=50)
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, _, _):
        first_id = consumer.client_instance_id(WAIT_S * 1000)
        until(broker.telemetry)
        broker.want_telemetry("org.apache.kafka.consumer.coordinator.assigned.partitions", interval_ms=50)
        until(lambda: of_name(read_push(broker.telemetry()[-1].metrics)[1], CREATED) == [])
        assert consumer.client_instance_id(WAIT_S * 1000) == first_id
    assert {push.client_instance_id for push in broker.telemetry()} == {first_id}


def test_what_is_too_large_is_told_with_less_detail(broker: DevBroker) -> None:
    broker.create_topic("t", 50)
    broker.want_telemetry("*", interval_ms=50, max_bytes=6_000, compression_types=())
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, _, _):
        consumer.assign([TopicPartition("t", number) for number in range(50)])
        consumer.poll(10)
        pushes = until(lambda: [push for push in broker.telemetry() if len(push.metrics) > 1000])
    assert all(len(push.metrics) <= 6_000 for push in broker.telemetry())
    told = read_push(pushes[-1].metrics)[1]
    assert of_name(told, "org.apache.kafka.consumer.coordinator.assigned.partitions") == [50]


@pytest.mark.parametrize("code", [89, 118, 76])
def test_a_refused_push_is_followed_by_another(broker: DevBroker, code: int) -> None:
    asked: list[int] = []
    broker.intercept(PUSH, lambda request, connection: asked.append(1) or (code if len(asked) == 1 else None))
    broker.want_telemetry(CREATED, interval_ms=50)
    with pushing(bootstrap_servers=broker.bootstrap_servers):
        push = until(broker.telemetry)[0]
    assert push.compression_type == (0 if code == 76 else 1), "what is not accepted is not sent again"


def test_a_refusal_for_good_ends_it(broker: DevBroker) -> None:
    asked: list[int] = []
    broker.intercept(PUSH, lambda request, connection: asked.append(1) or 42)
    broker.want_telemetry(CREATED, interval_ms=1)
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (_, _, pusher):
        until(lambda: pusher._task is not None and pusher._task.done())
    assert len(asked) == 1
    assert broker.telemetry() == []


def test_a_broken_connection_is_no_end(broker: DevBroker) -> None:
    broker.want_telemetry(CREATED, interval_ms=50)
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, _, _):
        instance_id = consumer.client_instance_id(WAIT_S * 1000)
        until(broker.telemetry)
        broker.disconnect_all()
        told = len(broker.telemetry())
        until(lambda: len(broker.telemetry()) > told)
    assert {push.client_instance_id for push in broker.telemetry()} == {instance_id}


def test_without_a_wish_nothing_is_pushed_but_the_client_is_named(broker: DevBroker) -> None:
    pushed: list[int] = []
    broker.intercept(PUSH, lambda request, connection: pushed.append(1))
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, _, _):
        assert consumer.client_instance_id(WAIT_S * 1000).int != 0
    assert pushed == []


def test_a_broker_without_it_is_left_alone(broker: DevBroker) -> None:
    def without(request: Any, connection: Any) -> dict[str, Any]:
        return {"api_keys": [{"api_key": key, "min_version": 0, "max_version": 3} for key in (3, 18)]}

    broker.intercept(18, without)
    with (
        pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, _, _),
        pytest.raises(UnsupportedVersionError, match=r"metric\.reporters"),
    ):
        consumer.client_instance_id(WAIT_S * 1000)


def test_close_waits_no_longer_than_its_bound(broker: DevBroker) -> None:
    """The broker holds the push; close() gives up on it and the consumer closes."""
    from concurrent.futures import Future

    held: Future[None] = Future()
    arrived: list[int] = []
    broker.intercept(PUSH, lambda request, connection: arrived.append(1) or held)
    broker.want_telemetry(CREATED, interval_ms=1)
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, _, pusher):
        until(lambda: arrived)
        consumer._core.engine.call(pusher.close, 100).result(WAIT_S)
        until(lambda: pusher._task is not None and pusher._task.done())
    held.set_result(None)


def test_close_does_not_wait_where_nothing_was_asked_for(broker: DevBroker) -> None:
    """Not even with all the time in the world, and no broker that answers."""
    options = {"bootstrap_servers": broker.bootstrap_servers}
    broker.stop()
    with pushing(**options) as (consumer, _, pusher):
        consumer._core.engine.call(pusher.close, 3_600_000).result(WAIT_S)
        with pytest.raises(UnsupportedVersionError, match="closed"):
            consumer.client_instance_id(WAIT_S * 1000)


def test_measurements_that_fail_disturb_nobody(broker: DevBroker, caplog: pytest.LogCaptureFixture) -> None:
    failures: list[int] = []
    broker.create_topic("t")
    broker.want_telemetry("*", interval_ms=20)
    with pushing(bootstrap_servers=broker.bootstrap_servers) as (consumer, _, pusher):
        snapshot = pusher._snapshot

        def fails_first() -> Any:
            if not failures:
                failures.append(1)
                raise RuntimeError("no such measurement")
            return snapshot()

        pusher._snapshot = fails_first
        consumer.assign([TopicPartition("t", 0)])
        until(lambda: failures)
        assert consumer.end_offsets([TopicPartition("t", 0)]) == {TopicPartition("t", 0): 0}
        until(broker.telemetry)
    noise = [
        r for r in caplog.records if r.name.startswith("penstock.engine") and r.levelno >= logging.WARNING
    ]
    assert noise == []


def test_what_a_consumer_measures_of_its_reading(broker: DevBroker) -> None:
    broker.create_topic("a.b")
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for n in range(10):
            producer.send("a.b", b"%d" % n, key=b"k").result(WAIT_S)
    with KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_metrics_push=False,
        max_poll_records=4,
    ) as consumer:
        consumer.assign([TopicPartition("a.b", 0)])
        assert len(consumer.poll(WAIT_S * 1000)) == 4
        values = {(name.name, name.tags[1:]): value for name, value in consumer.metrics().items()}
    topic, partition = (("topic", "a.b"),), (("topic", "a.b"), ("partition", "0"))
    assert values["records-consumed-total", ()] == values["records-consumed-total", topic] == 4
    assert values["bytes-consumed-total", ()] == values["bytes-consumed-total", topic] == 8
    assert values["records-lag", partition] == values["records-lag-max", ()] == 6
    assert values["records-lead", partition] == values["records-lead-min", ()] == 4
    assert values["assigned-partitions", ()] == 1
    assert values["fetch-total", ()] >= 1
    assert values["fetch-latency-max", ()] >= values["fetch-latency-avg", ()] > 0
    assert values["fetch-size-avg", ()] > 0


def test_reading_measurements_of_a_fetcher_that_is_closed() -> None:
    """close() ends the fetcher in the user's thread; the engine may read once more before it stops."""
    engine = EngineThread("closed")
    fetcher = Fetcher(engine.events, client_id="me")
    tp = TopicPartition("t", 0)
    meter = Meter(engine, ConsumerMetrics("me"), fetcher, {tp: fetcher.assign("t", bytes(16), 0)})
    meter.observe()
    fetcher.close()
    meter.observe()
    assert any(name.tag("topic") == "t" for name in meter.snapshot())
    engine.loop.close()
