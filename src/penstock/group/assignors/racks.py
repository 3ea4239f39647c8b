"""Racks: when an assignment heeds them, and what matches.

Reading from a replica in one's own rack is cheaper and sooner (KIP-392), so assignors prefer it where the balance allows (KIP-881).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final

from ...types import TopicPartition
from ..protocol import MemberSubscription

_NO_RACKS: Final[frozenset[str]] = frozenset()


def member_racks(members: Mapping[str, MemberSubscription]) -> dict[str, str]:
    """The racks of the members that have one."""
    return {member: s.rack_id for member, s in members.items() if s.rack_id}


def racks_matter(of_members: Iterable[str], of_partitions: Sequence[frozenset[str]]) -> bool:
    """Whether members' racks can be matched at all, and it makes a difference: not every partition has replicas in every rack."""
    every = _NO_RACKS.union(*of_partitions)
    return not every.isdisjoint(of_members) and any(racks != every for racks in of_partitions)


class RackMatch:
    """Which members and partitions are in the same rack; where racks do not matter it has no `members` and all match."""

    def __init__(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]],
    ) -> None:
        racks = member_racks(members) if partition_racks else {}
        every = [
            partition_racks.get(TopicPartition(topic, number), _NO_RACKS)
            for topic, count in partition_counts.items()
            for number in range(count)
        ]
        self.members: Mapping[str, str] = racks if racks_matter(racks.values(), every) else {}
        self._partitions = partition_racks

    def mismatch(self, member: str, tp: TopicPartition) -> bool:
        """Whether the member has a rack, and the partition no replica in it."""
        rack = self.members.get(member)
        return rack is not None and rack not in self._partitions.get(tp, _NO_RACKS)

    def scarcest_first(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        """First those that the fewest members have in their rack: the others have more to choose from."""
        if not self.members:
            return partitions
        in_rack: dict[str, int] = {}
        for rack in self.members.values():
            in_rack[rack] = in_rack.get(rack, 0) + 1
        return sorted(
            partitions, key=lambda tp: sum(in_rack.get(r, 0) for r in self._partitions.get(tp, _NO_RACKS))
        )

    def next_in_rack(self, tp: TopicPartition, members: Sequence[str], first: int) -> int | None:
        """The place of the next member in a rack of the partition, going round once from `first` on; None if there is none."""
        racks = self._partitions.get(tp, _NO_RACKS)
        if racks:
            for place in chain(range(first, len(members)), range(first)):
                if self.members.get(members[place]) in racks:
                    return place
        return None
