"""What is done beyond the committed offset, as the text of a commit's metadata, and back.

    penstock:1:<committed offset>:<base 85 of: CRC-32, kind, body, perhaps deflated>

The body tells runs of offsets from the committed one on, in turn not done and done: as varints, or as one bit per offset; the smaller one
is taken. A broker refuses metadata of more than offset.metadata.max.bytes (4096; it counts characters. Source: GroupMetadataManager,
OffsetMetadataManager), so what does not fit is left out from the end: it will be handled again, nothing worse.

Who reads a text that makes no sense, or is about another offset, learns nothing; never an error (another program's metadata, a newer
penstock's, a hostile one's).
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence

MAX_CHARS = 4096
_PREFIX = "penstock:1:"
_VARINTS, _BITS, _DEFLATED = 0, 1, 2
_MOST_BYTES = 1 << 20
"""Of a body once inflated: 4 kB of hostile text would inflate to 4 MB."""
_MOST_RUNS = 100_000
"""Only runs all alike are so well compressed that more would fit."""

Ranges = list[tuple[int, int]]
"""Half-open runs of offsets, ascending, apart from each other."""


def merged(runs: Iterable[tuple[int, int]]) -> Ranges:
    """These runs, in any order and overlapping as they may, as ranges; empty ones are left out."""
    found: Ranges = []
    for start, end in sorted(run for run in runs if run[0] < run[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def encode(offset: int, done: Sequence[tuple[int, int]], max_chars: int = MAX_CHARS) -> str:
    """As much of `done`, all of it above `offset`, as fits; from the lowest on. "" where nothing fits or is there."""
    most = min(len(done), _MOST_RUNS)
    if not most:
        return ""
    text = _encode(offset, done[:most])
    if len(text) <= max_chars:
        return text
    least = 0  # so many runs fit
    while least + 1 < most:
        middle = (least + most) // 2
        text = _encode(offset, done[:middle])
        if len(text) <= max_chars:
            least = middle
        else:
            most = middle
    return _encode(offset, done[:least]) if least else ""


def _encode(offset: int, done: Sequence[tuple[int, int]]) -> str:
    lengths = []
    at = offset
    for start, end in done:
        lengths += [start - at, end - start]
        at = end
    bodies = [(_VARINTS, b"".join(map(_varint, lengths)))]
    if at - offset <= 8 * len(bodies[0][1]):  # else the bits cannot be shorter
        bodies.append((_BITS, _bits(offset, done)))
    bodies += [(kind | _DEFLATED, zlib.compress(body, 6)) for kind, body in bodies]
    kind, body = min(bodies, key=lambda entry: len(entry[1]))
    payload = bytes((kind,)) + body
    checked = zlib.crc32(payload, offset & 0xFFFFFFFF).to_bytes(4, "big") + payload
    return f"{_PREFIX}{offset}:{base64.b85encode(checked).decode('ascii')}"


def decode(offset: int, text: str) -> Ranges:
    """The runs that are done, all above the committed `offset`; none where the text does not tell."""
    prefix = f"{_PREFIX}{offset}:"
    if not text.startswith(prefix):
        return []
    try:
        checked = base64.b85decode(text[len(prefix) :])
        crc, payload = checked[:4], checked[4:]
        if len(crc) < 4 or int.from_bytes(crc, "big") != zlib.crc32(payload, offset & 0xFFFFFFFF):
            return []
        kind, body = payload[0], payload[1:]
        if kind & _DEFLATED:
            inflating = zlib.decompressobj()
            body = inflating.decompress(body, _MOST_BYTES)
            if not inflating.eof:
                return []
        lengths = _from_bits(body) if kind & _BITS else _from_varints(body)
    except (ValueError, IndexError, zlib.error, binascii.Error):
        return []
    return _ranges(offset, lengths)


def _ranges(offset: int, lengths: Iterable[int]) -> Ranges:
    found: Ranges = []
    at, done = offset, False
    for length in lengths:
        if length <= 0 or at + length > 2**63 - 1:
            return []
        if done:
            found.append((at, at + length))
        at, done = at + length, not done
    return found


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _from_varints(body: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in body:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number, shift = 0, 0
        elif shift > 63:
            raise ValueError("a varint of more than 63 bits")
    if shift:
        raise ValueError("a varint that does not end")
    return numbers


def _bits(offset: int, done: Sequence[tuple[int, int]]) -> bytes:
    """Lowest bit first."""
    text, at = [], offset
    for start, end in done:
        text += ["0" * (start - at), "1" * (end - start)]
        at = end
    return int("".join(text)[::-1], 2).to_bytes((at - offset + 7) // 8, "little")


def _from_bits(body: bytes) -> list[int]:
    lengths, current, length = [], 0, 0
    for byte in body:
        for place in range(8):
            bit = byte >> place & 1
            if bit == current:
                length += 1
            else:
                lengths.append(length)
                current, length = bit, 1
    if current:
        lengths.append(length)
    return lengths
