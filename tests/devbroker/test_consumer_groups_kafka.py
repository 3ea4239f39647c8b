"""The same requests to Apache Kafka and to the embedded broker, the same answers: KIP-848 step by step.

What Kafka leaves to chance, or to another moment (which partitions, member ids it makes, when new topics are noticed), is not
compared: assignments count by their size, and every step is asked for only when its turn has come.
"""

from __future__ import annotations

import itertools
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from penstock.devbroker import DevBroker
from tests.devbroker.raw import WAIT_S, RawClient

if TYPE_CHECKING:
    from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka

JOIN, SYNC, HEARTBEAT, LEAVE, DESCRIBE, LIST = 11, 14, 12, 13, 15, 16
OFFSET_COMMIT, OFFSET_FETCH, DELETE_GROUPS, CONSUMER_HEARTBEAT, CONSUMER_DESCRIBE = 8, 9, 42, 68, 69
REBALANCE_MS = 60_000
PARTITIONS = 6  # two and three members share them evenly, whatever the assignor begins with
TRANSIENT = {
    14,
    15,
    16,
    3,
    100,
}  # the coordinator loads or is looked for, a topic is not known everywhere yet
Owned = frozenset[tuple[uuid.UUID, int]]


class Steps:
    """One broker, one topic of six partitions, one group; every method asks one thing and notes what came of it."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self.raw = RawClient(bootstrap_servers)
        self.topic = topic
        self.group = f"g-{topic}"
        self.notes: list[Any] = []
        self.base = (
            0  # Kafka 4.3 gives a new group's first members epoch 2, before that it was 1: we count from 1
        )
        self.ids: dict[str, str] = {}  # of classic members, whose ids the coordinator makes
        self.epoch: dict[str, int] = {}
        self.has: dict[str, Owned] = {}
        admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(WAIT_S)
        self.ask(
            10,
            4,
            lambda answer: answer.coordinators[0].error_code,
            key_type=0,
            coordinator_keys=(self.group,),
        )
        described = self.ask(3, 12, lambda answer: answer.topics[0].error_code, topics=({"name": topic},))
        self.topic_id = described.topics[0].topic_id

        self._await_topic()

    def _await_topic(self) -> None:
        """Until the coordinator knows of the topic: another group is given its partitions."""
        group, self.group = self.group, f"{self.group}-first"
        deadline = time.monotonic() + WAIT_S
        self.join("first")
        while len(self.has["first"]) < PARTITIONS and time.monotonic() < deadline:
            self.beat("first")
        self.beat("first", -1)
        self.notes.clear()
        self.group = group

    def ask(self, api_key: int, version: int, code: Callable[[Any], int], **fields: Any) -> Any:
        deadline = time.monotonic() + WAIT_S
        while True:
            answer = self.raw.ask(api_key, version, **fields)
            if int(code(answer)) not in TRANSIENT or time.monotonic() > deadline:
                return answer
            time.sleep(0.1)

    # ------------------------------------------------------------------ the new protocol
    def beat(
        self,
        member: str,
        epoch: int | None = None,
        owned: Owned | None = None,
        *,
        version: int = 1,
        **more: Any,
    ) -> None:
        epoch = self.epoch.get(member, 0) if epoch is None else epoch
        rows: Any = None
        if owned is not None:
            rows = tuple(
                {"topic_id": each, "partitions": tuple(sorted(n for t, n in owned if t == each))}
                for each in {topic for topic, _ in owned}
            )
        answer = self.ask(
            CONSUMER_HEARTBEAT, version, lambda answer: answer.error_code,
            **{"group_id": self.group, "member_id": self.ids.get(member, member), "member_epoch": epoch, "topic_partitions": rows,
               "rebalance_timeout": -1, **more},
        )  # fmt: skip
        given = answer.assignment
        if answer.error_code == 0:
            self.epoch[member] = answer.member_epoch
            if given is not None:
                self.has[member] = frozenset(
                    (each.topic_id, number) for each in given.topic_partitions for number in each.partitions
                )
        size = None if given is None else len(self.has[member])
        self.notes.append(("beat", member, epoch, answer.error_code.name, answer.member_epoch, size))

    def join(self, member: str, **more: Any) -> None:
        names = more.pop("names", (self.topic,))
        self.beat(
            member, 0, frozenset(), subscribed_topic_names=names,
            **{"rebalance_timeout": REBALANCE_MS, **more},
        )  # fmt: skip

    def settle(self, *members: str) -> None:
        """Not noted: all do what they are told until they have it."""
        count = len(self.notes)
        for _ in range(4):
            for member in members:
                self.beat(member, None, self.has.get(member, frozenset()))
        del self.notes[count:]
        self.notes.append(("settled", [(self.epoch[each], len(self.has[each])) for each in members]))

    def settle_static(self, new: str, b: str) -> None:
        count = len(self.notes)
        for _ in range(4):
            self.beat(new, None, self.has.get(new, frozenset()), instance_id="i")
            self.beat(b, None, self.has.get(b, frozenset()), instance_id="j")
        del self.notes[count:]
        self.notes.append(("settled", [(self.epoch[each], len(self.has[each])) for each in (new, b)]))

    # ------------------------------------------------------------------ offsets and looking
    def commit(self, member: str, epoch: int, version: int = 9, partitions: tuple[int, ...] = (0,)) -> None:
        member_id = self.ids.get(member, member)
        rows = tuple(
            {"partition_index": each, "committed_offset": 0, "committed_metadata": ""} for each in partitions
        )
        answer = self.ask(
            OFFSET_COMMIT, version, lambda answer: answer.topics[0].partitions[0].error_code,
            group_id=self.group, member_id=member_id, generation_id_or_member_epoch=epoch,
            topics=({"name": self.topic, "partitions": rows},),
        )  # fmt: skip
        codes = [each.error_code.name for each in answer.topics[0].partitions]
        self.notes.append(("commit", member, epoch, version, codes))

    def fetch_offsets(self, member: str | None, epoch: int) -> None:
        group = {
            "group_id": self.group, "member_id": member, "member_epoch": epoch,
            "topics": ({"name": self.topic, "partition_indexes": (0,)},),
        }  # fmt: skip
        answer = self.ask(OFFSET_FETCH, 9, lambda answer: answer.groups[0].error_code, groups=(group,))
        rows = [each.committed_offset for topic in answer.groups[0].topics for each in topic.partitions]
        code = answer.groups[0].error_code.name
        self.notes.append(("fetch", member, epoch, code, rows if code == "none" else None))

    def look(self) -> None:
        """How the group is described by each API."""
        found = self.raw.ask(CONSUMER_DESCRIBE, 1, group_ids=(self.group,)).groups[0]
        members = sorted(
            (
                each.member_type,
                each.instance_id or "",
                each.member_epoch,
                sum(len(topic.partitions) for topic in each.assignment.topic_partitions),
                sum(len(topic.partitions) for topic in each.target_assignment.topic_partitions),
                each.subscribed_topic_names == (self.topic,),
            )
            for each in found.members
        )
        self.notes.append(
            ("described", found.error_code.name, found.group_state, found.group_epoch,
             found.assignment_epoch, found.assignor_name, members)
        )  # fmt: skip
        for version in (5, 6):
            classic = self.raw.ask(DESCRIBE, version, groups=(self.group,)).groups[0]
            self.notes.append(
                ("classic", version, classic.error_code.name, classic.group_state, classic.protocol_type)
            )
        for kind in ("consumer", "classic"):
            listed = self.raw.ask(LIST, 5, types_filter=(kind,)).groups
            self.notes.append(
                (
                    kind,
                    [
                        (each.protocol_type, each.group_state, each.group_type.lower())
                        for each in listed
                        if each.group_id == self.group
                    ],
                )
            )

    def delete(self) -> None:
        answer = self.raw.ask(DELETE_GROUPS, 2, groups_names=(self.group,)).results[0]
        self.notes.append(("delete", answer.error_code.name))

    # ------------------------------------------------------------------ the classic protocol
    def subscription(self, owned: Owned = frozenset()) -> bytes:
        name = self.topic.encode()
        head = struct.pack(">hih", 1, 1, len(name)) + name + struct.pack(">i", -1)
        if not owned:
            return head + struct.pack(">i", 0)
        numbers = sorted(number for _, number in owned)
        return head + struct.pack(">ih", 1, len(name)) + name + struct.pack(f">i{len(numbers)}i", len(numbers), *numbers)  # fmt: skip

    def classic_join(self, member: str, known_as: str = "", owned: Owned = frozenset(), **more: Any) -> None:
        """`member` is our name, the coordinator's is then in `ids`."""
        answer = self.ask(
            JOIN, 9, lambda answer: answer.error_code,
            **{"group_id": self.group, "session_timeout": 45_000, "rebalance_timeout": REBALANCE_MS, "member_id": known_as,
               "protocol_type": "consumer", "protocols": ({"name": "range", "metadata": self.subscription(owned)},), **more},
        )  # fmt: skip
        self.ids[member] = answer.member_id
        self.epoch[member] = answer.generation_id
        self.notes.append(
            ("join", member, answer.error_code.name, answer.generation_id, answer.protocol_type,
             answer.protocol_name or None, answer.leader == answer.member_id)
        )  # fmt: skip

    def sync(self, member: str, generation: int | None = None, **more: Any) -> None:
        answer = self.ask(
            SYNC, 5, lambda answer: answer.error_code,
            **{"group_id": self.group, "generation_id": self.epoch[member] if generation is None else generation,
               "member_id": self.ids.get(member, member), "protocol_type": "consumer", "protocol_name": "range", **more},
        )  # fmt: skip
        numbers = self.numbers(answer.assignment)
        self.has[member] = frozenset((self.topic_id, number) for number in numbers)
        self.notes.append(("sync", member, answer.error_code.name, len(numbers)))

    @staticmethod
    def numbers(assignment: bytes) -> list[int]:
        if not assignment:
            return []
        _, topics = struct.unpack_from(">hi", assignment)
        if not topics:
            return []
        (length,) = struct.unpack_from(">h", assignment, 6)
        (count,) = struct.unpack_from(">i", assignment, 8 + length)
        return list(struct.unpack_from(f">{count}i", assignment, 12 + length))

    def assignment(self) -> bytes:
        """All partitions."""
        name = self.topic.encode()
        numbers = struct.pack(f">{1 + PARTITIONS}i", PARTITIONS, *range(PARTITIONS))
        return struct.pack(">hih", 1, 1, len(name)) + name + numbers + struct.pack(">i", -1)

    def classic_beat(self, member: str, generation: int | None = None) -> None:
        answer = self.ask(
            HEARTBEAT, 4, lambda answer: answer.error_code, group_id=self.group,
            generation_id=self.epoch[member] if generation is None else generation, member_id=self.ids.get(member, member),
        )  # fmt: skip
        self.notes.append(("heartbeat", member, answer.error_code.name))

    def classic_leave(self, member: str) -> None:
        answer = self.ask(
            LEAVE, 5, lambda answer: answer.error_code, group_id=self.group,
            members=({"member_id": self.ids.get(member, member), "group_instance_id": None},),
        )  # fmt: skip
        self.notes.append(
            ("leave", member, answer.error_code.name, [each.error_code.name for each in answer.members])
        )


# ---------------------------------------------------------------- what is asked
def sharing(steps: Steps) -> None:
    steps.look()
    steps.join("a")
    steps.look()
    steps.beat("a")
    steps.join("b")
    steps.look()
    everything = steps.has["a"]
    steps.beat("a")
    steps.look()
    steps.beat("b")
    steps.beat("a", 2, everything)
    steps.beat("a", 2, steps.has["a"])
    steps.beat("b")
    steps.look()
    steps.beat("a", 2, steps.has["a"])
    steps.beat("a", 2)
    steps.beat("a", 2, everything)
    steps.beat("a", 9)
    steps.beat("x", 3)
    steps.beat("a", 3, steps.has["a"], subscribed_topic_names=(steps.topic,), rebalance_timeout=REBALANCE_MS)
    steps.delete()
    steps.beat("a", -1)
    steps.look()
    steps.beat("b")
    steps.beat("b", -1)
    steps.look()
    steps.delete()
    steps.beat("b", -1)


def refusals(steps: Steps) -> None:
    steps.join("a", server_assignor="sticky")
    steps.join("a", rebalance_timeout=-1)
    steps.join("a", names=None)
    steps.join("a", instance_id="")
    steps.join("a", rack_id="")
    steps.join("")
    steps.beat("a", 0, None, subscribed_topic_names=(steps.topic,), rebalance_timeout=REBALANCE_MS)
    steps.beat("a", 0, frozenset({(steps.topic_id, 0)}), subscribed_topic_names=(steps.topic,), rebalance_timeout=1)  # fmt: skip
    steps.beat("", 2)
    steps.beat("a", -2)
    steps.beat("a", -3)
    steps.beat("a", -1)
    steps.join("a", names=None, subscribed_topic_regex="(")
    steps.join("a", names=None, subscribed_topic_regex="(?=x)")
    steps.join("a", names=())
    steps.beat("a", 5)


def offsets(steps: Steps) -> None:
    steps.commit("", -1)
    steps.join("a")
    steps.commit("a", 2)
    steps.commit("a", 0)
    steps.commit("a", 3)
    steps.commit("x", 2)
    steps.commit("", -1)
    steps.commit("a", 2, version=8)
    steps.fetch_offsets("a", 2)
    steps.fetch_offsets("a", 0)
    steps.fetch_offsets("x", 2)
    steps.fetch_offsets(None, -1)
    steps.beat("a", -1)
    steps.commit("", -1)
    steps.commit("a", 2)


def static_members(steps: Steps) -> None:
    steps.join("a", instance_id="i")
    steps.join("b")
    steps.settle("b")
    steps.beat("a", instance_id="i")
    steps.beat("a", 2, steps.has["a"], instance_id="i")
    steps.beat("b")
    steps.join("c", instance_id="i")
    steps.beat("a", 3, instance_id="j")
    steps.beat("a", -2, instance_id="i")
    steps.look()
    steps.beat("a", 3, instance_id="i")
    steps.join("c", instance_id="i")
    steps.look()
    steps.beat("a", 3, instance_id="i")
    steps.beat("a", -1, instance_id="i")
    steps.beat("c", instance_id="i")
    steps.beat("c", -1, instance_id="i")
    steps.beat("b")


def classic_members(steps: Steps) -> None:
    """Two members of the classic protocol join a consumer group, and go."""
    steps.join("a")
    steps.classic_join("old", protocol_type="connect")
    steps.classic_join("old")
    steps.classic_join("old", steps.ids["old"])
    steps.look()
    steps.sync("old", 99)
    steps.sync("old")
    steps.classic_beat("old")
    steps.settle("a")
    steps.classic_beat("old")
    steps.classic_join("old", steps.ids["old"])
    steps.sync("old")
    steps.classic_beat("old")
    steps.classic_beat("old", 99)
    steps.commit("old", steps.epoch["old"])
    steps.commit("old", 99)
    steps.look()
    steps.join("b")
    steps.classic_beat("old")
    steps.sync("old")
    steps.classic_join("old", steps.ids["old"], steps.has["old"])
    steps.sync("old")
    steps.classic_beat("old")
    steps.classic_join("old", steps.ids["old"], steps.has["old"])
    steps.settle("a", "b")
    steps.classic_leave("old")
    steps.classic_leave("old")
    steps.classic_leave("a")
    steps.settle("a", "b")
    steps.look()


def upgrade_and_downgrade(steps: Steps) -> None:
    """A living classic group becomes a consumer group, and a classic one again."""
    steps.classic_join("old")
    steps.classic_join("old", steps.ids["old"])
    steps.sync("old", assignments=({"member_id": steps.ids["old"], "assignment": steps.assignment()},))
    steps.beat("new", 1)
    steps.beat("new", -1)
    steps.look()
    steps.join("new")
    steps.look()
    steps.classic_beat("old")
    steps.sync("old")
    steps.classic_join("old", steps.ids["old"], steps.has["old"])
    steps.sync("old")
    steps.classic_beat("old")
    steps.look()
    steps.beat("new")
    steps.look()
    steps.beat("new", -1)
    steps.look()
    steps.classic_beat("old")
    steps.classic_join("old", steps.ids["old"])
    steps.look()


def offsets_over_epochs(steps: Steps) -> None:
    """Commits that were sent before the member learned of its new epoch."""
    steps.join("a")
    everything = {number for _, number in steps.has["a"]}
    steps.join("b")
    steps.commit("a", 2)
    steps.beat("a")
    steps.commit("a", 2)
    kept = {number for _, number in steps.has["a"]}
    lost = everything - kept
    steps.commit("a", 2, partitions=(min(kept),))
    steps.commit("a", 2, partitions=(min(lost),))
    steps.commit("a", 3, partitions=(min(kept),))
    steps.beat("a", 2, steps.has["a"])
    steps.commit("a", 1, partitions=(min(kept),))
    steps.commit("a", 2, partitions=(min(kept),))
    steps.commit("a", 2, partitions=(min(lost),))
    steps.commit("a", 3, partitions=(min(kept),))
    steps.commit("a", 3, partitions=(min(lost),))
    steps.settle("a", "b")
    steps.commit("a", 2, partitions=(min(kept),))
    steps.commit("a", 2, partitions=(min(lost),))
    steps.commit("a", 2, partitions=(min(kept), min(lost)))
    steps.commit("a", 2, partitions=(min(lost), min(kept)))
    steps.commit("b", 3, partitions=(min(kept),))
    steps.commit("b", 2, partitions=(min(lost),))
    steps.commit("b", 1, partitions=(min(lost),))
    steps.commit("a", 0, partitions=(min(kept),))
    steps.fetch_offsets("a", 2)
    steps.fetch_offsets("a", 3)
    steps.beat("b", -1)
    steps.settle("a")
    steps.commit("a", 2, partitions=(min(kept),))
    steps.commit("a", 3, partitions=(min(kept),))
    steps.commit("a", 3, partitions=(min(lost),))
    steps.commit("a", 4, partitions=(min(lost),))


def offsets_of_static_members(steps: Steps) -> None:
    steps.join("a", instance_id="i")
    steps.join("b", instance_id="j")
    steps.settle_static("a", "b")
    mine, other = (tuple(sorted(number for _, number in steps.has[each])) for each in "ab")
    steps.commit("a", 3, partitions=mine)
    steps.commit("a", 2, partitions=mine)
    steps.commit("a", 1, partitions=mine)
    steps.beat("a", -2, instance_id="i")
    steps.commit("a", 3, partitions=mine)
    steps.commit("a", -2, partitions=mine)
    steps.commit("a", 1, partitions=mine)
    steps.join("c", instance_id="i")
    steps.commit("a", 3, partitions=mine)
    steps.commit("c", 3, partitions=mine)
    steps.commit("c", 2, partitions=mine)
    steps.commit("c", 1, partitions=mine)
    steps.commit("c", 0, partitions=mine)
    steps.commit("c", 2, partitions=other)
    steps.commit("c", -1, partitions=mine)


def subscriptions(steps: Steps) -> None:
    """What is read changes, and who assigns it."""
    steps.join("a", names=())
    steps.look()
    steps.beat("a", subscribed_topic_names=(steps.topic,))
    steps.beat("a", subscribed_topic_names=(steps.topic,))
    steps.beat("a", subscribed_topic_names=(steps.topic, "nowhere"))
    steps.join("b", names=("nowhere",), server_assignor="range")
    steps.settle("a", "b")
    steps.look()
    steps.beat("a", server_assignor="range")
    steps.beat("a", subscribed_topic_names=())
    steps.beat("a", None, frozenset())
    steps.beat("b", subscribed_topic_names=(steps.topic,))
    steps.settle("a", "b")
    steps.look()
    steps.join("b")
    steps.beat("b", 0, frozenset({(steps.topic_id, 0)}))
    steps.beat("b", -1)
    steps.join("b")


def upgrade_of_static_members(steps: Steps) -> None:
    """The member that changes protocols is the same static one, there and back."""
    steps.classic_join("old", group_instance_id="i")
    steps.sync(
        "old", group_instance_id="i", assignments=({"member_id": steps.ids["old"], "assignment": steps.assignment()},)
    )  # fmt: skip
    steps.join("new", instance_id="i")
    steps.look()
    steps.classic_beat("old")
    steps.join("newer", instance_id="i")
    steps.join("b")
    steps.beat("new", instance_id="i")
    steps.classic_join("older", group_instance_id="i")
    steps.look()
    steps.beat("new", instance_id="i")
    steps.sync("older", group_instance_id="i")
    steps.beat("b")
    steps.beat("b", -1)
    steps.look()
    steps.classic_join("older", steps.ids["older"], group_instance_id="i")
    steps.look()


def downgrade_by_a_static_member(steps: Steps) -> None:
    """The last member of the new protocol comes back with the old one."""
    steps.join("new", instance_id="i")
    steps.join("b", instance_id="j")
    steps.settle_static("new", "b")
    steps.classic_join("old", group_instance_id="i")
    steps.look()
    steps.sync("old", group_instance_id="i")
    steps.classic_join("older", group_instance_id="j")
    steps.look()
    steps.sync("older", group_instance_id="j")
    steps.classic_beat("old")
    steps.beat("b", instance_id="j")


def upgrade_of_a_rebalancing_group(steps: Steps) -> None:
    """A classic group has a leader that has not said who gets what, when a member of the new protocol comes."""
    steps.classic_join("old")
    steps.classic_join("old", steps.ids["old"])
    steps.look()
    steps.join("new")
    steps.look()
    steps.sync("old")
    steps.classic_beat("old")
    steps.classic_join("old", steps.ids["old"])
    steps.sync("old")
    steps.beat("old", 0, frozenset(), subscribed_topic_names=(steps.topic,), rebalance_timeout=1)
    steps.settle("new")
    steps.look()
    steps.classic_leave("new")
    steps.look()


def upgrade_of_another_kind_of_group(steps: Steps) -> None:
    """Connect's groups are classic, and stay so."""
    connect = {"protocol_type": "connect", "protocols": ({"name": "default", "metadata": b"x"},)}
    steps.classic_join("old", **connect)
    steps.classic_join("old", steps.ids["old"], **connect)
    steps.join("new")
    steps.look()


SCRIPTS = [
    sharing,
    refusals,
    offsets,
    offsets_over_epochs,
    offsets_of_static_members,
    subscriptions,
    static_members,
    classic_members,
    upgrade_and_downgrade,
    upgrade_of_static_members,
    downgrade_by_a_static_member,
    upgrade_of_a_rebalancing_group,
    upgrade_of_another_kind_of_group,
]


@pytest.fixture
def synchronous(kafka: RealKafka) -> Iterator[RealKafka]:
    """A Kafka that assigns with the heartbeat that asks for it; from 4.3 on it takes its time otherwise (KIP-1263)."""
    settings = {
        "group.consumer.assignment.interval.ms": "0",
        "group.consumer.assignor.offload.enable": "false",
    }
    alter(kafka, AlterConfigOpType.SET, settings)
    yield kafka
    alter(kafka, AlterConfigOpType.DELETE, settings)


def alter(kafka: RealKafka, operation: AlterConfigOpType, settings: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    entries = [ConfigEntry(name, value, incremental_operation=operation) for name, value in settings.items()]
    resource = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(WAIT_S)


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as running:
        yield running


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_same_answers(synchronous: RealKafka, broker: DevBroker, script: Callable[[Steps], None]) -> None:
    topic = f"{script.__name__}-{uuid.uuid4().hex[:8]}"
    ours, theirs = Steps(broker.bootstrap_servers, topic), Steps(synchronous.bootstrap_servers, topic)
    with ours.raw, theirs.raw:
        for steps in (ours, theirs):
            script(steps)
    pairs = itertools.zip_longest(ours.notes, theirs.notes)
    differences = [
        f"{place}: {our}, Kafka {their}" for place, (our, their) in enumerate(pairs) if our != their
    ]
    assert not differences, "\n".join(differences)
