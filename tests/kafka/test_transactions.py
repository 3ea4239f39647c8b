"""Transactions against a real Apache Kafka, by both protocols: transaction.version 2 (KIP-890), and 1."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tools.kafka.kafka import java_tool

from penstock._native import BatchBuilder
from penstock.errors import KafkaTimeoutError, ProducerFencedError, TransactionError
from tests.devbroker.raw import RawClient
from tests.support.kafka import RealKafka
from tests.support.proxy import TO_CLIENT, TO_SERVER, Proxy
from tests.support.workload import SOAK_SECONDS

from .transaction_behaviour import *  # noqa: F403 - the tests that all brokers pass
from .transaction_behaviour import (
    WAIT_S,
    KafkaProducer,
    TopicPartition,
    as_often_as_it_takes,
    committed,
    create,
    identity,
    member_of,
    offset_of,
    transactional,
    until,
)

pytestmark = pytest.mark.kafka
PRODUCE, INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, OFFSETS = 0, 22, 24, 25, 26, 28
INVALID_PRODUCER_EPOCH = 47


@pytest.fixture(scope="module")
def kafka_of_version_1() -> Iterator[RealKafka]:
    """A broker whose cluster has not been told to use transaction.version 2, as after an upgrade from Kafka 3."""
    cluster = RealKafka()
    cluster.features["transaction.version"] = 1
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(params=[2, 1], ids=["version-2", "version-1"])
def cluster(request: pytest.FixtureRequest) -> RealKafka:
    found: RealKafka = request.getfixturevalue("kafka" if request.param == 2 else "kafka_of_version_1")
    return found


@pytest.fixture
def bootstrap(cluster: RealKafka) -> str:
    return cluster.bootstrap_servers


@pytest.fixture
def proxy(cluster: RealKafka) -> Iterator[Proxy]:
    with cluster.open_proxies() as proxies:
        (only,) = proxies.values()
        yield only


def by_version_2(cluster: RealKafka) -> bool:
    return "transaction.version" not in cluster.features


class Requests:
    """What clients ask through a proxy: `seen` holds (api key, version). `then` is called with each api key, before it goes on."""

    def __init__(self, proxy: Proxy) -> None:
        self.seen: list[tuple[int, int]] = []
        self.then: Callable[[int], object] = lambda api_key: None
        proxy.rewrite = self._look

    def _look(self, direction: str, data: bytes) -> bytes:
        place = 0
        while direction == TO_SERVER and place + 8 <= len(
            data
        ):  # these tests' requests come each in one piece
            size, api_key, version = struct.unpack_from(">ihh", data, place)
            self.seen.append((api_key, version))
            self.then(api_key)
            place += 4 + size
        return data

    def versions(self, api_key: int) -> set[int]:
        return {version for key, version in self.seen if key == api_key}


class LostAnswer:
    """The first request of this kind is carried out, and its answer never arrives: the connection breaks after a moment."""

    def __init__(self, proxy: Proxy, requests: Requests, api_key: int) -> None:
        self.happened = False

        def lose(key: int) -> None:
            if key == api_key and not self.happened:
                self.happened = True
                proxy.blackhole = TO_CLIENT
                threading.Timer(0.3, self._end, [proxy]).start()

        requests.then = lose

    def _end(self, proxy: Proxy) -> None:
        proxy.reset()
        proxy.blackhole = None


def test_what_goes_over_the_wire(cluster: RealKafka, proxy: Proxy, topic: str) -> None:
    """By version 2 brokers add partitions and groups by themselves, and each transaction has an epoch of its own."""
    create(cluster.bootstrap_servers, topic, 2)
    requests = Requests(proxy)
    epochs = []
    with transactional(cluster.proxied_bootstrap_servers, topic) as producer:
        for number in range(4):
            epochs.append(identity(producer))
            producer.begin_transaction()
            producer.send(topic, b"x", partition=number % 2)
            producer.send_offsets_to_transaction({TopicPartition(topic, 0): number}, member_of(topic))
            if number == 2:
                producer.abort_transaction()
            else:
                producer.commit_transaction()
    first_id, first = epochs[0]
    if not by_version_2(cluster):
        assert requests.versions(PRODUCE) == {11}
        assert requests.versions(END_TXN) == requests.versions(OFFSETS) == {4}
        assert requests.versions(ADD_PARTITIONS) and requests.versions(ADD_OFFSETS)
        assert epochs == [(first_id, first)] * 4
    else:
        assert requests.versions(PRODUCE) == {12}
        assert requests.versions(END_TXN) == requests.versions(OFFSETS) == {5}
        assert not requests.versions(ADD_PARTITIONS) | requests.versions(ADD_OFFSETS)
        assert epochs == [(first_id, first + n) for n in range(4)]
    assert len(committed(cluster.bootstrap_servers, topic)) == 3


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "abort"])
def test_an_end_whose_answer_is_lost_is_done_once(
    cluster: RealKafka, proxy: Proxy, topic: str, commit: bool
) -> None:
    create(cluster.bootstrap_servers, topic)
    requests = Requests(proxy)
    with transactional(cluster.proxied_bootstrap_servers, topic) as producer:
        for number in range(2):
            lost = LostAnswer(proxy, requests, END_TXN)
            producer.begin_transaction()
            producer.send(topic, b"%d" % number).result(WAIT_S)
            if commit:
                producer.commit_transaction()
            else:
                producer.abort_transaction()
            assert lost.happened
        with producer.transaction():
            producer.send(topic, b"next")
    expected = [b"0", b"1", b"next"] if commit else [b"next"]
    assert committed(cluster.bootstrap_servers, topic) == expected
    assert cluster.end_offsets(topic) == {0: 6}, "three records, three markers"


def test_a_commit_that_takes_too_long_is_called_again(cluster: RealKafka, proxy: Proxy, topic: str) -> None:
    create(cluster.bootstrap_servers, topic)
    with transactional(cluster.proxied_bootstrap_servers, topic, max_block_ms=700) as producer:
        producer.begin_transaction()
        producer.send(topic, b"once").result(WAIT_S)
        requests = Requests(proxy)
        requests.then = lambda key: setattr(proxy, "blackhole", TO_CLIENT) if key == END_TXN else None
        for _ in range(2):
            with pytest.raises(KafkaTimeoutError):
                producer.commit_transaction()
        proxy.reset()
        proxy.heal()
        producer.commit_transaction()
        with producer.transaction():
            producer.send(topic, b"next")
    assert committed(cluster.bootstrap_servers, topic) == [b"once", b"next"]
    assert cluster.end_offsets(topic) == {0: 4}


@pytest.mark.parametrize(
    "api_key", [ADD_OFFSETS, OFFSETS, END_TXN, INIT_PRODUCER_ID], ids=["add", "offsets", "end", "epoch"]
)
def test_what_is_given_up_half_way_is_aborted(
    cluster: RealKafka, proxy: Proxy, topic: str, api_key: int
) -> None:
    """Offsets of which nobody knows whether they have arrived are never committed, and what is late harms nothing that comes after."""
    if by_version_2(cluster) and api_key in (ADD_OFFSETS, INIT_PRODUCER_ID):
        pytest.skip("not asked by version 2")
    create(cluster.bootstrap_servers, topic, 2)
    place, given_up = TopicPartition(topic, 0), 0
    with transactional(cluster.proxied_bootstrap_servers, topic, max_block_ms=1_000) as producer:
        as_often_as_it_takes(lambda: producer.partitions_for(topic))
        with producer.transaction():
            producer.send(topic, b"before", partition=0)
        requests = Requests(proxy)
        requests.then = lambda key: setattr(proxy, "blackhole", TO_CLIENT) if key == api_key else None
        producer.begin_transaction()
        producer.send(topic, b"dropped", partition=0).result(WAIT_S)
        try:
            producer.send_offsets_to_transaction({place: 7}, member_of(topic))
            producer.send(topic, bytes(50), partition=1)  # on its way, so that the abort is not a clean one
        except KafkaTimeoutError:
            given_up += 1
            with pytest.raises(TransactionError, match="has to be aborted"):
                producer.commit_transaction()
        while True:
            try:
                producer.abort_transaction()
                break
            except KafkaTimeoutError:
                given_up += 1
                proxy.reset()
                proxy.heal()
        assert given_up
        with producer.transaction():
            for partition in range(2):
                producer.send(topic, b"after", partition=partition)
            producer.send_offsets_to_transaction({place: 9}, member_of(topic))
    assert committed(cluster.bootstrap_servers, topic) == [b"before", b"after", b"after"]
    until(lambda: offset_of(cluster.bootstrap_servers, topic, place), 9)


def test_connections_that_break_at_any_moment(cluster: RealKafka, proxy: Proxy, topic: str) -> None:
    """What was told to be committed is there, once and in order, with its offsets; what was told to be aborted is not."""
    create(cluster.bootstrap_servers, topic, 2)
    place, group = TopicPartition(topic, 0), f"{topic}-group"
    chance, stop, kept = random.Random(890), threading.Event(), []

    def trouble() -> None:
        while not stop.wait(chance.uniform(0.005, 0.08)):
            way = chance.choice(["cut", "reset", "swallow"])
            if way == "swallow":
                proxy.blackhole = TO_CLIENT  # requests arrive and are carried out, answers do not come
                stop.wait(0.02)
                proxy.reset()
                proxy.blackhole = None
            else:
                getattr(proxy, way)()

    options: dict[str, Any] = {"batch_size": 500, "linger_ms": 1, "retry_backoff_ms": 5, "max_block_ms": 400}
    with transactional(cluster.proxied_bootstrap_servers, topic, **options) as producer:
        as_often_as_it_takes(lambda: producer.partitions_for(topic))
        troublemaker = threading.Thread(target=trouble)
        troublemaker.start()
        try:
            for number in range(60):
                producer.begin_transaction()
                try:
                    for part in range(40):
                        producer.send(topic, b"%d.%d" % (number, part), partition=part % 2)
                    producer.send_offsets_to_transaction({place: number}, member_of(group))
                    if number % 5 == 4:
                        raise TransactionError("the test wants it to be aborted")
                    as_often_as_it_takes(producer.commit_transaction)
                    kept.append(number)
                except (TransactionError, KafkaTimeoutError) as error:
                    assert not isinstance(error, ProducerFencedError), error
                    as_often_as_it_takes(producer.abort_transaction)
        finally:
            stop.set()
            troublemaker.join(WAIT_S)
            proxy.heal()
    expected = [b"%d.%d" % (number, part) for p in range(2) for number in kept for part in range(p, 40, 2)]
    assert committed(cluster.bootstrap_servers, topic) == expected
    until(lambda: offset_of(cluster.bootstrap_servers, group, place), kept[-1])
    assert len(kept) > 20


def late_batch(producer: KafkaProducer, topic: str, sequence: int) -> dict[str, object]:
    """A Produce request of what this producer might have sent before its transaction ended, and that has taken its time."""
    builder = BatchBuilder()
    builder.append(1, None, b"late", [])
    producer_id, epoch = identity(producer)
    records = builder.build(
        producer_id=producer_id, producer_epoch=epoch, base_sequence=sequence, transactional=True
    )
    partition = {"index": 0, "records": records}
    return {
        "transactional_id": topic,
        "acks": -1,
        "timeout": 10_000,
        "topic_data": [{"name": topic, "partition_data": [partition]}],
    }


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "abort"])
def test_what_arrives_after_the_end_is_refused(kafka: RealKafka, topic: str, commit: bool) -> None:
    """A hanging transaction: stored after its end, it would hold up all who read committed records for ever (KIP-890)."""
    create(kafka.bootstrap_servers, topic)
    with transactional(kafka.bootstrap_servers, topic) as producer:
        producer.begin_transaction()
        producer.send(topic, b"in time").result(WAIT_S)
        late = late_batch(producer, topic, sequence=1)
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
        until(
            lambda: kafka.end_offsets(topic), {0: 2}
        )  # what comes before the marker is of the transaction that ends
        with RawClient(kafka.bootstrap_servers) as raw:
            for _ in range(2):
                (answer,) = raw.ask(PRODUCE, 12, **late).responses[0].partition_responses
                assert int(answer.error_code) == INVALID_PRODUCER_EPOCH
                with producer.transaction():
                    producer.send(topic, b"next")
    before = [b"in time"] if commit else []
    assert committed(kafka.bootstrap_servers, topic) == [*before, b"next", b"next"]


@pytest.mark.skipif(not SOAK_SECONDS, reason="it takes 32,000 transactions: set PENSTOCK_SOAK_SECONDS")
def test_epochs_run_out_and_a_new_producer_id_follows(kafka: RealKafka, topic: str) -> None:
    """The epoch is a number of 16 bits. It is raised by aborting transactions without anything, which is as quick as it gets."""
    create(kafka.bootstrap_servers, topic)
    with transactional(kafka.bootstrap_servers, topic) as producer:
        producer_id, epoch = identity(producer)
        with RawClient(kafka.bootstrap_servers) as raw:
            while epoch < 2**15 - 3:
                answer = raw.ask(
                    END_TXN,
                    5,
                    transactional_id=topic,
                    producer_id=producer_id,
                    producer_epoch=epoch,
                    committed=False,
                )
                if int(answer.error_code) == 0:
                    epoch = int(answer.producer_epoch)
        producer._sender.identity.epoch = epoch
        seen = []
        for number in range(4):
            with producer.transaction():
                producer.send(topic, b"%d" % number)
            seen.append(identity(producer))
    assert {one for one, _ in seen} == {producer_id, seen[-1][0]} and seen[-1][0] != producer_id
    assert seen[-1][1] < 4
    assert committed(kafka.bootstrap_servers, topic) == [b"%d" % n for n in range(4)]


def test_a_cluster_that_is_upgraded_and_downgraded_meanwhile(
    kafka_of_version_1: RealKafka, topic: str
) -> None:
    """The transaction that is open ends as it has begun; the next one is by what the newest connection has told."""
    cluster = kafka_of_version_1
    create(cluster.bootstrap_servers, topic)
    spoken = []
    with cluster.open_proxies() as proxies:
        (proxy,) = proxies.values()
        requests = Requests(proxy)
        with transactional(cluster.proxied_bootstrap_servers, topic) as producer:
            for level in (2, 1):
                producer.begin_transaction()
                producer.send(topic, b"before %d" % level).result(WAIT_S)
                verb = "upgrade" if level == 2 else "downgrade"
                java_tool(
                    "org.apache.kafka.tools.FeatureCommand",
                    [
                        "--bootstrap-server",
                        cluster.bootstrap_servers,
                        verb,
                        f"--feature=transaction.version={level}",
                    ],
                )
                proxy.reset()
                producer.send(topic, b"after %d" % level)
                producer.commit_transaction()
                requests.seen.clear()
                with producer.transaction():
                    producer.send(topic, b"at %d" % level)
                spoken.append((requests.versions(PRODUCE), requests.versions(END_TXN)))
    assert spoken == [({12}, {5}), ({11}, {4})]
    words = [b"%s %d" % (word, level) for level in (2, 1) for word in (b"before", b"after", b"at")]
    assert committed(cluster.bootstrap_servers, topic) == words


def test_brokers_that_are_killed_in_the_midst(kafka3: RealKafka, topic: str) -> None:
    """Records, offsets and ends find their way to whoever takes over; each transaction is there as a whole, once, or not at all."""
    nodes = sorted(kafka3.nodes)
    kafka3.create_topic(topic, replica_assignment=[nodes, nodes[1:] + nodes[:1], nodes[2:] + nodes[:2]])
    place, group = TopicPartition(topic, 0), f"{topic}-group"
    with transactional(kafka3.bootstrap_servers, topic, max_block_ms=60_000) as producer:
        for number in range(8):
            producer.begin_transaction()
            for part in range(30):
                producer.send(topic, b"%d.%d" % (number, part), partition=part % 3)
            if number in (1, 5):
                producer.flush()
                assert producer._transactions is not None
                nodes_of = {key: node for (_, key), node in producer._transactions._nodes.items()}
                killed = nodes_of[topic] if number == 1 else kafka3.leaders(topic)[0]
                kafka3.kill(killed)
            for part in range(30, 60):
                producer.send(topic, b"%d.%d" % (number, part), partition=part % 3)
            producer.send_offsets_to_transaction({place: number}, member_of(group))
            if number % 4 == 2:
                producer.abort_transaction()
            else:
                producer.commit_transaction()
            if number == 3:
                kafka3.restart(killed)
    kept = [number for number in range(8) if number % 4 != 2]
    expected = [b"%d.%d" % (number, part) for p in range(3) for number in kept for part in range(p, 60, 3)]
    assert committed(kafka3.bootstrap_servers, topic) == expected
    until(lambda: offset_of(kafka3.bootstrap_servers, group, place), 7)
