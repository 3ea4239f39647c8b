"""KafkaProducer against the embedded broker: the same as against a real Kafka, and every fault on command."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock.devbroker import CLOSE, DevBroker
from penstock.errors import AuthorizationError, KafkaTimeoutError, ProduceError, UnknownTopicOrPartitionError
from tests.kafka.producer_behaviour import *  # noqa: F403 - the tests that both brokers pass
from tests.kafka.producer_behaviour import WAIT_S, KafkaProducer, create, producer_of, values

PRODUCE, METADATA, INIT_PRODUCER_ID = 0, 3, 22
NOT_LEADER, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND = 6, 7, 20
UNKNOWN_SERVER_ERROR, TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED = -1, 29, 31
OUT_OF_ORDER, DUPLICATE, INVALID_EPOCH, UNKNOWN_PRODUCER_ID, INVALID_RECORD = 45, 46, 47, 59, 87


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as broker:
        yield broker


@pytest.fixture
def bootstrap(broker: DevBroker) -> str:
    return broker.bootstrap_servers


@pytest.fixture
def on_produce(broker: DevBroker) -> Iterator[Callable[[Any], None]]:
    """on_produce(f) asks f(number of the request, counted from 0) about each Produce request."""
    removes: list[Callable[[], None]] = []

    def intercept(answer: Callable[[int], Any]) -> None:
        count = iter(range(1_000_000))
        removes.append(broker.intercept(PRODUCE, lambda request, connection: answer(next(count))))

    yield intercept
    for remove in removes:
        remove()


RETRIED = [NOT_LEADER, REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND, OUT_OF_ORDER, INVALID_EPOCH]


@pytest.mark.parametrize("fault", [*RETRIED, UNKNOWN_PRODUCER_ID, CLOSE], ids=str)
@pytest.mark.parametrize("every", [2, 3, 7])
def test_faults_that_pass_lose_and_repeat_nothing(
    bootstrap: str, topic: str, on_produce: Callable[[Any], None], fault: Any, every: int
) -> None:
    create(bootstrap, topic, 2)
    on_produce(lambda number: fault if number % every == 1 and number < 60 else None)
    options = {"batch_size": 300, "linger_ms": 0, "retry_backoff_ms": 1, "reconnect_backoff_ms": 1}
    with producer_of(bootstrap, **options) as producer:
        futures = [producer.send(topic, b"%d" % n, partition=n % 2) for n in range(400)]
        producer.flush(timeout=30_000)
        assert [future.exception(0) for future in futures] == [None] * 400
    assert values(bootstrap, topic) == [b"%d" % n for p in (0, 1) for n in range(p, 400, 2)]


def test_a_duplicate_counts_as_stored(bootstrap: str, topic: str, on_produce: Callable[[Any], None]) -> None:
    on_produce(lambda number: DUPLICATE if number == 0 else None)
    with producer_of(bootstrap) as producer:
        assert producer.send(topic, b"x").result(WAIT_S).offset == -1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (TOPIC_AUTHORIZATION_FAILED, AuthorizationError),
        (INVALID_RECORD, ProduceError),
        (UNKNOWN_SERVER_ERROR, ProduceError),
    ],
)
def test_a_refusal_concerns_its_batch_only(
    bootstrap: str, topic: str, on_produce: Callable[[Any], None], code: int, kind: type[BaseException]
) -> None:
    create(bootstrap, topic)
    on_produce(lambda number: code if number == 1 else None)
    with producer_of(bootstrap, linger_ms=0) as producer:
        producer.send(topic, b"before").result(WAIT_S)
        with pytest.raises(kind, match=topic):
            producer.send(topic, b"refused").result(WAIT_S)
        assert producer.send(topic, b"after").result(WAIT_S).offset == 1
    assert values(bootstrap, topic) == [b"before", b"after"]


def test_without_retries_the_error_is_told(
    bootstrap: str, topic: str, on_produce: Callable[[Any], None]
) -> None:
    create(bootstrap, topic)
    on_produce(lambda number: NOT_LEADER)
    with producer_of(bootstrap, retries=0) as producer, pytest.raises(ProduceError, match="NOT_LEADER"):
        producer.send(topic, b"x").result(WAIT_S)


def test_delivery_timeout_bounds_the_tries(
    bootstrap: str, topic: str, on_produce: Callable[[Any], None]
) -> None:
    create(bootstrap, topic)
    on_produce(lambda number: NOT_LEADER if number < 10_000 else None)
    options = {"delivery_timeout_ms": 300, "request_timeout_ms": 200, "linger_ms": 0, "retry_backoff_ms": 10}
    with producer_of(bootstrap, **options) as producer:
        error = producer.send(topic, b"x").exception(WAIT_S)
        assert isinstance(error, KafkaTimeoutError)
        assert "NOT_LEADER" in str(error)


def test_waiting_has_timeouts_of_its_own(
    bootstrap: str, topic: str, on_produce: Callable[[Any], None]
) -> None:
    create(bootstrap, topic)
    held: concurrent.futures.Future[Any] = concurrent.futures.Future()
    on_produce(lambda number: held if number == 0 else None)
    with producer_of(bootstrap, linger_ms=0) as producer:
        first = producer.send(topic, b"held")
        with pytest.raises(KafkaTimeoutError, match="on its way"):
            first.result(0.05)
        with pytest.raises(KafkaTimeoutError, match="1 records"):
            producer.flush(timeout=50)
        held.set_result(None)
        assert first.result(WAIT_S).offset == 0


def test_delivery_timeout_counts_on_the_wire_too(
    bootstrap: str, topic: str, on_produce: Callable[[Any], None]
) -> None:
    create(bootstrap, topic)
    held: concurrent.futures.Future[Any] = concurrent.futures.Future()
    on_produce(lambda number: held if number == 1 else None)
    options = {"delivery_timeout_ms": 300, "request_timeout_ms": 300, "linger_ms": 0}
    with producer_of(bootstrap, **options) as producer:
        producer.send(topic, b"before").result(WAIT_S)
        error = producer.send(topic, b"held").exception(WAIT_S)
        assert isinstance(error, KafkaTimeoutError)
        assert "may have been stored" in str(error)
        held.set_result(None)
        after = [producer.send(topic, b"%d" % n).result(WAIT_S).offset for n in range(3)]
    assert [v for v in values(bootstrap, topic) if v != b"held"] == [b"before", b"0", b"1", b"2"]
    assert after == sorted(after)


def test_close_gives_up_in_time(bootstrap: str, topic: str, on_produce: Callable[[Any], None]) -> None:
    create(bootstrap, topic)
    held: concurrent.futures.Future[Any] = concurrent.futures.Future()
    on_produce(lambda number: held)
    with producer_of(bootstrap, linger_ms=0) as producer:
        future = producer.send(topic, b"held")
        producer.close(timeout=100)
    assert "closed before" in str(future.exception(0))
    held.set_result(None)


def test_used_up_memory_makes_send_wait(
    bootstrap: str, topic: str, on_produce: Callable[[Any], None]
) -> None:
    create(bootstrap, topic)
    held: concurrent.futures.Future[Any] = concurrent.futures.Future()
    on_produce(lambda number: held if number == 0 else None)
    with producer_of(bootstrap, buffer_memory=10_000, batch_size=1_000, max_block_ms=100) as producer:
        futures = []
        with pytest.raises(KafkaTimeoutError, match=r"buffer\.memory"):
            for _ in range(20):
                futures.append(producer.send(topic, bytes(1_000)))  # noqa: PERF401 - it raises on the way
        assert len(futures) == 9
        threading.Timer(0.02, held.set_result, [None]).start()
        assert producer.send(topic, b"there is room again").result(WAIT_S).offset == 9


def test_a_user_who_may_not_produce_is_told(broker: DevBroker, bootstrap: str, topic: str) -> None:
    create(bootstrap, topic)
    remove = broker.intercept(INIT_PRODUCER_ID, lambda request, connection: CLUSTER_AUTHORIZATION_FAILED)
    try:
        with producer_of(bootstrap) as producer:
            for _ in range(2):
                with pytest.raises(AuthorizationError, match="producer id"):
                    producer.send(topic, b"x").result(WAIT_S)
        with producer_of(bootstrap, enable_idempotence=False) as producer:
            assert producer.send(topic, b"x").result(WAIT_S).offset == 0
    finally:
        remove()


def test_order_holds_with_one_request_in_flight_and_no_idempotence(
    bootstrap: str, topic: str, on_produce: Callable[[Any], None]
) -> None:
    create(bootstrap, topic)
    on_produce(lambda number: NOT_LEADER if number % 3 == 1 and number < 60 else None)
    options = {"enable_idempotence": False, "max_in_flight_requests_per_connection": 1, "retry_backoff_ms": 1}
    with producer_of(bootstrap, batch_size=100, linger_ms=0, **options) as producer:
        for n in range(200):
            producer.send(topic, b"%d" % n)
    assert values(bootstrap, topic) == [b"%d" % n for n in range(200)]


def test_a_topic_that_nobody_creates() -> None:
    with (
        DevBroker(**{"auto.create.topics.enable": "false"}) as broker,
        producer_of(broker.bootstrap_servers, max_block_ms=300, retry_backoff_ms=10) as producer,
        pytest.raises(UnknownTopicOrPartitionError, match="does not exist"),
    ):
        producer.send("missing", b"x").result(WAIT_S)
    with (
        DevBroker(**{"auto.create.topics.enable": "false"}) as broker,
        producer_of(broker.bootstrap_servers, retry_backoff_ms=10) as producer,
    ):
        threading.Timer(0.05, broker.create_topic, ["late"]).start()
        assert producer.send("late", b"x").result(WAIT_S).offset == 0


def test_a_broker_that_is_down_and_comes_up_again(tmp_path: Any) -> None:
    with DevBroker(tmp_path) as broker:
        create(broker.bootstrap_servers, "t")
        port = broker.port
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, reconnect_backoff_max_ms=100)
        assert producer.send("t", b"0").result(WAIT_S).offset == 0
    futures = [producer.send("t", b"%d" % n) for n in range(1, 50)]
    with pytest.raises(KafkaTimeoutError):
        futures[0].result(0.2)
    with DevBroker(tmp_path, port=port) as broker:
        assert [future.result(WAIT_S).offset for future in futures] == list(range(1, 50))
        producer.close()
        assert values(broker.bootstrap_servers, "t") == [b"%d" % n for n in range(50)]
