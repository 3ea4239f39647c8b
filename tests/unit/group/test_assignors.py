"""Assignors: the results of Kafka's own, and what holds of every assignment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.group.assignors import assignors_for
from penstock.group.protocol import MemberSubscription
from penstock.types import TopicPartition

JAVA = json.loads((Path(__file__).parents[2] / "golden" / "java_group.json").read_text(encoding="utf-8"))
NAMES = ("range", "roundrobin")


@pytest.mark.parametrize("name", NAMES)
def test_the_results_are_javas(name: str) -> None:
    (assignor,) = assignors_for([name])
    for case in JAVA["assignments"]:
        members = {
            member: MemberSubscription(tuple(topics), group_instance_id=instance)
            for member, instance, topics in case["members"]
        }
        wanted = {member: [TopicPartition(*tp) for tp in given] for member, given in case[name].items()}
        found = assignor.assign(members, case["counts"])
        assert {m: sorted(given) for m, given in found.items()} == {
            m: sorted(given) for m, given in wanted.items()
        }


MEMBERS = st.dictionaries(
    st.text("abc-", min_size=1, max_size=4),
    st.builds(
        lambda topics, instance: MemberSubscription(tuple(topics), group_instance_id=instance),
        st.lists(st.sampled_from("tuvw"), unique=True),
        st.none() | st.text("xyz", min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=6,
)
COUNTS = st.dictionaries(st.sampled_from("tuvw"), st.integers(0, 9))


@pytest.mark.parametrize("name", NAMES)
@given(members=MEMBERS, counts=COUNTS)
def test_every_partition_of_a_wanted_topic_has_one_owner_who_wants_it(
    name: str, members: dict[str, MemberSubscription], counts: dict[str, int]
) -> None:
    (assignor,) = assignors_for([name])
    found = assignor.assign(members, counts)
    assert found.keys() == members.keys()
    given = [tp for partitions in found.values() for tp in partitions]
    topics = {topic for subscription in members.values() for topic in subscription.topics}
    assert sorted(given) == sorted(TopicPartition(t, p) for t in topics for p in range(counts.get(t, 0)))
    assert all(
        tp.topic in members[member].topics for member, partitions in found.items() for tp in partitions
    )


@pytest.mark.parametrize("name", NAMES)
@given(members=MEMBERS, counts=COUNTS, order=st.randoms())
def test_the_order_in_which_members_are_told_does_not_matter(
    name: str, members: dict[str, MemberSubscription], counts: dict[str, int], order: Any
) -> None:
    (assignor,) = assignors_for([name])
    items = list(members.items())
    order.shuffle(items)
    assert assignor.assign(dict(items), counts) == assignor.assign(members, counts)


@given(members=MEMBERS, counts=COUNTS)
def test_range_gives_neighbours_and_shares_that_differ_by_one(
    members: dict[str, MemberSubscription], counts: dict[str, int]
) -> None:
    (assignor,) = assignors_for(["range"])
    found = assignor.assign(members, counts)
    for topic in counts:
        shares = [
            [tp.partition for tp in found[member] if tp.topic == topic]
            for member in members
            if topic in members[member].topics
        ]
        assert all(share == list(range(share[0], share[0] + len(share))) for share in shares if share)
        assert not shares or max(map(len, shares)) - min(map(len, shares)) <= 1


def test_static_members_keep_their_share_under_a_new_member_id() -> None:
    (assignor,) = assignors_for(["range"])
    static = MemberSubscription(("t",), group_instance_id="i")
    other = MemberSubscription(("t",))
    before = assignor.assign({"z-1": static, "a-1": other}, {"t": 3})
    after = assignor.assign({"b-9": static, "a-1": other}, {"t": 3})
    assert before["z-1"] == after["b-9"] == [TopicPartition("t", 0), TopicPartition("t", 1)]
