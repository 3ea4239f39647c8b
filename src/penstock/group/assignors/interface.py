"""What an assignor is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from ...types import TopicPartition
from ..protocol import MemberSubscription


class RebalanceProtocol(Enum):
    """How a member rebalances; the number is Kafka's and its order. Source: KIP-429, ConsumerPartitionAssignor.RebalanceProtocol."""

    EAGER = 0
    """A member gives up all it owns before it joins."""
    COOPERATIVE = 1
    """A member keeps what it owns, says so when it joins, and afterwards gives up what it was not given again."""


NO_RACKS: Final[Mapping[TopicPartition, frozenset[str]]] = MappingProxyType({})


class Assignor(ABC):
    """Distributes partitions over members; the same input gives the same output, wherever it runs.

    Subclass it for an assignor of one's own, and give the class or an instance in `partition.assignment.strategy`. All clients
    of the group need it under the same name. Its methods run in the engine: they must be short, and wait for nothing. What they
    raise ends the membership with an error.
    """

    name: str
    """The protocol's name, the same in every client of the group."""

    rebalance_protocols: tuple[RebalanceProtocol, ...] = (RebalanceProtocol.EAGER,)
    """What the assignor can be used with. With COOPERATIVE, `assign` must leave out what another member still owns: `withhold` does."""

    def user_data(self, topics: tuple[str, ...]) -> bytes | None:
        """What this member, about to join with these topics, adds to its subscription for the leader's assignor."""
        return None

    def on_assignment(self, partitions: tuple[TopicPartition, ...], generation_id: int) -> None:
        """This member was given these partitions in this generation: called in every member, after each sync."""
        return

    @abstractmethod
    def assign(
        self,
        members: Mapping[str, MemberSubscription],
        partition_counts: Mapping[str, int],
        partition_racks: Mapping[TopicPartition, frozenset[str]] = NO_RACKS,
    ) -> dict[str, list[TopicPartition]]:
        """What each member is given, by member id; every member has an entry. Runs in the group's leader.

        `partition_counts` has the number of partitions by topic; topics without an entry do not exist. `partition_racks` has the
        racks of a partition's replicas, and is empty where no racks are known (KIP-881).
        """


def member_order(members: Mapping[str, MemberSubscription]) -> list[str]:
    """Java's order of members: static ones by instance id, before the others by member id (KIP-345)."""
    return sorted(
        members, key=lambda m: (members[m].group_instance_id is None, members[m].group_instance_id or "", m)
    )
