"""The sticky assignors: balance first, then stickiness; claims; cooperative rounds; user data."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from penstock.group.assignors import CooperativeStickyAssignor, StickyAssignor, withhold
from penstock.group.assignors.user_data import (
    decode_generation,
    decode_owned,
    encode_generation,
    encode_owned,
)
from penstock.group.protocol import MemberSubscription, decode_subscription, encode_subscription
from penstock.types import TopicPartition
from tests.golden.capture_assignors import captured, cases, invalid
from tests.unit.group.groups import (
    COUNTS,
    IDS,
    MEMBERS,
    RACKS,
    SUBSCRIBED,
    UNEQUAL,
    Members,
    fresh,
    holding,
    subscribed,
)

Shares = dict[str, list[TopicPartition]]
Racks = dict[TopicPartition, frozenset[str]]
STICKY = StickyAssignor()
COOPERATIVE = CooperativeStickyAssignor()


def t(*numbers: int) -> list[TopicPartition]:
    return [TopicPartition("t", n) for n in numbers]


def unbalanced(members: Members, shares: Shares) -> list[str]:
    """What could move to a member with at least two fewer."""
    return [
        f"{tp} from {owner} to {member}"
        for owner, share in shares.items()
        for member in members
        if len(shares[member]) + 2 <= len(share)
        for tp in share
        if tp.topic in members[member].topics
    ]


def owners(shares: Shares) -> dict[TopicPartition, str]:
    return {tp: member for member, share in shares.items() for tp in share}


# ------------------------------------------------------------ balance


@given(members=MEMBERS, counts=COUNTS, racks=RACKS)
def test_22_valid_assignment_no_partition_could_move_to_a_member_with_two_fewer(
    members: Members, counts: dict[str, int], racks: Racks
) -> None:
    """With equal subscriptions all shares differ by one at most; racks come second."""
    assert unbalanced(members, STICKY.assign(members, counts, racks)) == []


def test_racks_are_heeded_where_the_balance_allows() -> None:
    members = {m: MemberSubscription(("t",), rack_id=rack) for m, rack in (("a", "x"), ("b", "y"))}
    racks = {tp: frozenset({"y" if tp.partition < 3 else "x"}) for tp in t(0, 1, 2, 3, 4, 5)}
    assert STICKY.assign(members, {"t": 6}, racks) == {"a": t(3, 4, 5), "b": t(0, 1, 2)}
    lopsided = dict.fromkeys(t(0, 1, 2, 3, 4, 5), frozenset("x")) | {t(5)[0]: frozenset("z")}
    assert [len(share) for share in STICKY.assign(members, {"t": 6}, lopsided).values()] == [3, 3]


def test_a_partition_in_another_rack_moves() -> None:
    racks = {tp: frozenset({"y" if tp.partition < 2 else "x"}) for tp in t(0, 1, 2, 3)}
    members = {m: MemberSubscription(("t",), rack_id=rack) for m, rack in (("a", "x"), ("b", "y"))}
    members = holding(members, {"a": t(0, 1), "b": t(2, 3)}, 1)
    assert STICKY.assign(members, {"t": 4}, racks) == {"a": t(2, 3), "b": t(0, 1)}


# ------------------------------------------------------------ stickiness


@given(members=MEMBERS, counts=COUNTS)
def test_22_valid_assignment_nothing_moves_when_nothing_changed(
    members: Members, counts: dict[str, int]
) -> None:
    members = fresh(members)
    shares = STICKY.assign(members, counts)
    again = STICKY.assign(holding(members, shares, 1), counts)
    assert owners(again) == owners(shares)


@given(members=UNEQUAL, topics=SUBSCRIBED, counts=COUNTS, data=st.data())
def test_22_valid_assignment_when_a_member_leaves_the_others_keep_all_theirs(
    members: Members, topics: tuple[str, ...], counts: dict[str, int], data: st.DataObject
) -> None:
    assume(len(members) > 1)
    members = subscribed(fresh(members), topics)
    shares = STICKY.assign(members, counts)
    gone = data.draw(st.sampled_from(sorted(members)))
    stay = {m: s for m, s in members.items() if m != gone}
    after = STICKY.assign(holding(stay, shares, 1), counts)
    assert all(set(shares[m]) <= set(after[m]) for m in stay)


@given(members=UNEQUAL, topics=SUBSCRIBED, counts=COUNTS, newcomers=st.sets(IDS, min_size=1, max_size=3))
def test_22_valid_assignment_when_members_join_only_they_are_given_something(
    members: Members, topics: tuple[str, ...], counts: dict[str, int], newcomers: set[str]
) -> None:
    members = subscribed(fresh(members), topics)
    shares = STICKY.assign(members, counts)
    more = holding(members, shares, 1) | {f"{m}!": MemberSubscription(topics) for m in newcomers}
    after = STICKY.assign(more, counts)
    assert all(set(after[m]) <= set(shares[m]) for m in members)
    assert unbalanced(more, after) == []


@given(members=UNEQUAL, counts=COUNTS, change=st.integers(0, 3))
def test_22_valid_assignment_with_unequal_subscriptions_each_move_makes_the_balance_better(
    members: Members, counts: dict[str, int], change: int
) -> None:
    """Nobody who lost something that it still wants is left with two fewer than the one who was given it."""
    members = fresh(members)
    shares = STICKY.assign(members, counts)
    changed = holding(members, shares, 1)
    if change:  # the first member wants other topics
        first = min(changed)
        changed[first] = replace(changed[first], topics=tuple("tuvw"[change:]))
    after = STICKY.assign(changed, counts)
    before = owners(shares)
    for member, share in after.items():
        for tp in share:
            former = before.get(tp, member)
            if former != member and tp.topic in changed[former].topics:
                assert len(share) <= len(after[former]) + 1


def test_a_partition_returns_to_its_earlier_owner_where_the_balance_asks_for_a_move_anyway() -> None:
    """KIP-341: c was away for a rebalance. Of what a has too much, c is given what it had."""
    members = {
        "a": MemberSubscription(("t",), user_data=encode_owned(t(0, 1, 2, 3, 4, 5), 2)),
        "b": MemberSubscription(("t", "u"), user_data=encode_owned([], 2)),
        "c": MemberSubscription(("t", "v"), user_data=encode_owned(t(0, 1), 1)),
    }
    found = STICKY.assign(members, {"t": 6})
    assert set(found["c"]) == set(t(0, 1))
    assert len(found["a"]) == len(found["b"]) == 2


def test_of_several_earlier_owners_the_latest_counts_and_only_if_it_still_wants_the_topic() -> None:
    members = {
        "a": MemberSubscription(("t",), user_data=encode_owned(t(0, 1, 2, 3), 4)),
        "b": MemberSubscription(("t",), user_data=encode_owned(t(0), 2)),
        "c": MemberSubscription(("t", "u"), user_data=encode_owned(t(0), 3)),
    }
    found = STICKY.assign(members, {"t": 4})
    assert found == {"a": t(2, 3), "b": t(1), "c": t(0)}
    members["b"] = MemberSubscription(("t",), user_data=encode_owned(t(0), 3))
    members["c"] = MemberSubscription(("t", "u"), user_data=encode_owned(t(0), 2))
    assert STICKY.assign(members, {"t": 4}) == {"a": t(2, 3), "b": t(0), "c": t(1)}
    members["c"] = MemberSubscription(("u",), user_data=encode_owned(t(0), 3))
    members["d"] = MemberSubscription(("u",))
    assert not set(STICKY.assign(members, {"t": 4, "u": 1})["c"]) & set(t(0, 1, 2, 3))


def test_one_partition_moves_back_rather_than_two_away() -> None:
    """Balancing moves partitions one by one; where one of a topic came from the member that another shall go to, it goes back."""
    members = of(
        B="b,c",
        E="a,c,d own d:0,d:1,d:2,d:3,c:4,a:3",
        F="b,c",
        H="a,c own c:0,c:1,c:2,c:3,a:2,a:5",
        I="a,c",
    )
    shares = STICKY.assign(members, {"a": 6, "b": 3, "c": 5, "d": 4})
    assert moves(members, shares) == 4


def test_two_partitions_move_back_where_a_third_member_came_between() -> None:
    members = of(
        A="b,c,d,e",
        B="a,e",
        C="a,c,d",
        D="a,b,c,e own c:0,c:1,c:2,c:3,c:4,c:5,e:0,e:2,e:4,a:0,a:1,a:2",
        F="b",
        H="b,e",
        I="a,b,e own b:0,b:1,b:2,b:3,b:4,b:5,a:3,a:4,a:5,e:1,e:3,e:5",
    )
    shares = STICKY.assign(members, dict.fromkeys("abcde", 6))
    assert moves(members, shares) == 15


def of(**told: str) -> Members:
    """Members from "topics" or "topics own t:0,t:1"."""
    members: Members = {}
    for member, text in told.items():
        topics, _, owned = text.partition(" own ")
        pairs = (entry.split(":") for entry in owned.split(",") if entry)
        found = [TopicPartition(topic, int(n)) for topic, n in pairs]
        members[member] = claim(found, 1 if found else -1, tuple(topics.split(",")))
    return members


def moves(members: Members, shares: Shares) -> int:
    before = {tp: member for member, s in members.items() for tp in s.owned_partitions}
    return sum(before.get(tp, member) != member for tp, member in owners(shares).items())


# ------------------------------------------------------------ claims


def claim(
    owned: list[TopicPartition], generation_id: int, topics: tuple[str, ...] = ("t",)
) -> MemberSubscription:
    return MemberSubscription(topics, tuple(owned), encode_owned(owned, generation_id), generation_id)


@pytest.mark.parametrize("topics", [("t",), ("t", "u")], ids=["equal", "unequal"])
@pytest.mark.parametrize("stale", ["a", "c"])
def test_stale_claims_lose(topics: tuple[str, ...], stale: str) -> None:
    members = {stale: claim(t(0, 1), 4, topics), "b": claim(t(0, 1), 5)}
    for assignor in (STICKY, COOPERATIVE):
        found = assignor.assign(members, {"t": 2, "u": 0})
        assert len(found["b"]) == 1
    # What the stale member shall have in the end, b owns until it has let it go.
    assert COOPERATIVE.assign(members, {"t": 2})[stale] == []
    # Of what nobody else claims, an old claim still tells who has it.
    members["b"] = claim(t(0), 5)
    assert COOPERATIVE.assign(members, {"t": 2}) == {stale: t(1), "b": t(0)}


@pytest.mark.parametrize("topics", [("t",), ("t", "u")], ids=["equal", "unequal"])
def test_what_two_of_one_generation_claim_nobody_keeps(topics: tuple[str, ...]) -> None:
    members = {"a": claim(t(0, 1), 5, topics), "b": claim(t(1, 2), 5), "c": claim([], -1)}
    assert owners(STICKY.assign(members, {"t": 3, "u": 0})).keys() == set(t(0, 1, 2))
    found = COOPERATIVE.assign(members, {"t": 3, "u": 0})
    assert found == {"a": t(0), "b": t(2), "c": []}
    members = holding(members, found, 6)
    assert owners(COOPERATIVE.assign(members, {"t": 3, "u": 0})) == {t(0)[0]: "a", t(1)[0]: "c", t(2)[0]: "b"}


def test_claims_of_what_does_not_exist_count_for_nothing() -> None:
    members = {"a": claim([TopicPartition("t", 7), TopicPartition("gone", 0), TopicPartition("t", -1)], 3)}
    assert STICKY.assign(members, {"t": 2}) == {"a": t(0, 1)}


def test_cooperative_claims_of_clients_before_kip_792_have_their_generation_in_the_user_data() -> None:
    for generation_id, owner, other in ((4, "b", "a"), (6, "a", "b")):
        old = MemberSubscription(("t",), tuple(t(0, 1)), encode_generation(generation_id))
        found = COOPERATIVE.assign({"a": old, "b": claim(t(0, 1), 5)}, {"t": 2})
        assert len(found[owner]) == 1
        assert found[other] == []


# ------------------------------------------------------------ cooperative rounds


def rounds_until_still(members: Members, counts: dict[str, int], racks: Racks) -> tuple[int, Shares]:
    """Rebalance until nobody is given or loses anything, as a group does; at no time has a partition two owners."""
    held = {m: set(s.owned_partitions) for m, s in members.items()}
    for number in range(1, 20):
        given_now = COOPERATIVE.assign(members, counts, racks)
        for member, share in given_now.items():
            for tp in set(share) - held[member]:
                assert all(tp not in others for others in held.values())
        if all(held[m] == set(share) for m, share in given_now.items()):
            return number, given_now
        held = {m: set(share) for m, share in given_now.items()}
        members = holding(members, given_now, 10 + number)
    raise AssertionError("no end to it")


@given(members=MEMBERS, change=MEMBERS, counts=COUNTS, racks=RACKS, leave=st.integers(0, 3))
def test_22_valid_assignment_cooperative_rounds_converge_without_two_owners_at_once(
    members: Members, change: Members, counts: dict[str, int], racks: Racks, leave: int
) -> None:
    """A settled group, of which some leave and which others join, some under other topics. With equal subscriptions: give up, give,
    still. With unequal ones what was given up may go elsewhere than first planned, as with Java's, and something else move for it."""
    _, shares = rounds_until_still(
        {m: replace(s, owned_partitions=(), generation_id=-1) for m, s in members.items()}, counts, {}
    )
    after = holding(dict(sorted(members.items())[leave:]), shares, 9)
    for member, s in change.items():
        after[member] = replace(
            after.get(member, fresh({member: s})[member]), topics=s.topics, rack_id=s.rack_id
        )
    assume(after)
    number, final = rounds_until_still(after, counts, racks)
    if not racks and len({frozenset(s.topics) for s in after.values()}) == 1:
        assert number <= 3
    wanted = {topic for s in after.values() for topic in s.topics}
    assert owners(final).keys() == {
        TopicPartition(topic, n) for topic, count in counts.items() if topic in wanted for n in range(count)
    }
    assert unbalanced(after, final) == []


def test_22_valid_assignment_rounds_end_with_racks_and_unequal_subscriptions() -> None:
    """Among these are groups in which Java's leader gives partitions of other racks to one member after the other for ever."""
    for case in cases(99, 500, most_members=12, most_partitions=12):
        if case.racks and not case.contested:
            _, shares = rounds_until_still(case.members, case.counts, case.racks)
            assert invalid(case, shares) == []


def test_cooperative_moves_take_two_rounds() -> None:
    members = {"a": claim(t(0, 1, 2, 3), 1), "b": MemberSubscription(("t",))}
    first = COOPERATIVE.assign(members, {"t": 4})
    assert first == {"a": t(0, 1), "b": []}
    assert COOPERATIVE.assign(holding(members, first, 2), {"t": 4}) == {"a": t(0, 1), "b": t(2, 3)}


@given(members=MEMBERS, counts=COUNTS)
def test_withhold_makes_any_assignment_cooperative(members: Members, counts: dict[str, int]) -> None:
    members = {
        m: replace(s, user_data=None, generation_id=max(0, s.generation_id)) for m, s in members.items()
    }
    shares = withhold(members, STICKY.assign(members, counts))
    for member, share in shares.items():
        for tp in share:
            claims = {m: s.generation_id for m, s in members.items() if tp in s.owned_partitions}
            assert [m for m, g in claims.items() if g == max(claims.values())] in ([], [member])


# ------------------------------------------------------------ user data


def test_user_data_is_javas() -> None:
    for case, verdict in captured():
        for member, (sticky, cooperative) in verdict.user_data.items():
            subscription = case.members[member]
            mine = StickyAssignor()
            assert mine.user_data(("t",)) is None
            mine.on_assignment(subscription.owned_partitions, subscription.generation_id)
            data = mine.user_data(("t",))
            assert data is not None
            assert decode_owned(data) == decode_owned(encode_owned(*_read(data)))
            assert sorted(decode_owned(sticky).partitions) == sorted(subscription.owned_partitions)
            assert decode_owned(sticky).generation_id == subscription.generation_id
            if (
                len({tp.topic for tp in subscription.owned_partitions}) < 2
            ):  # more are in the order of Java's hashes
                assert data == sticky
            other = CooperativeStickyAssignor()
            other.on_assignment(subscription.owned_partitions, subscription.generation_id)
            assert other.user_data(("t",)) == cooperative


def _read(data: bytes) -> tuple[list[TopicPartition], int]:
    claimed = decode_owned(data)
    return list(claimed.partitions), claimed.generation_id


def test_a_member_without_a_past_says_so() -> None:
    assert CooperativeStickyAssignor().user_data(("t",)) == b"\xff\xff\xff\xff"
    assert StickyAssignor().user_data(("t",)) is None


def test_user_data_of_version_0_has_no_generation() -> None:
    data = encode_owned(t(0, 3), 5)
    assert decode_owned(data).generation_id == 5
    assert decode_owned(data[:-4]).generation_id == -1
    assert list(decode_owned(data[:-4]).partitions) == t(0, 3)


@given(data=st.binary(max_size=60) | st.none(), cut=st.integers(0, 60))
def test_user_data_that_cannot_be_read_is_nothing(data: bytes | None, cut: int) -> None:
    """Any bytes: what another client's assignor of the same name writes must not end the leader's membership."""
    assert decode_owned(data).generation_id >= -(2**31)
    assert decode_generation(data) >= -(2**31)
    good = encode_owned([*t(0, 1), TopicPartition("u", 9)], 7)[:cut]
    if cut < 8:
        assert list(decode_owned(good).partitions) == []
    members = {
        "a": MemberSubscription(("t",), user_data=data),
        "b": MemberSubscription(("t",), user_data=good),
    }
    assert len(owners(STICKY.assign(members, {"t": 4}))) == 4


@pytest.mark.parametrize(
    "data",
    [
        "ffffffff 00000007",  # a negative number of topics
        "7fffffff 0000 00000000 fffa 00000000",  # 2^31 - 1 topics, the second of a length that leads back to itself
        "00000001 0001 74 7fffffff",  # 2^31 - 1 partitions
        "00000001 0001 74 ffffffff",
        "00000001 0001 ff 00000000",  # no UTF-8
    ],
)
def test_hostile_user_data_is_nothing(data: str) -> None:
    claimed = decode_owned(bytes.fromhex(data))
    assert (list(claimed.partitions), claimed.generation_id) == ([], -1)


def test_claims_travel_in_subscriptions() -> None:
    """What a member says when it joins is what the leader's assignor sees."""
    mine = StickyAssignor()
    mine.on_assignment(tuple(t(1, 2)), 8)
    sent = encode_subscription(MemberSubscription(("t",), user_data=mine.user_data(("t",)), generation_id=8))
    members = {"a": decode_subscription(sent), "b": MemberSubscription(("t",))}
    assert STICKY.assign(members, {"t": 4}) == {"a": t(1, 2), "b": t(0, 3)}
    kept = decode_subscription(encode_subscription(claim(t(1, 2), 8)))
    assert COOPERATIVE.assign(members | {"a": kept}, {"t": 4}) == {"a": t(1, 2), "b": t(0, 3)}
