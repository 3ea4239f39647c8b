"""client.rack in assignments (KIP-881): members are given partitions with a replica in their rack, where that keeps the balance.

That they then read from that replica is tested in test_nearest_replica.py (KIP-392).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import history as h
from tests.support.kafka import RealKafka
from tests.support.members import Members
from tests.support.polling import Polling, history_of, member_options, reads, shared_out, together, until

pytestmark = pytest.mark.kafka
ONE_EACH = [[1], [2], [3]] * 2
TWO_EACH = [[1, 2], [2, 3], [3, 1]] * 2
PARTITIONS = len(ONE_EACH)


@pytest.fixture(scope="module")
def racks() -> Iterator[RealKafka]:
    """Node n stands in rack rn."""
    cluster = RealKafka(3)
    for node in cluster.nodes.values():
        node.config["broker.rack"] = f"r{node.id}"
    cluster.start()
    yield cluster
    cluster.stop()


def near(replicas: list[list[int]], topic: str, rack: str) -> set[h.Place]:
    """The partitions with a replica in this rack."""
    return {h.Place(topic, n) for n, nodes in enumerate(replicas) if int(rack[1:]) in nodes}


@pytest.mark.parametrize("replicas", [ONE_EACH, TWO_EACH], ids=["one-replica", "two-replicas"])
@pytest.mark.parametrize("assignor", ["range", "sticky", "cooperative-sticky"])
def test_each_has_what_is_near(
    racks: RealKafka, topic: str, unique: Callable[[str], str], assignor: str, replicas: list[list[int]]
) -> None:
    """Three members in three racks, and the group comes to rest. When one leaves and comes back, it has its rack's partitions again.

    Sticky assignors do not exchange what two members have had for what would suit both better, as Java's do not: where a partition is
    near to two members it may be owned by the wrong one, and only the balance is sure.
    """
    racks.create_topic(topic, replica_assignment=replicas)
    places = [h.Place(topic, number) for number in range(PARTITIONS)]
    options = member_options(racks, unique("group"), assignor)
    greedy = assignor != "range" and replicas is TWO_EACH

    def member(rack: str) -> Polling:
        return Polling(rack, racks.bootstrap_servers, [topic], client_rack=rack, **options)

    def settled(members: list[Polling]) -> bool:
        return shared_out(members, places) and all(
            len(one.owned) == 2 and (greedy or one.owned <= near(replicas, topic, one.name))
            for one in members
        )

    crew = [member(rack) for rack in ("r1", "r2", "r3")]
    with together(*crew):
        until(crew, lambda: settled(crew), "each has what is near")
        crew[1].stop()
        until(crew, lambda: shared_out([crew[0], crew[2]], places), "one has left")
        with member("r2") as back:
            now = [crew[0], back, crew[2]]
            until(now, lambda: settled(now), "each has what is near again")
            generation = back.member[1]
            racks.produce(topic, [(b"%d" % n, b"%d" % n) for n in range(600)])
            until(now, lambda: sum(len(reads(one)) for one in now) == 600, "all is read, once")
            assert {one.member[1] for one in now} == {generation}, "the group has come to rest"
    assert h.only_while_owned(history_of([*crew, back])) == []


def test_racks_nobody_has(racks: RealKafka, topic: str, unique: Callable[[str], str]) -> None:
    """A rack without brokers, no rack at all, and a rack that two share: the balance comes first."""
    racks.create_topic(topic, replica_assignment=ONE_EACH)
    places = [h.Place(topic, number) for number in range(PARTITIONS)]
    options = member_options(racks, unique("group"), "range")
    crew = [
        Polling(f"m{number}", racks.bootstrap_servers, [topic], **options, **rack)
        for number, rack in enumerate(
            [{"client_rack": "elsewhere"}, {}, {"client_rack": "r1"}, {"client_rack": "r1"}]
        )
    ]
    with together(*crew):
        until(crew, lambda: shared_out(crew, places), "a share for each")
        assert sorted(len(one.owned) for one in crew) == [1, 1, 2, 2]


@pytest.mark.parametrize("assignor", ["range", "cooperative-sticky"])
@pytest.mark.parametrize("leader", ["java", "penstock"])
def test_java_and_penstock_tell_each_other_their_racks(
    racks: RealKafka, topic: str, unique: Callable[[str], str], leader: str, assignor: str
) -> None:
    """Whoever joins first leads, and assigns for both by what both have told (version 3 of the subscription)."""
    replicas = [[1], [2]] * 3
    racks.create_topic(topic, replica_assignment=replicas)
    group, other = unique("group"), "penstock" if leader == "java" else "java"

    def config(kind: str) -> dict[str, Any]:
        # The names put the leader's partitions, were racks not looked at, on the wrong side.
        rack = {"java": "r1", "penstock": "r2"}[kind]
        return {
            "client.id": {"java": "z", "penstock": "a"}[kind],
            "client.rack": rack,
            "partition.assignment.strategy": assignor,
            "heartbeat.interval.ms": 300,
        }

    with Members(racks.bootstrap_servers, topic) as members:
        first = members.start(leader, group, config=config(leader))
        members.until(lambda: len(first.owned) == PARTITIONS, f"all for {leader}")
        second = members.start(other, group, config=config(other))
        by_kind = {leader: first, other: second}
        members.until(
            lambda: (
                by_kind["java"].owned == near(replicas, topic, "r1")
                and by_kind["penstock"].owned == near(replicas, topic, "r2")
            ),
            "each has what is near",
        )
        for member in (second, first):
            member.stop()


@pytest.mark.parametrize("assignor", ["uniform", "range"])
def test_the_brokers_assignor_takes_a_rack(
    racks: RealKafka, topic: str, unique: Callable[[str], str], assignor: str
) -> None:
    """By the consumer protocol the rack is told to the coordinator. Its assignors leave it at that (KAFKA-16694): all have one owner."""
    racks.create_topic(topic, replica_assignment=ONE_EACH)
    places = [h.Place(topic, number) for number in range(PARTITIONS)]
    options = {**member_options(racks, unique("group"), "consumer"), "group_remote_assignor": assignor}
    crew = [
        Polling(rack, racks.bootstrap_servers, [topic], client_rack=rack, **options)
        for rack in ("r1", "r2", "r3")
    ]
    with together(*crew):
        until(crew, lambda: shared_out(crew, places), "a share for each")
        racks.produce(topic, [(b"%d" % n, b"%d" % n) for n in range(60)])
        until(crew, lambda: sum(len(reads(one)) for one in crew) == 60, "all is read, once")
