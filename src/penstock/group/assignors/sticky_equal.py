"""Sticky assignment where all members want the same topics: balance is counting.

Every member gets the same number of partitions or one more, so that what may be kept is known before anything is given.
Source: the constrained assignment of org.apache.kafka.clients.consumer.internals.AbstractStickyAssignor, whose order of decisions this
follows, so that a leader of either kind gives the same; racks: KIP-881.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...types import TopicPartition
from .racks import RackMatch


def assign_equal(
    owned: Mapping[str, Sequence[TopicPartition]],
    partition_counts: Mapping[str, int],
    racks: RackMatch,
    *,
    move_to_racks: bool,
) -> dict[str, list[TopicPartition]]:
    """What each of the members, the keys of `owned`, is given; all of them want all of the topics.

    With `move_to_racks` a partition in another rack than its owner is given away anew, else it stays if the balance allows.
    """
    return _EqualSubscriptions(owned, partition_counts, racks, move_to_racks=move_to_racks).assign()


class _EqualSubscriptions:
    """One assignment in the making. `given` grows only; a member is in `_below` or in `_at_least` while it may get more."""

    def __init__(
        self,
        owned: Mapping[str, Sequence[TopicPartition]],
        partition_counts: Mapping[str, int],
        racks: RackMatch,
        *,
        move_to_racks: bool,
    ) -> None:
        self._owned = owned
        self._move_to_racks = move_to_racks
        self._counts = partition_counts
        self._racks = racks
        self._least, self._with_more = divmod(sum(partition_counts.values()), len(owned))
        self._most = self._least + (self._with_more > 0)
        self._given: dict[str, list[TopicPartition]] = {member: [] for member in owned}
        self._have_more = 0  # members with more than the least; at most _with_more of them
        self._below: list[str] = []  # members with less than the least
        self._at_least: list[str] = []  # members with the least, while there may be more with more

    def assign(self) -> dict[str, list[TopicPartition]]:
        for member in sorted(self._owned):
            self._keep(member)
        kept = {tp for partitions in self._given.values() for tp in partitions}
        free = [
            tp
            for topic in sorted(self._counts)
            for number in range(self._counts[topic])
            if (tp := TopicPartition(topic, number)) not in kept
        ]
        if self._racks.members:
            free = self._fill_within_racks(self._racks.scarcest_first(free))
        self._fill(free)
        return self._given

    def _keep(self, member: str) -> None:
        """What the member owned, as far as its share goes; what is in another rack last, or not at all for now."""
        owned = sorted(self._owned[member], key=lambda tp: (tp.partition, tp.topic))
        if self._racks.members:
            near = [tp for tp in owned if not self._racks.mismatch(member, tp)]
            far = [] if self._move_to_racks else [tp for tp in owned if self._racks.mismatch(member, tp)]
            owned = near + far
        if len(owned) < self._least:
            self._below.append(member)
        elif len(owned) >= self._most and self._have_more < self._with_more:
            owned = owned[: self._most]
            self._one_more_has_more()
        else:
            owned = owned[: self._least]
            if self._have_more < self._with_more:
                self._at_least.append(member)
        self._given[member] += owned

    def _one_more_has_more(self) -> None:
        self._have_more += 1
        if self._have_more == self._with_more:
            self._at_least.clear()

    def _fill_within_racks(self, free: list[TopicPartition]) -> list[TopicPartition]:
        """Deal out what has a member in its rack, those below the least first; the rest is returned."""
        turn = 0
        rest = []
        for tp in free:
            place = self._racks.next_in_rack(tp, self._below, turn)
            if place is not None:
                self._given[self._below[place]].append(tp)
                turn = self._after(place)
                continue
            place = self._racks.next_in_rack(tp, self._at_least, 0)
            if place is None:
                rest.append(tp)
                continue
            self._given[self._at_least.pop(place)].append(tp)
            self._one_more_has_more()
        return rest

    def _after(self, place: int) -> int:
        """Whose turn it is once the member at this place among those below the least was given a partition."""
        member = self._below[place]
        if len(self._given[member]) < self._least:
            place += 1
        else:
            del self._below[place]
            if self._have_more < self._with_more:
                self._at_least.append(member)
        return place if place < len(self._below) else 0

    def _fill(self, free: Sequence[TopicPartition]) -> None:
        """Deal out the rest, in turns: first up to the least, then one each."""
        turn = 0
        remaining = iter(free)
        while self._below:
            tp = next(remaining)  # there are enough: the sum of all shares is the number of partitions
            self._given[self._below[turn]].append(tp)
            turn = self._after(turn)
        for member, tp in zip(list(self._at_least), remaining, strict=False):
            self._given[member].append(tp)
