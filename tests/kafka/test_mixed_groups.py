"""One group, members of several clients: penstock, Java's, librdkafka's and kafka-python's, with every assignor that they share.

The first to join leads the group (GroupMetadata of the broker's coordinator: the first member becomes the leader), so the order of joining
says whose assignor decides; members then leave in the order in which they came, so that each kind leaves and another one leads.
PENSTOCK_SOAK_SECONDS=1 has each kind lead with each assignor.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import ConsumerGroupState
from tools.kafka.kafka import java_tool

from tests.support import history as h
from tests.support.history import Place
from tests.support.kafka import ADMIN_TIMEOUT_S, RealKafka
from tests.support.members import KINDS, Member, Members
from tests.support.workload import CONSUMER_PROTOCOL, SOAK_SECONDS

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

PARTITIONS = 8
SHARE = 200
"""How many records are stored in each stage."""

WITHOUT_EAGER_STICKY = "confluent"  # librdkafka has range, roundrobin and cooperative-sticky only
SHORT = [
    ("range", "penstock"),
    ("roundrobin", "java"),
    ("sticky", "kafka-python"),
    ("sticky", "penstock"),
    ("cooperative-sticky", "confluent"),
    ("cooperative-sticky", "penstock"),
]
ALL = [
    (assignor, leader)
    for assignor, leader in itertools.product(("range", "roundrobin", "sticky", "cooperative-sticky"), KINDS)
    if (assignor, leader) != ("sticky", WITHOUT_EAGER_STICKY)
]


def order_of_joining(assignor: str, leader: str) -> list[str]:
    """All kinds that have the assignor, from the leader on."""
    kinds = [kind for kind in KINDS if assignor != "sticky" or kind != WITHOUT_EAGER_STICKY]
    first = kinds.index(leader)
    return kinds[first:] + kinds[:first]


class Group:
    """A mixed group and the records that it is to read."""

    def __init__(self, kafka: RealKafka, members: Members, name: str, assignor: str) -> None:
        self.kafka = kafka
        self.members = members
        self.name = name
        self.places = [Place(members.topic, number) for number in range(PARTITIONS)]
        self.acknowledged: list[h.Acknowledged] = []
        self._assignor = assignor
        self._counts: Counter[str] = Counter()
        self._numbers = itertools.count()

    def join(self, kind: str, *, assignor: str | None = None, session_ms: int = 30_000) -> Member:
        """A member, with the group's assignor or another; CONSUMER_PROTOCOL for none of its own."""
        assignor = assignor or self._assignor
        self._counts[kind] += 1
        name = f"{kind}-{self._counts[kind]}"
        # kafka-python may assign before it knows the topic, and mends it with the next metadata
        config: dict[str, object] = {"client.id": name, "metadata.max.age.ms": 1_000}
        if assignor == CONSUMER_PROTOCOL:
            config["group.protocol"] = "consumer"
        else:
            config |= {
                "partition.assignment.strategy": assignor,
                "session.timeout.ms": session_ms,
                "heartbeat.interval.ms": 300,
            }
        return self.members.start(kind, self.name, config=config, name=name)

    def settle(self, when: str) -> None:
        """Every partition has one owner and every member a share, by the members' notes and by the broker's word."""
        self.members.until(self._shared_out, f"{when}: a share for each")
        if self._assignor != CONSUMER_PROTOCOL:  # which librdkafka's describe_consumer_groups does not know
            self.members.until(
                lambda: self.by_the_broker() == self.by_the_notes(), f"{when}: the broker's word"
            )
            assert h.one_owner_each(self.by_the_broker(), self.places) == [], when

    def by_the_notes(self) -> dict[str, set[Place]]:
        return {member.name: set(member.owned) for member in self.members.running}

    def by_the_broker(self) -> dict[str, set[Place]]:
        """What the coordinator holds as each member's assignment; {} while the group is on the move."""
        told = self.kafka.admin.describe_consumer_groups([self.name])[self.name].result(ADMIN_TIMEOUT_S)
        if told.state is not ConsumerGroupState.STABLE:
            return {}
        return {
            member.client_id: {Place(tp.topic, tp.partition) for tp in member.assignment.topic_partitions}
            for member in told.members
        }

    def by_the_tool(self) -> dict[str, int]:
        """How many partitions each member has, by kafka-consumer-groups.sh --describe --members --verbose."""
        described = java_tool(
            "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
            [
                *("--bootstrap-server", self.kafka.bootstrap_servers),
                *("--describe", "--group", self.name, "--members", "--verbose"),
            ],
        ).stdout
        header, *rows = [line.split() for line in described.splitlines() if line.strip()]
        client, count = header.index("CLIENT-ID"), header.index("#PARTITIONS")
        return {row[client]: int(row[count]) for row in rows}

    def _shared_out(self) -> bool:
        owned = self.by_the_notes()
        return h.one_owner_each(owned, self.places) == [] and all(owned.values())

    def produce_and_read(self, when: str) -> None:
        """A few records in every partition, and all of them are read."""
        for place in self.places:
            values = [f"{next(self._numbers)}" for _ in range(SHARE // PARTITIONS)]
            stored = self.kafka.produce(
                place.topic, [(None, value.encode()) for value in values], partition=place.partition
            )
            self.acknowledged += [
                h.Acknowledged(value, place, offset)
                for value, (_, offset) in zip(values, stored, strict=True)
            ]
        self.members.until(lambda: not h.unseen(self.history()), f"{when}: all is read")

    def history(self) -> h.History:
        return h.History(self.acknowledged, self.members.events())


@pytest.fixture
def group_of(kafka: RealKafka, topic: str, unique: Callable[[str], str]) -> Iterator[Callable[[str], Group]]:
    kafka.create_topic(topic, PARTITIONS)
    with Members(kafka.bootstrap_servers, topic) as members:
        yield lambda assignor: Group(kafka, members, unique("group"), assignor)


@pytest.mark.parametrize(("assignor", "leader"), ALL if SOAK_SECONDS else SHORT)
def test_22_valid_assignment(group_of: Callable[[str], Group], assignor: str, leader: str) -> None:
    group = group_of(assignor)
    first, *others = order_of_joining(assignor, leader)
    group.join(first)
    group.settle(f"{first} alone")
    for kind in others:
        group.join(kind)
    group.settle("all together")
    group.produce_and_read("all together")
    for member in group.members.all[:-1]:
        member.stop()
        group.settle(f"without {member.name}")
        group.produce_and_read(f"without {member.name}")
    group.members.all[-1].stop()
    judge(group, assignor)


def judge(group: Group, assignor: str) -> None:
    history = group.history()
    assert [error for member in group.members.all for error in member.errors] == []
    assert h.no_loss(history) == [] and h.unseen_is_zero(history) == []
    assert h.offsets_agree(history) == []
    assert h.contiguous(history) == []
    assert h.only_while_owned(history) == []
    assert h.resumes_at_committed(history) == []
    if assignor == "cooperative-sticky":
        penstock = next(member for member in group.members.all if member.kind == "penstock")
        first = next(event for event in penstock.events if isinstance(event, h.Given) and event.places)
        taken = [e.places for e in penstock.events if isinstance(e, h.Taken) and not e.lost and e.places]
        assert any(places < first.places for places in taken[:-1]) or len(first.places) < PARTITIONS, (
            "cooperative rebalancing gives up some, not all (KIP-429)"
        )


def test_22_the_tool_of_kafka_sees_the_same(group_of: Callable[[str], Group]) -> None:
    group = group_of("range")
    for kind in ("java", "penstock"):
        group.join(kind)
    group.settle("both")
    assert group.by_the_tool() == {"java-1": PARTITIONS // 2, "penstock-1": PARTITIONS // 2}


def test_22_the_consumer_protocol(group_of: Callable[[str], Group]) -> None:
    """KIP-848: Java's, librdkafka's and penstock's members in one group, which the coordinator shares out."""
    group = group_of(CONSUMER_PROTOCOL)
    group.kafka.configure_group(group.name, consumer_heartbeat_interval_ms=300)
    for kind in ("penstock", "java", "confluent"):
        group.join(kind)
    group.settle("all together")
    assert group.by_the_tool() == {name: len(places) for name, places in group.by_the_notes().items()}
    group.produce_and_read("all together")
    for member in group.members.all[:-1]:
        member.stop()
        group.settle(f"without {member.name}")
        group.produce_and_read(f"without {member.name}")
    group.members.all[-1].stop()
    judge(group, "")


def test_21_migration(group_of: Callable[[str], Group]) -> None:
    """A group rolls from the classic protocol to KIP-848's and back, one member after another, and nothing is lost on the way; a
    kafka-python member, which knows the classic one only, is there throughout."""
    group = group_of(CONSUMER_PROTOCOL)
    group.kafka.configure_group(group.name, consumer_heartbeat_interval_ms=300)
    rolling = [group.join(kind, assignor="range") for kind in ("penstock", "java", "confluent")]
    stays = group.join("kafka-python", assignor="range")
    group.settle("classic")
    group.produce_and_read("classic")
    for assignor in (CONSUMER_PROTOCOL, "range"):
        for index, member in enumerate(rolling):
            member.stop()
            rolling[index] = group.join(member.kind, assignor=assignor)
            when = f"{member.kind} is back with {assignor}"
            group.settle(when)
            group.produce_and_read(when)
    for member in [stays, *rolling]:
        member.stop()
    judge(group, "")


@pytest.mark.parametrize("victim", ["penstock", "java"])
def test_22_a_killed_member_is_replaced(group_of: Callable[[str], Group], victim: str) -> None:
    """A leader that dies without a word, of either client: the other takes all when its session is over, and reads on."""
    group = group_of("cooperative-sticky")
    other = "java" if victim == "penstock" else "penstock"
    dies = group.join(victim, session_ms=2_000)
    group.settle(f"{victim} alone")
    group.join(other)
    group.settle("both")
    group.produce_and_read("both")
    dies.kill()
    group.settle(f"{victim} is dead")
    group.produce_and_read(f"{victim} is dead")
    group.members.running[0].stop()
    judge(group, "")
