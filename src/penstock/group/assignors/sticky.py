"""The sticky assignors: as balanced as can be, and then as little moved as can be.

Source: org.apache.kafka.clients.consumer.StickyAssignor (KIP-54, KIP-341) and CooperativeStickyAssignor (KIP-429, KIP-792); racks: KIP-881.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

from ...types import TopicPartition
from ..protocol import MemberSubscription
from .claims import NO_GENERATION, Claim, Ownership, earlier_owners, settle, without_moving
from .interface import NO_RACKS, Assignor, RebalanceProtocol
from .racks import RackMatch
from .sticky_equal import assign_equal
from .sticky_unequal import assign_unequal
from .user_data import decode_generation, decode_owned, encode_generation, encode_owned

Shares = dict[str, list[TopicPartition]]

_MOST_ROUNDS: Final = 10
"""How far the rebalances that follow one another are looked ahead; in random groups more than two were not needed."""


class _Group:
    """What decides shares, apart from who owns what."""

    def __init__(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]],
    ) -> None:
        self.wanted = {member: frozenset(members[member].topics) for member in sorted(members)}
        topics = frozenset[str]().union(*self.wanted.values())
        self.counts = {t: count for t, count in partition_counts.items() if count > 0 and t in topics}
        self.racks = RackMatch(members, self.counts, partition_racks)

    def shares(
        self,
        owned: Mapping[str, Sequence[TopicPartition]],
        earlier: Mapping[TopicPartition, str],
        *,
        move_to_racks: bool,
    ) -> Shares:
        if len(set(self.wanted.values())) == 1:
            return assign_equal(owned, self.counts, self.racks, move_to_racks=move_to_racks)
        return assign_unequal(
            self.wanted, owned, earlier, self.counts, self.racks, move_to_racks=move_to_racks
        )

    def cost(self, shares: Shares) -> tuple[int, int]:
        """How unbalanced these are, and after that how many partitions are in another rack than their owner.

        The first is Kafka's measure: the differences of the shares of all pairs of members, summed.
        """
        sizes = sorted(len(share) for share in shares.values())
        return (
            sum((2 * place + 1 - len(sizes)) * size for place, size in enumerate(sizes)),
            sum(self.racks.mismatch(member, tp) for member, share in shares.items() for tp in share),
        )


class _Sticky(Assignor):
    """What both have in common: from claims to shares."""

    @abstractmethod
    def _claim(self, subscription: MemberSubscription) -> Claim:
        """What the member says that it owns."""

    @abstractmethod
    def _given(self, shares: Shares, ownership: Ownership) -> Shares:
        """What of their shares members are given in this rebalance."""

    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = NO_RACKS,
    ) -> Shares:
        group = _Group(members, partition_counts, partition_racks)
        claims = {member: self._claim(members[member]) for member in group.wanted}
        ownership = settle(claims, group.counts)
        earlier = earlier_owners(claims)
        shares = group.shares(ownership.owned, earlier, move_to_racks=False)
        if group.racks.members:
            # All that is in another rack than its owner is given away anew. That may be no better in the end, and then it must not be
            # done: cooperative rebalancing ends when nothing moves, and the partitions would go round for ever. So it is done only
            # if it makes the outcome better; otherwise the outcome stays as it was, and better outcomes have an end.
            moving = group.shares(ownership.owned, earlier, move_to_racks=True)
            if self._outcome(group, moving, ownership) < self._outcome(group, shares, ownership):
                shares = moving
        return self._given(shares, ownership)

    def _outcome(self, group: _Group, shares: Shares, ownership: Ownership) -> tuple[int, int]:
        """The cost of what the group has in the end: with cooperative rebalancing, when the rebalances that follow this one are over."""
        for _ in range(_MOST_ROUNDS):
            given = self._given(shares, ownership)
            if given == shares:
                break
            ownership = Ownership(given, {tp: member for member, share in given.items() for tp in share})
            shares = group.shares(given, {}, move_to_racks=False)
        return group.cost(shares)


class StickyAssignor(_Sticky):
    """Sticky with eager rebalancing: members give up everything, and most of it comes back."""

    name = "sticky"

    def __init__(self) -> None:
        self._partitions: tuple[TopicPartition, ...] | None = None  # on_assignment writes both
        self._generation_id = NO_GENERATION

    def user_data(self, topics: tuple[str, ...]) -> bytes | None:
        return None if self._partitions is None else encode_owned(self._partitions, self._generation_id)

    def on_assignment(self, partitions: tuple[TopicPartition, ...], generation_id: int) -> None:
        self._partitions, self._generation_id = partitions, generation_id

    def _claim(self, subscription: MemberSubscription) -> Claim:
        return decode_owned(subscription.user_data)

    def _given(self, shares: Shares, ownership: Ownership) -> Shares:
        return shares


class CooperativeStickyAssignor(_Sticky):
    """Sticky with cooperative rebalancing: members keep what does not move, and what moves is given once its owner has let it go."""

    name = "cooperative-sticky"
    rebalance_protocols = (RebalanceProtocol.COOPERATIVE, RebalanceProtocol.EAGER)

    def __init__(self) -> None:
        self._generation_id = NO_GENERATION  # on_assignment writes it

    def user_data(self, topics: tuple[str, ...]) -> bytes | None:
        return encode_generation(self._generation_id)

    def on_assignment(self, partitions: tuple[TopicPartition, ...], generation_id: int) -> None:
        self._generation_id = generation_id

    def _claim(self, subscription: MemberSubscription) -> Claim:
        generation_id = subscription.generation_id
        if generation_id < 0:  # a client older than KIP-792
            generation_id = decode_generation(subscription.user_data)
        return Claim(subscription.owned_partitions, generation_id)

    def _given(self, shares: Shares, ownership: Ownership) -> Shares:
        return without_moving(shares, ownership)
