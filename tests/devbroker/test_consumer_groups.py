"""The coordinator's machine for groups of the new protocol (KIP-848), under a virtual clock, case by case.

The expected answers are those of Apache Kafka's GroupMetadataManager; test_consumer_groups_kafka.py asks a real broker.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from penstock.devbroker.codes import Code
from penstock.devbroker.consumer_model import ConsumerGroup, ConsumerGroupState, MemberState
from penstock.devbroker.group_events import (
    Answered,
    CommitOffsets,
    ConsumerHeartbeat,
    DeleteGroup,
    DeleteOffsets,
    Event,
    HeartbeatAnswered,
    Reply,
    Tick,
    TopicChanged,
    TopicDeleted,
)
from penstock.devbroker.groups import GroupCoordinator, GroupLimits
from penstock.types import OffsetAndMetadata, TopicPartition

SESSION_MS = 45_000
REBALANCE_MS = 60_000
OTHER = 30_000  # less than a session


def parts(*numbers: int, topic: str = "id-t") -> frozenset[Any]:
    return frozenset((topic, number) for number in numbers)


class World:
    """A coordinator, topics, a clock, and the answers by token."""

    def __init__(self, partitions: int = 4, **limits: Any) -> None:
        ids = itertools.count()
        self.machine = GroupCoordinator(lambda prefix: f"{prefix}-{next(ids)}", GroupLimits(**limits))
        self.now_ms = 1_000
        self.answers: dict[int, Any] = {}
        self._tokens = itertools.count(1)
        self.topic("t", partitions)

    @property
    def group(self) -> ConsumerGroup:
        found = self.machine.groups["g"].consumer
        assert found is not None
        return found

    def send(self, make: Any) -> Any:
        token = next(self._tokens)
        self._handle(make(token))
        return self.answers.get(token)

    def _handle(self, event: Event) -> None:
        for effect in self.machine.handle(event, self.now_ms):
            if isinstance(effect, Reply):
                assert effect.token not in self.answers, "a request was answered twice"
                if effect.token is not None:
                    self.answers[effect.token] = effect.answer

    def topic(self, name: str, partitions: int, topic_id: str | None = None) -> None:
        self._handle(TopicChanged(None, name, topic_id or f"id-{name}", partitions))

    def delete_topic(self, name: str) -> None:
        self._handle(TopicDeleted(None, name))

    def pass_ms(self, duration_ms: int) -> None:
        """Let time pass, with a Tick at each deadline, as the shell would."""
        end = self.now_ms + duration_ms
        while (due := self.machine.next_deadline_ms()) is not None and due <= end:
            self.now_ms = max(self.now_ms, due)
            self._handle(Tick())
        self.now_ms = end

    def beat(
        self, member: str, epoch: int, owned: frozenset[Any] | None = None, **more: Any
    ) -> HeartbeatAnswered:
        answer = self.send(lambda token: ConsumerHeartbeat(token, "g", member, epoch, owned=owned, **more))
        assert isinstance(answer, HeartbeatAnswered)
        return answer

    def join(self, member: str, *topics: str, **more: Any) -> HeartbeatAnswered:
        names = frozenset(topics or ("t",)) if "regex" not in more or topics else None
        more.setdefault("rebalance_timeout_ms", REBALANCE_MS)
        return self.beat(member, 0, frozenset(), topics=names, **more)

    def settle(self, *members: str) -> dict[str, frozenset[Any]]:
        """Let members go on, each doing what it is told at once, until all have what they shall have."""
        for _ in range(10):
            for member in members:
                known = self.group.members[member]
                self.beat(member, known.epoch, known.assigned, instance_id=known.instance_id)
            if self.group.state is ConsumerGroupState.STABLE:
                return {member: self.group.members[member].assigned for member in members}
        raise AssertionError(f"not settled: {self.group}")

    def commit(self, offset: int, member: str = "", epoch: int = -1, **more: Any) -> Answered:
        offsets = {TopicPartition("t", 0): OffsetAndMetadata(offset)}
        answer = self.send(lambda token: CommitOffsets(token, "g", epoch, member, None, offsets, **more))
        assert isinstance(answer, Answered)
        return answer


# ---------------------------------------------------------------- joining and reconciling
def test_a_lone_member_gets_everything_at_once() -> None:
    world = World()
    answer = world.join("a")
    assert answer == HeartbeatAnswered(Code.NONE, "a", 2, 5_000, parts(0, 1, 2, 3))
    assert world.group.state is ConsumerGroupState.STABLE
    assert world.beat("a", 2) == HeartbeatAnswered(Code.NONE, "a", 2, 5_000, None)


def test_a_partition_goes_to_its_new_owner_only_when_the_old_one_gave_it_back() -> None:
    world = World()
    world.join("a")
    assert world.join("b").assignment == frozenset(), "all is a's still"
    assert world.group.members["b"].state is MemberState.UNRELEASED_PARTITIONS
    told = world.beat("a", 2)
    assert (told.member_epoch, len(told.assignment or ())) == (2, 2)
    assert world.group.members["a"].state is MemberState.UNREVOKED_PARTITIONS
    assert world.beat("b", 3).assignment is None, "a has not answered"
    assert world.beat("a", 2, parts(0, 1, 2, 3)).assignment is None, "a has them still"
    assert world.group.state is ConsumerGroupState.RECONCILING
    done = world.beat("a", 2, told.assignment)
    assert (done.member_epoch, world.group.members["a"].state) == (3, MemberState.STABLE)
    got = world.beat("b", 3).assignment
    assert got == parts(0, 1, 2, 3) - (told.assignment or frozenset())
    assert world.group.state is ConsumerGroupState.STABLE


def test_a_member_with_nothing_to_give_back_is_not_kept_waiting() -> None:
    world = World()
    world.join("a")
    world.join("b")
    assert world.beat("a", 2, parts()).member_epoch == 3, "it owns none of what it must give back"


def test_a_target_that_changes_under_way_is_followed() -> None:
    world = World(6)
    world.join("a")
    world.join("b")
    world.beat("a", 2)
    world.join("c")
    kept = world.group.members["a"].assigned
    told = world.beat("a", 2, kept)
    assert told.member_epoch == 3, "one epoch on, and again something to give back"
    assert world.group.members["a"].state is MemberState.UNREVOKED_PARTITIONS
    assert {len(each) for each in world.settle("a", "b", "c").values()} == {2}
    assert {each.epoch for each in world.group.members.values()} == {4}


def test_a_full_request_is_answered_with_the_assignment_though_it_did_not_change() -> None:
    world = World()
    world.join("a")
    again = world.beat("a", 2, parts(0), topics=frozenset({"t"}), rebalance_timeout_ms=REBALANCE_MS)
    assert again.assignment == parts(0, 1, 2, 3)


def test_a_first_version_member_may_leave_its_id_to_the_coordinator() -> None:
    world = World()
    answer = world.join("", version=0, client_id="c")
    assert answer.member_id in world.group.members
    assert world.join("", version=1).code is Code.INVALID_REQUEST


def test_members_of_a_dead_group_of_an_earlier_life_are_told_to_join() -> None:
    assert World().beat("a", 6, parts(0)).code is Code.UNKNOWN_MEMBER_ID


def test_a_member_that_reads_nothing_changes_nothing_for_the_others() -> None:
    world = World()
    world.join("a")
    assert world.beat("b", 0, frozenset(), topics=frozenset(), rebalance_timeout_ms=1).member_epoch == 2
    assert world.beat("a", 2).member_epoch == 2


def test_a_full_group_refuses_newcomers_and_nobody_else() -> None:
    world = World(consumer_max_size=1)
    world.join("a")
    assert world.join("b").code is Code.GROUP_MAX_SIZE_REACHED
    assert world.beat("a", 2).code is Code.NONE


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"owned": None}, Code.INVALID_REQUEST),
        ({"owned": parts(0)}, Code.INVALID_REQUEST),
        ({"rebalance_timeout_ms": -1}, Code.INVALID_REQUEST),
        ({"topics": None}, Code.INVALID_REQUEST),
        ({"instance_id": ""}, Code.INVALID_REQUEST),
        ({"rack_id": ""}, Code.INVALID_REQUEST),
        ({"member_epoch": -2}, Code.INVALID_REQUEST),
        ({"member_epoch": -3}, Code.INVALID_REQUEST),
        ({"group_id": ""}, Code.INVALID_REQUEST),
        ({"member_id": "", "member_epoch": 1}, Code.INVALID_REQUEST),
        ({"assignor": "sticky"}, Code.UNSUPPORTED_ASSIGNOR),
        ({"regex": "("}, Code.INVALID_REGULAR_EXPRESSION),
        ({"regex": "(?=t)."}, Code.INVALID_REGULAR_EXPRESSION),
        ({"regex": r"(.)\1"}, Code.INVALID_REGULAR_EXPRESSION),
        ({"regex": "[[:alpha:]]"}, Code.INVALID_REGULAR_EXPRESSION),
        ({"regex": "[a--b]"}, Code.INVALID_REGULAR_EXPRESSION),
        ({"regex": "a++"}, Code.INVALID_REGULAR_EXPRESSION),
    ],
)
def test_joins_that_are_refused(change: dict[str, Any], code: Code) -> None:
    world = World()
    fields: dict[str, Any] = {
        "group_id": "g", "member_id": "a", "member_epoch": 0, "owned": frozenset(), "topics": frozenset({"t"}),
        "rebalance_timeout_ms": 1,
    }  # fmt: skip
    answer = world.send(lambda token: ConsumerHeartbeat(token, **{**fields, **change}))
    assert (answer.code, bool(answer.message)) == (code, True)
    assert not world.machine.groups


# ---------------------------------------------------------------- fencing
def test_another_epoch_is_fenced() -> None:
    world = World()
    world.join("a")
    world.join("b")
    world.settle("a", "b")
    assert world.group.members["a"].epoch == 3
    assert world.beat("a", 4).code is Code.FENCED_MEMBER_EPOCH
    assert world.beat("a", 2).code is Code.FENCED_MEMBER_EPOCH, "which one, it does not say what it owns"
    assert world.beat("a", 2, parts(0, 1, 2, 3)).code is Code.FENCED_MEMBER_EPOCH, (
        "it owns more than it was given"
    )
    assert world.beat("x", 3).code is Code.UNKNOWN_MEMBER_ID


def test_the_epoch_before_is_taken_from_one_whose_answer_was_lost() -> None:
    world = World()
    world.join("a")
    world.join("b")
    told = world.beat("a", 2).assignment
    assert world.beat("a", 2, told).member_epoch == 3
    again = world.beat("a", 2, told)
    assert (again.code, again.member_epoch) == (Code.NONE, 3)


def test_a_join_whose_answer_was_lost_is_answered_again() -> None:
    world = World()
    first = world.join("a")
    assert world.join("a") == first
    assert world.group.epoch == 2


def test_a_member_that_joins_again_under_its_id_has_nothing_and_goes_on() -> None:
    world = World()
    world.join("a")
    world.join("b")
    world.settle("a", "b")
    again = world.join("a")
    assert (again.code, again.member_epoch, len(again.assignment or ())) == (Code.NONE, 3, 2)
    assert world.group.epoch == 3


# ---------------------------------------------------------------- leaving, silence, slowness
def test_what_a_member_had_is_free_when_it_leaves() -> None:
    world = World()
    world.join("a")
    world.join("b")
    world.settle("a", "b")
    left = world.beat("a", -1)
    assert (left.code, left.member_epoch) == (Code.NONE, -1)
    assert world.group.state is ConsumerGroupState.ASSIGNING
    assert world.beat("b", 3).assignment == parts(0, 1, 2, 3)
    assert world.beat("a", -1).code is Code.UNKNOWN_MEMBER_ID
    assert world.beat("b", -1).code is Code.NONE
    assert world.group.state is ConsumerGroupState.EMPTY
    assert world.group.epoch == 5


def test_a_silent_member_is_out_after_the_session_timeout() -> None:
    world = World()
    world.join("a")
    world.join("b")
    world.settle("a", "b")
    world.pass_ms(OTHER)
    assert world.beat("a", 3).code is Code.NONE
    world.pass_ms(SESSION_MS - OTHER - 1)
    assert set(world.group.members) == {"a", "b"}
    world.pass_ms(1)
    assert set(world.group.members) == {"a"}
    assert world.beat("b", 3).code is Code.UNKNOWN_MEMBER_ID
    assert world.beat("a", 3).assignment == parts(0, 1, 2, 3)


def test_a_member_that_does_not_give_back_is_out_after_its_rebalance_timeout() -> None:
    world = World()
    world.join("a", rebalance_timeout_ms=1_000)
    world.join("b")
    told = world.beat("a", 2)
    world.pass_ms(999)
    assert world.beat("a", 2, parts(0, 1, 2, 3)).code is Code.NONE
    world.pass_ms(1)
    assert world.beat("a", 2, told.assignment).code is Code.UNKNOWN_MEMBER_ID
    assert world.beat("b", 3).assignment == parts(0, 1, 2, 3)


def test_a_member_that_gave_back_in_time_has_no_such_timer() -> None:
    world = World()
    world.join("a", rebalance_timeout_ms=1_000)
    world.join("b")
    world.beat("a", 2, world.beat("a", 2).assignment)
    world.pass_ms(2_000)
    assert "a" in world.group.members


# ---------------------------------------------------------------- static members
def test_a_static_member_comes_back_to_what_it_had() -> None:
    world = World()
    world.join("a", instance_id="i")
    world.join("b")
    had = world.settle("a", "b")
    epoch = world.group.epoch
    left = world.beat("a", -2, instance_id="i")
    assert (left.code, left.member_epoch) == (Code.NONE, -2)
    assert world.beat("b", 3).assignment is None
    back = world.join("a2", instance_id="i")
    assert (back.code, back.member_id, back.assignment, back.member_epoch) == (
        Code.NONE,
        "a2",
        had["a"],
        epoch,
    )
    assert world.group.epoch == epoch, "nobody else notices"
    assert world.beat("a", 3, instance_id="i").code is Code.FENCED_INSTANCE_ID
    assert world.beat("a", -1, instance_id="i").code is Code.FENCED_INSTANCE_ID
    assert set(world.group.members) == {"a2", "b"}


def test_a_static_member_that_left_in_the_middle_of_giving_back() -> None:
    world = World()
    world.join("a", instance_id="i")
    world.join("b")
    world.beat("a", 2, instance_id="i")
    world.beat("a", -2, instance_id="i")
    world.pass_ms(1)
    assert world.join("a2", instance_id="i").code is Code.NONE
    assert {len(each) for each in world.settle("a2", "b").values()} == {2}


def test_a_static_member_that_does_not_come_back_is_out_after_the_session_timeout() -> None:
    world = World()
    world.join("a", instance_id="i")
    world.beat("a", -2, instance_id="i")
    world.pass_ms(SESSION_MS - 1)
    assert world.group.members
    world.pass_ms(1)
    assert not world.group.members


def test_an_instance_id_in_use_is_not_given_away() -> None:
    world = World()
    world.join("a", instance_id="i")
    assert world.join("b", instance_id="i").code is Code.UNRELEASED_INSTANCE_ID
    assert world.beat("a", 2, instance_id="i").code is Code.NONE
    assert world.beat("a", 2, instance_id="j").code is Code.UNKNOWN_MEMBER_ID
    assert world.beat("a", -1, instance_id="i").code is Code.NONE
    assert not world.group.members


# ---------------------------------------------------------------- subscriptions and topics
def test_another_subscription_makes_a_new_epoch() -> None:
    world = World(1)
    world.topic("u", 2)
    world.join("a")
    assert world.beat("a", 2, topics=frozenset({"t", "u"})).assignment == parts(0) | parts(0, 1, topic="id-u")
    assert world.group.epoch == 3
    assert world.beat("a", 3, topics=frozenset({"u", "t"})).member_epoch == 3


def test_topics_that_grow_are_made_and_go() -> None:
    world = World(1)
    assert world.join("a", "t", "later").assignment == parts(0)
    world.topic("elsewhere", 1)
    assert world.beat("a", 2).member_epoch == 2
    world.topic("t", 2)
    assert world.beat("a", 2).assignment == parts(0, 1)
    world.topic("later", 1)
    assert world.beat("a", 3).assignment == parts(0, 1) | parts(0, topic="id-later")
    world.delete_topic("t")
    told = world.beat("a", 4)
    assert (told.member_epoch, told.assignment) == (4, parts(0, topic="id-later"))
    assert world.beat("a", 4, told.assignment).member_epoch == 5


def test_a_topic_made_again_is_another_one() -> None:
    world = World(1)
    world.join("a")
    world.delete_topic("t")
    world.topic("t", 1, "second")
    told = world.beat("a", 2)
    assert told.assignment == frozenset()
    assert world.beat("a", 2, frozenset()).assignment == parts(0, topic="second")


def test_a_regular_expression_is_matched_with_whole_names_and_topics_to_come() -> None:
    world = World(1)
    world.topic("tt", 1)
    world.topic("orders", 1)
    assert world.join("a", regex="t|ord.*").assignment == parts(0) | parts(0, topic="id-orders")
    world.topic("ordinary", 1)
    assert parts(0, topic="id-ordinary") <= (world.beat("a", 2).assignment or frozenset())
    none = world.beat("a", 3, regex="")
    assert (none.assignment, none.member_epoch) == (frozenset(), 3)
    assert world.beat("a", 3, regex="*").code is Code.INVALID_REGULAR_EXPRESSION


@pytest.mark.parametrize("regex", ["a--b", r"a\+\+", "(a|b|)--b", "a--b|[a-c]", "(?i)A--B", r"\w--\w"])
def test_what_both_kinds_of_regular_expressions_have_is_taken(regex: str) -> None:
    world = World()
    world.topic("a--b", 1)
    assert world.join("a", regex=regex).code is Code.NONE
    assert (world.group.members["a"].assigned == parts(0, topic="id-a--b")) is ("+" not in regex)


def test_the_assignor_that_most_name_is_taken() -> None:
    world = World(4)
    world.topic("u", 4)
    for member in "abc":
        world.join(member, "t", "u", assignor="range" if member != "c" else "uniform")
    settled = world.settle("a", "b", "c")
    assert world.group.assignor == "range"
    assert settled["a"] == parts(0, 1) | parts(0, 1, topic="id-u")


# ---------------------------------------------------------------- offsets and the rest
def test_commits_are_of_a_member_at_its_epoch() -> None:
    world = World()
    world.join("a")
    assert world.commit(1, "a", 2).partitions == {TopicPartition("t", 0): Code.NONE}
    assert world.commit(2, "a", 1).code is Code.STALE_MEMBER_EPOCH
    assert world.commit(2, "a", 3).code is Code.STALE_MEMBER_EPOCH
    assert world.commit(2, "x", 2).code is Code.UNKNOWN_MEMBER_ID
    assert world.commit(2).code is Code.UNKNOWN_MEMBER_ID
    assert world.commit(2, "a", 2, version=8).code is Code.UNSUPPORTED_VERSION
    assert world.commit(2, "a", 1, producer_id=7).code is Code.ILLEGAL_GENERATION
    assert world.commit(2, "a", 2, producer_id=7).code is Code.NONE
    assert world.machine.groups["g"].offsets[TopicPartition("t", 0)].offset == 1
    world.beat("a", -1)
    assert world.commit(3).code is Code.NONE


def test_a_commit_of_an_earlier_epoch_counts_for_what_the_member_had_all_the_time() -> None:
    """KIP-1251: the answer with the new epoch and the commit crossed on their way."""
    world = World()
    world.join("a")
    world.join("b")
    world.settle("a", "b")
    owner, other = ("a", "b") if parts(0) <= world.group.members["a"].assigned else ("b", "a")
    assert world.commit(1, owner, 3).code is Code.NONE
    assert world.commit(2, "a", 2).code is (Code.NONE if owner == "a" else Code.STALE_MEMBER_EPOCH)
    assert world.commit(3, "b", 2).code is Code.STALE_MEMBER_EPOCH
    assert world.commit(4, owner, 4).code is Code.STALE_MEMBER_EPOCH
    assert world.commit(5, owner, 1).code is Code.STALE_MEMBER_EPOCH
    assert world.commit(6, other, 2).code is Code.STALE_MEMBER_EPOCH


def test_members_that_ask_for_offsets_are_of_the_present_epoch() -> None:
    world = World()
    world.join("a")
    code = world.machine.consumers.fetch_code
    assert code(world.group, None, -1) is Code.NONE
    assert code(world.group, "a", 2) is Code.NONE
    assert code(world.group, "a", 1) is Code.STALE_MEMBER_EPOCH
    assert code(world.group, "x", 2) is Code.UNKNOWN_MEMBER_ID


def test_only_an_empty_group_is_deleted_and_only_offsets_nobody_reads() -> None:
    world = World()
    world.commit(1)
    world.join("a")
    assert world.send(lambda token: DeleteGroup(token, "g")).code is Code.NON_EMPTY_GROUP
    tp = TopicPartition("t", 0)
    deleted = world.send(lambda token: DeleteOffsets(token, "g", (tp,)))
    assert deleted.partitions == {tp: Code.GROUP_SUBSCRIBED_TO_TOPIC}
    world.beat("a", -1)
    assert world.send(lambda token: DeleteOffsets(token, "g", (tp,))).partitions == {tp: Code.NONE}
    assert world.send(lambda token: DeleteGroup(token, "g")).code is Code.NONE
    assert not world.machine.groups
