"""Who owns what before an assignment: what members claim, settled where they contradict each other.

Source: KIP-54, KIP-341, KIP-429, KIP-792; org.apache.kafka.clients.consumer.internals.AbstractStickyAssignor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...types import TopicPartition
from ..protocol import MemberSubscription

NO_GENERATION = -1


@dataclass(frozen=True, slots=True)
class Claim:
    """What a member says that it owns or owned, and in which generation; -1 where it said none."""

    partitions: Sequence[TopicPartition] = ()
    generation_id: int = NO_GENERATION


@dataclass(frozen=True, slots=True)
class Ownership:
    """Claims, settled: of each partition that exists, only the claim of the latest generation counts."""

    owned: Mapping[str, Sequence[TopicPartition]]
    """By member, for all members: what it alone owns."""
    owner: Mapping[TopicPartition, str | None]
    """By claimed partition; None where several members of one generation claim it, so that nobody may keep it."""


def settle(claims: Mapping[str, Claim], partition_counts: Mapping[str, int]) -> Ownership:
    """Later generations win over earlier ones, since the earlier member missed the rebalance that gave its partition away.

    Two members of one generation cannot both be right, and which of them is cannot be told: both have to give it up.
    """
    latest: dict[TopicPartition, int] = {}
    owner: dict[TopicPartition, str | None] = {}
    for member, claim in claims.items():
        for tp in dict.fromkeys(claim.partitions):
            if not 0 <= tp.partition < partition_counts.get(tp.topic, 0):
                continue  # the topic was deleted, or made anew with fewer partitions
            generation_id = latest.get(tp)
            if generation_id is None or claim.generation_id > generation_id:
                latest[tp], owner[tp] = claim.generation_id, member
            elif claim.generation_id == generation_id:
                owner[tp] = None
    owned: dict[str, list[TopicPartition]] = {member: [] for member in claims}
    for tp, member_or_none in owner.items():
        if member_or_none is not None:
            owned[member_or_none].append(tp)
    return Ownership(owned, owner)


def earlier_owners(claims: Mapping[str, Claim]) -> dict[TopicPartition, str]:
    """Who had a partition before it had its present owner: the latest claim of those that are older than the newest generation.

    A partition that has to move anyway goes back there if it can: that member may still have state of it. Source: KIP-341.
    """
    newest = max((claim.generation_id for claim in claims.values()), default=NO_GENERATION)
    latest: dict[TopicPartition, tuple[int, str]] = {}
    for member, claim in claims.items():
        if claim.generation_id < newest:
            for tp in claim.partitions:
                if tp not in latest or claim.generation_id > latest[tp][0]:
                    latest[tp] = (claim.generation_id, member)
    return {tp: member for tp, (_, member) in latest.items()}


def withhold(
    members: Mapping[str, MemberSubscription], assignment: Mapping[str, Sequence[TopicPartition]]
) -> dict[str, list[TopicPartition]]:
    """The assignment without the partitions that someone else than their new owner owns, as cooperative rebalancing demands (KIP-429).

    Their owners see that they were not given again, revoke them, and join once more; that rebalance gives them to the new owners.
    """
    counts: dict[str, int] = {}
    for subscription in members.values():
        for tp in subscription.owned_partitions:
            counts[tp.topic] = max(counts.get(tp.topic, 0), tp.partition + 1)
    claims = {m: Claim(s.owned_partitions, s.generation_id) for m, s in members.items()}
    return without_moving(assignment, settle(claims, counts))


def without_moving(
    assignment: Mapping[str, Sequence[TopicPartition]], ownership: Ownership
) -> dict[str, list[TopicPartition]]:
    """As `withhold`, of settled claims. What several members claim is withheld from all of them."""
    owner = ownership.owner
    return {
        member: [tp for tp in partitions if owner.get(tp, member) == member]
        for member, partitions in assignment.items()
    }
