"""The group coordinator's machine under a virtual clock: Kafka's classic protocol, case by case."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import pytest

from penstock.devbroker.codes import Code
from penstock.devbroker.group_events import (
    Answered,
    CommitOffsets,
    DeleteGroup,
    DeleteOffsets,
    EndTransaction,
    Event,
    GroupState,
    Heartbeat,
    JoinGroup,
    LeaveGroup,
    Reply,
    StoreDeletion,
    StoreOffsets,
    SyncGroup,
    Tick,
    TopicDeleted,
)
from penstock.devbroker.groups import GroupCoordinator, GroupLimits
from penstock.types import OffsetAndMetadata, TopicPartition

SESSION_MS = 10_000
REBALANCE_MS = 60_000
T0 = TopicPartition("t", 0)


class World:
    """A coordinator, a clock, and the answers by token."""

    def __init__(self, **limits: int) -> None:
        ids = itertools.count()
        self.machine = GroupCoordinator(lambda prefix: f"{prefix}-{next(ids)}", GroupLimits(**limits))
        self.now_ms = 1_000
        self.answers: dict[int, Any] = {}
        self.effects: list[Any] = []
        self._tokens = itertools.count(1)

    @property
    def group(self) -> Any:
        return self.machine.groups["g"]

    def send(self, make: Any) -> int:
        token = next(self._tokens)
        self._handle(make(token))
        return token

    def _handle(self, event: Event) -> None:
        for effect in self.machine.handle(event, self.now_ms):
            self.effects.append(effect)
            if isinstance(effect, Reply):
                assert effect.token not in self.answers, "a request was answered twice"
                self.answers[effect.token] = effect.answer

    def pass_ms(self, duration_ms: int) -> None:
        """Let time pass, with a Tick at each deadline, as the shell would."""
        end = self.now_ms + duration_ms
        while (due := self.machine.next_deadline_ms()) is not None and due <= end:
            self.now_ms = max(self.now_ms, due)
            self._handle(Tick())
        self.now_ms = end

    def join(
        self,
        member_id: str = "",
        *,
        client: str = "c",
        instance: str | None = None,
        protocols: tuple[tuple[str, bytes], ...] = (("range", b"sub"),),
        kind: str = "consumer",
        session_ms: int = SESSION_MS,
        rebalance_ms: int = REBALANCE_MS,
        id_required: bool = False,
        skip: bool = True,
    ) -> int:
        return self.send(
            lambda token: JoinGroup(
                token,
                "g",
                member_id,
                instance,
                client,
                "/h",
                session_ms,
                rebalance_ms,
                kind,
                protocols,
                id_required,
                skip,
            )
        )

    def sync(
        self, member_id: str, generation: int, assignments: dict[str, bytes] | None = None, **names: Any
    ) -> int:
        rows = tuple((assignments or {}).items())
        return self.send(
            lambda token: SyncGroup(token, "g", generation, member_id, assignments=rows, **names)
        )

    def heartbeat(self, member_id: str, generation: int, instance: str | None = None) -> Code:
        return self.answers[
            self.send(lambda token: Heartbeat(token, "g", generation, member_id, instance))
        ].code

    def leave(self, *members: tuple[str, str | None]) -> Any:
        return self.answers[self.send(lambda token: LeaveGroup(token, "g", members))]

    def commit(self, offset: int, member_id: str = "", generation: int = -1, **more: Any) -> Answered:
        offsets = {T0: OffsetAndMetadata(offset, more.pop("metadata", ""))}
        instance = more.pop("instance", None)
        return self.answers[
            self.send(
                lambda token: CommitOffsets(token, "g", generation, member_id, instance, offsets, **more)
            )
        ]

    def stable(self, count: int, **join: Any) -> list[str]:
        """A stable group of so many members; the first leads."""
        tokens = [self.join(client=f"c{index}", **join) for index in range(count)]
        known = list(self.group.members)
        for token, member_id in zip(tokens, known, strict=True):
            if token in self.answers and self.group.members[member_id].join_token is None:
                self.join(member_id, client=member_id, **join)
        self.finish_sync()
        return known

    def finish_sync(self) -> None:
        group = self.group
        assert group.state is GroupState.COMPLETING_REBALANCE
        for member_id in group.members:
            plan = {each: each.encode() for each in group.members} if member_id == group.leader_id else None
            self.sync(member_id, group.generation, plan)
        assert group.state is GroupState.STABLE

    def sync_those_who_did_not(self) -> None:
        group = self.group
        for member_id, member in list(group.members.items()):
            if group.state is not GroupState.PREPARING_REBALANCE and member.sync_token is None:
                plan = dict.fromkeys(group.members, b"x") if member_id == group.leader_id else None
                self.sync(member_id, group.generation, plan, instance_id=member.instance_id)


# ---------------------------------------------------------------- joining
def test_a_lone_member_gets_a_generation_and_its_assignment() -> None:
    world = World()
    joined = world.answers[world.join()]
    assert (joined.code, joined.generation, joined.leader) == (Code.NONE, 1, joined.member_id)
    assert joined.members == ((joined.member_id, None, b"sub"),)
    synced = world.answers[world.sync(joined.member_id, 1, {joined.member_id: b"plan"})]
    assert (synced.code, synced.assignment) == (Code.NONE, b"plan")
    assert world.heartbeat(joined.member_id, 1) is Code.NONE


def test_a_new_member_first_learns_its_id_and_holds_the_rebalance_until_it_joins() -> None:
    world = World()
    required = world.answers[world.join(id_required=True)]
    assert required.code is Code.MEMBER_ID_REQUIRED
    assert required.member_id
    other = world.join(client="other")
    assert other not in world.answers
    world.join(required.member_id, id_required=True)
    assert world.answers[other].generation == 1
    assert len(world.group.members) == 2


def test_an_id_given_out_and_never_used_is_forgotten_after_the_session_timeout() -> None:
    world = World()
    required = world.answers[world.join(id_required=True)]
    other = world.join(client="other")
    world.pass_ms(SESSION_MS)
    assert world.answers[other].generation == 1
    assert world.answers[world.join(required.member_id, id_required=True)].code is Code.UNKNOWN_MEMBER_ID


def test_a_second_member_makes_the_first_join_again() -> None:
    world = World()
    (first,) = world.stable(1)
    second = world.join(client="second")
    assert second not in world.answers
    assert world.heartbeat(first, 1) is Code.REBALANCE_IN_PROGRESS
    again = world.join(first)
    assert world.answers[again].generation == world.answers[second].generation == 2
    assert world.answers[again].leader == first
    assert world.answers[second].members == ()


def test_the_initial_delay_gathers_members_into_one_generation() -> None:
    world = World(initial_rebalance_delay_ms=3000)
    first = world.join()
    world.pass_ms(2000)
    second = world.join(client="second")
    world.pass_ms(2999)
    assert not world.answers
    world.pass_ms(1)
    assert world.answers[first].generation == world.answers[second].generation == 1


def test_the_initial_delay_is_not_prolonged_past_the_rebalance_timeout() -> None:
    world = World(initial_rebalance_delay_ms=3000)
    first = world.join(rebalance_ms=5000)
    for _ in range(4):
        world.pass_ms(1200)
        world.join(rebalance_ms=5000)
    world.pass_ms(200)
    assert world.answers[first].generation == 1


def test_the_protocol_with_most_votes_of_those_all_know_is_chosen() -> None:
    world = World()
    a, b = ("a", b""), ("b", b"")
    first = world.answers[world.join(protocols=(("x", b""), a, b))].member_id
    world.join(client="second", protocols=(b, a))
    world.join(client="third", protocols=(b, a))
    world.join(first, protocols=(("x", b""), a, b))
    assert world.group.protocol_name == "b"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"protocols": (("other", b""),)}, Code.INCONSISTENT_GROUP_PROTOCOL),
        ({"kind": "connect"}, Code.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocols": ()}, Code.INCONSISTENT_GROUP_PROTOCOL),
        ({"kind": ""}, Code.INCONSISTENT_GROUP_PROTOCOL),
        ({"session_ms": 1}, Code.INVALID_SESSION_TIMEOUT),
        ({"session_ms": 1_800_001}, Code.INVALID_SESSION_TIMEOUT),
        ({"member_id": "stranger"}, Code.UNKNOWN_MEMBER_ID),
        ({"member_id": "stranger", "instance": "i"}, Code.UNKNOWN_MEMBER_ID),
    ],
)
def test_joins_that_are_refused(change: dict[str, Any], code: Code) -> None:
    world = World()
    world.stable(1)
    assert world.answers[world.join(**change)].code is code
    assert world.group.state is GroupState.STABLE


def test_a_full_group_refuses_newcomers() -> None:
    world = World(max_size=1)
    world.stable(1)
    assert world.answers[world.join(client="second")].code is Code.GROUP_MAX_SIZE_REACHED


def test_a_follower_that_joins_again_unchanged_disturbs_nobody() -> None:
    world = World()
    _, follower = world.stable(2)
    answer = world.answers[world.join(follower)]
    assert (answer.code, answer.generation) == (Code.NONE, world.group.generation)
    assert world.group.state is GroupState.STABLE


def test_a_leader_that_joins_again_starts_a_rebalance() -> None:
    world = World()
    leader, follower = world.stable(2)
    parked = world.join(leader)
    assert parked not in world.answers
    assert world.heartbeat(follower, world.group.generation) is Code.REBALANCE_IN_PROGRESS


# ---------------------------------------------------------------- time
def test_a_silent_member_is_out_after_its_session_timeout() -> None:
    world = World()
    first, second = world.stable(2)
    for _ in range(3):
        world.pass_ms(SESSION_MS // 2 - 1)
        world.heartbeat(first, world.group.generation)
    assert list(world.group.members) == [first]
    assert world.heartbeat(second, world.group.generation) is Code.UNKNOWN_MEMBER_ID


def test_who_does_not_join_again_within_the_rebalance_timeout_is_out() -> None:
    world = World()
    (first,) = world.stable(1, rebalance_ms=SESSION_MS * 2)
    second = world.join(client="second", rebalance_ms=SESSION_MS * 2)
    for _ in range(5):
        world.heartbeat(first, 1)
        world.pass_ms(SESSION_MS // 2)
    assert world.answers[second].generation == 2
    assert list(world.group.members) == [world.answers[second].member_id]


def test_sessions_and_a_rebalance_that_end_in_the_same_millisecond() -> None:
    world = World()
    world.stable(2, session_ms=20_000, rebalance_ms=20_000)
    world.pass_ms(5)
    for member_id in world.group.members:
        world.heartbeat(member_id, world.group.generation)
    newcomer = world.join(client="newcomer", session_ms=20_000, rebalance_ms=20_000)
    world.pass_ms(20_000)
    assert list(world.group.members) == [world.answers[newcomer].member_id]


def test_a_leader_that_never_sends_the_assignment_is_out_and_the_others_go_on() -> None:
    world = World()
    (leader,) = world.stable(1, session_ms=REBALANCE_MS * 3)
    second = world.join(client="second", session_ms=REBALANCE_MS * 3)
    world.join(leader, session_ms=REBALANCE_MS * 3)
    parked = world.sync(world.answers[second].member_id, 2)
    world.pass_ms(REBALANCE_MS)
    assert world.answers[parked].code is Code.REBALANCE_IN_PROGRESS
    assert list(world.group.members) == [world.answers[second].member_id]


def test_a_group_whose_members_are_all_gone_is_empty_and_keeps_its_offsets() -> None:
    world = World()
    (only,) = world.stable(1)
    assert world.commit(7, only, 1).partitions == {T0: Code.NONE}
    world.pass_ms(SESSION_MS)
    assert world.group.state is GroupState.EMPTY
    assert world.group.offsets[T0].offset == 7
    assert world.machine.next_deadline_ms() is None


# ---------------------------------------------------------------- syncing and leaving
def test_sync_and_heartbeat_check_member_generation_and_protocol() -> None:
    world = World()
    (only,) = world.stable(1)
    assert world.answers[world.sync("stranger", 1)].code is Code.UNKNOWN_MEMBER_ID
    assert world.answers[world.sync(only, 9)].code is Code.ILLEGAL_GENERATION
    wrong = world.sync(only, 1, protocol_name="other")
    assert world.answers[wrong].code is Code.INCONSISTENT_GROUP_PROTOCOL
    assert world.answers[world.sync(only, 1, protocol_name="range")].assignment == only.encode()
    assert world.heartbeat(only, 9) is Code.ILLEGAL_GENERATION
    assert world.heartbeat("stranger", 1) is Code.UNKNOWN_MEMBER_ID


def test_leaving_frees_the_others_at_once() -> None:
    world = World()
    first, second = world.stable(2)
    assert world.leave((second, None)).members == ((second, None, Code.NONE),)
    assert world.heartbeat(first, world.group.generation) is Code.REBALANCE_IN_PROGRESS
    joined = world.answers[world.join(first)]
    assert len(joined.members) == 1
    assert world.leave((first, None), ("stranger", None)).members[1][2] is Code.UNKNOWN_MEMBER_ID
    assert world.group.state is GroupState.EMPTY


# ---------------------------------------------------------------- static members (KIP-345)
def test_a_static_member_comes_back_without_a_rebalance_and_its_former_self_is_fenced() -> None:
    world = World()
    old = world.answers[world.join(instance="i")].member_id
    world.finish_sync()
    back = world.answers[world.join(instance="i")]
    assert (back.code, back.generation, back.skip_assignment) == (Code.NONE, 1, True)
    assert back.leader == back.member_id != old
    assert world.group.state is GroupState.STABLE
    assert world.answers[world.sync(back.member_id, 1, instance_id="i")].assignment == old.encode()
    assert world.heartbeat(old, 1, "i") is Code.FENCED_INSTANCE_ID
    assert world.answers[world.join(old, instance="i")].code is Code.FENCED_INSTANCE_ID
    assert world.commit(3, old, 1, instance="i").code is Code.FENCED_INSTANCE_ID


def test_a_static_leader_back_by_an_older_version_takes_itself_for_a_follower() -> None:
    world = World()
    old = world.answers[world.join(instance="i")].member_id
    world.finish_sync()
    back = world.answers[world.join(instance="i", skip=False)]
    assert (back.leader, back.members, back.skip_assignment) == (old, (), False)


def test_a_second_process_of_an_instance_fences_the_first_while_it_waits() -> None:
    world = World()
    world.stable(1)
    first = world.join(instance="i")
    second = world.join(instance="i")
    assert world.answers[first].code is Code.FENCED_INSTANCE_ID
    assert second not in world.answers


def test_an_absent_static_member_keeps_its_place_until_its_session_ends() -> None:
    world = World()
    static = world.answers[world.join(instance="i", session_ms=300_000)].member_id
    world.finish_sync()
    other = world.join(client="other", session_ms=300_000)
    world.pass_ms(REBALANCE_MS)
    assert world.answers[other].generation == 2
    assert static in world.group.members
    assert world.answers[other].leader == world.answers[other].member_id


def test_an_administrator_removes_a_static_member_by_its_instance() -> None:
    world = World()
    world.join(instance="i")
    world.finish_sync()
    assert world.leave(("", "i")).members == (("", "i", Code.NONE),)
    assert world.group.state is GroupState.EMPTY


# ---------------------------------------------------------------- offsets
def test_commits_are_for_the_generation_or_for_an_empty_group() -> None:
    world = World()
    assert world.commit(1).code is Code.NONE
    assert world.commit(1, "stranger", 4).code is Code.UNKNOWN_MEMBER_ID
    (only,) = world.stable(1)
    assert world.commit(2).code is Code.UNKNOWN_MEMBER_ID
    assert world.commit(2, only, 9).code is Code.ILLEGAL_GENERATION
    assert world.commit(2, only, 1).code is Code.NONE
    world.join(client="second")
    assert world.commit(3, only, 1).code is Code.NONE, "while others gather, the old owners may still commit"
    world.join(only)
    assert world.commit(4, only, 2).code is Code.REBALANCE_IN_PROGRESS
    assert world.group.offsets[T0].offset == 3


def test_an_offset_is_stored_before_the_commit_is_answered() -> None:
    world = World()
    world.commit(5)
    kinds = [type(effect) for effect in world.effects]
    assert kinds == [StoreOffsets, Reply]


def test_a_note_that_is_too_long_is_refused_alone() -> None:
    world = World(max_metadata_bytes=3)
    assert world.commit(5, metadata="four").partitions == {T0: Code.OFFSET_METADATA_TOO_LARGE}
    assert world.group.offsets == {}


def test_offsets_of_a_transaction_count_when_it_commits() -> None:
    world = World()
    world.commit(5, producer_id=7)
    world.commit(9, producer_id=8)
    assert world.group.offsets == {}
    world.send(lambda token: EndTransaction(token, "g", 7, True))
    assert world.group.offsets[T0].offset == 5
    world.send(lambda token: EndTransaction(token, "g", 8, False))
    assert world.group.offsets[T0].offset == 5
    assert world.group.pending_offsets == {}


def test_offsets_of_topics_that_nobody_reads_are_deleted_while_there_are_members() -> None:
    world = World()
    subscription = struct.pack(">hih", 0, 1, 5) + b"other" + struct.pack(">i", -1)
    (only,) = world.stable(1, protocols=(("range", subscription),))
    world.commit(1, only, 1)
    other = TopicPartition("other", 0)
    codes = world.answers[world.send(lambda token: DeleteOffsets(token, "g", (T0, other)))].partitions
    assert codes == {T0: Code.NONE, other: Code.GROUP_SUBSCRIBED_TO_TOPIC}
    assert world.group.offsets == {}


def test_groups_and_offsets_are_deleted_only_without_members() -> None:
    world = World()
    (only,) = world.stable(1)
    assert world.answers[world.send(lambda token: DeleteGroup(token, "g"))].code is Code.NON_EMPTY_GROUP
    refused = world.answers[world.send(lambda token: DeleteOffsets(token, "g", (T0,)))]
    assert refused.partitions == {T0: Code.GROUP_SUBSCRIBED_TO_TOPIC}
    world.commit(1, only, 1)
    world.leave((only, None))
    assert world.answers[world.send(lambda token: DeleteOffsets(token, "g", (T0,)))].partitions == {
        T0: Code.NONE
    }
    assert world.group.offsets == {}
    assert world.answers[world.send(lambda token: DeleteGroup(token, "g"))].code is Code.NONE
    assert StoreDeletion("g") in world.effects
    assert world.answers[world.send(lambda token: DeleteGroup(token, "g"))].code is Code.GROUP_ID_NOT_FOUND


def test_offsets_of_a_deleted_topic_are_gone() -> None:
    world = World()
    world.commit(5)
    world.send(lambda token: TopicDeleted(token, "t"))
    assert world.group.offsets == {}
    assert StoreOffsets("g", {T0: None}) in world.effects
