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
from tests.golden.capture_assignors import captured, has_far_claims, invalid, same
from tests.unit.group.groups import COUNTS, MEMBERS, RACKS

JAVA = json.loads((Path(__file__).parents[2] / "golden" / "java_group.json").read_text(encoding="utf-8"))
NAMES = ("range", "roundrobin", "sticky", "cooperative-sticky")


@pytest.mark.parametrize("name", ["range", "roundrobin"])
def test_the_results_are_javas(name: str) -> None:
    (assignor,) = assignors_for([name])
    for case in JAVA["assignments"]:
        members = {
            member: MemberSubscription(tuple(topics), group_instance_id=instance)
            for member, instance, topics in case["members"]
        }
        wanted = {member: [TopicPartition(*tp) for tp in given] for member, given in case[name].items()}
        assert same(assignor.assign(members, case["counts"]), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_the_results_are_javas_with_a_past_and_racks(name: str) -> None:
    compared = 0
    for case, verdict in captured():
        wanted, complete = verdict.shares[name], verdict.shares["sticky"]
        if isinstance(wanted, str) or isinstance(complete, str) or invalid(case, complete):
            continue  # Java's sticky assignors fail, or give members what they do not want
        if name == "cooperative-sticky" and case.contested:
            continue
        if "sticky" in name and has_far_claims(case):
            continue  # Java's move more, to no better end
        (assignor,) = assignors_for([name])
        assert same(assignor.assign(case.members, case.counts, case.racks), wanted), case
        compared += 1
    assert compared > 50


@pytest.mark.parametrize("name", NAMES)
@given(members=MEMBERS, counts=COUNTS, racks=RACKS)
def test_22_valid_assignment_every_wanted_partition_has_one_owner_who_wants_it(
    name: str,
    members: dict[str, MemberSubscription],
    counts: dict[str, int],
    racks: dict[TopicPartition, frozenset[str]],
) -> None:
    """With any claims, true or false. What `cooperative-sticky` withholds, someone claims: then nobody has it for now."""
    (assignor,) = assignors_for([name])
    found = assignor.assign(members, counts, racks)
    assert found.keys() == members.keys()
    shared_out = [tp for partitions in found.values() for tp in partitions]
    topics = {topic for subscription in members.values() for topic in subscription.topics}
    claimed = {tp for subscription in members.values() for tp in subscription.owned_partitions}
    every = {TopicPartition(t, p) for t in topics for p in range(counts.get(t, 0))}
    assert len(shared_out) == len(set(shared_out))
    if name == "cooperative-sticky":
        assert every - claimed <= set(shared_out) <= every
    else:
        assert set(shared_out) == every
    assert all(tp.topic in members[m].topics for m, partitions in found.items() for tp in partitions)


@pytest.mark.parametrize("name", NAMES)
@given(members=MEMBERS, counts=COUNTS, racks=RACKS, order=st.randoms())
def test_22_valid_assignment_the_order_in_which_members_and_topics_are_told_does_not_matter(
    name: str,
    members: dict[str, MemberSubscription],
    counts: dict[str, int],
    racks: dict[TopicPartition, frozenset[str]],
    order: Any,
) -> None:
    (assignor,) = assignors_for([name])
    told, known = list(members.items()), list(counts.items())
    order.shuffle(told)
    order.shuffle(known)
    assert same(assignor.assign(dict(told), dict(known), racks), assignor.assign(members, counts, racks))


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


@given(members=MEMBERS, counts=COUNTS, racks=RACKS)
def test_range_heeds_racks_without_giving_up_balance_or_joins_by_partition(
    members: dict[str, MemberSubscription],
    counts: dict[str, int],
    racks: dict[TopicPartition, frozenset[str]],
) -> None:
    """KIP-881. Topics with the same readers and equally many partitions have the same owner of each number."""
    (assignor,) = assignors_for(["range"])
    found = assignor.assign(members, counts, racks)
    assert all(share == sorted(share) for share in found.values())
    owner = {tp: member for member, partitions in found.items() for tp in partitions}
    readers = {t: frozenset(m for m in members if t in members[m].topics) for t in counts}
    for topic, count in counts.items():
        shares = [sum(tp.topic == topic for tp in found[m]) for m in readers[topic]]
        assert not shares or max(shares) - min(shares) <= 1
        for other, other_count in counts.items():
            if (readers[other], other_count) == (readers[topic], count):
                for n in range(count):
                    assert owner.get(TopicPartition(topic, n)) == owner.get(TopicPartition(other, n))


def test_range_gives_each_its_rack() -> None:
    members = {
        m: MemberSubscription(("t",), rack_id=rack) for m, rack in (("a", "x"), ("b", "y"), ("c", "z"))
    }
    racks = {TopicPartition("t", n): frozenset({rack}) for n, rack in enumerate("zyxzyx")}
    (assignor,) = assignors_for(["range"])
    found = assignor.assign(members, {"t": 6}, racks)
    assert {m: [tp.partition for tp in share] for m, share in found.items()} == {
        "a": [2, 5],
        "b": [1, 4],
        "c": [0, 3],
    }


def test_static_members_keep_their_share_under_a_new_member_id() -> None:
    (assignor,) = assignors_for(["range"])
    static = MemberSubscription(("t",), group_instance_id="i")
    other = MemberSubscription(("t",))
    before = assignor.assign({"z-1": static, "a-1": other}, {"t": 3})
    after = assignor.assign({"b-9": static, "a-1": other}, {"t": 3})
    assert before["z-1"] == after["b-9"] == [TopicPartition("t", 0), TopicPartition("t", 1)]
