"""What classic consumers tell each other in JoinGroup and SyncGroup: ConsumerProtocolSubscription and -Assignment.

A coordinator reads them only where a group changes protocols (KIP-848). Source: the schemas of these names in
clients/src/main/resources/common/message of Apache Kafka; versions 0 to 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from penstock.types import TopicPartition


class Malformed(ValueError):
    """Bytes that are no such message."""


@dataclass(frozen=True, slots=True)
class Subscription:
    version: int
    topics: frozenset[str]
    owned: tuple[TopicPartition, ...] = ()  # from version 1 on
    rack_id: str | None = None  # from version 3 on


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def number(self, form: str) -> int:
        try:
            (value,) = struct.unpack_from(form, self._data, self._position)
        except struct.error as error:
            raise Malformed(str(error)) from None
        self._position += struct.calcsize(form)
        return int(value)

    def count(self) -> int:
        """Of an array: null counts as empty; more than there are bytes cannot be."""
        value = self.number(">i")
        if value > len(self._data):
            raise Malformed(f"{value} elements in {len(self._data)} bytes")
        return max(0, value)

    def bytes_(self, length: int) -> bytes:
        end = self._position + length
        if end > len(self._data):
            raise Malformed(f"{length} bytes, where fewer are left")
        value, self._position = self._data[self._position : end], end
        return value

    def text(self) -> str | None:
        length = self.number(">h")
        try:
            return None if length < 0 else self.bytes_(length).decode()
        except UnicodeDecodeError as error:
            raise Malformed(str(error)) from None

    def partitions(self) -> tuple[TopicPartition, ...]:
        found: list[TopicPartition] = []
        for _ in range(self.count()):
            topic = self.text() or ""
            found += [TopicPartition(topic, self.number(">i")) for _ in range(self.count())]
        return tuple(found)


def decode_subscription(data: bytes) -> Subscription:
    """Raises Malformed."""
    reader = _Reader(data)
    version = reader.number(">h")
    topics = frozenset(reader.text() or "" for _ in range(reader.count()))
    reader.bytes_(max(0, reader.number(">i")))  # the assignor's own data
    owned = reader.partitions() if version >= 1 else ()
    if version >= 2:
        reader.number(">i")  # the generation of what is owned
    rack_id = reader.text() if version >= 3 else None
    return Subscription(version, topics, owned, rack_id)


def decode_assignment(data: bytes) -> tuple[TopicPartition, ...]:
    """Raises Malformed. No bytes at all are an assignment of nothing."""
    if not data:
        return ()
    reader = _Reader(data)
    reader.number(">h")
    return reader.partitions()


def encode_assignment(version: int, partitions: Iterable[TopicPartition]) -> bytes:
    by_topic: dict[str, list[int]] = {}
    for topic, partition in sorted(partitions):
        by_topic.setdefault(topic, []).append(partition)
    return struct.pack(">h", max(0, min(version, 3))) + _partitions(by_topic) + struct.pack(">i", -1)


def _partitions(by_topic: Mapping[str, list[int]]) -> bytes:
    parts = [struct.pack(">i", len(by_topic))]
    for topic, numbers in by_topic.items():
        name = topic.encode()
        parts += [
            struct.pack(">h", len(name)),
            name,
            struct.pack(f">i{len(numbers)}i", len(numbers), *numbers),
        ]
    return b"".join(parts)
