"""Kafka's nouns as plain values. No behaviour beyond what a value owes: equality, order, a readable form."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@dataclass(frozen=True, slots=True)
class OffsetAndMetadata:
    """A committed offset: the offset of the *next* record to read, a note, and the leader epoch of the record before it.

    `leader_epoch` is -1 where it is not known (KIP-320).
    """

    offset: int
    metadata: str = ""
    leader_epoch: int = -1


@dataclass(frozen=True, slots=True)
class OffsetAndTimestamp:
    """What ListOffsets answers for a time: the first offset whose timestamp (ms since 1970) is not below it."""

    offset: int
    timestamp: int
    leader_epoch: int = -1


class TimestampType(IntEnum):
    """Who set a record's timestamp. Source: KIP-32."""

    NO_TIMESTAMP_TYPE = -1
    CREATE_TIME = 0
    LOG_APPEND_TIME = 1


@dataclass(frozen=True, slots=True)
class Node:
    """A broker as the metadata names it."""

    id: int
    host: str
    port: int
    rack: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port} (node {self.id})"


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition and where it lives. `leader` is None while there is none; replicas are node ids."""

    topic: str
    partition: int
    leader: Node | None
    replicas: tuple[int, ...] = ()
    in_sync_replicas: tuple[int, ...] = ()
    offline_replicas: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsumerGroupMetadata:
    """A member of a group as the coordinator knows it: what a transaction needs to commit offsets on its behalf (KIP-447).

    `generation_id` is the generation, or the member epoch with the consumer protocol (KIP-848); -1, with an empty `member_id`, while
    the consumer is no member.
    """

    group_id: str
    generation_id: int = -1
    member_id: str = ""
    group_instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class RecordMetadata:
    """Where a produced record came to rest. `offset` is -1 with `acks=0`; `timestamp` is in ms since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int


Header = tuple[str, bytes | None]
"""A record header: its key, and its value or None."""
