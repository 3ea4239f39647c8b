"""What an assignor is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from ...types import TopicPartition
from ..protocol import MemberSubscription


class Assignor(ABC):
    """Distributes partitions over members; the same input gives the same output, wherever it runs."""

    name: str
    """The protocol's name, the same in every client of the group."""

    def user_data(self, topics: tuple[str, ...]) -> bytes | None:
        """What this member adds to its subscription for the leader's assignor."""
        return None

    @abstractmethod
    def assign(
        self, members: Mapping[str, MemberSubscription], partition_counts: Mapping[str, int]
    ) -> dict[str, list[TopicPartition]]:
        """By member id; every member has an entry. Topics without an entry in `partition_counts` do not exist."""


def member_order(members: Mapping[str, MemberSubscription]) -> list[str]:
    """Java's order of members: static ones by instance id, before the others by member id (KIP-345)."""
    return sorted(
        members, key=lambda m: (members[m].group_instance_id is None, members[m].group_instance_id or "", m)
    )
