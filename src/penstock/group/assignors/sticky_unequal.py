"""Sticky assignment where members want different topics: balance is searched for.

What members own is kept, the rest given to whoever has least, and then partitions move, one at a time, from a member to one that has at
least two fewer. Each such move makes the sum of squared shares smaller, so there is an end to it, and never a worse balance than before.
Source: the general assignment of org.apache.kafka.clients.consumer.internals.AbstractStickyAssignor, whose order of decisions this
follows; it differs where that one gives a partition to a member that does not want it or moves partitions in circles. Racks: KIP-881.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence

from ...types import TopicPartition
from .racks import RackMatch

Move = tuple[str, str]  # from a member to a member


def assign_unequal(
    wanted: Mapping[str, frozenset[str]],
    owned: Mapping[str, Sequence[TopicPartition]],
    earlier: Mapping[TopicPartition, str],
    partition_counts: Mapping[str, int],
    racks: RackMatch,
    *,
    move_to_racks: bool,
) -> dict[str, list[TopicPartition]]:
    """What each of the members, the keys of `wanted`, is given of the topics that it wants; `earlier` names owners before the present.

    With `move_to_racks` a partition in another rack than its owner is given away anew, else it stays if the balance allows.
    """
    builder = _UnequalSubscriptions(
        wanted, owned, earlier, partition_counts, racks, move_to_racks=move_to_racks
    )
    return builder.assign()


class _UnequalSubscriptions:
    """One assignment in the making. `_given`, `_owner` and `_order` say the same at all times: only `_add` and `_take` change them."""

    def __init__(
        self,
        wanted: Mapping[str, frozenset[str]],
        owned: Mapping[str, Sequence[TopicPartition]],
        earlier: Mapping[TopicPartition, str],
        partition_counts: Mapping[str, int],
        racks: RackMatch,
        *,
        move_to_racks: bool,
    ) -> None:
        self._counts = partition_counts
        self._wanted = {member: topics & partition_counts.keys() for member, topics in wanted.items()}
        self._owned = owned
        self._earlier = earlier
        self._racks = racks
        self._move_to_racks = move_to_racks
        self._readers = dict.fromkeys(partition_counts, 0)  # by topic, the number of members that want it
        for topics in self._wanted.values():
            for topic in topics:
                self._readers[topic] += 1
        self._given: dict[str, dict[TopicPartition, None]] = {member: {} for member in wanted}
        self._owner: dict[TopicPartition, str] = {}
        self._order = [
            (0, member) for member in sorted(wanted)
        ]  # by the size of the share, then by member id
        self._movements = _Movements()

    def assign(self) -> dict[str, list[TopicPartition]]:
        must_revoke = self._keep()
        topics = sorted((t for t in self._counts if self._readers[t]), key=lambda t: (self._readers[t], t))
        every = [TopicPartition(topic, number) for topic in topics for number in range(self._counts[topic])]
        free = [tp for tp in every if tp not in self._owner]
        if self._racks.members:
            for tp in free:
                self._give_to_least(tp, self._racks)
        for tp in free:
            if tp not in self._owner:
                self._give_to_least(tp, None)
        # Partitions of which only one member wants the topic, and members that want only such, take no part in what follows.
        shared = [tp for tp in every if self._readers[tp.topic] > 1]
        fixed = self._set_fixed_aside()
        if not must_revoke:
            # What nobody owned may move at no cost, so it is tried first.
            self._rebalance([tp for tp in free if self._readers[tp.topic] > 1])
        self._rebalance(shared)
        return {member: list(share) for member, share in (self._given | fixed).items()}

    def _keep(self) -> bool:
        """Let members keep what they own and may keep. Whether there is something that they may not."""
        must_revoke = False
        for member in sorted(self._owned):
            for tp in self._owned[member]:
                far = self._move_to_racks and self._racks.mismatch(member, tp)
                if tp.topic in self._wanted[member] and not far:
                    self._add(tp, member)
                else:
                    must_revoke = True
        return must_revoke

    def _give_to_least(self, tp: TopicPartition, racks: RackMatch | None) -> None:
        """To the member with the smallest share among those that want it (and have it in their rack)."""
        for _, member in self._order:
            if tp.topic in self._wanted[member] and not (racks and racks.mismatch(member, tp)):
                self._add(tp, member)
                return

    def _set_fixed_aside(self) -> dict[str, dict[TopicPartition, None]]:
        """The members whose share cannot change: they have all that they want, and nobody else wants it."""
        fixed = {
            member: self._given[member]
            for member, topics in self._wanted.items()
            if all(self._readers[topic] == 1 for topic in topics)
        }
        for member in fixed:
            del self._given[member]
        self._order = [entry for entry in self._order if entry[1] not in fixed]
        return fixed

    def _rebalance(self, partitions: Sequence[TopicPartition]) -> None:
        """Move partitions until none of these can move to a member with at least two fewer."""
        moved = True
        while moved:
            moved = False
            least: dict[str, str] = {}  # by topic, who has least of those that want it; until something moves
            for tp in partitions:
                if self._order[-1][0] - self._order[0][0] <= 1:
                    return
                target = self._better_owner(tp, least)
                if target is not None:
                    self._move(tp, target)
                    least.clear()
                    moved = True

    def _better_owner(self, tp: TopicPartition, least: dict[str, str]) -> str | None:
        """Its earlier owner if that has at least two fewer partitions than the present one, else whoever has least, if that has."""
        enough = len(self._given[self._owner[tp]]) - 2
        if enough < self._order[0][0]:
            return None
        earlier = self._earlier.get(tp)
        if (
            earlier in self._given
            and tp.topic in self._wanted[earlier]
            and len(self._given[earlier]) <= enough
        ):
            return earlier
        member = least.get(tp.topic)
        if member is None:
            member = next(m for _, m in self._order if tp.topic in self._wanted[m])
            least[tp.topic] = member
        return member if len(self._given[member]) <= enough else None

    def _move(self, tp: TopicPartition, target: str) -> None:
        """Move this partition, or, with the same shares as the outcome, take back an earlier move of another of its topic.

        Say t-0 went from A to B, and now t-1 is to go from B to A: then t-0 goes back, and only what must move has moved.
        Say t-0 went from A to B, t-1 from B to C, and now t-1 is to go from C to A: then both go back.
        """
        owner = self._owner[tp]
        origin = self._movements.origin(tp, owner)
        other = self._movements.one_that_went(tp.topic, target, origin)
        if other is None:
            self._hand_over(tp, target)
            return
        self._hand_over(other, target)
        if origin != owner:
            self._hand_over(tp, origin)

    def _hand_over(self, tp: TopicPartition, target: str) -> None:
        self._movements.add(tp, self._owner[tp], target)
        self._take(tp)
        self._add(tp, target)

    def _add(self, tp: TopicPartition, member: str) -> None:
        self._resize(member, 1)
        self._given[member][tp] = None
        self._owner[tp] = member

    def _take(self, tp: TopicPartition) -> None:
        member = self._owner.pop(tp)
        self._resize(member, -1)
        del self._given[member][tp]

    def _resize(self, member: str, by: int) -> None:
        size = len(self._given[member])
        del self._order[bisect_left(self._order, (size, member))]
        insort(self._order, (size + by, member))


class _Movements:
    """Which partitions have moved from whom to whom, by topic."""

    def __init__(self) -> None:
        self._by_partition: dict[TopicPartition, Move] = {}
        self._by_topic: dict[tuple[str, Move], dict[TopicPartition, None]] = {}

    def origin(self, tp: TopicPartition, owner: str) -> str:
        """Who had it before anything moved."""
        move = self._by_partition.get(tp)
        return owner if move is None else move[0]

    def one_that_went(self, topic: str, source: str, target: str) -> TopicPartition | None:
        """The first partition of the topic that moved this way."""
        return next(iter(self._by_topic.get((topic, (source, target)), ())), None)

    def add(self, tp: TopicPartition, source: str, target: str) -> None:
        """It moves once more; back to where it came from, it has not moved."""
        before = self._by_partition.pop(tp, None)
        if before is not None:
            del self._by_topic[tp.topic, before][tp]
            source = before[0]
        if source != target:
            self._by_partition[tp] = (source, target)
            self._by_topic.setdefault((tp.topic, (source, target)), {})[tp] = None
