"""The range assignor: neighbouring partitions of each topic to one member.

Partition n of topics with equally many partitions goes to the same member, which is what joins by key need.
Source: org.apache.kafka.clients.consumer.RangeAssignor.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...types import TopicPartition
from ..protocol import MemberSubscription
from .interface import NO_RACKS, Assignor, member_order


class RangeAssignor(Assignor):
    name = "range"

    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = NO_RACKS,
    ) -> dict[str, list[TopicPartition]]:
        assignment: dict[str, list[TopicPartition]] = {member: [] for member in members}
        readers: dict[str, list[str]] = {}
        for member in member_order(members):
            for topic in set(members[member].topics):
                readers.setdefault(topic, []).append(member)
        for topic in sorted(readers):
            count = partition_counts.get(topic, 0)
            share, more = divmod(count, len(readers[topic]))
            start = 0
            for place, member in enumerate(readers[topic]):
                end = start + share + (place < more)
                assignment[member] += [TopicPartition(topic, number) for number in range(start, end)]
                start = end
        return assignment
