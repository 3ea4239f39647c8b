"""The range assignor: neighbouring partitions of each topic to one member.

Partition n of topics with equally many partitions goes to the same member, which is what joins by key need.
Source: org.apache.kafka.clients.consumer.RangeAssignor; racks: KIP-881.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from ...types import TopicPartition
from ..protocol import MemberSubscription
from .interface import NO_RACKS, Assignor, member_order
from .racks import member_racks, racks_matter

Assignment = dict[str, list[TopicPartition]]


class RangeAssignor(Assignor):
    name = "range"

    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = NO_RACKS,
    ) -> Assignment:
        readers: dict[str, list[str]] = {}
        for member in member_order(members):
            for topic in set(members[member].topics):
                readers.setdefault(topic, []).append(member)
        racks = member_racks(members)
        topics = [
            _Topic(topic, partition_counts[topic], readers[topic], racks, partition_racks)
            for topic in sorted(readers)
            if partition_counts.get(topic, 0) > 0
        ]
        assignment: Assignment = {member: [] for member in members}
        heed_racks = any(state.racks_matter for state in topics)
        if heed_racks:
            _assign_within_racks(topics, assignment)
        for state in topics:
            state.assign_ranges(assignment)
        if heed_racks:
            for partitions in assignment.values():
                partitions.sort()
        return assignment


class _Topic:
    """One topic's partitions while they are given away."""

    def __init__(
        self,
        name: str,
        count: int,
        readers: Sequence[str],
        member_racks: Mapping[str, str],
        partition_racks: Mapping[TopicPartition, frozenset[str]],
    ) -> None:
        self.name = name
        self.readers = readers
        self._share, self._with_more = divmod(count, len(readers))
        self._given = dict.fromkeys(readers, 0)
        self._free = dict.fromkeys(range(count))
        self._member_racks = {m: member_racks[m] for m in readers if m in member_racks}
        self._racks: Sequence[frozenset[str]] = ()  # by partition; empty where no reader has a rack
        if self._member_racks:
            self._racks = [
                partition_racks.get(TopicPartition(name, number), frozenset()) for number in range(count)
            ]
        self.racks_matter = racks_matter(self._member_racks.values(), self._racks)

    @property
    def count_with_racks(self) -> int:
        """The number of its partitions where a reader has a rack, else 0."""
        return len(self._racks)

    def match(self, member: str, number: int) -> bool:
        rack = self._member_racks.get(member)
        return rack is None or rack in self._racks[number]

    def room(self, member: str) -> int:
        """How many more partitions the member may have."""
        return max(0, self._share + (self._with_more > 0) - self._given[member])

    def give(self, member: str, numbers: Iterable[int], assignment: Assignment) -> None:
        numbers = list(numbers)
        assignment[member] += [TopicPartition(self.name, number) for number in numbers]
        for number in numbers:
            del self._free[number]
        if numbers:
            self._given[member] += len(numbers)
            self._with_more -= self._given[member] > self._share

    def assign_ranges(self, assignment: Assignment, *, within_racks: bool = False) -> None:
        """Each member in turn takes the lowest partitions that are left, as many as it may have."""
        for member in self.readers:
            numbers: Iterable[int] = self._free
            if within_racks:
                numbers = (number for number in self._free if self.match(member, number))
            self.give(member, islice(numbers, self.room(member)), assignment)


def _assign_within_racks(topics: Sequence[_Topic], assignment: Assignment) -> None:
    """What can be given to members in a partition's rack. Topics that can be joined by partition stay so: that comes before racks."""
    joinable: dict[tuple[frozenset[str], int], list[_Topic]] = {}
    for topic in topics:
        joinable.setdefault((frozenset(topic.readers), topic.count_with_racks), []).append(topic)
    for alike in joinable.values():
        if len(alike) > 1:
            _assign_joinable(alike, assignment)
        elif alike[0].racks_matter:
            alike[0].assign_ranges(assignment, within_racks=True)


def _assign_joinable(topics: Sequence[_Topic], assignment: Assignment) -> None:
    """Partition n of all of them to the first member in all of its racks that may have one more of each."""
    remaining = list(topics[0].readers)
    for number in range(topics[0].count_with_racks):
        member = next(
            (m for m in remaining if all(t.room(m) > 0 and t.match(m, number) for t in topics)), None
        )
        if member is None:
            continue
        for topic in topics:
            topic.give(member, (number,), assignment)
        if not any(topic.room(member) for topic in topics):
            remaining.remove(member)
