"""Which part of a record goes into which column.

A source is 'key', 'value', 'topic', 'partition', 'offset', 'timestamp', 'headers', 'leader_epoch', 'value.<field>' of a JSON object
('value.a.b' further down), or a function of the ConsumerRecord. Columns are given as a mapping of names to sources, as a dataclass (its
fields are columns, taken from the JSON object's fields of the same name), or not at all: then by the table's columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._native import ConsumerRecord
from ..errors import ConfigError

Source = str | Callable[[ConsumerRecord], Any]
Columns = Mapping[str, Source] | type | None

WHOLE = ("key", "value", "topic", "partition", "offset", "timestamp", "headers", "leader_epoch")
_PREFIX = "kafka_"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the destination, and what goes into it."""

    name: str
    source: Source


def checked_mode(sink: str, mode: str) -> bool:
    """Whether it merges. ConfigError for a mode that there is not."""
    if mode not in ("insert", "upsert"):
        raise ConfigError(f"{sink}(mode={mode!r}): 'insert' or 'upsert'")
    return mode == "upsert"


def given_columns(columns: Columns) -> list[Column] | None:
    """The columns that the user named; None where the table is to tell. ConfigError for what is no source."""
    if columns is None:
        return None
    if isinstance(columns, type):
        if not dataclasses.is_dataclass(columns):
            raise ConfigError(f"columns={columns!r}: a class of columns is a dataclass")
        return [
            Column(field.name, field.metadata.get("source", f"value.{field.name}"))
            for field in dataclasses.fields(columns)
        ]
    if not columns:
        raise ConfigError("columns={}: name at least one, as in columns={'id': 'value.id', 'body': 'value'}")
    found = [Column(name, source) for name, source in columns.items()]
    for column in found:
        _check(column)
    return found


def _check(column: Column) -> None:
    source = column.source
    if callable(source) or source in WHOLE or (source.startswith("value.") and source != "value."):
        return
    raise ConfigError(
        f"column {column.name!r}: {source!r} is no part of a record; there are {', '.join(WHOLE)}, 'value.<field>' of a JSON object, or "
        "a function of the record"
    )


def columns_by_name(names: Sequence[str]) -> list[Column]:
    """Sources by the names of a table's columns: kafka_offset and its kin, or, where no column is called otherwise, offset and its kin;
    the fields of a JSON object for the rest."""
    if all(name in WHOLE for name in names):
        return [Column(name, name) for name in names]
    return [
        Column(
            name,
            name.removeprefix(_PREFIX)
            if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) in WHOLE
            else f"value.{name}",
        )
        for name in names
    ]
