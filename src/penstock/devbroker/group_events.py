"""What the group coordinator is told, and what it answers: plain values, one name per request of the protocol.

Every event but Tick carries a token, which the machine hands back with the answer and never looks into.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from penstock.types import OffsetAndMetadata, TopicPartition

from .codes import Code
from .consumer_assignors import Partition

Token = Any


class GroupState(Enum):
    """Kafka's states of a classic group, by the names that DescribeGroups gives."""

    EMPTY = "Empty"  # no members; may have offsets
    PREPARING_REBALANCE = "PreparingRebalance"  # waiting for members to join again
    COMPLETING_REBALANCE = "CompletingRebalance"  # a generation exists, its leader's assignment does not yet
    STABLE = "Stable"  # every member may have its assignment
    DEAD = "Dead"  # only described: a group that does not exist


# ---------------------------------------------------------------- events
@dataclass(frozen=True, slots=True)
class JoinGroup:
    token: Token
    group_id: str
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    member_id_required: bool = True  # JoinGroup v4 and later (KIP-394)
    may_skip_assignment: bool = True  # JoinGroup v9 and later (KIP-814)


@dataclass(frozen=True, slots=True)
class SyncGroup:
    token: Token
    group_id: str
    generation: int
    member_id: str
    instance_id: str | None = None
    protocol_type: str | None = None
    protocol_name: str | None = None
    assignments: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    token: Token
    group_id: str
    generation: int
    member_id: str
    instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class LeaveGroup:
    token: Token
    group_id: str
    members: tuple[tuple[str, str | None], ...]  # (member id or "", instance id or None)


@dataclass(frozen=True, slots=True)
class CommitOffsets:
    """Also TxnOffsetCommit: then producer_id is set, and the offsets wait for EndTransaction (KIP-98, KIP-447).

    `generation` is the member epoch of a member of a consumer group (KIP-848).
    """

    token: Token
    group_id: str
    generation: int
    member_id: str
    instance_id: str | None
    offsets: Mapping[TopicPartition, OffsetAndMetadata]
    producer_id: int = -1
    version: int = 9  # of OffsetCommit: below 9 nobody speaks of member epochs


@dataclass(frozen=True, slots=True)
class EndTransaction:
    """The transaction of a producer that committed offsets of this group was decided."""

    token: Token
    group_id: str
    producer_id: int
    commit: bool


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    token: Token
    group_id: str


@dataclass(frozen=True, slots=True)
class DeleteOffsets:
    """OffsetDelete (KIP-496): answered with a code per partition."""

    token: Token
    group_id: str
    partitions: tuple[TopicPartition, ...]


@dataclass(frozen=True, slots=True)
class ConsumerHeartbeat:
    """ConsumerGroupHeartbeat (KIP-848). None, and -1 of the timeout: unchanged since the member's last one.

    `member_epoch`: 0 joins, -1 leaves, -2 is a static member that will be back.
    """

    token: Token
    group_id: str
    member_id: str
    member_epoch: int
    instance_id: str | None = None
    rack_id: str | None = None
    rebalance_timeout_ms: int = -1
    topics: frozenset[str] | None = None
    regex: str | None = None
    assignor: str | None = None
    owned: frozenset[Partition] | None = None
    client_id: str = ""
    client_host: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True)
class TopicChanged:
    """A topic was made, or has more partitions."""

    token: Token
    topic: str
    topic_id: Hashable
    partitions: int


@dataclass(frozen=True, slots=True)
class TopicDeleted:
    token: Token
    topic: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; nothing else happened."""


Event = (
    JoinGroup | SyncGroup | Heartbeat | LeaveGroup | CommitOffsets | EndTransaction | DeleteGroup | DeleteOffsets
    | ConsumerHeartbeat | TopicChanged | TopicDeleted | Tick
)  # fmt: skip


# ---------------------------------------------------------------- answers and effects
@dataclass(frozen=True, slots=True)
class Joined:
    code: Code
    member_id: str = ""
    generation: int = -1
    protocol_type: str | None = None
    protocol_name: str | None = None
    leader: str = ""
    members: tuple[
        tuple[str, str | None, bytes], ...
    ] = ()  # (member id, instance id, metadata), for the leader
    skip_assignment: bool = False


@dataclass(frozen=True, slots=True)
class Synced:
    code: Code
    assignment: bytes = b""
    protocol_type: str | None = None
    protocol_name: str | None = None


@dataclass(frozen=True, slots=True)
class Left:
    code: Code
    members: tuple[tuple[str, str | None, Code], ...] = ()


@dataclass(frozen=True, slots=True)
class Answered:
    """A code, and one per partition where the request names partitions."""

    code: Code
    partitions: Mapping[TopicPartition, Code] | None = None


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """To ConsumerGroupHeartbeat. `assignment`: all the member may have now; None: what it was told before.

    An error has its code and message only.
    """

    code: Code
    member_id: str = ""
    member_epoch: int = 0
    heartbeat_interval_ms: int = 0
    assignment: frozenset[Partition] | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    token: Token
    answer: Joined | Synced | Left | Answered | HeartbeatAnswered


@dataclass(frozen=True, slots=True)
class StoreOffsets:
    """Make these durable before the replies that follow; None means the offset is gone.

    With a producer id they wait for the end of its transaction, and do not count yet.
    """

    group_id: str
    offsets: Mapping[TopicPartition, OffsetAndMetadata | None]
    producer_id: int = -1


@dataclass(frozen=True, slots=True)
class StoreDecision:
    """The offsets that wait for this producer's transaction count from now on, or are dropped; make that durable."""

    group_id: str
    producer_id: int
    commit: bool


@dataclass(frozen=True, slots=True)
class StoreDeletion:
    """The group is gone, with all its offsets; make that durable."""

    group_id: str


Effect = Reply | StoreOffsets | StoreDecision | StoreDeletion
