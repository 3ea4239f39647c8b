"""The round-robin assignor: all partitions dealt out one by one.

Source: org.apache.kafka.clients.consumer.RoundRobinAssignor.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...types import TopicPartition
from ..protocol import MemberSubscription
from .interface import NO_RACKS, Assignor, member_order


class RoundRobinAssignor(Assignor):
    name = "roundrobin"

    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = NO_RACKS,
    ) -> dict[str, list[TopicPartition]]:
        assignment: dict[str, list[TopicPartition]] = {member: [] for member in members}
        order = member_order(members)
        wanted = {topic for member in order for topic in members[member].topics}
        subscribed = {member: frozenset(members[member].topics) for member in order}
        place = 0
        for topic in sorted(wanted):
            for number in range(partition_counts.get(topic, 0)):
                while topic not in subscribed[order[place % len(order)]]:
                    place += 1
                assignment[order[place % len(order)]].append(TopicPartition(topic, number))
                place += 1
        return assignment
