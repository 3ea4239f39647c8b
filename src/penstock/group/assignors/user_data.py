"""What sticky assignors add to a member's subscription, as Java's classes write and read it.

`sticky` tells what the member was last given, since with eager rebalancing it owns nothing while it joins: an array of
(topic, array of int32 partitions), and since version 1 (KIP-341) the generation as an int32. `cooperative-sticky` tells the generation
only; newer members have it in the subscription itself (KIP-792).
Source: org.apache.kafka.clients.consumer.StickyAssignor and CooperativeStickyAssignor.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from ...types import TopicPartition
from .claims import NO_GENERATION, Claim


def encode_owned(partitions: Iterable[TopicPartition], generation_id: int) -> bytes:
    """The user data of `sticky`, version 1."""
    topics: dict[str, list[int]] = {}
    for topic, number in partitions:
        topics.setdefault(topic, []).append(number)
    parts = [struct.pack(">i", len(topics))]
    for topic, numbers in topics.items():
        name = topic.encode()
        parts.append(struct.pack(f">h{len(name)}si{len(numbers)}i", len(name), name, len(numbers), *numbers))
    parts.append(struct.pack(">i", generation_id))
    return b"".join(parts)


def decode_owned(data: bytes | None) -> Claim:
    """What a member with this user data had. Nothing where it cannot be read: it is a wish, and no reason to fail a rebalance."""
    if not data:
        return Claim()
    try:
        partitions, at = _read_topics(data)
    except (struct.error, ValueError):
        return Claim()
    if len(data) - at < 4:  # version 0
        return Claim(partitions)
    return Claim(partitions, struct.unpack_from(">i", data, at)[0])


def _read_topics(data: bytes) -> tuple[tuple[TopicPartition, ...], int]:
    partitions: list[TopicPartition] = []
    (topics,) = struct.unpack_from(">i", data)
    if topics < 0:
        raise ValueError("a negative number of topics")
    at = 4
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", data, at)
        if not 0 <= length <= len(data) - at - 2:
            raise ValueError("a topic longer than the data")
        name = data[at + 2 : at + 2 + length].decode()
        at += 2 + length
        (count,) = struct.unpack_from(">i", data, at)
        partitions += [
            TopicPartition(name, number) for number in struct.unpack_from(f">{count}i", data, at + 4)
        ]
        at += 4 + 4 * count
    return tuple(partitions), at


def encode_generation(generation_id: int) -> bytes:
    """The user data of `cooperative-sticky`."""
    return struct.pack(">i", generation_id)


def decode_generation(data: bytes | None) -> int:
    """The generation in this user data; -1 where there is none."""
    if data is None or len(data) < 4:
        return NO_GENERATION
    return int(struct.unpack_from(">i", data)[0])
