"""librdkafka with group.protocol=consumer (KIP-848) against the embedded broker: members come, go and die, nothing is lost."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    ConsumerGroupType,
    KafkaException,
    Producer,
)
from confluent_kafka.admin import AdminClient

from penstock.devbroker import DevBroker
from penstock.devbroker.codes import Code
from tests.devbroker.raw import RawClient
from tests.support.closing import close

PARTITIONS = 6
WAIT_S = 45
OPTIONS = {"group.consumer.heartbeat.interval.ms": 200, "group.consumer.session.timeout.ms": 3_000}


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker(**OPTIONS) as running:
        running.create_topic("t", PARTITIONS)
        yield running


def produce(broker: DevBroker, count: int) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for number in range(count):
        producer.produce("t", b"%d" % number, partition=number % PARTITIONS)
    assert producer.flush(WAIT_S) == 0


class Team:
    """Members of the group g, polled in turn; `seen` counts records by partition and offset."""

    def __init__(self, broker: DevBroker) -> None:
        self.broker = broker
        self.members: list[Consumer] = []
        self.seen: Counter[tuple[int, int]] = Counter()

    def join(self, *topics: str, protocol: str = "consumer", **config: Any) -> Consumer:
        settings = {
            "bootstrap.servers": self.broker.bootstrap_servers,
            "group.id": "g",
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 100,
        }
        if protocol == "classic":
            settings |= {"session.timeout.ms": 3_000, "heartbeat.interval.ms": 200}
        member = Consumer(settings | config)
        member.subscribe(list(topics or ("t",)))
        self.members.append(member)
        return member

    def part(self, member: Consumer) -> None:
        self.members.remove(member)
        close(member)

    def until(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline, f"{what}: {self.sizes}, {len(self.seen)} records"
            for member in self.members:
                message = member.poll(0.02)
                if message is not None:
                    assert not message.error(), message.error()
                    self.seen[message.partition(), message.offset()] += 1

    @property
    def sizes(self) -> list[int]:
        return sorted(len(member.assignment()) for member in self.members)

    def share(self, *sizes: int) -> None:
        self.until(lambda: self.sizes == list(sizes), f"expected a share of {sizes}")
        owned = [tp.partition for member in self.members for tp in member.assignment()]
        assert sorted(owned) == list(range(PARTITIONS))

    def read(self, count: int) -> None:
        self.until(lambda: len(self.seen) >= count, f"expected {count} records")
        assert len(self.seen) == count


@contextmanager
def team(broker: DevBroker) -> Iterator[Team]:
    found = Team(broker)
    try:
        yield found
    finally:
        for member in found.members:
            close(member)


def test_two_and_three_members_share_and_one_leaves(broker: DevBroker) -> None:
    produce(broker, 60)
    with team(broker) as group:
        group.join()
        group.share(6)
        second = group.join()
        group.share(3, 3)
        group.join()
        group.share(2, 2, 2)
        produce(broker, 60)
        group.read(120)
        group.part(second)
        group.share(3, 3)
        produce(broker, 60)
        group.read(180)
        assert max(group.seen.values()) == 1, "nobody died, so nothing came twice"
    assert sum(broker.committed("g").values()) == 180


def test_the_partitions_of_a_member_that_is_silent_go_to_the_others(broker: DevBroker) -> None:
    """A dead process is a member without heartbeats; here the broker stops hearing one."""
    produce(broker, 60)
    with team(broker) as group:
        group.join()
        # While its automatic commits fail, librdkafka puts its heartbeats off again and again.
        group.join(**{"client.id": "dying", "enable.auto.commit": False})
        group.share(3, 3)
        dead: set[str] = set()

        def unheard(request: Any, connection: Any) -> int | None:
            if request.client_id != "dying":
                return None
            dead.add(request.body.member_id)
            return Code.COORDINATOR_NOT_AVAILABLE

        remove = broker.intercept(68, unheard)
        group.until(lambda: group.sizes[-1] == 6, "expected the other one to have all")
        assert dead
        produce(broker, 60)
        group.read(120)
        remove()
        group.share(3, 3)


ANOTHER_PROCESS = """
import sys
from confluent_kafka import Consumer
consumer = Consumer({"bootstrap.servers": sys.argv[1], "group.id": "g", "group.protocol": "consumer", "auto.offset.reset": "earliest"})
consumer.subscribe(["t"])
while len(consumer.assignment()) < 3:
    consumer.poll(0.05)
print("has its share", flush=True)
while True:
    consumer.poll(0.05)
"""


def test_a_member_is_killed(broker: DevBroker) -> None:
    produce(broker, 60)
    with team(broker) as group:
        group.join()
        group.share(6)
        group.read(60)
        command = [sys.executable, "-c", ANOTHER_PROCESS, broker.bootstrap_servers]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
            try:
                group.until(lambda: group.sizes == [3], "expected the other process to have its share")
                assert other.stdout is not None
                told = (
                    other.stdout
                )  # what the one member lets go of, it may tell the coordinator only while it is polled
                group.until(lambda: bool(select.select([told], [], [], 0)[0]), "expected the other's word")
                assert told.readline() == b"has its share\n"
            finally:
                other.kill()
        produce(broker, 60)
        group.share(6)
        group.read(120)


def test_a_static_member_comes_back_to_what_it_had(broker: DevBroker) -> None:
    with team(broker) as group:
        static = group.join(**{"group.instance.id": "i"})
        group.join()
        group.share(3, 3)
        had = sorted(tp.partition for tp in static.assignment())
        group.part(static)
        back = group.join(**{"group.instance.id": "i"})
        group.share(3, 3)
        assert sorted(tp.partition for tp in back.assignment()) == had


def test_a_regular_expression_and_a_topic_to_come(broker: DevBroker) -> None:
    with team(broker) as group:
        member = group.join("^(t|later.*)")
        group.until(lambda: len(member.assignment()) == 6, "expected the topic there is")
        broker.create_topic("later-1", 2)
        group.until(lambda: len(member.assignment()) == 8, "expected the topic that came")
        broker.delete_topic("later-1")
        group.until(lambda: len(member.assignment()) == 6, "expected the topic that went to be gone")


def test_the_broker_starts_again_under_its_members(broker: DevBroker) -> None:
    produce(broker, 60)
    with team(broker) as group:
        group.join()
        group.join()
        group.share(3, 3)
        group.read(60)
        broker.stop()
        broker.start()
        produce(broker, 60)
        group.read(120)
        group.share(3, 3)


def test_what_an_administrator_sees(broker: DevBroker) -> None:
    produce(broker, 6)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    with team(broker) as group:
        group.join(**{"group.remote.assignor": "range"})
        group.share(6)
        group.read(6)
        listed = admin.list_consumer_groups(types={ConsumerGroupType.CONSUMER}).result(WAIT_S).valid
        assert [(each.group_id, each.type, each.state) for each in listed] == [
            ("g", ConsumerGroupType.CONSUMER, ConsumerGroupState.STABLE)
        ]
        assert not admin.list_consumer_groups(types={ConsumerGroupType.CLASSIC}).result(WAIT_S).valid
        described = admin.describe_consumer_groups(["g"])["g"].result(WAIT_S)
        assert described.type == ConsumerGroupType.CONSUMER
        assert described.partition_assignor == "range"
        assert len(described.members[0].assignment.topic_partitions) == PARTITIONS
        with pytest.raises(KafkaException, match="NON_EMPTY_GROUP"):
            admin.delete_consumer_groups(["g"])["g"].result(WAIT_S)
    listing = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions("g")])["g"].result(WAIT_S)
    assert sum(tp.offset for tp in listing.topic_partitions) == 6
    admin.delete_consumer_groups(["g"])["g"].result(WAIT_S)
    assert broker.committed("g") == {}


def test_a_broker_from_before_the_protocol_does_not_offer_it() -> None:
    with DevBroker(**{"group.coordinator.rebalance.protocols": "classic"}) as old:
        with RawClient(old.bootstrap_servers) as raw:
            offered = {each.api_key for each in raw.ask(18, 3).api_keys}
            assert 11 in offered
            assert not {68, 69} & offered
            assert raw.ask(68, 1, group_id="g", member_id="m").error_code == Code.UNSUPPORTED_VERSION
            assert raw.ask(69, 1, group_ids=("g",)).groups[0].error_code == Code.UNSUPPORTED_VERSION
        old.create_topic("t", PARTITIONS)
        produce(old, 6)
        with team(old) as group:
            group.join(protocol="classic")
            group.read(6)


# ---------------------------------------------------------------- groups that change protocols
def test_a_classic_group_becomes_a_consumer_group_and_a_classic_one_again(broker: DevBroker) -> None:
    produce(broker, 60)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})

    def kind() -> Any:
        return admin.list_consumer_groups().result(WAIT_S).valid[0].type

    with team(broker) as group:
        old = [group.join(protocol="classic") for _ in range(2)]
        group.share(3, 3)
        assert kind() == ConsumerGroupType.CLASSIC
        new = group.join()
        group.share(2, 2, 2)
        assert kind() == ConsumerGroupType.CONSUMER
        produce(broker, 60)
        group.read(120)
        group.part(new)
        group.share(3, 3)
        assert kind() == ConsumerGroupType.CLASSIC
        produce(broker, 60)
        group.read(180)
        for each in old:
            group.join()
            group.part(each)
        group.share(3, 3)
        assert kind() == ConsumerGroupType.CONSUMER
        produce(broker, 60)
        group.read(240)


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_a_classic_member_joins_a_consumer_group(broker: DevBroker, strategy: str) -> None:
    produce(broker, 60)
    with team(broker) as group:
        group.join()
        group.share(6)
        classic = group.join(protocol="classic", **{"partition.assignment.strategy": strategy})
        group.share(3, 3)
        group.join()
        group.share(2, 2, 2)
        produce(broker, 60)
        group.read(120)
        group.part(classic)
        group.share(3, 3)
        produce(broker, 60)
        group.read(180)
