"""Merging metadata: what is newer wins, whoever says it last."""

from __future__ import annotations

import uuid
from typing import Any

from kio.index import load_entity_schema
from kio.static.constants import EntityType

from penstock.cluster import Address, ClusterSnapshot, parse_bootstrap
from penstock.protocol.messages import _build
from penstock.types import TopicPartition

ID = uuid.UUID(int=7)


def response(*topics: dict[str, Any], brokers: tuple[int, ...] = (1, 2), version: int = 12) -> Any:
    cls = load_entity_schema("metadata", version, EntityType.response)
    return _build(
        cls,
        {
            "brokers": [{"node_id": n, "host": "h", "port": 9000 + n} for n in brokers],
            "controller_id": 1,
            "topics": list(topics),
        },
        3,  # type: ignore[arg-type]
    )


def topic(name: str, *leaders: tuple[int, int], error: int = 0, topic_id: uuid.UUID = ID) -> dict[str, Any]:
    return {
        "error_code": error,
        "name": name,
        "topic_id": topic_id,
        "partitions": [
            {
                "error_code": 0,
                "partition_index": i,
                "leader_id": n,
                "leader_epoch": e,
                "replica_nodes": [n],
                "isr_nodes": [n],
            }
            for i, (n, e) in enumerate(leaders)
        ],
    }


def test_a_lagging_broker_does_not_undo_a_newer_leader() -> None:
    snapshot = ClusterSnapshot().merge(response(topic("t", (2, 5))))
    assert snapshot.leader("t", 0) == (2, 5)
    assert snapshot.merge(response(topic("t", (1, 4)))).leader("t", 0) == (2, 5)
    assert snapshot.merge(response(topic("t", (1, 6)))).leader("t", 0) == (1, 6)


def test_a_topic_made_again_starts_over() -> None:
    snapshot = ClusterSnapshot().merge(response(topic("t", (2, 5))))
    again = snapshot.merge(response(topic("t", (1, 0), topic_id=uuid.UUID(int=8))))
    assert again.leader("t", 0) == (1, 0)
    assert again.topic_id("t") == uuid.UUID(int=8).bytes


def test_a_passing_error_keeps_what_was_known_and_unknown_forgets_it() -> None:
    snapshot = ClusterSnapshot().merge(response(topic("t", (2, 5))))
    assert snapshot.merge(response(topic("t", error=5))).leader("t", 0) == (2, 5)
    gone = snapshot.merge(response(topic("t", error=3)))
    assert gone.leader("t", 0) == (-1, -1)
    assert gone.partition_counts(["t", "u"]) == {}


def test_a_leader_that_is_not_among_the_brokers_cannot_be_reached() -> None:
    assert ClusterSnapshot().merge(response(topic("t", (9, 1)))).leader("t", 0) == (-1, -1)


def test_a_whole_answer_forgets_topics_that_it_does_not_list() -> None:
    snapshot = ClusterSnapshot().merge(response(topic("t", (1, 0)), topic("u", (1, 0), (2, 0))))
    assert snapshot.partition_counts(["t", "u"]) == {"t": 1, "u": 2}
    assert set(snapshot.merge(response(topic("u", (1, 0))), whole=True).topics) == {"u"}


def test_a_leader_hint_counts_only_if_it_is_newer() -> None:
    snapshot = ClusterSnapshot().merge(response(topic("t", (1, 5), (1, 5), (1, 5)), topic("u", (1, 0))))
    first, second, third, other = (TopicPartition("t", n) for n in (0, 1, 2, 9))
    assert snapshot.with_leaders({first: (2, 5), second: (9, 6), other: (2, 6)}) is snapshot
    news = snapshot.with_leaders(
        {first: (2, 6), second: (1, 5), third: (2, 7), TopicPartition("u", 0): (2, 1), other: (2, 6)}
    )
    assert [news.leader("t", n) for n in range(3)] == [(2, 6), (1, 5), (2, 7)]
    assert news.leader("u", 0) == (2, 1)
    assert news.version == snapshot.version + 1
    assert snapshot.is_leader_news(first, 2, 6) and not news.is_leader_news(first, 2, 6)
    assert not snapshot.is_leader_news(other, 2, 6)


def test_addresses() -> None:
    assert parse_bootstrap(["a:1", "[::1]:2", "PLAINTEXT://b:3", "a:1"]) == (
        Address("a", 1),
        Address("::1", 2),
        Address("b", 3),
    )
    assert str(Address("::1", 2)) == "[::1]:2"


def test_a_doubted_topic_is_taken_as_it_is_told_unless_its_id_shows_that_it_is_the_same() -> None:
    """Another cluster may stand behind the bootstrap address, in which leader epochs are counted anew."""
    nameless = uuid.UUID(int=0)
    before = ClusterSnapshot().merge(
        response(
            topic("t", (2, 5)), topic("u", (2, 5), topic_id=nameless), topic("v", (2, 5), topic_id=nameless)
        )
    )
    doubting = before.doubt()
    assert doubting.leader("u", 0) == (2, 5)
    after = doubting.merge(response(topic("t", (1, 4)), topic("u", (1, 4), topic_id=nameless)))
    assert (after.leader("t", 0), after.leader("u", 0)) == ((2, 5), (1, 4))
    assert after.doubted == {"v"}
    assert after.merge(response(topic("u", (2, 3), topic_id=nameless))).leader("u", 0) == (1, 4)
    assert after.merge(response(topic("v", (1, 1), topic_id=nameless))).leader("v", 0) == (1, 1)


def test_without_brokers_topics_stay_and_nobody_leads_them() -> None:
    lost = ClusterSnapshot().merge(response(topic("t", (2, 5)))).doubt(forget_brokers=True)
    assert lost.leader("t", 0) == (-1, -1)
    assert lost.partition_counts(["t"]) == {"t": 1}
    assert lost.merge(response(topic("t", (1, 6)))).leader("t", 0) == (1, 6)


def test_leader_epochs_of_old_brokers_are_not_relied_on() -> None:
    """KAFKA-9212: before Metadata version 9 they may be those of long ago."""
    snapshot = ClusterSnapshot().merge(response(topic("t", (2, 5)), version=8))
    assert snapshot.leader("t", 0) == (2, -1)
