"""Every way through a membership by the consumer protocol (KIP-848), one event after the other."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.group import consumer_messages as c
from penstock.group import messages as g
from penstock.group.consumer import ConsumerMember
from penstock.group.consumer_states import ConsumerState
from penstock.types import TopicPartition

INTERVAL_MS, BACKOFF_MS, BACKOFF_MAX_MS, REBALANCE_MS = 5_000, 100, 1_000, 300_000
LOADING, NOT_AVAILABLE, NOT_COORDINATOR, UNKNOWN_MEMBER, TOPIC_AUTHORIZATION = 14, 15, 16, 25, 29
GROUP_AUTHORIZATION, UNSUPPORTED_VERSION, INVALID_REQUEST, GROUP_NOT_FOUND, GROUP_FULL = 30, 35, 42, 69, 81
FENCED_INSTANCE, FENCED_EPOCH, UNRELEASED, UNSUPPORTED_ASSIGNOR, INVALID_REGEX = 82, 110, 111, 112, 128
T, U, NEW_T = b"t" * 16, b"u" * 16, b"T" * 16
NAMES = {T: "t", U: "u"}
T0, T1, T2 = (TopicPartition("t", p) for p in range(3))
U0 = TopicPartition("u", 0)
Said = list[c.ConsumerEffect]


def ids(*partitions: TopicPartition) -> c.TopicIdPartitions:
    return tuple(({"t": T, "u": U}[topic], partition) for topic, partition in partitions)


class Walk:
    """A machine, the time, and what it said last."""

    def __init__(self, instance: str | None = None, assignor: str | None = None) -> None:
        self.machine = ConsumerMember(
            group_id="group",
            group_instance_id=instance,
            rack_id="rack",
            rebalance_timeout_ms=REBALANCE_MS,
            retry_backoff_ms=BACKOFF_MS,
            retry_backoff_max_ms=BACKOFF_MAX_MS,
            server_assignor=assignor,
            member_id="me",
        )
        self.now_ms = 1_000
        self.said: Said = []

    def feed(self, event: c.ConsumerEvent) -> Said:
        self.said = self.machine.handle(event, self.now_ms)
        return self.said

    def wait(self, ms: int) -> Said:
        self.now_ms += ms
        return self.feed(g.Tick())

    def until_due(self) -> Said:
        due_ms = self.machine.next_deadline_ms()
        assert due_ms is not None
        assert due_ms > self.now_ms
        self.now_ms = due_ms
        return self.feed(g.Tick())

    @property
    def state(self) -> ConsumerState:
        return self.machine.state

    def only(self, kind: type[Any]) -> Any:
        assert [type(effect) for effect in self.said] == [kind]
        return self.said[0]

    def the(self, kind: type[Any]) -> Any:
        found = [effect for effect in self.said if isinstance(effect, kind)]
        assert len(found) == 1, self.said
        return found[0]

    def kinds(self) -> list[type]:
        return [type(effect) for effect in self.said]

    def answer(
        self,
        *partitions: TopicPartition,
        epoch: int | None = None,
        assignment: c.TopicIdPartitions | None = None,
        plain: bool = False,
        repeated: bool = False,
    ) -> Said:
        """A yes: with these partitions as the assignment; `plain`: with none told."""
        told = None if plain else (assignment if assignment is not None else ids(*partitions))
        known = self.machine.generation_id if epoch is None else epoch
        return self.feed(c.ConsumerHeartbeatAnswered(0, None, "me", known, INTERVAL_MS, told, repeated))

    def target(self, *partitions: TopicPartition, epoch: int | None = None) -> Said:
        """A repeated heartbeat tells of another assignment."""
        return self.answer(*partitions, epoch=epoch, repeated=True)

    def refuse(self, code: int, message: str | None = None, *, repeated: bool = False) -> Said:
        return self.feed(c.ConsumerHeartbeatAnswered(code, message, None, 0, 0, None, repeated))

    def lost(self) -> Said:
        return self.feed(g.RequestFailed(g.RequestKind.HEARTBEAT, "the connection ended"))

    # the usual way, step by step

    def joining(self) -> Walk:
        self.feed(c.TopicNames(NAMES))
        self.feed(g.Subscribe(("t",)))
        self.only(g.FindCoordinator)
        self.feed(g.CoordinatorFound())
        assert self.only(c.SendConsumerHeartbeat).member_epoch == 0
        return self

    def assigning(self, *mine: TopicPartition, epoch: int = 1) -> Walk:
        if self.state is not ConsumerState.JOINING:
            self.joining()
        self.answer(*mine, epoch=epoch)
        assert self.said == [g.AssignPartitions(mine), g.CallAssigned(mine), self.repeated()]
        return self

    def stable(self, *mine: TopicPartition, epoch: int = 1) -> Walk:
        """Joined, assigned and acknowledged; t-0 and t-1 by default."""
        mine = mine or (T0, T1)
        self.assigning(*mine, epoch=epoch)
        self.feed(g.AssignmentDone())
        assert self.only(c.SendConsumerHeartbeat).topic_partitions == ids(*mine)
        assert self.answer(plain=True) == []
        assert (self.state, self.machine.assignment) == (ConsumerState.STABLE, mine)
        return self

    def empty(self) -> Walk:
        self.joining()
        self.answer(epoch=1)
        self.feed(g.AssignmentDone())
        self.answer(plain=True)
        return self

    def revoking(self) -> Walk:
        """t-1 is to go to another member."""
        self.stable().target(T0)
        assert self.said == [g.StopFetching((T1,)), g.CommitBeforeRevoke((T1,)), g.CallRevoked((T1,))]
        return self

    def repeated(self) -> c.RepeatHeartbeat:
        machine = self.machine
        return c.RepeatHeartbeat("me", machine.generation_id, machine.group_instance_id, INTERVAL_MS)


# ------------------------------------------------------------ joining


def test_a_join_tells_everything() -> None:
    walk = Walk(assignor="range").joining()
    assert walk.said == [
        c.SendConsumerHeartbeat("me", 0, None, "rack", REBALANCE_MS, ("t",), None, "range", ())
    ]
    assert (walk.machine.generation_id, walk.machine.assignment) == (-1, ())
    walk.answer(T0, epoch=7)
    assert walk.said == [g.AssignPartitions((T0,)), g.CallAssigned((T0,)), walk.repeated()]
    assert (walk.machine.generation_id, walk.machine.member_id) == (7, "me")


def test_an_assignment_is_acknowledged_when_its_callback_has_returned_and_heartbeats_go_on() -> None:
    walk = Walk().assigning(T0)
    walk.feed(g.AssignmentDone())
    assert walk.said == [c.SendConsumerHeartbeat("me", 1, None, topic_partitions=ids(T0))]
    assert walk.answer(plain=True) == []
    assert walk.machine.next_deadline_ms() is None


def test_an_empty_assignment_is_told_to_the_user_as_well() -> None:
    walk = Walk().joining()
    walk.answer(epoch=1)
    assert walk.said == [g.AssignPartitions(()), g.CallAssigned(()), walk.repeated()]
    walk.feed(g.AssignmentDone())
    assert walk.only(c.SendConsumerHeartbeat).topic_partitions == ()


def test_no_rack_is_none_for_a_broker_refuses_an_empty_one() -> None:
    machine = ConsumerMember(
        group_id="g",
        group_instance_id=None,
        rack_id="",
        rebalance_timeout_ms=1,
        retry_backoff_ms=1,
        retry_backoff_max_ms=1,
        server_assignor=None,
        member_id="m",
    )
    machine.handle(g.CoordinatorFound(), 0)
    (join,) = machine.handle(g.Subscribe(("t",)), 0)
    assert isinstance(join, c.SendConsumerHeartbeat)
    assert join.rack_id is None


@pytest.mark.parametrize("code", [LOADING, NOT_AVAILABLE, NOT_COORDINATOR, UNKNOWN_MEMBER, FENCED_EPOCH])
def test_a_join_that_time_may_mend_backs_off(code: int) -> None:
    walk = Walk().joining()
    assert walk.refuse(code) == []
    assert walk.state is ConsumerState.BACKING_OFF
    walk.until_due()
    walk.only(g.FindCoordinator if code in (NOT_AVAILABLE, NOT_COORDINATOR) else c.SendConsumerHeartbeat)


def test_a_join_whose_answer_is_lost_is_sent_again_from_the_beginning() -> None:
    walk = Walk().joining()
    first = walk.only(c.SendConsumerHeartbeat)
    assert walk.lost() == []
    walk.until_due()
    walk.only(g.FindCoordinator)
    walk.feed(g.CoordinatorFound())
    assert walk.said == [first]


def test_backoff_doubles_to_its_maximum_and_starts_over_after_success() -> None:
    walk = Walk().joining()
    waits = []
    for _ in range(6):
        walk.refuse(LOADING)
        before_ms = walk.now_ms
        walk.until_due()
        waits.append(walk.now_ms - before_ms)
    assert waits == [100, 200, 400, 800, 1_000, 1_000]
    walk.stable()
    walk.refuse(LOADING, repeated=True)
    assert walk.machine.next_deadline_ms() == walk.now_ms + 100


def test_a_search_that_fails_begins_again() -> None:
    walk = Walk()
    walk.feed(g.Subscribe(("t",)))
    assert walk.feed(g.CoordinatorLost("nobody answers")) == []
    walk.until_due()
    walk.only(g.FindCoordinator)


@pytest.mark.parametrize(
    "code",
    [
        TOPIC_AUTHORIZATION,
        GROUP_AUTHORIZATION,
        UNSUPPORTED_VERSION,
        INVALID_REQUEST,
        GROUP_NOT_FOUND,  # it is a classic group that cannot be taken over
        GROUP_FULL,
        UNSUPPORTED_ASSIGNOR,
        INVALID_REGEX,
        -1,
    ],
)
def test_a_refused_join_raises_and_a_poll_tries_again(code: int) -> None:
    walk = Walk().joining()
    walk.refuse(code, "because")
    error = walk.only(g.Raise)
    assert error.error_code == code
    assert "joining group 'group' (the coordinator says: because)" in error.message
    assert (walk.state, walk.machine.next_deadline_ms()) == (ConsumerState.FAILED, None)
    walk.feed(g.PollProgress())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0


def test_a_cluster_without_the_protocol_is_told_with_the_way_out() -> None:
    walk = Walk().joining()
    walk.refuse(UNSUPPORTED_VERSION)
    assert "group.protocol=classic" in walk.only(g.Raise).message


def test_nothing_to_subscribe_to_is_no_reason_to_join() -> None:
    walk = Walk()
    assert walk.feed(g.Subscribe(())) == []
    assert walk.state is ConsumerState.UNSUBSCRIBED
    walk.joining()


# ------------------------------------------------------------ subscriptions


def test_other_topics_are_told_with_all_the_rest_and_the_same_are_not() -> None:
    walk = Walk().stable()
    assert walk.feed(g.Subscribe(("t",))) == []
    walk.feed(g.Subscribe(("u", "t", "u")))
    assert walk.said == [
        g.StopHeartbeats(),
        c.SendConsumerHeartbeat("me", 1, None, "rack", REBALANCE_MS, ("t", "u"), None, None, ids(T0, T1)),
    ]
    walk.answer(T0, T1, U0, epoch=2)
    assert walk.said == [
        g.AssignPartitions((T0, T1, U0)),
        g.CallAssigned((U0,)),
        walk.repeated(),
    ]


def test_topics_that_change_while_a_request_is_open_are_told_after_it() -> None:
    walk = Walk().joining()
    assert walk.feed(g.Subscribe(("u",))) == []
    walk.answer(T0, epoch=1)
    assert walk.the(c.SendConsumerHeartbeat).subscribed_topic_names == ("u",)
    walk.feed(g.Subscribe(("t",)))
    assert walk.said == []
    walk.answer(T0, epoch=2)
    assert walk.the(c.SendConsumerHeartbeat).subscribed_topic_names == ("t",)


def test_a_pattern_takes_the_place_of_names_and_names_that_of_a_pattern() -> None:
    walk = Walk()
    walk.feed(c.TopicNames(NAMES))
    walk.feed(g.CoordinatorFound())
    walk.feed(c.SubscribeRegex("t.*"))
    join = walk.only(c.SendConsumerHeartbeat)
    assert (join.subscribed_topic_names, join.subscribed_topic_regex) == ((), "t.*")
    walk.stable()
    assert walk.feed(c.SubscribeRegex("t.*")) == []
    walk.feed(g.Subscribe(("t",)))
    names = walk.the(c.SendConsumerHeartbeat)
    assert (names.subscribed_topic_names, names.subscribed_topic_regex) == (("t",), "")
    walk.lost()  # it may be unheard, so the pattern may be there still
    walk.until_due()
    walk.feed(g.CoordinatorFound())
    assert walk.the(c.SendConsumerHeartbeat).subscribed_topic_regex == ""
    walk.answer(plain=True)
    walk.feed(g.Subscribe(("u",)))
    assert walk.the(c.SendConsumerHeartbeat).subscribed_topic_regex is None


def test_a_topic_that_may_not_be_read_is_raised_and_the_membership_stands() -> None:
    walk = Walk().stable()
    walk.feed(g.Subscribe(("t", "secret")))
    walk.refuse(TOPIC_AUTHORIZATION, "no")
    assert walk.the(g.Raise).error_code == TOPIC_AUTHORIZATION
    assert (walk.state, walk.machine.assignment) == (ConsumerState.STABLE, (T0, T1))
    walk.target(T0, T1, T2)
    assert g.CallAssigned((T2,)) in walk.said
    walk.feed(g.Subscribe(("t",)))
    walk.until_due()
    assert walk.the(c.SendConsumerHeartbeat).subscribed_topic_names == ("t",)


def test_a_member_that_wants_nothing_any_more_does_not_join_again() -> None:
    walk = Walk().empty()
    walk.feed(g.Subscribe(()))
    assert walk.the(c.SendConsumerHeartbeat).subscribed_topic_names == ()
    walk.refuse(UNKNOWN_MEMBER)
    assert walk.said == []
    assert walk.state is ConsumerState.UNSUBSCRIBED
    walk.feed(g.Subscribe(("t",)))
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0


# ------------------------------------------------------------ reconciling


def test_revoke_first_then_assign_then_acknowledge() -> None:
    walk = Walk().stable()
    walk.target(T0, U0)
    assert walk.said == [g.StopFetching((T1,)), g.CommitBeforeRevoke((T1,)), g.CallRevoked((T1,))]
    assert (walk.state, walk.machine.assignment) == (ConsumerState.REVOKING, (T0, T1))
    walk.feed(g.RevocationDone())
    assert walk.said == [g.AssignPartitions((T0, U0)), g.CallAssigned((U0,))]
    assert (walk.state, walk.machine.assignment) == (ConsumerState.ASSIGNING, (T0, U0))
    walk.feed(g.AssignmentDone())
    # the coordinator moves the epoch on hearing this, so nothing is repeated with the one before; all is told to be told all
    assert walk.said == [
        g.StopHeartbeats(),
        c.SendConsumerHeartbeat("me", 1, None, "rack", REBALANCE_MS, ("t",), None, None, ids(T0, U0)),
    ]
    walk.answer(T0, U0, epoch=2)
    assert walk.only(c.RepeatHeartbeat).member_epoch == 2


def test_what_is_only_taken_away_is_assigned_as_nothing_more() -> None:
    walk = Walk().revoking()
    walk.feed(g.RevocationDone())
    assert walk.said == [g.AssignPartitions((T0,)), g.CallAssigned(())]


def test_a_superseded_revocation_keeps_the_assignment() -> None:
    """Taken away, and given again before the callback has returned: it is revoked, as the user was told, and assigned again."""
    walk = Walk().revoking()
    assert walk.target(T0, T1) == []
    walk.feed(g.RevocationDone())
    assert walk.said == [g.AssignPartitions((T0, T1)), g.CallAssigned((T1,))]
    walk.feed(g.AssignmentDone())
    assert walk.the(c.SendConsumerHeartbeat).topic_partitions == ids(T0, T1)


def test_a_newer_target_is_taken_up_when_the_callback_has_returned() -> None:
    walk = Walk().revoking()
    assert walk.target(U0) == []
    walk.feed(g.RevocationDone())
    assert walk.said == [g.StopFetching((T0,)), g.CommitBeforeRevoke((T0,)), g.CallRevoked((T0,))]
    assert walk.target(T2, U0) == []
    walk.feed(g.RevocationDone())
    assert walk.said == [g.AssignPartitions((T2, U0)), g.CallAssigned((T2, U0))]
    assert walk.target(T2) == []
    walk.feed(g.AssignmentDone())
    # what was reached is acknowledged, and the next step begins
    assert walk.the(g.CallRevoked).partitions == (U0,)
    assert walk.the(c.SendConsumerHeartbeat).topic_partitions == ids(T2, U0)


def test_more_partitions_while_a_callback_assigns_are_assigned_after_it() -> None:
    walk = Walk().assigning(T0)
    assert walk.target(T0, T1) == []
    walk.feed(g.AssignmentDone())
    assert g.CallAssigned((T1,)) in walk.said
    assert walk.state is ConsumerState.ASSIGNING


def test_the_same_target_again_changes_nothing() -> None:
    assert Walk().stable().target(T1, T0) == []


def test_an_epoch_that_moves_by_itself_is_taken_and_the_connection_knows_it_already() -> None:
    walk = Walk().stable()
    assert walk.answer(epoch=5, plain=True, repeated=True) == []
    assert walk.machine.generation_id == 5
    walk.target(T0, T1, T2)
    walk.feed(g.AssignmentDone())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 5


def test_an_answer_of_before_a_later_one_is_not_taken() -> None:
    walk = Walk().stable()
    walk.answer(epoch=5, plain=True, repeated=True)
    walk.target(T0, epoch=4)
    assert walk.only(c.RepeatHeartbeat).member_epoch == 5  # the connection has taken it
    assert (walk.machine.generation_id, walk.machine.assignment) == (5, (T0, T1))


def test_an_epoch_that_an_acknowledgement_moves_makes_all_be_told_once_more() -> None:
    walk = Walk().assigning(T0)
    walk.feed(g.AssignmentDone())
    walk.answer(
        epoch=2, plain=True
    )  # a heartbeat with epoch 1 may be under way, and what it would have told be dropped
    assert walk.kinds() == [g.StopHeartbeats, c.SendConsumerHeartbeat]
    again = walk.the(c.SendConsumerHeartbeat)
    assert (again.member_epoch, again.rebalance_timeout_ms) == (2, REBALANCE_MS)
    walk.answer(T0)
    assert walk.said == [walk.repeated()]


def test_another_interval_is_repeated_at() -> None:
    walk = Walk().stable()
    walk.feed(c.ConsumerHeartbeatAnswered(0, None, "me", 1, 9_000, None, repeated=True))
    assert walk.only(c.RepeatHeartbeat).interval_ms == 9_000
    assert walk.feed(c.ConsumerHeartbeatAnswered(0, None, "me", 1, 0, None, repeated=True)) == []


def test_nothing_is_added_while_the_coordinator_is_told_that_it_is_not_owned() -> None:
    """It would read that t-0 was given back, and give it to another, while this member begins to read it."""
    walk = Walk().empty()
    walk.feed(g.Subscribe(("t", "u")))
    assert walk.the(c.SendConsumerHeartbeat).topic_partitions == ()
    assert walk.target(T0) == []  # told before the coordinator heard it, and seen to after
    assert (walk.state, walk.machine.assignment) == (ConsumerState.STABLE, ())
    walk.lost()  # and whether it heard it is not known
    assert walk.feed(c.TopicNames(NAMES)) == []
    walk.until_due()
    walk.feed(g.CoordinatorFound())
    assert walk.the(c.SendConsumerHeartbeat).topic_partitions == ()
    walk.answer(T1, epoch=3)
    assert g.AssignPartitions((T1,)) in walk.said


def test_what_is_left_after_a_revocation_is_told_when_the_rest_may_be_added() -> None:
    walk = Walk().stable()
    walk.target(T0, U0)
    walk.feed(g.Subscribe(("t", "u")))
    assert walk.the(c.SendConsumerHeartbeat).topic_partitions == ids(T0, T1)
    walk.feed(g.RevocationDone())
    assert (walk.said, walk.state, walk.machine.assignment) == ([], ConsumerState.STABLE, (T0,))
    walk.answer(T0, epoch=2)
    assert g.AssignPartitions((T0,)) in walk.said
    assert g.CallAssigned(()) in walk.said
    walk.feed(g.AssignmentDone())
    assert walk.the(c.SendConsumerHeartbeat).topic_partitions == ids(T0)


# ------------------------------------------------------------ names of topic ids


def test_a_topic_without_a_name_does_not_hold_up_the_others() -> None:
    walk = Walk()
    walk.feed(g.Subscribe(("t",)))
    walk.feed(g.CoordinatorFound())
    walk.answer(T0, U0, epoch=1)
    assert walk.said == [c.ResolveTopicIds((T, U)), walk.repeated()]
    assert walk.state is ConsumerState.STABLE
    walk.feed(c.TopicNames({T: "t"}))
    assert walk.said == [g.AssignPartitions((T0,)), g.CallAssigned((T0,))]
    walk.feed(g.AssignmentDone())
    assert walk.only(c.SendConsumerHeartbeat).topic_partitions == ids(T0)
    walk.answer(plain=True)
    walk.feed(c.TopicNames(NAMES))
    assert walk.said == [g.AssignPartitions((T0, U0)), g.CallAssigned((U0,))]
    assert walk.machine.next_deadline_ms() is None


def test_names_that_stay_unknown_are_asked_for_again_after_a_backoff() -> None:
    walk = Walk()
    walk.feed(g.Subscribe(("t",)))
    walk.feed(g.CoordinatorFound())
    walk.answer(T0, epoch=1)
    assert walk.feed(c.TopicNames({U: "u"})) == []
    waits = []
    for _ in range(6):
        before_ms = walk.now_ms
        walk.until_due()
        assert walk.only(c.ResolveTopicIds).ids == (T,)
        waits.append(walk.now_ms - before_ms)
    assert waits == [100, 200, 400, 800, 1_000, 1_000]
    walk.target(T0, U0)  # a new target is asked for at once
    assert walk.said[0] == c.ResolveTopicIds((T,))


def test_names_that_come_while_a_callback_runs_wait_for_it() -> None:
    walk = Walk().joining()
    walk.answer(assignment=(*ids(T0), (NEW_T, 0)), epoch=1)
    assert walk.the(g.CallAssigned).partitions == (T0,)
    assert walk.feed(c.TopicNames({**NAMES, NEW_T: "new"})) == []
    walk.feed(g.AssignmentDone())
    assert walk.the(g.CallAssigned).partitions == (TopicPartition("new", 0),)


def test_a_topic_made_again_under_its_name_is_given_back_and_taken_anew() -> None:
    walk = Walk().stable(T0)
    walk.answer(assignment=((NEW_T, 0),), repeated=True)
    assert walk.the(c.ResolveTopicIds).ids == (NEW_T,)
    assert walk.the(g.CallRevoked).partitions == (T0,)
    walk.feed(c.TopicNames({NEW_T: "t"}))
    walk.feed(g.RevocationDone())
    assert walk.said == [g.AssignPartitions((T0,)), g.CallAssigned((T0,))]
    walk.feed(g.AssignmentDone())
    assert walk.the(c.SendConsumerHeartbeat).topic_partitions == ((NEW_T, 0),)


def test_a_name_in_use_is_kept_when_the_metadata_forgets_it() -> None:
    walk = Walk().stable(T0)
    assert walk.feed(c.TopicNames({})) == []
    walk.target(T0, T1)
    assert walk.said == [g.AssignPartitions((T0, T1)), g.CallAssigned((T1,))]


# ------------------------------------------------------------ losing it


@pytest.mark.parametrize("code", [FENCED_EPOCH, UNKNOWN_MEMBER, GROUP_NOT_FOUND])
def test_a_member_that_is_none_any_more_loses_all_and_joins_with_the_same_id(code: int) -> None:
    walk = Walk().stable()
    walk.refuse(code, repeated=True)
    assert walk.said == [g.StopHeartbeats(), g.StopFetching((T0, T1)), g.CallLost((T0, T1))]
    assert (walk.machine.generation_id, walk.machine.assignment) == (-1, (T0, T1))
    assert walk.feed(g.PollProgress()) == []
    walk.feed(g.LossDone())
    join = walk.only(c.SendConsumerHeartbeat)
    assert (join.member_id, join.member_epoch, join.topic_partitions) == ("me", 0, ())
    assert walk.machine.assignment == ()
    walk.stable(T2, epoch=9)


def test_who_owns_nothing_joins_again_at_once() -> None:
    walk = Walk().empty()
    walk.refuse(UNKNOWN_MEMBER, repeated=True)
    assert walk.kinds() == [g.StopHeartbeats, c.SendConsumerHeartbeat]
    assert walk.state is ConsumerState.JOINING


def test_a_loss_waits_for_the_revocation_that_runs_and_takes_the_rest() -> None:
    walk = Walk().revoking()
    walk.refuse(FENCED_EPOCH, repeated=True)
    assert walk.said == [g.StopHeartbeats(), g.StopFetching((T0,))]
    walk.feed(g.RevocationDone())
    assert walk.said == [g.CallLost((T0,))]
    walk.feed(g.LossDone())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0


def test_a_loss_of_no_more_than_what_is_revoked_has_no_callback_of_its_own() -> None:
    walk = Walk().stable(T0)
    walk.target()
    walk.refuse(FENCED_EPOCH, repeated=True)
    assert walk.said == [g.StopHeartbeats()]
    walk.feed(g.RevocationDone())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0


def test_a_loss_waits_for_the_assignment_that_runs() -> None:
    walk = Walk().assigning(T0)
    walk.refuse(UNKNOWN_MEMBER, repeated=True)
    assert walk.said == [g.StopHeartbeats(), g.StopFetching((T0,))]
    walk.feed(g.AssignmentDone())
    assert walk.said == [g.CallLost((T0,))]


def test_a_join_after_a_loss_waits_for_the_answer_to_what_was_sent_before() -> None:
    walk = Walk().assigning(T0)
    walk.feed(g.AssignmentDone())
    walk.refuse(FENCED_EPOCH, repeated=True)
    assert walk.feed(g.LossDone()) == []
    assert walk.refuse(FENCED_EPOCH) != []
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0


@pytest.mark.parametrize("instance", [None, "i"])
@pytest.mark.parametrize("release", [0, UNKNOWN_MEMBER, GROUP_NOT_FOUND])
def test_an_earlier_membership_of_its_own_is_left_before_it_joins(instance: str | None, release: int) -> None:
    """Brokers before KAFKA-19233 fence epoch 0 where they hold this member id with a later one; static: they say UNRELEASED."""
    walk = Walk(instance).stable()
    walk.refuse(FENCED_EPOCH, repeated=True)
    walk.feed(g.LossDone())
    walk.refuse(FENCED_EPOCH if instance is None else UNRELEASED)
    assert walk.said == [c.SendConsumerHeartbeat("me", -1 if instance is None else -2, instance)]
    assert walk.state is ConsumerState.RELEASING
    walk.refuse(release) if release else walk.answer(epoch=-1 if instance is None else -2, plain=True)
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0
    walk.stable(T0, epoch=12)


def test_a_lost_join_of_a_static_member_is_released_and_joined_again() -> None:
    walk = Walk("i").joining()
    walk.lost()
    walk.until_due()
    walk.feed(g.CoordinatorFound())
    walk.refuse(UNRELEASED)
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == -2


def test_a_release_that_fails_is_tried_again_behind_a_backoff() -> None:
    walk = Walk().stable()
    walk.refuse(FENCED_EPOCH, repeated=True)
    walk.feed(g.LossDone())
    walk.refuse(FENCED_EPOCH)
    walk.lost()
    walk.until_due()
    walk.feed(g.CoordinatorFound())
    walk.refuse(FENCED_EPOCH)
    assert walk.state is ConsumerState.RELEASING
    walk.refuse(NOT_COORDINATOR)
    walk.until_due()
    walk.feed(g.CoordinatorFound())
    walk.stable(T0)


def test_a_coordinator_that_fences_every_join_is_not_asked_without_pause() -> None:
    walk = Walk().joining()
    for _ in range(4):
        walk.refuse(FENCED_EPOCH)
        if walk.state is ConsumerState.RELEASING:
            walk.answer(epoch=-1, plain=True)
            walk.refuse(FENCED_EPOCH)
        assert walk.state is ConsumerState.BACKING_OFF
        walk.until_due()


# ------------------------------------------------------------ static members


def test_a_static_member_names_its_instance_always() -> None:
    walk = Walk("i").assigning(T0)
    assert walk.the(c.RepeatHeartbeat).group_instance_id == "i"
    walk.feed(g.AssignmentDone())
    assert walk.only(c.SendConsumerHeartbeat).group_instance_id == "i"


def test_an_instance_id_that_another_holds_is_waited_for_and_then_raised() -> None:
    walk = Walk("i").joining()
    started_ms = walk.now_ms
    while walk.refuse(UNRELEASED, "held") == []:
        walk.until_due()
        walk.only(c.SendConsumerHeartbeat)
    assert 60_000 <= walk.now_ms - started_ms < 63_000
    error = walk.only(g.Raise)
    assert error.error_code == UNRELEASED
    assert "group.instance.id='i'" in error.message
    walk.feed(g.PollProgress())
    walk.only(c.SendConsumerHeartbeat)
    assert walk.refuse(UNRELEASED) == []  # the wait begins anew


def test_what_another_holds_is_not_released_in_its_name() -> None:
    walk = Walk("i").stable()
    walk.refuse(UNKNOWN_MEMBER, repeated=True)
    walk.feed(g.LossDone())
    walk.refuse(UNRELEASED)
    assert (walk.said, walk.state) == ([], ConsumerState.BACKING_OFF)


def test_a_release_that_meets_another_member_leaves_it_alone_and_waits() -> None:
    walk = Walk("i").joining()
    walk.lost()
    walk.until_due()
    walk.feed(g.CoordinatorFound())
    walk.refuse(UNRELEASED)
    walk.refuse(FENCED_INSTANCE)
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0
    walk.refuse(UNRELEASED)
    assert (walk.said, walk.state) == ([], ConsumerState.BACKING_OFF)


def test_a_fenced_instance_is_final() -> None:
    walk = Walk("i").stable()
    walk.refuse(FENCED_INSTANCE, "taken", repeated=True)
    assert walk.kinds() == [g.StopHeartbeats, g.StopFetching, g.Raise, g.CallLost]
    walk.feed(g.LossDone())
    for _ in range(2):
        walk.feed(g.PollProgress())
        assert walk.only(g.Raise).error_code == FENCED_INSTANCE
    assert walk.wait(10 * REBALANCE_MS) == []
    assert walk.feed(g.Leave()) == [g.Left()]  # there is nothing of its own to leave


# ------------------------------------------------------------ coordinators that fail


@pytest.mark.parametrize("how", ["moved", "gone", "lost"])
def test_a_member_follows_its_coordinator_and_tells_it_everything(how: str) -> None:
    walk = Walk().stable()
    if how == "lost":
        walk.lost()
    else:
        walk.refuse(NOT_COORDINATOR if how == "moved" else NOT_AVAILABLE, repeated=True)
    assert walk.said == [g.StopHeartbeats()]
    assert (walk.state, walk.machine.generation_id) == (ConsumerState.STABLE, 1)
    walk.until_due()
    walk.only(g.FindCoordinator)
    walk.feed(g.CoordinatorFound())
    assert walk.said == [
        c.SendConsumerHeartbeat("me", 1, None, "rack", REBALANCE_MS, ("t",), None, None, ids(T0, T1))
    ]
    walk.answer(T0, T1, epoch=2)
    assert walk.said == [walk.repeated()]


def test_a_lost_acknowledgement_is_told_again_with_the_same_epoch() -> None:
    walk = Walk().assigning(T0)
    walk.feed(g.AssignmentDone())
    walk.lost()
    walk.until_due()
    walk.feed(g.CoordinatorFound())
    again = walk.only(c.SendConsumerHeartbeat)
    assert (again.member_epoch, again.topic_partitions, again.subscribed_topic_names) == (1, ids(T0), ("t",))


def test_a_connection_that_breaks_under_both_heartbeats_is_one_search() -> None:
    walk = Walk().assigning(T0)
    walk.feed(g.AssignmentDone())
    walk.lost()
    assert walk.lost() == []
    walk.until_due()
    walk.only(g.FindCoordinator)
    assert walk.lost() == []


def test_a_coordinator_that_loads_is_asked_again_and_heartbeats_go_on() -> None:
    walk = Walk().stable()
    assert walk.refuse(LOADING, repeated=True) == []
    walk.until_due()
    assert walk.kinds() == [g.StopHeartbeats, c.SendConsumerHeartbeat]
    assert walk.the(c.SendConsumerHeartbeat).rebalance_timeout_ms == REBALANCE_MS


def test_a_callback_may_take_as_long_as_it_likes_while_the_coordinator_is_away() -> None:
    walk = Walk().revoking()
    walk.lost()
    walk.until_due()
    walk.feed(g.CoordinatorLost("nobody answers"))
    walk.feed(g.RevocationDone())
    assert walk.said == [g.AssignPartitions((T0,)), g.CallAssigned(())]
    walk.feed(g.AssignmentDone())
    assert walk.said == []
    walk.until_due()
    walk.feed(g.CoordinatorFound())
    assert walk.the(c.SendConsumerHeartbeat).topic_partitions == ids(T0)


@pytest.mark.parametrize("code", [GROUP_AUTHORIZATION, INVALID_REQUEST, UNRELEASED, -1, 999])
def test_a_refused_heartbeat_loses_all_and_raises(code: int) -> None:
    walk = Walk().stable()
    walk.refuse(code, repeated=True)
    assert walk.kinds() == [g.StopHeartbeats, g.StopFetching, g.Raise, g.CallLost]
    assert walk.feed(g.PollProgress()) == []  # the loss is told first
    walk.feed(g.LossDone())
    walk.feed(g.PollProgress())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0


# ------------------------------------------------------------ polling


@pytest.mark.parametrize(("instance", "epoch"), [(None, -1), ("i", -2)])
def test_a_user_who_does_not_poll_leaves_and_comes_back(instance: str | None, epoch: int) -> None:
    walk = Walk(instance).stable()
    walk.feed(g.PollExpired())
    assert walk.said == [
        g.StopHeartbeats(),
        g.StopFetching((T0, T1)),
        c.SendConsumerHeartbeat("me", epoch, instance),
        g.CallLost((T0, T1)),
    ]
    assert (walk.state, walk.machine.generation_id) == (ConsumerState.EXPIRED, -1)
    assert walk.answer(epoch=epoch, plain=True) == []
    assert walk.feed(g.PollProgress()) == []
    walk.feed(g.LossDone())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0


def test_the_join_after_it_waits_for_the_answer_to_the_leave() -> None:
    walk = Walk().stable()
    walk.feed(g.PollExpired())
    walk.feed(g.PollProgress())
    assert walk.feed(g.LossDone()) == []
    walk.refuse(UNKNOWN_MEMBER)  # the session had ended before: this is the leave's answer, not the join's
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0
    walk.stable(T0)


def test_a_callback_that_waits_for_the_poll_comes_before_the_loss() -> None:
    walk = Walk().revoking()
    walk.feed(g.PollExpired())
    assert walk.kinds() == [g.StopHeartbeats, g.StopFetching, c.SendConsumerHeartbeat]
    assert walk.the(g.StopFetching).partitions == (T0,)
    walk.answer(epoch=-1, plain=True)
    walk.feed(g.PollProgress())
    walk.feed(g.RevocationDone())
    assert walk.said == [g.CallLost((T0,))]
    walk.feed(g.LossDone())
    walk.only(c.SendConsumerHeartbeat)


def test_expiring_while_it_joins_leaves_behind_the_join() -> None:
    walk = Walk().joining()
    walk.feed(g.PollExpired())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == -1
    assert walk.answer(T0, epoch=1) == []  # the join's answer is not taken
    assert walk.answer(epoch=-1, plain=True) == []
    walk.feed(g.PollProgress())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == 0


def test_expiring_before_there_is_a_membership() -> None:
    for code in (None, LOADING):
        walk = Walk()
        walk.feed(g.Subscribe(("t",)))
        if code is not None:
            walk.feed(g.CoordinatorFound())
            walk.refuse(code)
        assert walk.feed(g.PollExpired()) == []
        assert (walk.state, walk.machine.next_deadline_ms()) == (ConsumerState.EXPIRED, None)


def test_rejoining_is_the_coordinators_matter() -> None:
    walk = Walk().stable()
    assert walk.feed(g.Rejoin("enforce_rebalance()")) == []
    assert walk.feed(g.TopicsChanged()) == []
    assert walk.state is ConsumerState.STABLE


# ------------------------------------------------------------ leaving


@pytest.mark.parametrize(
    ("instance", "leave_group", "epoch"),
    [(None, None, -1), ("i", None, -2), (None, True, -1), ("i", True, -1), ("i", False, -2)],
)
def test_leaving_tells_the_coordinator(instance: str | None, leave_group: bool | None, epoch: int) -> None:
    walk = Walk(instance).stable()
    walk.feed(g.Leave(leave_group))
    assert walk.said == [g.StopHeartbeats(), c.SendConsumerHeartbeat("me", epoch, instance)]
    assert walk.feed(g.Leave(leave_group)) == []
    assert walk.answer(epoch=epoch, plain=True) == [g.Left()]
    assert (walk.state, walk.machine.generation_id) == (ConsumerState.UNSUBSCRIBED, -1)
    assert (walk.machine.member_id, walk.machine.assignment) == ("me", ())


def test_a_dynamic_member_that_is_to_remain_says_nothing() -> None:
    walk = Walk().stable()
    assert walk.feed(g.Leave(False)) == [g.StopHeartbeats(), g.Left()]


@pytest.mark.parametrize("failure", [NOT_COORDINATOR, NOT_AVAILABLE, LOADING, None])
def test_leaving_survives_a_coordinator_that_moves_a_bounded_number_of_times(failure: int | None) -> None:
    walk = Walk().stable()
    walk.feed(g.Leave())
    tries = 1
    while (walk.lost() if failure is None else walk.refuse(failure)) == []:
        walk.until_due()
        if failure != LOADING:
            walk.only(g.FindCoordinator)
            walk.feed(g.CoordinatorFound())
        assert walk.only(c.SendConsumerHeartbeat).member_epoch == -1
        tries += 1
    walk.only(g.Left)
    assert tries == 12


def test_leaving_finds_the_coordinator_first_where_it_is_lost() -> None:
    walk = Walk().stable()
    walk.lost()
    walk.feed(g.Leave())
    walk.only(g.FindCoordinator)
    walk.feed(g.CoordinatorFound())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == -1


def test_leaving_without_a_coordinator_ends() -> None:
    walk = Walk().stable()
    walk.lost()
    walk.feed(g.Leave())
    assert walk.feed(g.CoordinatorLost("nobody answers")) == [g.Left()]


def test_leaving_behind_an_open_request_waits_for_its_own_answer() -> None:
    walk = Walk().assigning(T0)
    walk.feed(g.AssignmentDone())
    walk.feed(g.Leave())
    assert walk.the(c.SendConsumerHeartbeat).member_epoch == -1
    assert walk.refuse(UNKNOWN_MEMBER) == []  # the acknowledgement's
    assert walk.refuse(UNKNOWN_MEMBER) == [g.Left()]


def test_leaving_while_it_joins_leaves_what_the_join_makes() -> None:
    walk = Walk().joining()
    walk.feed(g.Leave())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == -1
    assert walk.answer(T0, epoch=1) == []
    assert walk.answer(epoch=-1, plain=True) == [g.Left()]


def test_who_is_no_member_need_not_leave() -> None:
    backing_off = Walk().joining()
    backing_off.refuse(LOADING)
    failed = Walk().joining()
    failed.refuse(GROUP_AUTHORIZATION)
    for walk in (Walk(), backing_off, failed):
        assert walk.feed(g.Leave()) == [g.Left()]
        assert walk.state is ConsumerState.UNSUBSCRIBED


def test_a_join_that_may_have_been_heard_is_left() -> None:
    walk = Walk().joining()
    walk.lost()
    assert walk.feed(g.Leave()) == [g.FindCoordinator()]
    walk.feed(g.CoordinatorFound())
    assert walk.only(c.SendConsumerHeartbeat).member_epoch == -1


def test_late_news_does_not_move_a_member_that_has_left() -> None:
    walk = Walk().stable()
    walk.feed(g.Leave())
    walk.answer(epoch=-1, plain=True)
    late: list[c.ConsumerEvent] = [
        c.ConsumerHeartbeatAnswered(0, None, "me", 3, INTERVAL_MS, ids(T0)),
        c.ConsumerHeartbeatAnswered(UNKNOWN_MEMBER, None, None, 0, 0, None, repeated=True),
        g.RequestFailed(g.RequestKind.HEARTBEAT, "lost"),
        c.TopicNames(NAMES),
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
    assert (walk.state, walk.machine.next_deadline_ms()) == (ConsumerState.UNSUBSCRIBED, None)


def test_a_member_that_left_may_come_again_with_the_same_id() -> None:
    walk = Walk().stable()
    walk.feed(g.Leave())
    walk.answer(epoch=-1, plain=True)
    walk.feed(g.Subscribe(("t",)))
    join = walk.only(c.SendConsumerHeartbeat)
    assert (join.member_id, join.member_epoch) == ("me", 0)


def test_a_callback_of_a_membership_that_was_left_is_not_taken_for_a_new_one() -> None:
    walk = Walk().revoking()
    walk.feed(g.Leave())
    walk.answer(epoch=-1, plain=True)
    walk.feed(g.Subscribe(("t",)))
    walk.answer(T0, T1, epoch=4)
    assert walk.feed(g.RevocationDone()) == []
    assert (walk.state, walk.machine.assignment) == (ConsumerState.ASSIGNING, (T0, T1))


def test_a_step_that_no_table_lists_raises() -> None:
    walk = Walk().stable()
    with pytest.raises(AssertionError, match="does not lead from STABLE to JOINING"):
        walk.machine._go(ConsumerState.JOINING)
