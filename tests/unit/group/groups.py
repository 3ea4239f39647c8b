"""Groups of all kinds, for hypothesis: members with equal and unequal subscriptions, racks, and claims that need not be true."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from penstock.group.assignors.user_data import encode_owned
from penstock.group.protocol import MemberSubscription
from penstock.types import TopicPartition

Members = dict[str, MemberSubscription]

TOPICS = "tuvw"
IDS = st.text("abc-", min_size=1, max_size=4)
COUNTS = st.dictionaries(st.sampled_from(TOPICS), st.integers(0, 9))
PARTITIONS = st.builds(TopicPartition, st.sampled_from(TOPICS), st.integers(0, 10))
RACKS = st.just(dict[TopicPartition, frozenset[str]]()) | st.dictionaries(
    PARTITIONS, st.frozensets(st.sampled_from("xyz"), max_size=2), max_size=40
)
SUBSCRIBED = st.lists(st.sampled_from(TOPICS), unique=True).map(tuple)


def _member(
    topics: tuple[str, ...],
    instance: str | None,
    rack: str | None,
    owned: list[TopicPartition],
    generation_id: int,
) -> MemberSubscription:
    return MemberSubscription(
        topics, tuple(owned), encode_owned(owned, generation_id), generation_id, rack, instance
    )


ONE = st.builds(
    _member,
    SUBSCRIBED,
    st.none() | st.text("xyz", min_size=1, max_size=3),
    st.none() | st.sampled_from("xyz"),
    st.just([]) | st.lists(PARTITIONS, unique=True, max_size=12),
    st.integers(-1, 3),
)
UNEQUAL = st.dictionaries(IDS, ONE, min_size=1, max_size=6)
EQUAL = st.builds(lambda members, topics: subscribed(members, topics), UNEQUAL, SUBSCRIBED)
MEMBERS = UNEQUAL | EQUAL


def subscribed(members: Members, topics: tuple[str, ...]) -> Members:
    """The same members, all with these topics."""
    return {m: replace(s, topics=topics) for m, s in members.items()}


def fresh(members: Members) -> Members:
    """The same members, without racks and without a past."""
    return {
        m: MemberSubscription(s.topics, group_instance_id=s.group_instance_id) for m, s in members.items()
    }


def holding(members: Members, shares: dict[str, list[TopicPartition]], generation_id: int) -> Members:
    """The same members once they have these shares in this generation; without a share they are new."""
    return {
        m: replace(
            s,
            owned_partitions=tuple(shares[m]),
            generation_id=generation_id,
            user_data=encode_owned(shares[m], generation_id),
        )
        if m in shares
        else s
        for m, s in members.items()
    }
