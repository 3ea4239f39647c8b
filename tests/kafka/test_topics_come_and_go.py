"""Topics that come, grow, vanish and come again under a consumer (RELIABILITY 26), and leaders that move without a word (24)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import NewPartitions
from tools.kafka.kafka import java_tool

from penstock import KafkaConsumer, TopicPartition
from penstock.protocol import Api, apis
from tests.kafka.test_cluster_changes import Feed, Reading
from tests.support.consuming import WAIT_S, consumer_of, read, until
from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka


def test_a_pattern_sees_new_topics(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    kafka.create_topic(f"{topic}-a", 1)
    kafka.produce(f"{topic}-a", [(None, b"a")])
    with consumer_of(kafka, group_id=unique("group"), metadata_max_age_ms=200) as consumer:
        consumer.subscribe(pattern=f"{topic}-.*")
        assert [r.value for r in read(consumer, 1)] == [b"a"]
        consumer.commit()
        kafka.create_topic(f"{topic}-b", 1)
        kafka.produce(f"{topic}-b", [(None, b"b")])
        assert [r.value for r in read(consumer, 1)] == [b"b"]
        assert consumer.subscription() == {f"{topic}-a", f"{topic}-b"}


def test_partitions_that_are_added_are_read(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    from confluent_kafka.admin import NewPartitions

    kafka.create_topic(topic, 1)
    with consumer_of(kafka, topic, group_id=unique("group"), metadata_max_age_ms=200) as consumer:
        reading = Reading(consumer)
        reading.until(lambda: len(consumer.assignment()) == 1, "the first assignment")
        kafka.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(WAIT_S)
        kafka.wait_leaders(topic, 3)
        reading.until(lambda: len(consumer.assignment()) == 3, "the larger assignment")
        kafka.produce(topic, [(None, b"new")], partition=2)
        reading.until(lambda: b"new" in reading.values, "a record of a new partition")


def test_a_topic_that_comes_later_is_read(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    with consumer_of(
        kafka,
        topic,
        group_id=unique("group"),
        allow_auto_create_topics=False,
        metadata_max_age_ms=200,
    ) as consumer:
        reading = Reading(consumer)
        for _ in range(5):
            assert reading.poll() == 0
        kafka.create_topic(topic, 1)
        kafka.produce(topic, [(None, b"late")])
        reading.until(lambda: b"late" in reading.values, "the topic's first record")


def test_26_topic_recreate(kafka: RealKafka, topic: str) -> None:
    """The old position would lie in the middle of the new topic; the topic id tells (KIP-516)."""
    kafka.create_topic(topic, 1)
    kafka.produce(topic, [(None, b"old-%d" % n) for n in range(5)])
    with consumer_of(kafka, metadata_max_age_ms=200, allow_auto_create_topics=False) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        seen: list[bytes] = []
        deadline = time.monotonic() + WAIT_S
        while len(seen) < 5 and time.monotonic() < deadline:
            seen += [r.value for r in consumer.poll(timeout=100)]
        kafka.delete_topic(topic)
        kafka.create_topic(topic, 1)
        kafka.produce(topic, [(None, b"new-%d" % n) for n in range(10)])
        while len(seen) < 15 and time.monotonic() < deadline:
            seen += [r.value for r in consumer.poll(timeout=100)]
    assert seen == [b"old-%d" % n for n in range(5)] + [b"new-%d" % n for n in range(10)]


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_26_topic_recreate_in_a_group(
    kafka: RealKafka, topic: str, unique: Callable[[str], str], policy: str
) -> None:
    """Whatever the policy says: all of the new topic is unread. What is committed afterwards is of the new topic, below what was
    committed of the old one."""
    group = unique("group")
    kafka.create_topic(topic)
    settings = {
        "group_id": group,
        "metadata_max_age_ms": 200,
        "allow_auto_create_topics": False,
        "auto_offset_reset": policy,
    }
    with consumer_of(kafka, topic, **settings) as consumer:
        until(lambda: consumer.assignment() and consumer.position(TopicPartition(topic, 0)) == 0, consumer)
        kafka.produce(topic, [(None, b"old")] * 20)
        read(consumer, 20)
        consumer.commit()
        assert kafka.committed(group, topic) == {0: 20}
        kafka.delete_topic(topic)
        kafka.create_topic(topic)
        kafka.produce(topic, [(None, b"new-%d" % n) for n in range(30)])
        seen = read(consumer, 30)
        assert [(r.offset, r.value) for r in seen] == [(n, b"new-%d" % n) for n in range(30)]
        consumer.seek(TopicPartition(topic, 0), 10)
        consumer.commit()
        assert kafka.committed(group, topic) == {0: 10}
    with consumer_of(kafka, topic, **settings) as consumer:
        assert read(consumer, 20)[0].offset == 10


def test_26_a_topic_that_was_made_again_while_nobody_read_begins_as_a_new_one(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    """Kafka drops a group's offsets with the topic, so that the reset policy decides."""
    group = unique("group")
    kafka.create_topic(topic)
    kafka.produce(topic, [(None, b"old")] * 20)
    with consumer_of(kafka, topic, group_id=group) as consumer:
        read(consumer, 20)
        consumer.commit()
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    until(lambda: kafka.committed(group, topic) == {})
    kafka.produce(topic, [(None, b"new")] * 30)
    with consumer_of(kafka, topic, group_id=group) as consumer:
        assert [(r.offset, r.value) for r in read(consumer, 30)] == [(n, b"new") for n in range(30)]


def test_a_pattern_follows_topics_that_appear_grow_and_vanish(
    kafka: RealKafka, topic: str, unique: Callable[[str], str]
) -> None:
    first, second, other = f"{topic}-a", f"{topic}-b", f"other-{topic}-a"
    for name in (first, other):
        kafka.create_topic(name)
        kafka.produce(name, [(None, name.encode())])

    def assigned(consumer: KafkaConsumer, *expected: tuple[str, int]) -> None:
        until(lambda: consumer.assignment() == set(expected), consumer)

    options = {"enable_auto_commit": True, "metadata_max_age_ms": 200}
    with consumer_of(kafka, group_id=unique("group"), **options) as consumer:
        consumer.subscribe(pattern=f"{topic}-.*")
        assert [r.value for r in read(consumer, 1)] == [first.encode()]
        kafka.create_topic(second)
        assigned(consumer, (first, 0), (second, 0))
        kafka.admin.create_partitions([NewPartitions(first, 2)])[first].result(WAIT_S)
        kafka.wait_leaders(first, 2)
        assigned(consumer, (first, 0), (first, 1), (second, 0))
        kafka.produce(first, [(None, b"grown")], partition=1)
        assert [r.value for r in read(consumer, 1)] == [b"grown"]
        kafka.delete_topic(first)
        assigned(consumer, (second, 0))
        assert consumer.subscription() == {second}
        kafka.produce(second, [(None, b"still")])
        assert [r.value for r in read(consumer, 1)] == [b"still"]
        kafka.create_topic(first)
        kafka.produce(first, [(None, b"again")])
        assert [r.value for r in read(consumer, 1)] == [b"again"]
        assigned(consumer, (first, 0), (second, 0))


# ---------------------------------------------------------------- leaders


def give_to(kafka: RealKafka, tp: TopicPartition, node_id: int, folder: Path) -> None:
    """Make this node the only replica, and so the leader; the one before lives on and knows nothing of the partition."""
    plan = folder / "plan.json"
    partition = {"topic": tp.topic, "partition": tp.partition, "replicas": [node_id]}
    plan.write_text(json.dumps({"version": 1, "partitions": [partition]}))
    command = [
        "--bootstrap-server",
        kafka.bootstrap_servers,
        "--reassignment-json-file",
        str(plan),
        "--execute",
    ]
    java_tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", command)
    deadline = time.monotonic() + WAIT_S
    while (now := kafka.leaders(tp.topic).get(tp.partition)) != node_id:
        assert time.monotonic() < deadline, f"node {now} leads {tp}, not {node_id}"
        time.sleep(0.05)


@pytest.mark.parametrize("highest_fetch", [15, 17])
def test_24_leader_move_without_hint(
    kafka3: RealKafka, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, highest_fetch: int
) -> None:
    """No connection breaks, and metadata would be asked for again after ten minutes: only the answer to a fetch tells. Up to version 15
    it does not say who leads now (KIP-951)."""
    monkeypatch.setitem(apis.SPOKEN, Api.FETCH, (4, highest_fetch))
    kafka3.create_topic(topic, replica_assignment=[[1]])
    tp = TopicPartition(topic, 0)
    with consumer_of(kafka3, metadata_max_age_ms=600_000) as consumer:
        consumer.assign([tp])
        reading = Reading(consumer)
        with Feed(kafka3, topic) as feed:
            for node_id in (2, 3):
                wanted = len(reading.values) + 300
                reading.until(lambda wanted=wanted: len(reading.values) > wanted, "before the move")
                give_to(kafka3, tp, node_id, tmp_path)
            wanted = len(reading.values) + 300
            reading.until(lambda: len(reading.values) > wanted, "after the moves")
        reading.until(lambda: reading.values >= feed.acknowledged, "all that was acknowledged")
