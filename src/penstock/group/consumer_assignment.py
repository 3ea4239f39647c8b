"""What a member of the consumer protocol owns, what the coordinator wants it to own, and what lies between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from ..types import TopicPartition

TopicIdPartition: TypeAlias = tuple[bytes, int]
"""A partition as the coordinator names it: the topic's id, 16 bytes, and the partition's number."""


class Reconciliation:
    """Kept by topic id, so that a topic that was made again under its name is given back and taken anew, never read on.

    Written by the machine only.
    """

    def __init__(self) -> None:
        self.owned: dict[TopicIdPartition, TopicPartition] = {}
        self.target: frozenset[TopicIdPartition] = frozenset()
        self._names: dict[bytes, str] = {}

    def learn(self, names: Mapping[bytes, str]) -> None:
        """Take in what the metadata tells. Of what it told before, the names in use are kept: it may have forgotten them meanwhile."""
        used = {topic_id for topic_id, _ in (*self.target, *self.owned)}
        # A name that has gone to another id means that the topic was made again: the old id is no topic any more.
        told = {name: topic_id for topic_id, name in names.items()}
        kept = {i: name for i, name in self._names.items() if i in used and name not in told}
        self._names = kept | {topic_id: name for name, topic_id in told.items()}

    def unresolved(self) -> tuple[bytes, ...]:
        """The topic ids of the target that have no name yet."""
        return tuple(sorted({topic_id for topic_id, _ in self.target if topic_id not in self._names}))

    def reachable(self) -> dict[TopicIdPartition, TopicPartition]:
        """The target as far as its names are known: a topic that is new to the metadata does not hold up the others."""
        return {
            (topic_id, partition): TopicPartition(self._names[topic_id], partition)
            for topic_id, partition in self.target
            if topic_id in self._names
        }

    def drop(self, partitions: Iterable[TopicIdPartition]) -> None:
        """These are no longer owned."""
        for key in partitions:
            self.owned.pop(key, None)

    def owned_ids(self) -> tuple[TopicIdPartition, ...]:
        """What is owned, as the coordinator is told."""
        return tuple(sorted(self.owned))

    def partitions(self) -> tuple[TopicPartition, ...]:
        """What is owned, as the user knows it."""
        return tuple(sorted(self.owned.values()))
