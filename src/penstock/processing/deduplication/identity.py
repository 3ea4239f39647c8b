"""From a record to the id of its effect. Pure."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable
from typing import Any

from ..._native import ConsumerRecord
from ...errors import ConfigError, ProcessingError
from ..dead_letters import origin_of

By = str | Callable[[ConsumerRecord], str | bytes | None]
"""'record', 'key', 'header:NAME', 'value.FIELD[.FIELD...]' of a JSON object, or a function."""

ID_BYTES = 16
_FORMS = "'record', 'key', 'header:NAME', 'value.FIELD', or a function of the record"


class Identity:
    """Of the records of one handler. Business keys may be long, so an id is a hash (BLAKE2b, 128 bits) of `scope` and what `by` says.

    Of `by='record'`: topic, partition, offset and timestamp; the last, lest a topic that is deleted and made again has the ids of the one
    before. A record that came back from a dead-letter or retry topic has those of its first place. Its headers are believed only if they
    name one of the handler's `topics`: who copies headers from topic to topic would otherwise make all that comes of one record the same.
    """

    def __init__(self, by: By, scope: Iterable[str], topics: Iterable[str]) -> None:
        self._by = by
        self._topics = frozenset(topics)
        kind = by if isinstance(by, str) else "function"
        self._prefix = _framed(*(part.encode() for part in (*scope, kind)))
        self._tell = _teller(by, self._topics)

    def of(self, record: ConsumerRecord) -> bytes | None:
        """None: the record has no id, and is not de-duplicated. ProcessingError where it cannot be told."""
        told = self._tell(record)
        if told is None:
            return None
        return hashlib.blake2b(self._prefix + told, digest_size=ID_BYTES).digest()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tell"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tell = _teller(self._by, self._topics)


def _framed(*parts: bytes) -> bytes:
    """Each with its length, so that ('a', 'bc') and ('ab', 'c') differ, and how many there are."""
    return b"".join([struct.pack(">I", len(parts)), *(struct.pack(">I", len(part)) + part for part in parts)])


def _teller(by: By, topics: frozenset[str]) -> Callable[[ConsumerRecord], bytes | None]:
    if callable(by):
        return lambda record: _of_function(by, record)
    if by == "record":
        return lambda record: _place(record, topics)
    if by == "key":
        return lambda record: record.raw_key
    kind, _, name = by.partition(":") if by.startswith("header:") else by.partition(".")
    if kind == "header" and name:
        return lambda record: dict(record.headers).get(name)
    fields = name.split(".")
    if kind == "value" and all(fields):
        return lambda record: _field(record, fields, by)
    raise ConfigError(f"deduplicate: by is {_FORMS}; got {by!r}")


def _place(record: ConsumerRecord, topics: frozenset[str]) -> bytes:
    topic, partition, offset, timestamp = origin_of(record, topics) or (
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
    )
    return topic.encode() + struct.pack(">iqq", partition, offset, timestamp)


def _of_function(by: Callable[[ConsumerRecord], str | bytes | None], record: ConsumerRecord) -> bytes | None:
    told = by(record)
    if isinstance(told, str):
        return told.encode()
    if told is None or isinstance(told, bytes):
        return told
    raise ProcessingError(
        f"{record.topic}-{record.partition} offset {record.offset}: the function that tells the id of a record returned "
        f"{type(told).__name__}; return str, bytes, or None for a record that may be handled twice"
    )


def _field(record: ConsumerRecord, fields: list[str], by: str) -> bytes | None:
    """The field as JSON, so that the number 1 and the text '1' differ; None where there is none, or it is null."""
    raw = record.raw_value
    if raw is None:
        return None
    try:
        found: Any = json.loads(raw)
    except ValueError as error:
        raise ProcessingError(
            f"{record.topic}-{record.partition} offset {record.offset}: the value is no JSON, so that deduplicate by {by!r} cannot tell "
            f"its id ({error}); give a function of the record instead, or on_error={{ProcessingError: 'dead_letter'}}"
        ) from error
    for name in fields:
        found = found.get(name) if isinstance(found, dict) else None
    return None if found is None else json.dumps(found, sort_keys=True, separators=(",", ":")).encode()
