"""What members tell each other through the coordinator: subscriptions and assignments of the protocol type "consumer".

Source: ConsumerProtocolSubscription.json and ConsumerProtocolAssignment.json of Apache Kafka; KIP-429, KIP-792, KIP-881. Each is a
16-bit version and the fields of that version; a reader takes what it knows and leaves the rest, so that newer members
can add fields at the end.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

from kio.index import load_entity_schema
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType

from ..errors import ProtocolError
from ..types import TopicPartition

SUBSCRIPTION_VERSION = 3
ASSIGNMENT_VERSION = 3


@dataclass(frozen=True, slots=True)
class MemberSubscription:
    """What one member wants, as the leader sees it."""

    topics: tuple[str, ...]
    owned_partitions: tuple[TopicPartition, ...] = ()
    user_data: bytes | None = None
    generation_id: int = -1
    rack_id: str | None = None
    group_instance_id: str | None = None


def encode_subscription(subscription: MemberSubscription) -> bytes:
    """The metadata of a JoinGroup protocol."""
    cls: Any = load_entity_schema("consumer_protocol_subscription", SUBSCRIPTION_VERSION, EntityType.data)
    nested = _nested(cls, "owned_partitions")
    message = cls(
        topics=tuple(sorted(subscription.topics)),
        user_data=subscription.user_data,
        owned_partitions=_grouped(nested, subscription.owned_partitions),
        generation_id=subscription.generation_id,
        rack_id=subscription.rack_id,
    )
    return _encode(SUBSCRIPTION_VERSION, message)


def decode_subscription(data: bytes, group_instance_id: str | None = None) -> MemberSubscription:
    """What a member of any client and version asks for. ProtocolError where the bytes make no sense."""
    message = _decode("consumer_protocol_subscription", data, SUBSCRIPTION_VERSION)
    return MemberSubscription(
        tuple(str(topic) for topic in message.topics),
        _flat(getattr(message, "owned_partitions", ())),
        message.user_data,
        int(getattr(message, "generation_id", -1)),
        getattr(message, "rack_id", None),
        group_instance_id,
    )


def encode_assignment(partitions: Iterable[TopicPartition], user_data: bytes | None = None) -> bytes:
    """What the leader gives a member, for SyncGroup."""
    cls: Any = load_entity_schema("consumer_protocol_assignment", ASSIGNMENT_VERSION, EntityType.data)
    nested = _nested(cls, "assigned_partitions")
    return _encode(
        ASSIGNMENT_VERSION, cls(assigned_partitions=_grouped(nested, partitions), user_data=user_data)
    )


def decode_assignment(data: bytes) -> tuple[TopicPartition, ...]:
    """The partitions given, in the order in which they stand; empty bytes mean none."""
    if not data:
        return ()
    return _flat(_decode("consumer_protocol_assignment", data, ASSIGNMENT_VERSION).assigned_partitions)


def _encode(version: int, message: Any) -> bytes:
    buffer = BytesIO()
    buffer.write(struct.pack(">h", version))
    entity_writer(type(message))(buffer, message)
    return buffer.getvalue()


def _decode(name: str, data: bytes, highest: int) -> Any:
    try:
        (version,) = struct.unpack_from(">h", data)
        if version < 0:
            raise ValueError(f"version {version}")
        cls = load_entity_schema(name, min(version, highest), EntityType.data)
        message, _ = entity_reader(cls)(data, 2)
    except Exception as error:
        raise ProtocolError(
            f"a {name.replace('_', ' ')} of {len(data)} bytes cannot be read: {error}"
        ) from error
    return message


@lru_cache  # reading a class's annotations costs more than all the rest of encoding
def _nested(cls: Any, field: str) -> Any:
    import typing

    return typing.get_args(typing.get_type_hints(cls)[field])[0]


def _grouped(nested: Any, partitions: Iterable[TopicPartition]) -> tuple[Any, ...]:
    topics: dict[str, list[int]] = defaultdict(list)
    for topic, partition in partitions:
        topics[topic].append(partition)
    return tuple(nested(topic=topic, partitions=tuple(numbers)) for topic, numbers in topics.items())


def _flat(topics: Sequence[Any]) -> tuple[TopicPartition, ...]:
    return tuple(TopicPartition(str(t.topic), int(p)) for t in topics for p in t.partitions)
