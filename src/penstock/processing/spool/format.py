"""The bytes of a spool's files. Pure.

    file      identity, then frames (segments) or entries (the journal)
    identity  magic "PSP1", length u32, kind, group, topic, partition, isolation level, topic id, CRC-32; any other file is not read
    frame     length u32, the payload's CRC-32, first position i64, next position i64, records u32, leader epoch of the last record i32,
              CRC-32 of all these; then the payload, which is what ConsumerRecords.pack() made
    entry     length u32, kind u8, CRC-32 of both and the body; then the body

Little-endian. A length counts for nothing before its CRC has been checked, and never beyond the end of the file.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

SEGMENT, JOURNAL = b"S", b"J"
_MAGIC = b"PSP1"
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<IIqqIi")
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<IB")
HEAD_BYTES = _HEAD.size + _CRC.size
ENTRY_BYTES = _ENTRY.size + _CRC.size
_MOST_OFFSET = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose files these are. `topic_id`: 16 bytes, zero where the broker has none; a topic that is made again has another one (KIP-516).
    `isolation_level`: which records of transactions were read."""

    group_id: str
    topic: str
    partition: int
    topic_id: bytes
    isolation_level: str = "read_uncommitted"

    def header(self, kind: bytes) -> bytes:
        """What a file of this partition begins with."""
        texts = [self.group_id, self.topic, str(self.partition), self.isolation_level]
        parts = [*map(str.encode, texts), self.topic_id]
        body = kind + b"".join(_LENGTH.pack(len(part)) + part for part in parts)
        framed = _MAGIC + _LENGTH.pack(len(body)) + body
        return framed + _CRC.pack(zlib.crc32(framed))


class FrameHead(NamedTuple):
    """A run of one partition's records: all of them from the position `start` on, up to `next_offset`."""

    length: int
    crc: int
    start: int
    next_offset: int
    records: int
    leader_epoch: int


def encode_head(payload: bytes, start: int, next_offset: int, records: int, leader_epoch: int) -> bytes:
    """What stands before the payload."""
    head = _HEAD.pack(len(payload), zlib.crc32(payload), start, next_offset, records, leader_epoch)
    return head + _CRC.pack(zlib.crc32(head))


def decode_head(data: bytes, room_bytes: int) -> FrameHead | None:
    """None where this is no head, or one of a payload that does not fit in what the file has behind it."""
    if len(data) < HEAD_BYTES:
        return None
    if _CRC.unpack_from(data, _HEAD.size)[0] != zlib.crc32(data[: _HEAD.size]):
        return None
    head = FrameHead(*_HEAD.unpack_from(data))
    if head.length > room_bytes or not 0 <= head.start < head.next_offset or not head.records:
        return None
    return head


def encode_entry(kind: int, body: bytes) -> bytes:
    """One entry of a journal."""
    head = _ENTRY.pack(len(body), kind)
    return head + _CRC.pack(zlib.crc32(body, zlib.crc32(head))) + body


def decode_entries(data: bytes, at: int) -> tuple[list[tuple[int, bytes]], int]:
    """(kind, body) of all entries from `at` on that are whole, and where the last of them ends."""
    found = []
    while len(data) - at >= ENTRY_BYTES:
        length, kind = _ENTRY.unpack_from(data, at)
        body_at = at + ENTRY_BYTES
        if length > len(data) - body_at:
            break
        body = data[body_at : body_at + length]
        crc = zlib.crc32(body, zlib.crc32(data[at : at + _ENTRY.size]))
        if crc != _CRC.unpack_from(data, at + _ENTRY.size)[0]:
            break
        found.append((kind, body))
        at = body_at + length
    return found, at
