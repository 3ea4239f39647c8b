"""One group of one broker, asked step by step: what is asked and what came of it, in a form that two brokers can be compared by."""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Callable
from typing import Any

from confluent_kafka.admin import AdminClient, NewTopic

from tests.devbroker.raw import WAIT_S, RawClient

JOIN, SYNC, HEARTBEAT, LEAVE, DESCRIBE, LIST = 11, 14, 12, 13, 15, 16
OFFSET_COMMIT, OFFSET_FETCH, DELETE_GROUPS, CONSUMER_HEARTBEAT, CONSUMER_DESCRIBE = 8, 9, 42, 68, 69
REBALANCE_MS = 60_000
PARTITIONS = 6  # two and three members share them evenly, whatever the assignor begins with
# The coordinator loads or is looked for, a topic is not known everywhere yet.
TRANSIENT = {3, 14, 15, 16, 100}
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
        self.notes.append(
            (
                "beat",
                member,
                epoch,
                answer.error_code.name,
                answer.member_epoch,
                size,
                bool(answer.member_id),
                answer.heartbeat_interval.total_seconds(),
                bool(answer.error_message),
            )
        )

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
                        (each.protocol_type, each.group_state, each.group_type)
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
