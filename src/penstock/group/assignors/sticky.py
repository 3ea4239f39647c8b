"""The sticky assignors: as balanced as can be, and then as little moved as can be.

Source: org.apache.kafka.clients.consumer.StickyAssignor (KIP-54, KIP-341) and CooperativeStickyAssignor (KIP-429, KIP-792); racks: KIP-881.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from ...types import TopicPartition
from ..protocol import MemberSubscription
from .claims import NO_GENERATION, Claim, Ownership, earlier_owners, settle, without_moving
from .interface import NO_RACKS, Assignor, RebalanceProtocol
from .racks import RackMatch
from .sticky_equal import assign_equal
from .sticky_unequal import assign_unequal
from .user_data import decode_generation, decode_owned, encode_generation, encode_owned


class _Sticky(Assignor):
    """What both have in common: from claims to shares."""

    @abstractmethod
    def _claim(self, subscription: MemberSubscription) -> Claim:
        """What the member says that it owns."""

    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = NO_RACKS,
    ) -> dict[str, list[TopicPartition]]:
        return self._shares(members, partition_counts, partition_racks)[0]

    def _shares(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]],
    ) -> tuple[dict[str, list[TopicPartition]], Ownership]:
        """The shares as they shall be in the end, and who owns what until then."""
        wanted = {member: frozenset(members[member].topics) for member in sorted(members)}
        topics = frozenset[str]().union(*wanted.values())
        counts = {topic: count for topic, count in partition_counts.items() if count > 0 and topic in topics}
        claims = {member: self._claim(members[member]) for member in wanted}
        ownership = settle(claims, counts)
        racks = RackMatch(members, counts, partition_racks)
        if len(set(wanted.values())) == 1:
            return assign_equal(ownership.owned, counts, racks), ownership
        earlier = earlier_owners(claims)
        return assign_unequal(wanted, ownership.owned, earlier, counts, racks), ownership


class StickyAssignor(_Sticky):
    """Sticky with eager rebalancing: members give up everything, and most of it comes back."""

    name = "sticky"

    def __init__(self) -> None:
        self._given: tuple[TopicPartition, ...] | None = None  # on_assignment writes both
        self._generation_id = NO_GENERATION

    def user_data(self, topics: tuple[str, ...]) -> bytes | None:
        return None if self._given is None else encode_owned(self._given, self._generation_id)

    def on_assignment(self, partitions: tuple[TopicPartition, ...], generation_id: int) -> None:
        self._given, self._generation_id = partitions, generation_id

    def _claim(self, subscription: MemberSubscription) -> Claim:
        return decode_owned(subscription.user_data)


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

    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = NO_RACKS,
    ) -> dict[str, list[TopicPartition]]:
        shares, ownership = self._shares(members, partition_counts, partition_racks)
        return without_moving(shares, ownership)
