"""What Admin takes and gives: plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..types import Node, PartitionInfo, TopicPartition


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to create. -1 for `num_partitions` and `replication_factor` takes the broker's defaults (KIP-464).

    `configs`: topic options, such as {'cleanup.policy': 'compact'}. `replica_assignments`: per partition the node ids of its
    replicas, the preferred leader first; in place of the two numbers.
    """

    name: str
    num_partitions: int = -1
    replication_factor: int = -1
    configs: Mapping[str, object] = field(default_factory=dict)
    replica_assignments: Mapping[int, Sequence[int]] | None = None


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as the cluster's metadata shows it. `topic_id` is 32 hexadecimal digits, "" before Kafka 2.8."""

    name: str
    topic_id: str
    is_internal: bool
    partitions: tuple[PartitionInfo, ...]


@dataclass(frozen=True, slots=True)
class GroupListing:
    """A group as its coordinator lists it. `state` is "" before Kafka 2.6, `type` ("classic", "consumer", ...) before 3.8."""

    group_id: str
    protocol_type: str
    state: str
    type: str


@dataclass(frozen=True, slots=True)
class MemberDescription:
    """A member of a group. `member_epoch` is -1 in a classic group."""

    member_id: str
    group_instance_id: str | None
    client_id: str
    host: str
    assignment: tuple[TopicPartition, ...]
    member_epoch: int = -1


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A group. `state` is Kafka's word ("Stable", "Empty", "PreparingRebalance", ...); `protocol` names the assignor."""

    group_id: str
    state: str
    type: str
    protocol_type: str
    protocol: str
    members: tuple[MemberDescription, ...]
    coordinator: Node | None


@dataclass(frozen=True, slots=True)
class ClusterDescription:
    """The cluster. `controller` is the node to send changes to; with KRaft any broker, which passes them on."""

    cluster_id: str | None
    controller: Node | None
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One option of a topic or broker. `value` is None where it is sensitive; `is_default`: nobody set it for this resource."""

    name: str
    value: str | None
    is_default: bool
    is_read_only: bool
    is_sensitive: bool
