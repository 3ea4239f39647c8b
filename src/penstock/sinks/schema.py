"""Whether a table fits what is to go into it; the remedy is a statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SchemaError
from .columns import Column, columns_by_name


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One that is there. `type`: whatever its database's target makes of it."""

    name: str
    type: Any = None
    required: bool = False  # NOT NULL without a default
    generated: bool = False


def fitted(table: str, there: Sequence[TableColumn], given: list[Column] | None) -> list[Column]:
    """The columns that are filled: those given, else by the table's own names. SchemaError where they do not fit."""
    names = [column.name for column in there]
    if not names:
        raise SchemaError(
            f"there is no table {table} in this database (search_path and upper case letters matter); create it first: "
            f"CREATE TABLE {table} (…)"
        )
    if given is None:
        given = columns_by_name([column.name for column in there if not column.generated])
    missing = [column.name for column in given if column.name not in names]
    if missing:
        raise SchemaError(
            f"table {table} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, names))}. "
            f"ALTER TABLE {table} ADD COLUMN {missing[0]} text, say, or give other columns"
        )
    named = {column.name for column in given}
    unfilled = [column.name for column in there if column.required and column.name not in named]
    if unfilled:
        raise SchemaError(
            f"table {table}: {', '.join(map(repr, unfilled))} is NOT NULL without a default, and nothing goes into it: give it a "
            f"source, or ALTER TABLE {table} ALTER COLUMN {unfilled[0]} DROP NOT NULL"
        )
    return given


def fitted_key(
    table: str, columns: Sequence[Column], wanted: Sequence[str], unique: Sequence[Sequence[str]]
) -> tuple[str, ...]:
    """The columns to merge by: those wanted, else the primary key, which comes first in `unique`. SchemaError where nothing makes them
    unique, or nothing goes into them."""
    if not wanted or sorted(wanted) not in [sorted(names) for names in unique]:
        shown = ", ".join(wanted) or "id"
        raise SchemaError(
            f"mode='upsert' needs a primary key or a unique index of table {table} on ({shown}): "
            f"CREATE UNIQUE INDEX ON {table} ({shown})"
        )
    named = {column.name for column in columns}
    if absent := [name for name in wanted if name not in named]:
        raise SchemaError(
            f"table {table}: nothing goes into {', '.join(map(repr, absent))}, which is the key to merge by"
        )
    return tuple(wanted)
