"""The server-side assignors: every partition once, to one that reads it; as even as can be; few partitions move."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.devbroker.consumer_assignors import ASSIGNORS, TopicImage, assign_range, assign_uniform

COUNTS = {"a": 1, "b": 3, "c": 5, "empty": 0}
TOPICS = {name: TopicImage(f"id-{name}", count) for name, count in COUNTS.items()}
members = st.dictionaries(
    st.sampled_from("uvwxyz"), st.frozensets(st.sampled_from(sorted(COUNTS))), min_size=1
)


def wanted(subscriptions: dict[str, frozenset[str]]) -> set[Any]:
    names = set().union(*subscriptions.values())
    return {(f"id-{name}", number) for name in names for number in range(COUNTS[name])}


@pytest.mark.parametrize("name", ASSIGNORS)
@given(before=members, after=members)
def test_every_partition_once_and_to_a_reader(
    name: str, before: dict[str, frozenset[str]], after: dict[str, frozenset[str]]
) -> None:
    first = ASSIGNORS[name](before, TOPICS, {})
    second = ASSIGNORS[name](after, TOPICS, first)
    for subscriptions, plan in ((before, first), (after, second)):
        assert set(plan) == set(subscriptions)
        given_out = [partition for partitions in plan.values() for partition in partitions]
        assert len(given_out) == len(set(given_out))
        assert set(given_out) == wanted(subscriptions)
        for member, partitions in plan.items():
            assert {topic for topic, _ in partitions} <= {f"id-{each}" for each in subscriptions[member]}


@given(subscriptions=members, seed=members)
def test_uniform_is_even_and_stays(
    subscriptions: dict[str, frozenset[str]], seed: dict[str, frozenset[str]]
) -> None:
    plan = assign_uniform(subscriptions, TOPICS, assign_uniform(seed, TOPICS, {}))
    assert assign_uniform(subscriptions, TOPICS, plan) == plan, "what is even is left as it is"
    for rich, many in plan.items():
        for poor, few in plan.items():
            if len(many) - len(few) >= 2:
                assert not {topic for topic, _ in many} & {f"id-{each}" for each in subscriptions[poor]}, (
                    f"{rich} could give {poor} something"
                )


def test_uniform_moves_no_more_than_it_must() -> None:
    everyone = dict.fromkeys("xyz", frozenset({"b", "c"}))
    three = assign_uniform(everyone, TOPICS, {})
    two = assign_uniform(dict.fromkeys("xz", frozenset({"b", "c"})), TOPICS, three)
    assert all(two[member] >= three[member] for member in "xz")
    again = assign_uniform(everyone, TOPICS, two)
    assert all(again[member] <= two[member] for member in "xz")


def test_range_gives_the_same_numbers_of_topics_alike() -> None:
    topics = {name: TopicImage(name, 5) for name in "pq"}
    plan = assign_range(dict.fromkeys("xy", frozenset("pq")), topics, {})
    assert plan["x"] == {(name, number) for name in "pq" for number in range(3)}
    assert plan["y"] == {(name, number) for name in "pq" for number in (3, 4)}
