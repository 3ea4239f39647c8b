"""Rows of values, made in Python: for databases without an encoder of their own, and for tables that have functions among their sources.

A column's form says what its database takes: text, bytes, json (as text), object (JSON as Python has it), int, float, decimal, bool, list,
time (a datetime with its zone), naive (one in UTC without), date, clock (a time as text, UTC), or any (as it comes; objects and arrays as
JSON).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from .._native import ConsumerRecord, ConsumerRecords
from .columns import Column
from .refusals import Refusals

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_TRUE, _FALSE = ("true", "t", "1", "yes", "on"), ("false", "f", "0", "no", "off")


class _Float(float):
    """A number as it stands in the JSON: `text` loses nothing."""

    text: str

    def __new__(cls, text: str) -> _Float:
        made = super().__new__(cls, text)
        made.text = text
        return made


class RowMaker:
    """Makes one row after the other. `required`: columns that must not be NULL; `key`: those that are merged by, none for inserts."""

    def __init__(
        self,
        columns: Sequence[Column],
        forms: Mapping[str, str],
        required: Collection[str],
        key: Collection[str] = (),
    ) -> None:
        self._columns = [(column, forms[column.name], column.name in key) for column in columns]
        self._required = frozenset(required)
        self._merges = bool(key)
        self._reads_json = any(
            isinstance(column.source, str) and column.source.startswith("value.") for column in columns
        )

    def rows(
        self, records: ConsumerRecords, skip: set[int], bad: Refusals
    ) -> Iterator[tuple[int, ConsumerRecord, list[Any]]]:
        """Those of all records but the ones at `skip`; what is no row goes to `bad`."""
        for index, record in enumerate(records):
            if index in skip:
                continue
            try:
                values = self.row(record)
            except Exception as error:  # the user's function, or a value that is no JSON
                bad.append((index, error))
            else:
                yield index, record, values

    def row(self, record: ConsumerRecord) -> list[Any]:
        """ValueError, or whatever a function of the user raises, where the record is no row.

        Where rows are merged, a record without a value deletes one: it has its key alone.
        """
        gone = self._merges and record.raw_value is None
        document = self._document(record) if self._reads_json else None
        values: list[Any] = []
        for column, form, is_key in self._columns:
            if gone and not is_key:
                values.append(None)
                continue
            value = _value(column, form, record, document)
            if value is None and column.name in self._required:
                raise ValueError(f"column {column.name!r}: nothing for a column that is NOT NULL")
            values.append(value)
        return values

    @staticmethod
    def _document(record: ConsumerRecord) -> dict[str, Any] | None:
        raw = record.raw_value
        if raw is None:
            return None
        try:
            found = json.loads(raw.decode(), parse_float=_Float, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the value is no JSON object: {error}") from error
        if not isinstance(found, dict):
            raise ValueError("the value is no JSON object")
        return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _value(column: Column, form: str, record: ConsumerRecord, document: dict[str, Any] | None) -> Any:
    source = column.source
    if not isinstance(source, str):
        given = source(record)
        return _as_json(given, form) if isinstance(given, (dict, list)) else given
    if source in ("key", "value"):
        raw = record.raw_key if source == "key" else record.raw_value
        return None if raw is None else _whole(raw, form)
    if source == "timestamp":
        return _timestamp(record.timestamp, form)
    if source == "headers":
        pairs = [
            [name, None if value is None else value.decode("utf-8", "replace")]
            for name, value in record.headers
        ]
        return pairs if form == "object" else json.dumps(pairs)
    if source in ("topic", "partition", "offset", "leader_epoch"):
        return converted(getattr(record, source), form)
    found: Any = document
    for name in source.split(".")[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return _as_json(found, form) if form in ("json", "object") else converted(found, form)


def _whole(raw: bytes, form: str) -> Any:
    if form == "bytes":
        return raw
    text = raw.decode()
    if form == "json":
        return text
    return json.loads(text) if form == "object" else converted(text, form)


def _timestamp(timestamp_ms: int, form: str) -> Any:
    if timestamp_ms < 0:
        return None
    if form not in ("time", "naive", "date", "clock"):
        return converted(timestamp_ms, form)
    return _moment(_EPOCH + datetime.timedelta(milliseconds=timestamp_ms), form)


def _moment(moment: datetime.datetime, form: str) -> Any:
    if form == "date":
        return moment.date()
    naive = moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment
    if form == "naive":
        return naive
    return naive.isoformat(" ", "milliseconds") if form == "clock" else moment


def _as_json(value: Any, form: str) -> Any:
    if value is None or form in ("object", "list"):
        return value
    return dumped(value)


def converted(value: Any, form: str) -> Any:
    """A part of JSON, a text or a number, as the form wants it. ValueError where it is none."""
    if value is None:
        return None
    match form:
        case "text":
            return _text(value)
        case "bytes":
            return _text(value).encode()
        case "int" if not isinstance(value, (float, dict, list)):
            return int(value)
        case "float" if not isinstance(value, (bool, dict, list)):
            return float(value)
        case "decimal" if not isinstance(value, (bool, dict, list)):
            try:
                return Decimal(_text(value))
            except ArithmeticError:
                raise ValueError(f"{value!r} is no number") from None
        case "bool":
            return _bool(value)
        case "list" if isinstance(value, list):
            return [_text(entry) if isinstance(entry, (bool, float)) else entry for entry in value]
        case "time" | "naive" if isinstance(value, str):
            return _moment(datetime.datetime.fromisoformat(value), form)
        case "date" if isinstance(value, str):
            return datetime.date.fromisoformat(value)
        case "clock":
            return value if isinstance(value, (str, int)) else _text(value)
        case "any":
            return _any(value)
    raise ValueError(f"{_text(value)[:100]!r} is no {form}")


def _any(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return dumped(value)
    return float(value) if isinstance(value, float) else value


def dumped(value: Any) -> str:
    """As JSON, numbers as they stood there."""
    match value:
        case dict():
            return (
                "{" + ", ".join(f"{dumped(str(name))}: {dumped(part)}" for name, part in value.items()) + "}"
            )
        case list():
            return "[" + ", ".join(map(dumped, value)) + "]"
        case _Float():
            return value.text
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case _Float():
            return value.text
        case dict() | list():
            return dumped(value)
    return str(value)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = _text(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError(f"{text[:100]!r} is no bool")
