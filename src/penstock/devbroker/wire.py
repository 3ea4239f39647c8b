"""Requests and responses as kio's dataclasses, by api key and version, loaded when a version is first spoken.

Handlers answer with plain dicts that name fields of any version; build() takes what this version has.
"""

from __future__ import annotations

import datetime
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, NamedTuple

from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer
from kio.serial._introspect import (
    EntityField,
    EntityTupleField,
    PrimitiveTupleField,
    classify_field,
    is_optional,
)

Fields = Mapping[str, Any]
REQUEST_START = struct.Struct(
    ">hhi"
)  # api key, api version, correlation id: the same in every header version
EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)

ZERO_BY_TYPE: dict[str, Any] = {
    "bool": False,
    "bytes": b"",
    "error_code": ErrorCode.none,
    "string": "",
    "timedelta_i32": datetime.timedelta(0),
    "timedelta_i64": datetime.timedelta(0),
    "uuid": None,
    "records": None,
}


class Malformed(Exception):
    """A frame that is no request of the version it names."""


class Request(NamedTuple):
    """One decoded request: its header's facts and its body (a kio dataclass)."""

    api_key: int
    version: int
    correlation_id: int
    client_id: str
    body: Any


@cache
def request_readers(api_key: int, version: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    schema = load_request_schema(api_key, version)
    return entity_reader(schema.__header_schema__), entity_reader(schema)


@cache
def response_writers(api_key: int, version: int) -> tuple[type, type, Callable[..., Any], Callable[..., Any]]:
    schema = load_response_schema(api_key, version)
    header = schema.__header_schema__
    return schema, header, entity_writer(header), entity_writer(schema)


def peek(frame: bytes) -> tuple[int, int, int]:
    """(api key, version, correlation id) of a frame without its length. Raises Malformed."""
    if len(frame) < REQUEST_START.size:
        raise Malformed(f"a request of {len(frame)} bytes")
    api_key, version, correlation_id = REQUEST_START.unpack_from(frame)
    return api_key, version, correlation_id


def decode(frame: bytes) -> Request:
    """The request of a frame, whose version must be one that kio has. Raises Malformed."""
    api_key, version, correlation_id = peek(frame)
    read_header, read_body = request_readers(api_key, version)
    try:
        header, size = read_header(frame, 0)
        body, _ = read_body(frame, size)
    except Exception as error:  # kio's reader has many ways to say that bytes make no sense
        raise Malformed(f"{type(error).__name__}: {error}") from error
    return Request(api_key, version, correlation_id, header.client_id or "", body)


def encode(api_key: int, version: int, correlation_id: int, answer: Fields) -> bytes:
    """A whole response frame, its length first."""
    schema, header, write_header, write_body = response_writers(api_key, version)
    parts = _Parts()
    write_header(parts, header(correlation_id=correlation_id))
    write_body(parts, build(schema, answer))
    length = sum(map(len, parts.chunks))
    return b"".join((struct.pack(">i", length), *parts.chunks))


class _Parts:
    """Takes kio's writes as they are; record bytes are copied once, by the join at the end."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.write = self.chunks.append


Converter = Callable[[Any], Any]


@cache
def _plan(entity_type: type) -> tuple[tuple[str, Converter, bool, Any], ...]:
    """Per field of a kio dataclass: name, how a plain value becomes the field's, whether it must be given, else its zero."""
    rows: list[tuple[str, Converter, bool, Any]] = []
    for field in fields(entity_type):
        kind = classify_field(field)
        convert: Converter = _same
        zero: Any = () if isinstance(kind, EntityTupleField | PrimitiveTupleField) else 0
        if isinstance(kind, EntityTupleField | EntityField):
            inner = kind.type_
            many = isinstance(kind, EntityTupleField)
            convert = _many_of(inner) if many else _one_of(inner)
            zero = () if many else build(inner, {})
        elif not isinstance(kind, PrimitiveTupleField):
            wire_type = str(field.metadata["kafka_type"])
            convert = CONVERTERS.get(wire_type, _same)
            zero = None if is_optional(field) else ZERO_BY_TYPE.get(wire_type, 0)
        rows.append((field.name, convert, field.default is MISSING, zero))
    return tuple(rows)


def build(entity_type: type, values: Fields) -> Any:
    """A kio dataclass from a dict. Names this version lacks are left out; names not given get the protocol's default."""
    arguments: dict[str, Any] = {}
    for name, convert, required, zero in _plan(entity_type):
        if name in values:
            value = values[name]
            arguments[name] = None if value is None else convert(value)
        elif required:
            arguments[name] = zero
    return entity_type(**arguments)


def _same(value: Any) -> Any:
    return value


def _one_of(inner: type) -> Converter:
    return lambda value: build(inner, value)


def _many_of(inner: type) -> Converter:
    return lambda values: tuple(build(inner, value) for value in values)


def _time(value_ms: int) -> datetime.datetime | None:
    return None if value_ms < 0 else EPOCH + datetime.timedelta(milliseconds=value_ms)


def _duration(value_ms: int) -> datetime.timedelta:
    return datetime.timedelta(milliseconds=value_ms)


CONVERTERS: dict[str, Converter] = {
    "error_code": ErrorCode,
    "datetime_i64": _time,
    "timedelta_i32": _duration,
    "timedelta_i64": _duration,
}


def milliseconds(duration: datetime.timedelta) -> int:
    """A request's duration as a whole number of milliseconds."""
    return round(duration.total_seconds() * 1000)


def topic_key(topic: Any) -> dict[str, Any]:
    """How a request named a topic, by name or by id, as its answer must name it too."""
    name = getattr(topic, "name", None) or getattr(topic, "topic", None)
    topic_id: uuid.UUID | None = getattr(topic, "topic_id", None)
    return {"name": name, "topic": name, "topic_id": topic_id}


def refused_topics(
    topics: Sequence[Any],
    partitions: str,
    index: str,
    code: int,
    answer_partitions: str | None = None,
    **extra: Any,
) -> list[dict[str, Any]]:
    """The same error for every partition that a request names: `partitions` and `index` are the request's field names."""
    answer_name = answer_partitions or partitions
    return [
        {
            **topic_key(topic),
            answer_name: [
                {
                    "partition_index": (number := each if isinstance(each, int) else getattr(each, index)),
                    "partition": number,
                    "index": number,
                    "error_code": code,
                    **extra,
                }
                for each in getattr(topic, partitions)
            ],
        }
        for topic in topics
    ]
