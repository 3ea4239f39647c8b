"""Every way through the classic membership, one event after the other."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.group import messages as g
from penstock.group.assignors import assignors_for
from penstock.group.classic import ClassicMember
from penstock.group.protocol import (
    MemberSubscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from penstock.group.states import State
from penstock.types import TopicPartition

SESSION_MS, HEARTBEAT_MS, BACKOFF_MS, BACKOFF_MAX_MS = 45_000, 3_000, 100, 1_000
LOADING, NOT_AVAILABLE, NOT_COORDINATOR, ILLEGAL_GENERATION = 14, 15, 16, 22
INCONSISTENT, UNKNOWN_MEMBER, REBALANCE, GROUP_AUTHORIZATION, MEMBER_ID_REQUIRED, FENCED = (
    23,
    25,
    27,
    30,
    79,
    82,
)
MINE = (TopicPartition("t", 0), TopicPartition("t", 1))


class Walk:
    """A machine, the time, and what it said last."""

    def __init__(self, **options: Any) -> None:
        self.machine = ClassicMember(
            group_id="group",
            group_instance_id=options.get("instance"),
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=300_000,
            heartbeat_interval_ms=HEARTBEAT_MS,
            retry_backoff_ms=BACKOFF_MS,
            retry_backoff_max_ms=BACKOFF_MAX_MS,
            assignors=assignors_for(options.get("strategy", ["range"])),
        )
        self.now_ms = 1_000
        self.said: list[g.Effect] = []  # without what concerns heartbeats, which is in:
        self.beats: g.KeepHeartbeating | None = None

    def feed(self, event: g.Event) -> list[g.Effect]:
        self.said = []
        for effect in self.machine.handle(event, self.now_ms):
            if isinstance(effect, g.StopHeartbeats):
                assert self.said == [], "heartbeats stop before anything else is done"
                self.beats = None
            elif isinstance(effect, g.KeepHeartbeating):
                self.beats = effect
            else:
                self.said.append(effect)
        return self.said

    def wait(self, ms: int) -> list[g.Effect]:
        self.now_ms += ms
        return self.feed(g.Tick())

    def until_due(self) -> list[g.Effect]:
        due_ms = self.machine.next_deadline_ms()
        assert due_ms is not None
        assert due_ms > self.now_ms
        self.now_ms = due_ms
        return self.feed(g.Tick())

    @property
    def state(self) -> State:
        return self.machine.state

    def only(self, kind: type[Any]) -> Any:
        assert [type(effect) for effect in self.said] == [kind]
        return self.said[0]

    # the usual way, step by step

    def joining(self) -> Walk:
        self.feed(g.Subscribe(("t",)))
        self.only(g.FindCoordinator)
        self.feed(g.CoordinatorFound())
        assert self.only(g.SendJoin).member_id == ""
        return self

    def syncing(self, generation: int = 1) -> Walk:
        if self.state is not State.JOINING:
            self.joining()
        self.feed(g.JoinAnswered(0, generation, "range", "leader", "me", ()))
        assert self.only(g.SendSync).assignments == ()
        return self

    def assigning(self, mine: tuple[TopicPartition, ...] = MINE, generation: int = 1) -> Walk:
        self.syncing(generation)
        self.feed(g.SyncAnswered(0, "range", encode_assignment(mine)))
        assert self.said == [g.AssignPartitions(mine), g.CallAssigned(mine)]
        return self

    def stable(self, mine: tuple[TopicPartition, ...] = MINE, generation: int = 1) -> Walk:
        self.assigning(mine, generation)
        self.feed(g.AssignmentDone())
        assert self.said == []
        assert self.state is State.STABLE
        return self

    def answer_heartbeat(self, code: int) -> list[g.Effect]:
        return self.feed(g.HeartbeatAnswered(code, self.machine.generation_id))

    def revoking(self) -> Walk:
        self.stable().answer_heartbeat(REBALANCE)
        assert self.said == [g.StopFetching(MINE), g.CommitBeforeRevoke(MINE), g.CallRevoked(MINE)]
        return self

    def leading(self, *members: g.JoinedMember, skip: bool = False) -> Walk:
        self.joining()
        self.feed(g.JoinAnswered(0, 1, "range", "me", "me", members, skip))
        return self


def joined(name: str, *topics: str, instance: str | None = None) -> g.JoinedMember:
    return g.JoinedMember(name, instance, encode_subscription(MemberSubscription(topics)))


# ------------------------------------------------------------ joining


def test_a_first_join() -> None:
    walk = Walk().joining()
    join = walk.only(g.SendJoin)
    assert (join.session_timeout_ms, join.rebalance_timeout_ms) == (SESSION_MS, 300_000)
    assert [name for name, _ in join.protocols] == ["range"]
    assert decode_subscription(join.protocols[0][1]) == MemberSubscription(("t",))
    walk.feed(g.JoinAnswered(MEMBER_ID_REQUIRED, -1, "", "", "me", ()))
    assert walk.only(g.SendJoin).member_id == "me"  # at once: KIP-394
    walk.feed(g.JoinAnswered(0, 7, "range", "leader", "me", ()))
    sync = walk.only(g.SendSync)
    assert (sync.generation_id, sync.member_id, sync.protocol_name, sync.assignments) == (
        7,
        "me",
        "range",
        (),
    )
    walk.feed(g.SyncAnswered(0, "range", encode_assignment(MINE)))
    assert walk.said == [g.AssignPartitions(MINE), g.CallAssigned(MINE)]
    assert walk.machine.assignment == MINE
    walk.feed(g.AssignmentDone())
    assert (walk.state, walk.machine.generation_id, walk.machine.is_leader) == (State.STABLE, 7, False)


def test_every_assignor_is_offered_best_first() -> None:
    join = Walk(strategy=["roundrobin", "range"]).joining().only(g.SendJoin)
    assert [name for name, _ in join.protocols] == ["roundrobin", "range"]


def test_the_leader_divides_among_all() -> None:
    walk = Walk().leading(joined("me", "t", "u"), joined("other", "t"))
    assert walk.only(g.NeedPartitionCounts).topics == ("t", "u")
    walk.feed(g.PartitionCounts({"t": 3, "u": 1}))
    parts = {member: decode_assignment(data) for member, data in walk.only(g.SendSync).assignments}
    assert parts == {
        "me": (TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("u", 0)),
        "other": (TopicPartition("t", 2),),
    }


def test_a_static_leader_that_comes_back_assigns_nothing_but_watches_the_topics() -> None:
    walk = Walk(instance="i").leading(joined("me", "t", instance="i"), skip=True)
    assert walk.only(g.NeedPartitionCounts).topics == ("t",)
    walk.feed(g.PartitionCounts({"t": 3}))
    assert walk.only(g.SendSync).assignments == ()


def test_counts_that_nobody_waits_for_are_ignored() -> None:
    assert Walk().stable().feed(g.PartitionCounts({"t": 3})) == []


def test_an_unreadable_subscription_of_another_member_is_told_to_the_user() -> None:
    walk = Walk().leading(joined("me", "t"), g.JoinedMember("other", None, b"\x00"))
    error = walk.only(g.Raise)
    assert error.error_code == INCONSISTENT
    assert "cannot be read" in error.message
    assert walk.state is State.FAILED


def test_an_assignor_that_was_not_offered() -> None:
    walk = Walk().joining()
    walk.feed(g.JoinAnswered(0, 1, "sticky", "me", "me", (joined("me", "t"),)))
    walk.feed(g.PartitionCounts({"t": 1}))
    assert "'sticky'" in walk.only(g.Raise).message
    assert walk.state is State.FAILED


@pytest.mark.parametrize(("protocol", "data"), [("sticky", b""), ("range", b"\x00"), ("range", b"\xff\xff")])
def test_an_assignment_that_makes_no_sense(protocol: str, data: bytes) -> None:
    walk = Walk().syncing()
    walk.feed(g.SyncAnswered(0, protocol, data))
    assert walk.only(g.Raise).error_code == INCONSISTENT
    assert (walk.state, walk.machine.assignment) == (State.FAILED, ())


def test_no_bytes_are_no_partitions() -> None:
    walk = Walk().syncing()
    walk.feed(g.SyncAnswered(0, None, b""))
    assert walk.said == [g.AssignPartitions(()), g.CallAssigned(())]


@pytest.mark.parametrize("code", [LOADING, NOT_AVAILABLE, NOT_COORDINATOR, UNKNOWN_MEMBER, REBALANCE])
def test_a_join_that_time_may_mend_backs_off(code: int) -> None:
    walk = Walk().joining()
    walk.feed(g.JoinAnswered(code, -1, "", "", "", ()))
    assert (walk.state, walk.said) == (State.BACKING_OFF, [])
    walk.until_due()
    moved = code in (NOT_AVAILABLE, NOT_COORDINATOR)
    walk.only(g.FindCoordinator if moved else g.SendJoin)


def test_backoff_doubles_to_its_maximum_and_starts_over_after_success() -> None:
    walk = Walk().joining()
    waits = []
    for _ in range(6):
        walk.feed(g.JoinAnswered(LOADING, -1, "", "", "", ()))
        before_ms = walk.now_ms
        walk.until_due()
        waits.append(walk.now_ms - before_ms)
    assert waits == [100, 200, 400, 800, 1_000, 1_000]
    walk.stable()
    walk.feed(g.Rejoin("again"))
    walk.feed(g.RevocationDone())
    walk.feed(g.JoinAnswered(LOADING, -1, "", "", "", ()))
    assert walk.machine.next_deadline_ms() == walk.now_ms + BACKOFF_MS


def test_unknown_member_forgets_its_id() -> None:
    walk = Walk().joining()
    walk.feed(g.JoinAnswered(MEMBER_ID_REQUIRED, -1, "", "", "me", ()))
    walk.feed(g.JoinAnswered(UNKNOWN_MEMBER, -1, "", "", "", ()))
    assert walk.machine.member_id == ""
    walk.until_due()
    assert walk.only(g.SendJoin).member_id == ""


def test_a_join_without_an_answer_finds_the_coordinator_again() -> None:
    walk = Walk().joining()
    walk.feed(g.RequestFailed(g.RequestKind.JOIN, "connection lost"))
    walk.until_due()
    walk.only(g.FindCoordinator)
    walk.feed(g.CoordinatorFound())
    walk.only(g.SendJoin)


def test_a_coordinator_that_cannot_be_found_is_looked_for_again() -> None:
    walk = Walk()
    walk.feed(g.Subscribe(("t",)))
    walk.feed(g.CoordinatorLost("nobody answers"))
    assert walk.state is State.BACKING_OFF
    walk.until_due()
    walk.only(g.FindCoordinator)


@pytest.mark.parametrize(
    ("code", "id_kept", "generation"),
    [(REBALANCE, True, 1), (ILLEGAL_GENERATION, True, -1), (UNKNOWN_MEMBER, False, -1)],
)
def test_a_sync_that_came_too_late_joins_again(code: int, id_kept: bool, generation: int) -> None:
    walk = Walk().syncing()
    walk.feed(g.SyncAnswered(code, None, b""))
    assert walk.only(g.SendJoin).member_id == ("me" if id_kept else "")
    assert walk.machine.generation_id == generation


@pytest.mark.parametrize("code", [NOT_COORDINATOR, NOT_AVAILABLE, LOADING])
def test_a_sync_whose_coordinator_moved(code: int) -> None:
    walk = Walk().syncing()
    walk.feed(g.SyncAnswered(code, None, b""))
    assert walk.state is State.BACKING_OFF
    walk.until_due()
    walk.only(g.SendJoin if code == LOADING else g.FindCoordinator)


# ------------------------------------------------------------ heartbeats


def test_heartbeats_are_repeated_for_each_generation() -> None:
    walk = Walk(instance="i").assigning()
    assert walk.beats == g.KeepHeartbeating(1, "me", "i", HEARTBEAT_MS, at_once=False)
    walk.feed(g.AssignmentDone())
    walk.answer_heartbeat(REBALANCE)
    assert walk.beats is not None, "while the listener runs"
    walk.feed(g.RevocationDone())
    assert walk.only(g.SendJoin)
    assert walk.beats is None, "they would wait behind the join"
    walk.stable(generation=2)
    assert walk.beats == g.KeepHeartbeating(2, "me", "i", HEARTBEAT_MS, at_once=False)


def test_no_heartbeats_while_joining_and_syncing() -> None:
    for walk in (Walk().joining(), Walk().syncing(), Walk().leading(joined("me", "t"))):
        assert walk.beats is None
        assert walk.machine.next_deadline_ms() is None
        assert walk.wait(10 * SESSION_MS) == []


def test_a_stale_answer_says_nothing_about_this_generation() -> None:
    walk = Walk().stable()
    walk.feed(g.HeartbeatAnswered(UNKNOWN_MEMBER, 0))
    assert (walk.said, walk.state) == ([], State.STABLE)


@pytest.mark.parametrize(("code", "id_kept"), [(UNKNOWN_MEMBER, False), (ILLEGAL_GENERATION, True)])
def test_a_member_that_is_none_any_more_loses_its_partitions(code: int, id_kept: bool) -> None:
    walk = Walk().stable()
    walk.answer_heartbeat(code)
    assert walk.said == [g.StopFetching(MINE), g.CallLost(MINE)]
    assert (walk.state, walk.machine.generation_id) == (State.PREPARING, -1)
    assert walk.beats is None  # for no generation
    walk.feed(g.LossDone())
    assert walk.machine.assignment == ()
    assert walk.only(g.SendJoin).member_id == ("me" if id_kept else "")


def test_with_nothing_to_lose_the_join_comes_at_once() -> None:
    walk = Walk().stable(mine=())
    walk.answer_heartbeat(UNKNOWN_MEMBER)
    walk.only(g.SendJoin)


@pytest.mark.parametrize("code", [NOT_COORDINATOR, NOT_AVAILABLE, None])
def test_a_coordinator_that_moves_costs_no_partition(code: int | None) -> None:
    walk = Walk().stable()
    if code is None:
        walk.feed(g.RequestFailed(g.RequestKind.HEARTBEAT, "connection lost"))
    else:
        walk.answer_heartbeat(code)
    assert (walk.state, walk.said, walk.beats) == (State.STABLE, [], None)
    before_ms = walk.now_ms
    walk.until_due()
    walk.only(g.FindCoordinator)
    assert walk.now_ms == before_ms + BACKOFF_MS
    walk.feed(g.CoordinatorFound())
    assert walk.beats == g.KeepHeartbeating(
        1, "me", None, HEARTBEAT_MS, at_once=True
    )  # under the generation it had


def test_a_dead_coordinator_that_is_found_again_and_again_is_not_asked_in_a_hot_loop() -> None:
    walk = Walk().stable()
    started_ms = walk.now_ms
    for _ in range(8):
        walk.feed(g.RequestFailed(g.RequestKind.HEARTBEAT, "connection refused"))
        walk.until_due()
        walk.only(g.FindCoordinator)
        walk.feed(g.CoordinatorFound())
        assert walk.beats is not None
    assert walk.now_ms - started_ms == 100 + 200 + 400 + 800 + 4 * 1_000


@pytest.mark.parametrize("code", [GROUP_AUTHORIZATION, FENCED])
def test_a_refusal_raises_and_loses_the_partitions(code: int) -> None:
    walk = Walk(instance="i").stable()
    walk.answer_heartbeat(code)
    *lost, error = walk.said
    assert lost == [g.StopFetching(MINE), g.CallLost(MINE)]
    assert isinstance(error, g.Raise)
    assert error.error_code == code
    assert walk.machine.next_deadline_ms() is None
    walk.feed(g.LossDone())
    assert (walk.said, walk.machine.assignment) == ([], ())
    walk.feed(g.PollProgress())
    if code == FENCED:  # joining again would fence the other one
        assert walk.only(g.Raise).error_code == FENCED
        assert walk.state is State.FENCED
    else:
        walk.only(g.SendJoin)


@pytest.mark.parametrize("code", [INCONSISTENT, GROUP_AUTHORIZATION, 24, 26, 81])
def test_a_refused_join_raises_and_a_poll_tries_again(code: int) -> None:
    walk = Walk().joining()
    walk.feed(g.JoinAnswered(code, -1, "", "", "", ()))
    assert walk.only(g.Raise).error_code == code
    assert walk.wait(10 * SESSION_MS) == []
    walk.feed(g.PollProgress())
    walk.only(g.SendJoin)


def test_a_poll_before_the_loss_was_told_does_not_join() -> None:
    walk = Walk().stable()
    walk.answer_heartbeat(GROUP_AUTHORIZATION)
    assert walk.feed(g.PollProgress()) == []
    walk.feed(g.LossDone())
    walk.feed(g.PollProgress())
    walk.only(g.SendJoin)


# ------------------------------------------------------------ rebalancing


def test_a_rebalance_revokes_everything_before_it_joins() -> None:
    walk = Walk().revoking()
    walk
    walk.answer_heartbeat(REBALANCE)  # still, while the listener runs
    assert walk.said == []
    walk.feed(g.RevocationDone())
    assert walk.only(g.SendJoin).reason == "the group rebalances"
    assert walk.machine.assignment == ()
    walk.stable(mine=MINE[:1], generation=2)
    assert walk.machine.assignment == MINE[:1]


def test_a_rebalance_waits_for_the_callback_of_the_assignment() -> None:
    walk = Walk().assigning()
    walk.answer_heartbeat(REBALANCE)
    assert (walk.said, walk.state) == ([], State.ASSIGNING)
    walk.feed(g.AssignmentDone())
    assert walk.said == [g.StopFetching(MINE), g.CommitBeforeRevoke(MINE), g.CallRevoked(MINE)]


def test_a_membership_that_ends_while_it_revokes_calls_the_listener_once() -> None:
    walk = Walk().revoking()
    walk.answer_heartbeat(UNKNOWN_MEMBER)
    assert walk.said == []
    walk.feed(g.RevocationDone())
    assert walk.only(g.SendJoin).member_id == ""


def test_other_topics_rejoin_and_the_same_do_not() -> None:
    walk = Walk().stable()
    assert walk.feed(g.Subscribe(("t",))) == []
    walk.feed(g.Subscribe(("u", "t")))
    assert [type(e) for e in walk.said] == [g.StopFetching, g.CommitBeforeRevoke, g.CallRevoked]
    walk.feed(g.RevocationDone())
    assert decode_subscription(walk.only(g.SendJoin).protocols[0][1]).topics == ("t", "u")


def test_topics_that_change_during_a_join_are_joined_for_afterwards() -> None:
    walk = Walk().joining()
    assert walk.feed(g.Subscribe(("t", "u"))) == []
    walk.assigning()
    walk.feed(g.AssignmentDone())
    assert g.CallRevoked(MINE) in walk.said
    walk.feed(g.RevocationDone())
    assert walk.only(g.SendJoin).reason == "the subscription changed"


def test_an_assignment_of_other_topics_is_not_taken() -> None:
    walk = Walk().syncing()
    walk.feed(g.Subscribe(("u",)))
    walk.feed(g.SyncAnswered(0, "range", encode_assignment(MINE)))
    assert (walk.said, walk.machine.assignment) == ([], ())
    walk.until_due()
    join = walk.only(g.SendJoin)
    assert join.reason == "the assignment has topics that this member does not subscribe to"
    # told with the generation it was in: the coordinator sees other metadata than before, and rebalances
    assert decode_subscription(join.protocols[0][1]) == MemberSubscription(("u",), generation_id=1)


def test_new_partitions_are_the_leaders_matter() -> None:
    follower = Walk().stable()
    assert follower.feed(g.TopicsChanged()) == []
    leader = Walk().leading(joined("me", "t"))
    leader.feed(g.PartitionCounts({"t": 2}))
    leader.feed(g.SyncAnswered(0, "range", encode_assignment(MINE)))
    leader.feed(g.AssignmentDone())
    leader.feed(g.TopicsChanged())
    assert g.CallRevoked(MINE) in leader.said


def test_a_rejoin_tells_its_reason() -> None:
    walk = Walk().stable(mine=())
    walk.feed(g.Rejoin("because"))
    assert walk.only(g.SendJoin).reason == "because"


# ------------------------------------------------------------ polling


def test_a_user_who_does_not_poll_leaves_and_comes_back() -> None:
    walk = Walk().stable()
    walk.feed(g.PollExpired())
    leave, *lost = walk.said
    assert isinstance(leave, g.SendLeave)
    assert (leave.member_id, leave.reason) == ("me", "max.poll.interval.ms passed without a poll")
    assert lost == [g.StopFetching(MINE), g.CallLost(MINE)]
    assert walk.machine.generation_id == -1
    walk.feed(g.LeaveAnswered(0))
    walk.feed(g.PollProgress())
    walk.feed(g.LossDone())
    assert walk.only(g.SendJoin).member_id == ""


@pytest.mark.parametrize("state", ["stable", "assigning"])
def test_without_partitions_it_waits_for_the_next_poll(state: str) -> None:
    walk = Walk()
    getattr(walk, state)(mine=())
    walk.feed(g.PollExpired())
    walk.only(g.SendLeave)
    assert (walk.state, walk.machine.next_deadline_ms()) == (State.EXPIRED, None)
    walk.feed(g.PollProgress())
    walk.only(g.SendJoin)


def test_a_static_member_keeps_its_place_when_it_expires() -> None:
    walk = Walk(instance="i").stable()
    assert walk.feed(g.PollExpired()) == [g.StopFetching(MINE), g.CallLost(MINE)]


def test_expiring_while_a_revocation_waits_for_the_poll() -> None:
    walk = Walk().revoking()
    walk.feed(g.PollExpired())
    walk.only(g.SendLeave)
    walk.feed(g.RevocationDone())
    assert walk.only(g.SendJoin).member_id == ""


def test_expiring_before_there_is_a_membership() -> None:
    for code in (None, LOADING):
        walk = Walk()
        walk.feed(g.Subscribe(("t",)))
        if code is not None:
            walk.feed(g.CoordinatorFound())
            walk.feed(g.JoinAnswered(code, -1, "", "", "", ()))
        assert walk.feed(g.PollExpired()) == []
        assert (walk.state, walk.machine.next_deadline_ms()) == (State.EXPIRED, None)


@pytest.mark.parametrize("where", ["join", "counts", "sync", "sync refused", "failure"])
def test_expiring_during_a_join_leaves_when_the_answer_is_here(where: str) -> None:
    walk = Walk().leading(joined("me", "t")) if where == "counts" else Walk().joining()
    if where.startswith("sync"):
        walk.syncing()
    assert walk.feed(g.PollExpired()) == []
    answers: dict[str, g.Event] = {
        "join": g.JoinAnswered(0, 1, "range", "leader", "me", ()),
        "counts": g.PartitionCounts({"t": 1}),
        "sync": g.SyncAnswered(0, "range", encode_assignment(MINE)),
        "sync refused": g.SyncAnswered(REBALANCE, None, b""),
        "failure": g.RequestFailed(g.RequestKind.JOIN, "connection lost"),
    }
    walk.feed(answers[where])
    if where == "failure":
        assert walk.said == []
    else:
        assert walk.only(g.SendLeave).member_id == "me"
    assert (walk.state, walk.machine.assignment, walk.machine.generation_id) == (State.EXPIRED, (), -1)


def test_a_poll_in_time_for_the_answer_keeps_the_membership() -> None:
    walk = Walk().joining()
    walk.feed(g.PollExpired())
    walk.feed(g.PollProgress())
    walk.stable()


# ------------------------------------------------------------ leaving


def test_leaving_tells_the_coordinator() -> None:
    walk = Walk().stable()
    walk.feed(g.Leave())
    assert walk.only(g.SendLeave).member_id == "me"
    assert walk.feed(g.Leave()) == []
    walk.feed(g.LeaveAnswered(0))
    walk.only(g.Left)
    assert (walk.state, walk.machine.member_id, walk.machine.assignment) == (State.UNSUBSCRIBED, "", ())


@pytest.mark.parametrize(
    "failure", [g.LeaveAnswered(NOT_COORDINATOR), g.RequestFailed(g.RequestKind.LEAVE, "lost")]
)
def test_leaving_survives_a_coordinator_that_moves_a_bounded_number_of_times(failure: g.Event) -> None:
    walk = Walk().stable()
    walk.feed(g.Leave())
    tries = 1
    while walk.feed(failure) == []:
        walk.until_due()  # the others name the old one until they have noticed
        walk.only(g.FindCoordinator)
        walk.feed(g.CoordinatorFound())
        walk.only(g.SendLeave)
        tries += 1
    walk.only(g.Left)
    assert tries == 12
    assert walk.now_ms > 8_000


def test_leaving_finds_the_coordinator_first_where_it_is_lost() -> None:
    walk = Walk().stable()
    walk.answer_heartbeat(NOT_COORDINATOR)
    walk.feed(g.Leave())
    walk.only(g.FindCoordinator)
    walk.feed(g.CoordinatorFound())
    walk.only(g.SendLeave)


def test_leaving_without_a_coordinator_ends() -> None:
    walk = Walk().stable()
    walk.answer_heartbeat(NOT_COORDINATOR)
    walk.feed(g.Leave())
    walk.feed(g.CoordinatorLost("nobody answers"))
    walk.only(g.Left)


def test_who_is_no_member_need_not_leave() -> None:
    for walk in (Walk(), Walk(instance="i").stable()):
        walk.feed(g.Leave())
        walk.only(g.Left)
        assert walk.state is State.UNSUBSCRIBED


def test_a_member_id_that_is_on_its_way_is_given_back() -> None:
    """Else the coordinator would wait for its join until the session's timeout, and all others with it (KIP-394)."""
    walk = Walk().joining()
    walk.feed(g.Leave())
    assert walk.said == []
    walk.feed(g.JoinAnswered(MEMBER_ID_REQUIRED, -1, "", "", "me", ()))
    assert walk.only(g.SendLeave).member_id == "me"
    walk.feed(g.LeaveAnswered(0))
    walk.only(g.Left)


def test_leaving_waits_for_a_member_id_for_a_second() -> None:
    walk = Walk().joining()
    walk.feed(g.Leave())
    walk.wait(1_000)
    walk.only(g.Left)
    assert walk.state is State.UNSUBSCRIBED
    failed = Walk().joining()
    failed.feed(g.Leave())
    failed.feed(g.RequestFailed(g.RequestKind.JOIN, "lost"))
    failed.only(g.Left)


def test_late_news_does_not_move_a_member_that_has_left() -> None:
    walk = Walk().stable()
    walk.feed(g.Leave())
    walk.feed(g.LeaveAnswered(0))
    late: list[g.Event] = [
        g.JoinAnswered(0, 9, "range", "me", "me", ()),
        g.SyncAnswered(0, "range", encode_assignment(MINE)),
        g.HeartbeatAnswered(UNKNOWN_MEMBER, 1),
        g.RequestFailed(g.RequestKind.HEARTBEAT, "lost"),
        g.RevocationDone(),
        g.LossDone(),
        g.AssignmentDone(),
        g.CoordinatorLost("lost"),
        g.TopicsChanged(),
        g.Rejoin("why"),
        g.PollProgress(),
        g.PollExpired(),
        g.Tick(),
    ]
    for event in late:
        assert walk.feed(event) == []
    assert (walk.state, walk.machine.next_deadline_ms()) == (State.UNSUBSCRIBED, None)


def test_a_member_that_left_may_come_again() -> None:
    walk = Walk().stable()
    walk.feed(g.Leave())
    walk.feed(g.LeaveAnswered(0))
    walk.feed(g.Subscribe(("t",)))
    assert walk.only(g.SendJoin).member_id == ""


def test_a_step_that_no_table_lists_raises() -> None:
    walk = Walk().stable()
    with pytest.raises(AssertionError, match="does not lead from STABLE to SYNCING"):
        walk.machine._go(State.SYNCING)
