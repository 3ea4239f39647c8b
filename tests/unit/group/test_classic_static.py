"""Static members whose place is kept while they are away (KIP-345): what a rebalance without them, or none, means to them."""

from __future__ import annotations

import pytest

from penstock.group import messages as g
from penstock.group.protocol import encode_assignment
from penstock.group.states import State
from penstock.types import TopicPartition

from .test_classic import Walk

COOPERATIVE = "cooperative-sticky"
MINE = (TopicPartition("t", 0), TopicPartition("t", 1))


def joined(walk: Walk, generation: int, leader: str = "leader", skip: bool = False) -> list[g.Effect]:
    return walk.feed(g.JoinAnswered(0, generation, walk.strategy, leader, "me", (), skip))


class Static(Walk):
    """A member of generation 4 that owns two partitions."""

    def __init__(self, strategy: str = COOPERATIVE) -> None:
        super().__init__(instance="instance", strategy=[strategy])
        self.strategy = strategy
        self.feed(g.Subscribe(("t",)))
        self.feed(g.CoordinatorFound())
        joined(self, 4)
        self.feed(g.SyncAnswered(0, strategy, encode_assignment(MINE)))
        self.feed(g.AssignmentDone())
        assert self.machine.state is State.STABLE
        assert self.machine.assignment == MINE


def test_what_was_owned_is_lost_when_a_generation_was_formed_without_it() -> None:
    """The coordinator gave its partitions to others and kept its place: what it would commit now is another's."""
    walk = Static()
    walk.feed(g.HeartbeatAnswered(27, 4))
    assert joined(walk, 6) == [g.StopFetching(MINE), g.CallLost(MINE)]
    assert walk.machine.generation_id == -1
    assert walk.machine.member_id == "me"
    (join,) = walk.feed(g.LossDone())
    assert isinstance(join, g.SendJoin)
    assert join.member_id == "me"
    assert walk.machine.assignment == ()


@pytest.mark.parametrize(
    ("generation", "leader"), [(5, "leader"), (6, "")], ids=["the next one", "of a group that migrates"]
)
def test_what_is_owned_is_kept_through_a_join_that_missed_nothing(generation: int, leader: str) -> None:
    walk = Static()
    walk.feed(g.HeartbeatAnswered(27, 4))
    (sync,) = joined(walk, generation, leader)
    assert isinstance(sync, g.SendSync)
    assert walk.machine.assignment == MINE


def back_in_its_place(walk: Static, generation: int) -> State:
    """Its poll interval passed, something was to be rebalanced for, and it is given its place back."""
    walk.feed(g.PollExpired())
    walk.feed(g.Subscribe(("t", "u")))
    walk.feed(g.LossDone())
    joined(walk, generation)
    walk.feed(g.SyncAnswered(0, walk.strategy, encode_assignment(MINE)))
    walk.feed(g.AssignmentDone())
    return walk.machine.state


@pytest.mark.parametrize("strategy", ["range", COOPERATIVE])
def test_what_a_rebalance_was_wanted_for_is_wanted_still_where_the_join_made_none(strategy: str) -> None:
    walk = Static(strategy)
    state = back_in_its_place(walk, 4)
    assert state is (State.JOINING if strategy == COOPERATIVE else State.PREPARING)


def test_it_is_not_wanted_twice_where_the_join_made_one() -> None:
    assert back_in_its_place(Static("range"), 5) is State.STABLE


def test_what_it_lost_is_not_kept_for_it_by_a_leader_who_thinks_it_owns_that() -> None:
    """A generation may have been formed by what it said before; it is given its place in that one without a rebalance."""
    walk = Static()
    walk.feed(g.PollExpired())
    walk.feed(g.LossDone())
    joined(walk, 5)
    walk.feed(g.SyncAnswered(0, COOPERATIVE, encode_assignment(())))
    (join,) = walk.feed(g.AssignmentDone())
    assert isinstance(join, g.SendJoin)
    assert join.member_id == "me"
    joined(walk, 6)
    walk.feed(g.SyncAnswered(0, COOPERATIVE, encode_assignment(())))
    assert walk.feed(g.AssignmentDone()) == []
