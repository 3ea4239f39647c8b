"""A connection of SQLAlchemy: it knows how each database quotes, and which types its values need."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import types as sa
from sqlalchemy.engine import Connection, Engine

from .schema import TableColumn
from .sql_session import Merges, SqlSession, Types, Unique
from .sqlite_session import sqlite_form

# The first that fits: a Float is a Numeric, a Boolean is no Integer.
_FORMS: tuple[tuple[type[Any], str], ...] = (
    (sa.JSON, "object"),
    (sa.ARRAY, "list"),
    (sa.Boolean, "bool"),
    (sa.Integer, "int"),
    (sa.Float, "float"),
    (sa.Numeric, "decimal"),
    (sa.DateTime, "time"),
    (sa.Date, "date"),
    (sa.LargeBinary, "bytes"),
    (sa.BINARY, "bytes"),
    (sa.VARBINARY, "bytes"),
    (sa.String, "text"),
)
_MERGES: dict[str, Merges] = {
    "postgresql": "on conflict",
    "sqlite": "on conflict",
    "mysql": "on duplicate key",
    "mariadb": "on duplicate key",
}


class AlchemySession(SqlSession):
    """`_open`: the transaction and the savepoints within it, by depth."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._connection: Connection = engine.connect()
        self._open: list[Any] = []
        self._prepare = engine.dialect.identifier_preparer
        self._dialect = engine.dialect.name
        self.merges = _MERGES.get(self._dialect, "row by row")

    @property
    def closed(self) -> bool:
        return self._broken or self._connection.closed or self._connection.invalidated

    def close(self) -> None:
        self._broken = True
        with contextlib.suppress(Exception):
            self._connection.invalidate()  # it may stand amid a transaction: not to be used by another
        with contextlib.suppress(Exception):
            self._connection.close()

    def quote(self, name: str) -> str:
        return self._prepare.quote(name).replace(":", r"\:")

    # ------------------------------------------------------------ transactions

    def _begin(self, depth: int) -> None:
        del self._open[depth:]
        self._open.append(self._connection.begin_nested() if depth else self._connection.begin())

    def _keep(self, depth: int) -> None:
        self._open[depth].commit()

    def _undo(self, depth: int) -> None:
        self._open[depth].rollback()

    # ------------------------------------------------------------ statements

    @staticmethod
    def _text(sql: str, types: Types) -> sqlalchemy.TextClause:
        text = sqlalchemy.text(sql)
        used = [
            sqlalchemy.bindparam(name, type_=kind)
            for name, kind in (types or {}).items()
            if f":{name}" in sql
        ]
        return text.bindparams(*used) if used else text

    def run(self, sql: str, values: Mapping[str, Any], types: Types = None) -> int:
        return self._connection.execute(self._text(sql, types), dict(values)).rowcount

    def query(self, sql: str, values: Mapping[str, Any], types: Types = None) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._connection.execute(self._text(sql, types), dict(values))]

    def run_many(
        self, sql: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]], types: Types = None
    ) -> None:
        self._connection.execute(self._text(sql, types), [dict(zip(names, row, strict=True)) for row in rows])

    # ------------------------------------------------------------ the schema

    def columns(self, table: str) -> list[TableColumn]:
        schema, name = _split(table)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", sqlalchemy.exc.SAWarning
            )  # a type that it does not know is given as it comes
            try:
                found = sqlalchemy.inspect(self._connection).get_columns(name, schema)
            except sqlalchemy.exc.NoSuchTableError:
                return []
        return [self._column(entry) for entry in found]

    def _column(self, entry: Mapping[str, Any]) -> TableColumn:
        by_itself = bool(entry.get("computed") or entry.get("identity") or entry.get("autoincrement") is True)
        if self._dialect == "sqlite":
            by_itself = bool(entry.get("computed"))
            filled = by_itself or entry.get("primary_key")
            form: Any = sqlite_form(entry["type"])
        else:
            filled = by_itself
            form = _form(entry["type"])
        required = not entry["nullable"] and entry.get("default") is None and not filled
        return TableColumn(entry["name"], form, required, by_itself)

    def unique(self, table: str) -> Unique | None:
        schema, name = _split(table)
        look = sqlalchemy.inspect(self._connection)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sqlalchemy.exc.SAWarning)
            primary = look.get_pk_constraint(name, schema)["constrained_columns"]
            indexes = [entry for entry in look.get_indexes(name, schema) if entry["unique"]]
            constraints = look.get_unique_constraints(name, schema)
        found = [list(primary)] if primary else []
        found += [list(entry["column_names"]) for entry in constraints]
        # A partial index makes nothing unique by itself, and an expression is no column.
        found += [
            [str(column) for column in entry["column_names"]]
            for entry in indexes
            if None not in entry["column_names"] and not _is_partial(entry)
        ]
        return [tuple(names) for names in found]

    def merging(self, table: str, unique: Unique) -> Merges:
        """ON DUPLICATE KEY UPDATE changes whatever row is in the way: one with the same value in another unique index, or, where an index
        is of a column's first characters, one whose key begins alike."""
        if self.merges == "on duplicate key" and (len(unique) > 1 or self._has_prefix_index(table)):
            return "row by row"
        return self.merges

    def _has_prefix_index(self, table: str) -> bool:
        schema, name = _split(table)
        sql = (
            "SELECT 1 FROM information_schema.statistics WHERE table_schema = COALESCE(:schema, DATABASE()) AND table_name = :name "
            "AND non_unique = 0 AND sub_part IS NOT NULL"
        )
        return bool(self.query(sql, {"schema": schema, "name": name}))

    def create_offsets(self, table: str) -> None:
        schema, name = _split(table)
        made = sqlalchemy.Table(
            name,
            sqlalchemy.MetaData(),
            sqlalchemy.Column("group_id", sa.String(255), primary_key=True),
            sqlalchemy.Column("topic", sa.String(249), primary_key=True),
            sqlalchemy.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
            sqlalchemy.Column("next_offset", sa.BigInteger),
            sqlalchemy.Column("epoch", sa.BigInteger, nullable=False),
            sqlalchemy.Column("owner", sa.String(255), nullable=False),
            sqlalchemy.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
            schema=schema,
        )
        error = self._works(lambda: made.create(self._connection, checkfirst=True))
        if (
            error is not None
        ):  # another has made it at the same time, or it is not allowed: then the second try says so
            with self.transaction():
                made.create(self._connection, checkfirst=True)


def _split(table: str) -> tuple[str | None, str]:
    schema, _, name = table.rpartition(".")
    return schema or None, name


def _is_partial(index: Mapping[str, Any]) -> bool:
    return any(
        name.endswith("_where") and value is not None
        for name, value in index.get("dialect_options", {}).items()
    )


def _form(kind: Any) -> Any:
    """The form of values.py for a column of this type, and the type, where values need it."""
    form = next((form for of, form in _FORMS if isinstance(kind, of)), None)
    if form is None:
        return "any"
    if form == "time" and not kind.timezone:
        form = "naive"
    return form, kind
