"""Requests made of records: bodies, idempotency keys, and which of them may be under way together. Pure, but for the user's functions."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from .._native import ConsumerRecord, ConsumerRecords
from ..errors import ConfigError
from .columns import Columns, Source, given_columns
from .values import RowMaker

Body = Literal["value", "json"] | Callable[[ConsumerRecord], Any]
_MOST_RUNS = 100
"""A batch is cut where its offsets have so many gaps: they are named in a header, which servers limit to some kB."""


class Bodies:
    """Makes the body of a record, or of several. What it raises says that the record is none."""

    def __init__(self, body: Body, columns: Columns, style: Literal["json", "ndjson"]) -> None:
        if body not in ("value", "json") and not callable(body):
            raise ConfigError(
                f"HttpSink(body={body!r}): 'value', 'json' with columns, or a function of the record"
            )
        if (body == "json") != (columns is not None):
            raise ConfigError(
                "HttpSink: body='json' goes with columns={'id': 'value.id', …}, and columns with body='json'"
            )
        if style not in ("json", "ndjson"):
            raise ConfigError(f"HttpSink(batch_format={style!r}): 'json' or 'ndjson'")
        self._body = body
        self._style = style
        given = given_columns(columns) or []
        self._names = [column.name for column in given]
        self._maker = RowMaker(given, {column.name: _form(column.source) for column in given}, ())

    @property
    def content_type(self) -> str:
        return "application/octet-stream" if self._body == "value" else "application/json"

    @property
    def batch_content_type(self) -> str:
        return "application/json" if self._style == "json" else "application/x-ndjson"

    def of(self, record: ConsumerRecord) -> bytes:
        """A request's of one record."""
        made = self._made(record)
        if made is None and self._body == "value":
            return b""
        if isinstance(made, bytes):
            return made
        return made.encode() if isinstance(made, str) and self._body != "json" else _dumped(made)

    def of_many(self, parts: Sequence[bytes]) -> bytes:
        """A request's of the parts of its records."""
        return (
            b"[%b]" % b",".join(parts) if self._style == "json" else b"".join(part + b"\n" for part in parts)
        )

    def part(self, record: ConsumerRecord) -> bytes:
        """A record's share of a request of several: JSON in one line."""
        made = self._made(record)
        if isinstance(made, (bytes, str)) and self._body != "json":
            text = made.decode() if isinstance(made, bytes) else made
            found = json.loads(text, parse_constant=_refuse)  # which says where it is no JSON
            return _dumped(found) if "\n" in text or "\r" in text else text.encode()
        return _dumped(made)

    def _made(self, record: ConsumerRecord) -> Any:
        if callable(self._body):
            return self._body(record)
        if self._body == "value":
            return record.raw_value
        return dict(zip(self._names, self._maker.row(record), strict=True))


def _form(source: Source) -> str:
    if source in ("key", "value"):
        return "text"
    return "any" if isinstance(source, str) and "." not in source and source != "headers" else "object"


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def key_of(group_id: str, records: Sequence[ConsumerRecord], *, is_range: bool) -> str:
    """group/topic/partition/offset, or first-last of a range: the same whoever sends it, and whenever."""
    first, last = records[0], records[-1]
    offsets = f"{first.offset}-{last.offset}" if is_range else str(first.offset)
    return f"{quote(group_id, safe='')}/{quote(first.topic, safe='')}/{first.partition}/{offsets}"


def runs_of(offsets: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending offsets as runs without a gap: (first, last)."""
    runs: list[tuple[int, int]] = []
    for offset in offsets:
        if runs and offset == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], offset)
        else:
            runs.append((offset, offset))
    return runs


def offsets_text(offsets: Sequence[int]) -> str:
    """As in '4-9,11,13-14'."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs_of(offsets))


def lanes_of(
    records: ConsumerRecords, skip: set[int], *, concurrency: int, batch: int
) -> list[list[list[int]]]:
    """Requests (indices of their records), in lanes: those of a lane are sent one after the other, and no key is in two lanes.

    Single records are spread by their keys, those without by their offsets; batches are of one partition, and each partition is a lane.
    """
    lanes: dict[Any, list[list[int]]] = {}
    if batch:
        for tp, indices in _by_partition(records, skip).items():
            lanes[tp] = _cut(records, indices, batch)
        return list(lanes.values())
    for index, record in enumerate(records):
        if index not in skip:
            key = record.raw_key
            place = record.offset if key is None else zlib.crc32(key)
            lanes.setdefault(place % concurrency, []).append([index])
    return list(lanes.values())


def _by_partition(records: ConsumerRecords, skip: set[int]) -> dict[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for index, record in enumerate(records):
        if index not in skip:
            found.setdefault(record.topic_partition, []).append(index)
    return found


def _cut(records: ConsumerRecords, indices: list[int], batch: int) -> list[list[int]]:
    """At most `batch` records each, and not too many gaps."""
    cut: list[list[int]] = []
    gaps, last = 0, -2
    for index in indices:
        offset = records[index].offset
        gaps += offset != last + 1
        last = offset
        if not cut or len(cut[-1]) == batch or gaps > _MOST_RUNS:
            cut.append([])
            gaps = 1
        cut[-1].append(index)
    return cut


def checked_headers(
    headers: Mapping[str, str] | Callable[[Any], Mapping[str, str]] | None,
) -> Callable[[Any], Mapping[str, str]]:
    """As a function of what is sent."""
    if headers is None:
        return lambda _: {}
    if callable(headers):
        return headers
    fixed = dict(headers)
    return lambda _: fixed
