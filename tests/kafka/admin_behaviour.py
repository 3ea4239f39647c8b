"""What Admin does, on whichever broker: a module that imports these tests gives a `bootstrap` fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, Producer

from penstock.admin import Admin, NewTopic
from penstock.errors import (
    BrokerError,
    ClosedError,
    ConnectionFailedError,
    GroupError,
    UnknownTopicOrPartitionError,
)
from penstock.types import OffsetAndMetadata, TopicPartition

WAIT_S = 30.0
KEEP = {"retention.ms": -1}  # the records' timestamps lie years back


@pytest.fixture
def admin(bootstrap: str) -> Iterator[Admin]:
    with Admin(bootstrap_servers=bootstrap, default_api_timeout_ms=30_000) as admin:
        yield admin


def fill(bootstrap: str, topic: str, partition: int, timestamps: list[int]) -> None:
    """Records with these timestamps, written by another client, each in a batch of its own."""
    producer = Producer({"bootstrap.servers": bootstrap})
    for timestamp in timestamps:
        producer.produce(topic, b"value", partition=partition, timestamp=timestamp)
        assert producer.flush(WAIT_S) == 0


class Member:
    """Another client's consumer that has joined a group and read a first record."""

    def __init__(self, bootstrap: str, group: str, topic: str) -> None:
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "client.id": "somebody-else",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        self.consumer.subscribe([topic])
        self.first = None
        while self.first is None:
            self.first = self.consumer.poll(0.05)

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.consumer.close()


def test_a_topics_life(admin: Admin, topic: str) -> None:
    admin.create_topics(
        [NewTopic(topic, 3, configs={"retention.ms": 3_600_000, "unclean.leader.election.enable": False})]
    )
    description = admin.describe_topics([topic])[topic]
    assert description.name == topic
    assert len(description.topic_id) == 32
    assert not description.is_internal
    assert [p.partition for p in description.partitions] == [0, 1, 2]
    nodes = {node.id for node in admin.describe_cluster().nodes}
    for info in description.partitions:
        assert info.leader is not None
        assert info.leader.id in nodes
        assert set(info.replicas) == set(info.in_sync_replicas) <= nodes
    assert topic in admin.describe_topics()
    admin.create_partitions({topic: 5})
    assert len(admin.describe_topics([topic])[topic].partitions) == 5
    admin.delete_topics([topic])
    assert topic not in admin.describe_topics()
    with pytest.raises(UnknownTopicOrPartitionError, match=topic):
        admin.describe_topics([topic])


def test_a_name_alone_takes_the_brokers_defaults(admin: Admin, topic: str) -> None:
    admin.create_topics([topic])
    assert admin.describe_topics([topic])[topic].partitions


def test_a_lone_string_is_no_list(admin: Admin, topic: str) -> None:
    with pytest.raises(TypeError, match="list"):
        admin.create_topics(topic)


def test_the_first_error_tells_of_every_name(admin: Admin, topic: str) -> None:
    admin.create_topics([NewTopic(topic, 1)])
    with pytest.raises(BrokerError) as caught:
        admin.create_topics([NewTopic(topic, 1), NewTopic("no good name", 1), NewTopic(f"{topic}-2", 1)])
    assert caught.value.name in ("TOPIC_ALREADY_EXISTS", "INVALID_TOPIC_EXCEPTION")
    message = str(caught.value)
    for expected in (
        topic,
        "TOPIC_ALREADY_EXISTS",
        "no good name",
        "INVALID_TOPIC_EXCEPTION",
        f"done for '{topic}-2'",
    ):
        assert expected in message
    assert f"{topic}-2" in admin.describe_topics()
    with pytest.raises(UnknownTopicOrPartitionError) as unknown:
        admin.delete_topics([f"{topic}-3", topic])
    assert f"{topic}-3" in str(unknown.value)


def test_validate_only_changes_nothing(admin: Admin, topic: str) -> None:
    admin.create_topics([NewTopic(topic, 2)], validate_only=True)
    assert topic not in admin.describe_topics()


def test_options_of_a_topic(admin: Admin, topic: str) -> None:
    admin.create_topics([NewTopic(topic, 1, configs={"retention.ms": 3_600_000})])
    entries = admin.describe_configs(topic)
    assert (entries["retention.ms"].value, entries["retention.ms"].is_default) == ("3600000", False)
    assert entries["cleanup.policy"].is_default
    with pytest.raises(UnknownTopicOrPartitionError, match=f"{topic}-none"):
        admin.describe_configs(f"{topic}-none")


def test_offsets_at_the_ends_and_in_time(admin: Admin, bootstrap: str, topic: str) -> None:
    admin.create_topics([NewTopic(topic, 2, configs=KEEP)])
    start = 1_700_000_000_000
    fill(bootstrap, topic, 0, [start, start + 1_000, start + 2_000])
    full, empty = TopicPartition(topic, 0), TopicPartition(topic, 1)

    def offset(spec: object, tp: TopicPartition = full) -> int | None:
        found = admin.list_offsets({tp: spec})[tp]  # type: ignore[dict-item]
        return None if found is None else found.offset

    assert offset("earliest") == 0
    assert offset("latest") == 3
    assert offset(start + 1) == 1
    assert offset(start + 1_000) == 1
    assert offset(start + 2_001) is None
    assert offset("max_timestamp") == 2
    assert (offset("earliest", empty), offset("latest", empty), offset(0, empty)) == (0, 0, None)
    assert admin.list_offsets({full: start + 1_500})[full].timestamp == start + 2_000  # type: ignore[union-attr]
    assert admin.list_offsets({}) == {}
    with pytest.raises(UnknownTopicOrPartitionError, match="2 partitions"):
        admin.list_offsets({TopicPartition(topic, 2): "latest"})
    with pytest.raises(UnknownTopicOrPartitionError, match=f"{topic}-none"):
        admin.list_offsets({TopicPartition(f"{topic}-none", 0): "latest"})
    assert f"{topic}-none" not in admin.describe_topics()


def test_deleting_records(admin: Admin, bootstrap: str, topic: str) -> None:
    admin.create_topics([NewTopic(topic, 1, configs=KEEP)])
    fill(bootstrap, topic, 0, [1_700_000_000_000] * 3)
    tp = TopicPartition(topic, 0)
    assert admin.delete_records({tp: 2}) == {tp: 2}
    assert admin.list_offsets({tp: "earliest"})[tp].offset == 2  # type: ignore[union-attr]
    assert admin.delete_records({tp: "latest"}) == {tp: 3}
    with pytest.raises(BrokerError) as caught:
        admin.delete_records({tp: 99})
    assert caught.value.name == "OFFSET_OUT_OF_RANGE"


def test_a_group_with_a_member(
    admin: Admin, bootstrap: str, topic: str, unique: Callable[[str], str]
) -> None:
    admin.create_topics([NewTopic(topic, 2, configs=KEEP)])
    fill(bootstrap, topic, 0, [1_700_000_000_000])
    group = unique("group")
    with Member(bootstrap, group, topic) as member:
        member.consumer.commit(message=member.first, asynchronous=False)
        description = admin.describe_group(group)
        assert (description.state, description.type, description.protocol_type) == (
            "Stable",
            "classic",
            "consumer",
        )
        assert description.protocol == "range"
        assert description.coordinator is not None
        (described,) = description.members
        assert described.client_id == "somebody-else"
        assert described.member_id.startswith("somebody-else")
        assert described.host == "127.0.0.1"
        assert sorted(described.assignment) == [TopicPartition(topic, 0), TopicPartition(topic, 1)]
        listing = next(g for g in admin.list_groups() if g.group_id == group)
        assert (listing.protocol_type, listing.state) == ("consumer", "Stable")
        assert group not in {g.group_id for g in admin.list_groups(states=["Empty"])}
        assert {tp: o.offset for tp, o in admin.group_offsets(group).items()} == {TopicPartition(topic, 0): 1}
        with pytest.raises(GroupError, match="has members"):
            admin.alter_group_offsets(group, {TopicPartition(topic, 0): 0})
        with pytest.raises(GroupError, match="NON_EMPTY_GROUP"):
            admin.delete_groups([group])
        with pytest.raises(GroupError):
            admin.delete_group_offsets(group, [TopicPartition(topic, 0)])
        assert {o.offset for o in admin.group_offsets(group).values()} == {1}
    admin.alter_group_offsets(group, {TopicPartition(topic, 0): 0})
    assert {o.offset for o in admin.group_offsets(group).values()} == {0}


def test_a_group_without_members(admin: Admin, topic: str, unique: Callable[[str], str]) -> None:
    admin.create_topics([NewTopic(topic, 2)])
    group = unique("group")
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    assert admin.group_offsets(group) == {}
    admin.alter_group_offsets(group, {first: OffsetAndMetadata(7, "by hand"), second: 3})
    found = admin.group_offsets(group)
    assert found == {first: OffsetAndMetadata(7, "by hand"), second: OffsetAndMetadata(3)}
    assert (admin.describe_group(group).state, admin.describe_group(group).members) == ("Empty", ())
    admin.delete_group_offsets(group, [second])
    assert set(admin.group_offsets(group)) == {first}
    other = unique("other")
    with pytest.raises(GroupError, match=other) as caught:
        admin.delete_groups([other, group])
    assert f"done for '{group}'" in str(caught.value)
    assert group not in {g.group_id for g in admin.list_groups()}
    with pytest.raises(GroupError, match="GROUP_ID_NOT_FOUND"):
        admin.describe_group(group)


def test_the_cluster(admin: Admin, bootstrap: str) -> None:
    cluster = admin.describe_cluster()
    assert cluster.cluster_id
    assert cluster.controller in cluster.nodes
    assert {f"{node.host}:{node.port}" for node in cluster.nodes} >= set(bootstrap.split(","))


def test_nobody_there() -> None:
    with (
        Admin(bootstrap_servers="127.0.0.1:1") as admin,
        pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:1"),
    ):
        admin.describe_cluster(timeout=300)


def test_closed_is_closed(bootstrap: str) -> None:
    admin = Admin(bootstrap_servers=bootstrap)
    admin.close()
    admin.close()
    with pytest.raises(ClosedError):
        admin.describe_cluster()
