"""Groups that change protocols: what the machine does that the two protocols' own tests do not show. KIP-848, "Online Migration".

What members are answered, step by step, is compared with Apache Kafka's answers in test_consumer_groups_kafka.py.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from penstock.devbroker.codes import Code
from penstock.devbroker.consumer_model import MemberState
from penstock.devbroker.consumer_protocol import (
    Malformed,
    decode_assignment,
    decode_subscription,
    encode_assignment,
)
from penstock.devbroker.group_events import GroupState, Heartbeat, JoinGroup, LeaveGroup, SyncGroup
from penstock.types import TopicPartition
from tests.devbroker.test_consumer_groups import REBALANCE_MS, SESSION_MS, World, parts

CLASSIC_SESSION_MS = 10_000


def subscription(*owned: int, version: int = 1, topic: str = "t") -> bytes:
    name = topic.encode()
    head = struct.pack(">hih", version, 1, len(name)) + name + struct.pack(">i", -1)
    return head + encode_assignment(version, [TopicPartition(topic, number) for number in owned])[2:-4]


class MixedWorld(World):
    def classic_join(self, member: str = "", *owned: int, **more: Any) -> Any:
        fields = {
            "member_id": member,
            "instance_id": None,
            "client_id": "c",
            "client_host": "/h",
            "session_timeout_ms": CLASSIC_SESSION_MS,
            "rebalance_timeout_ms": REBALANCE_MS,
            "protocol_type": "consumer",
            "protocols": (("range", subscription(*owned)),),
            "member_id_required": False,
            **more,
        }
        return self.send(lambda token: JoinGroup(token, "g", **fields))

    def sync(self, member: str, generation: int, plan: dict[str, bytes] | None = None) -> Any:
        rows = tuple((plan or {}).items())
        return self.send(lambda token: SyncGroup(token, "g", generation, member, assignments=rows))

    def classic_beat(self, member: str, generation: int) -> Code:
        answer = self.send(lambda token: Heartbeat(token, "g", generation, member))
        assert answer is not None
        code: Code = answer.code
        return code

    def classic_group(self) -> str:
        """A stable classic group of one member that has all four partitions."""
        member: str = self.classic_join().member_id
        everything = encode_assignment(1, [TopicPartition("t", number) for number in range(4)])
        assert self.sync(member, 1, {member: everything}).code is Code.NONE
        return member


def test_the_members_of_a_classic_group_keep_what_they_have_until_they_join_again() -> None:
    world = MixedWorld()
    old = world.classic_group()
    assert world.join("new").assignment == frozenset()
    assert world.group.members[old].assigned == parts(0, 1, 2, 3)
    assert world.classic_beat(old, 1) is Code.REBALANCE_IN_PROGRESS
    assert world.beat("new", 2).assignment is None
    joined = world.classic_join(old)
    assert (joined.code, joined.generation, joined.leader) == (Code.NONE, 2, "")
    told = decode_assignment(world.sync(old, 2).assignment)
    assert len(told) == 2
    assert world.beat("new", 2).assignment == parts(0, 1, 2, 3) - parts(*(number for _, number in told))


def test_a_cooperative_member_gives_back_in_two_joins() -> None:
    world = MixedWorld()
    old = world.classic_group()
    world.join("new")
    assert world.classic_join(old, 0, 1, 2, 3).generation == 1
    assert world.group.members[old].state is MemberState.UNREVOKED_PARTITIONS
    kept = [number for _, number in decode_assignment(world.sync(old, 1).assignment)]
    assert len(kept) == 2
    assert world.classic_beat(old, 1) is Code.REBALANCE_IN_PROGRESS
    assert world.beat("new", 2).assignment is None
    assert world.classic_join(old, *kept).generation == 2
    assert len(world.beat("new", 2).assignment or ()) == 2


def test_a_classic_member_that_does_not_join_again_in_time_is_out() -> None:
    world = MixedWorld()
    old = world.classic_group()
    world.join("new")
    for _ in range(REBALANCE_MS // 6_000):
        assert world.classic_beat(old, 1) is Code.REBALANCE_IN_PROGRESS
        world.pass_ms(6_000)
        world.beat("new", 2)
    assert set(world.group.members) == {"new"}


def test_a_classic_member_that_does_not_ask_for_its_assignment_in_time_is_out() -> None:
    world = MixedWorld()
    world.join("new")
    old = world.classic_join(rebalance_timeout_ms=5_000, session_timeout_ms=20_000).member_id
    world.pass_ms(4_999)
    assert old in world.group.members
    world.pass_ms(1)
    assert old not in world.group.members


def test_a_classic_member_has_its_own_session_timeout() -> None:
    world = MixedWorld()
    old = world.classic_group()
    world.join("new")
    world.pass_ms(CLASSIC_SESSION_MS)
    assert old not in world.group.members
    assert world.classic_beat(old, 1) is Code.UNKNOWN_MEMBER_ID
    assert world.beat("new", 2).assignment == parts(0, 1, 2, 3)


def test_parked_requests_are_answered_when_the_group_changes() -> None:
    world = MixedWorld()
    first = world.classic_join().member_id
    parked = world.classic_join("")
    assert parked is None
    world.join("new")
    codes = [answer.code for answer in world.answers.values()]
    assert codes.count(Code.REBALANCE_IN_PROGRESS) == 1
    assert len(world.group.members) == 3
    assert first in world.group.members


@pytest.mark.parametrize("end", ["leaves", "is silent", "is removed"])
def test_the_group_is_classic_again_when_the_last_new_member_is_gone(end: str) -> None:
    world = MixedWorld(consumer_session_timeout_ms=5_000)
    old = world.classic_group()
    world.join("new")
    joined = world.classic_join(old)
    world.sync(old, joined.generation)
    match end:
        case "leaves":
            world.beat("new", -1)
        case "is silent":
            world.pass_ms(5_000)
        case _:
            world.send(lambda token: LeaveGroup(token, "g", (("new", None),)))
    group = world.machine.groups["g"]
    assert (group.consumer, group.state) == (None, GroupState.PREPARING_REBALANCE)
    assert world.classic_beat(old, 2) is Code.REBALANCE_IN_PROGRESS
    again = world.classic_join(old)
    assert (again.generation, again.leader) == (3, old)


@pytest.mark.parametrize(
    ("policy", "up", "down"),
    [("disabled", False, False), ("upgrade", True, False), ("downgrade", False, True)],
)
def test_the_policy_says_which_way_a_group_may_change(policy: str, up: bool, down: bool) -> None:
    world = MixedWorld(consumer_migration_policy=policy)
    world.classic_group()
    assert (world.join("new").code is Code.NONE) is up
    world = MixedWorld(consumer_migration_policy=policy)
    world.join("new")
    world.classic_join()
    world.beat("new", -1)
    assert (world.machine.groups["g"].consumer is None) is down


def test_an_empty_group_is_of_the_protocol_of_whoever_comes_first() -> None:
    world = MixedWorld(consumer_migration_policy="disabled")
    world.join("new")
    world.beat("new", -1)
    old = world.classic_join().member_id
    assert world.machine.groups["g"].consumer is None
    world.send(lambda token: LeaveGroup(token, "g", ((old, None),)))
    assert world.join("new").code is Code.NONE


@pytest.mark.parametrize(
    "change",
    [
        {"protocol_type": "connect"},
        {"protocols": (("other", subscription()),)},
        {"protocols": (("range", b"?"),)},
    ],
)
def test_classic_joins_that_are_refused(change: dict[str, Any]) -> None:
    world = MixedWorld()
    world.join("new")
    world.classic_join()
    assert world.classic_join(**change).code is Code.INCONSISTENT_GROUP_PROTOCOL
    assert len(world.group.members) == 2


def test_a_group_whose_members_make_no_sense_stays_classic() -> None:
    world = MixedWorld()
    world.classic_join(protocols=(("range", b"?"),))
    assert world.join("new").code is Code.GROUP_ID_NOT_FOUND
    assert world.machine.groups["g"].consumer is None


# ---------------------------------------------------------------- what consumers tell each other
def test_subscriptions_of_every_version() -> None:
    owned = (TopicPartition("t", 3),)
    old = struct.pack(">hih", 0, 1, 1) + b"t" + struct.pack(">i2s", 2, b"xx")
    assert decode_subscription(old).topics == {"t"}
    assert decode_subscription(subscription(3)).owned == owned
    newest = subscription(3, version=3) + struct.pack(">ih", 7, 4) + b"rack"
    found = decode_subscription(newest)
    assert (found.version, found.owned, found.rack_id) == (3, owned, "rack")


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", b"\0\0\x7f\xff\xff\xff", b"\0\0\0\0\0\1\0\5ab", b"\0\0\0\0\0\1\0\1\xff"]
)
def test_bytes_that_are_no_subscription(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode_subscription(data)


def test_assignments_there_and_back() -> None:
    partitions = (TopicPartition("a", 1), TopicPartition("a", 2), TopicPartition("b", 0))
    assert decode_assignment(encode_assignment(1, reversed(partitions))) == partitions
    assert decode_assignment(b"") == ()


def test_a_session_is_the_brokers_matter_in_the_new_protocol() -> None:
    world = MixedWorld()
    world.join("new")
    world.pass_ms(SESSION_MS - 1)
    assert world.group.members
