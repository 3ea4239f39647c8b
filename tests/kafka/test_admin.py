"""Admin against a real Apache Kafka."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import Consumer

from penstock.admin import Admin, NewTopic
from penstock.types import TopicPartition
from tests.support.kafka import RealKafka

from .admin_behaviour import *  # noqa: F403 - the tests that both brokers pass
from .admin_behaviour import admin  # noqa: F401 - their fixture

pytestmark = pytest.mark.kafka


@pytest.fixture
def bootstrap(kafka: RealKafka) -> str:
    return kafka.bootstrap_servers


def test_internal_topics_are_marked(kafka: RealKafka, admin: Admin, unique: Callable[[str], str]) -> None:  # noqa: F811
    assert admin.group_offsets(unique("group")) == {}  # has the coordinator make its topic
    assert admin.describe_topics()["__consumer_offsets"].is_internal


def test_options_of_a_broker(kafka: RealKafka, admin: Admin) -> None:  # noqa: F811
    node = admin.describe_cluster().nodes[0]
    assert admin.describe_configs(broker=node.id)["node.id"].value == str(node.id)


def test_a_group_of_the_consumer_protocol(
    kafka: RealKafka,
    admin: Admin,  # noqa: F811
    topic: str,
    unique: Callable[[str], str],
) -> None:
    """KIP-848: ConsumerGroupDescribe tells what DescribeGroups does not."""
    admin.create_topics([NewTopic(topic, 2)])
    group = unique("group")
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap_servers, "group.id": group, "group.protocol": "consumer"}
    )
    try:
        consumer.subscribe([topic])
        while not consumer.assignment():
            consumer.poll(0.05)
        description = admin.describe_group(group)
        assert (description.type, description.state) == ("consumer", "Stable")
        (member,) = description.members
        assert sorted(member.assignment) == [TopicPartition(topic, 0), TopicPartition(topic, 1)]
        assert member.member_epoch > 0
        assert group in {g.group_id for g in admin.list_groups(types=["consumer"])}
        assert group not in {g.group_id for g in admin.list_groups(types=["classic"])}
    finally:
        consumer.close()


def test_topics_of_three_brokers(kafka3: RealKafka, topic: str) -> None:
    with Admin(bootstrap_servers=kafka3.bootstrap_servers) as admin3:
        nodes = sorted(node.id for node in admin3.describe_cluster().nodes)
        assert len(nodes) == 3
        admin3.create_topics([NewTopic(topic, replica_assignments={0: nodes, 1: nodes[::-1]})])
        partitions = admin3.describe_topics([topic])[topic].partitions
        assert [p.replicas for p in partitions] == [tuple(nodes), tuple(nodes[::-1])]
        leaders = [p.leader.id for p in partitions if p.leader is not None]
        assert leaders == [nodes[0], nodes[2]]
        groups = {f"{topic}-group-{n}" for n in range(6)}
        for group in groups:
            admin3.alter_group_offsets(group, {TopicPartition(topic, 0): 0})
        listed = {g.group_id for g in admin3.list_groups()}
        assert groups <= listed, "the groups of every coordinator are listed"
        admin3.delete_topics([topic])
