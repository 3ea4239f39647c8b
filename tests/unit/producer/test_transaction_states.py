"""The table of a transaction's life, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import IllegalStateError, ProducerFencedError, TransactionError
from penstock.producer.transaction_states import (
    MAY_ABORT,
    TRANSITIONS,
    TransactionState,
    TransactionStates,
)
from penstock.types import TopicPartition

S = TransactionState


def states_in(state: TransactionState) -> TransactionStates:
    made = TransactionStates("x")
    made.state = state
    return made


@pytest.mark.parametrize("state", S)
def test_every_state_can_be_left_but_the_last(state: TransactionState) -> None:
    assert bool(TRANSITIONS[state]) == (state is not S.FENCED)
    assert state in (S.READY, S.UNINITIALIZED, S.FENCED) or _leads_to(state, S.READY)


def _leads_to(state: TransactionState, goal: TransactionState) -> bool:
    seen, todo = {state}, [state]
    while todo:
        for following in TRANSITIONS[todo.pop()] - seen - {S.FENCED}:
            seen.add(following)
            todo.append(following)
    return goal in seen


@pytest.mark.parametrize("state", MAY_ABORT)
def test_what_may_be_aborted_may_not_be_committed_meanwhile(state: TransactionState) -> None:
    """A transaction of which EndTxn(commit) may be out is never aborted: both would be told to have worked."""
    assert S.COMMITTING not in MAY_ABORT
    assert S.ABORTING not in TRANSITIONS[S.COMMITTING]
    assert state is S.ABORTING or S.ABORTING in TRANSITIONS[state]


@pytest.mark.parametrize("state", S)
def test_a_failure_counts_while_something_can_still_be_said_about_it(state: TransactionState) -> None:
    states = states_in(state)
    states.failed(ValueError("first"))
    states.failed(ValueError("second"))
    if state in (S.OPEN, S.FLUSHING, S.COMMITTING):
        assert states.state is S.FAILED and str(states.error) == "first" and states.unclean
        with pytest.raises(TransactionError, match="has to be aborted, since first") as told:
            states.need("commit_transaction()", S.OPEN)
        assert told.value.__cause__ is states.error
    else:
        assert states.state is state and not states.unclean


def test_fenced_is_for_good_and_says_why() -> None:
    states = states_in(S.COMMITTING)
    states.fenced(ValueError("the reason"))
    states.failed(ValueError("later"))
    with pytest.raises(ProducerFencedError, match="can only be closed: the reason"):
        states.need("begin_transaction()", S.READY)
    for state in S:
        with pytest.raises(IllegalStateError):
            states.go(state)


def test_an_abort_that_takes_several_calls_keeps_what_it_has_to_mend() -> None:
    states = states_in(S.READY)
    states.begun()
    states.partitions.add(TopicPartition("t", 0))
    states.failed(ValueError("hole"))
    states.go(S.ABORTING)
    states.ended()
    assert not states.holds_anything and states.unclean
    states.unclean = False
    states.go(S.READY)
    states.begun()
    assert states.error is None and states.may_send and not states.holds_anything


@given(st.booleans(), st.booleans(), st.booleans())
def test_what_may_have_reached_the_coordinator_has_to_be_ended(
    partition: bool, group: bool, unsure: bool
) -> None:
    states = states_in(S.OPEN)
    if partition:
        states.partitions.add(TopicPartition("t", 0))
    if group:
        states.groups.add("g")
    states.unsure = unsure
    assert states.holds_anything == (partition or group or unsure)
