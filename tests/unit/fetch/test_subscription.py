"""What is subscribed to or assigned, and each partition's way to a position."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import IllegalStateError
from penstock.fetch import SubscriptionState
from penstock.types import TopicPartition

T0, T1, U0 = TopicPartition("t", 0), TopicPartition("t", 1), TopicPartition("u", 0)


def test_the_constructors_topics_are_subscribed_to() -> None:
    state = SubscriptionState(["t", "u"])
    assert state.subscribed
    assert state.topics == {"t", "u"}
    assert not SubscriptionState().subscribed


def test_ints_are_partitions_of_the_one_topic_of_the_constructor() -> None:
    state = SubscriptionState(["t"])
    assert state.assign_from_user([1, 0, 1]) == [T1, T0]
    assert not state.subscribed
    assert state.topics == frozenset()
    assert state.assign_from_user([0]) == [T0]  # again, after the subscription was replaced


@pytest.mark.parametrize("topics", [[], ["t", "u"]])
def test_ints_without_exactly_one_topic(topics: list[str]) -> None:
    with pytest.raises(
        IllegalStateError, match=r"constructed with exactly one topic .* TopicPartition\(topic, 0\)"
    ):
        SubscriptionState(topics).assign_from_user([0])


@pytest.mark.parametrize("wrong", [True, "t-0", ("", 0), ("t", -1), ("t", "0"), (1, 0), None, 1.5, -1])
def test_what_is_no_partition(wrong: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        SubscriptionState(["t"]).assign_from_user([wrong])


def test_assign_replaces_a_subscription_until_something_was_consumed() -> None:
    state = SubscriptionState(["t"])
    state.assign_from_user([T0])
    state.unsubscribe()
    state.subscribe(["t"])
    state.assign_from_group([T0])
    state.note_consumed()
    with pytest.raises(
        IllegalStateError, match=r"assign\(\) after records of the subscription \(t\) were consumed"
    ):
        state.assign_from_user([T0])
    state.unsubscribe()
    assert state.assign_from_user([U0]) == [U0]


def test_a_failed_assign_changes_nothing() -> None:
    state = SubscriptionState(["t"])
    with pytest.raises(ValueError, match="not a partition"):
        state.assign_from_user([T0, ("t", -1)])
    assert state.subscribed
    assert state.without_position() == []


def test_subscribing_after_assign_is_an_error_until_unsubscribe() -> None:
    state = SubscriptionState()
    state.assign_from_user([T0])
    for subscribe in (lambda: state.subscribe(["t"]), lambda: state.subscribe_pattern("t.*")):
        with pytest.raises(IllegalStateError, match=r"after assign\(\): call unsubscribe\(\) first"):
            subscribe()
    state.unsubscribe()
    state.subscribe(["t"])
    assert state.topics == {"t"}


def test_a_pattern_has_the_topics_that_match_now() -> None:
    state = SubscriptionState()
    state.subscribe_pattern("t.*")
    assert (state.subscribed, state.topics) == (True, frozenset())
    state.pattern_matched(["t", "tt"])
    assert state.topics == {"t", "tt"}


def test_the_way_to_a_position() -> None:
    state = SubscriptionState(["t"])
    state.assign_from_group([T0, T1])
    assert state.without_position() == [T0, T1]
    assert state.needs_committed(T0)
    state.reset(T0, None)
    assert (state.needs_committed(T0), state.needs_reset(T0), state.reset_strategy(T0)) == (False, True, None)
    state.position_set(T0)
    assert state.without_position() == [T1]
    state.reset(T0, "earliest")
    assert (state.needs_reset(T0), state.reset_strategy(T0)) == (True, "earliest")
    state.position_set(T0)
    state.reset(T0, None)
    assert state.reset_strategy(T0) is None  # the user's wish was met, it does not linger
    state.give_up(T0)
    assert state.without_position() == [T1]
    state.reset(T0, "latest")
    assert state.needs_reset(T0)


def test_a_position_that_is_validated_is_kept_and_not_looked_for() -> None:
    state = SubscriptionState(["t"])
    state.assign_from_group([T0, T1])
    state.position_set(T0)
    assert state.has_valid_position(T0) and not state.has_valid_position(T1)
    state.await_validation(T0)
    assert (state.awaits_validation(T0), state.has_valid_position(T0)) == (True, False)
    assert state.without_position() == [T1]
    state.position_set(T0)
    assert (state.awaits_validation(T0), state.has_valid_position(T0)) == (False, True)
    state.await_validation(T0)
    state.reset(T0, None)
    assert (state.awaits_validation(T0), state.needs_reset(T0)) == (False, True)
    state.await_validation(U0)
    assert not state.awaits_validation(U0)


def test_kept_partitions_keep_their_phase_and_others_are_forgotten() -> None:
    state = SubscriptionState(["t"])
    state.assign_from_group([T0, T1])
    state.position_set(T0)
    state.pause([T0, T1])
    state.assign_from_group([T0, U0])
    assert state.without_position() == [U0]
    assert state.paused() == {T0}
    state.assign_from_group([T0, T1])
    assert state.needs_committed(T1)
    assert state.paused() == {T0}


def test_what_is_not_assigned_has_no_phase() -> None:
    state = SubscriptionState(["t"])
    state.assign_from_group([T0])
    for late in (
        state.position_set,
        state.give_up,
        state.await_validation,
        lambda tp: state.reset(tp, "latest"),
    ):
        late(U0)
    assert state.without_position() == [T0]
    assert not state.needs_reset(U0)


def test_pausing() -> None:
    state = SubscriptionState()
    state.assign_from_user([T0, T1])
    state.pause([T0, T1])
    state.resume([T1])
    assert state.paused() == {T0}
    state.drop([T0])
    assert state.paused() == frozenset()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["keep", "drop", "reset", "set", "give up", "validate"]),
            st.sets(st.sampled_from([T0, T1, U0])),
        )
    )
)
def test_no_partition_is_waited_for_that_is_not_assigned(
    steps: list[tuple[str, set[TopicPartition]]],
) -> None:
    state, assigned = SubscriptionState(["t"]), set[TopicPartition]()
    for step, partitions in steps:
        if step == "keep":
            state.assign_from_group(sorted(partitions))
            assigned = set(partitions)
        elif step == "drop":
            state.drop(partitions)
            assigned -= partitions
        for tp in partitions if step not in ("keep", "drop") else ():
            {
                "reset": lambda tp: state.reset(tp, None),
                "set": state.position_set,
                "give up": state.give_up,
                "validate": state.await_validation,
            }[step](tp)
        assert set(state.without_position()) <= assigned
        for tp in (T0, T1, U0):
            assert (state.needs_committed(tp) or state.needs_reset(tp)) == (tp in state.without_position())
