"""The table that rows go to: what it looks like, how records become its rows, and how these are stored."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from .._native import ConsumerRecords, CopyEncoder
from .columns import Column, Source
from .schema import TableColumn, fitted, fitted_key
from .storing import Rows
from .values import RowMaker

_STAGE = "penstock_stage"


class PostgresTable:
    """Written by look(), once per opening."""

    def __init__(self, name: str, *, upsert: bool, key: tuple[str, ...]) -> None:
        self.name = name
        self._upsert = upsert
        self._key = key
        self._columns: list[Column] = []
        self._encoder: CopyEncoder | None = None
        self._maker: RowMaker | None = None  # in its place, where a column has a function or is an array

    # ------------------------------------------------------------ the schema

    def look(self, connection: psycopg.Connection[Any], given: list[Column] | None) -> None:
        """SchemaError where the columns and the table do not fit."""
        there = self._read(connection)
        self._columns = fitted(self.name, there, given)
        if self._upsert:
            self._key = self._look_for_key(connection)
        self._make_encoder({column.name: column for column in there})

    def _read(self, connection: psycopg.Connection[Any]) -> list[TableColumn]:
        rows = connection.execute(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', "
            "a.attgenerated <> '' OR a.attidentity <> '' OR (a.atthasdef AND pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%%') "
            "FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
            "WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            [self.name],
        ).fetchall()
        return [TableColumn(*row) for row in rows]

    def _look_for_key(self, connection: psycopg.Connection[Any]) -> tuple[str, ...]:
        """The columns to merge by: there has to be a unique index of exactly these, for ON CONFLICT."""
        rows = connection.execute(
            "SELECT i.indisprimary, array_agg(a.attname::text ORDER BY a.attname) FROM pg_index i JOIN pg_attribute a "
            "ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
            "WHERE i.indrelid = to_regclass(%s) AND i.indisunique AND i.indpred IS NULL "
            "GROUP BY i.indexrelid, i.indisprimary",
            [self.name],
        ).fetchall()
        wanted = self._key or next((tuple(names) for primary, names in rows if primary), ())
        return fitted_key(self.name, self._columns, wanted, [names for _, names in rows])

    def _make_encoder(self, there: dict[str, TableColumn]) -> None:
        forms = {column.name: _form(column.source, there[column.name].type) for column in self._columns}
        required = {
            column.name
            for column in self._columns
            if (column.name in self._key if self._upsert else there[column.name].required)
        }
        if "list" in forms.values() or not all(isinstance(column.source, str) for column in self._columns):
            self._encoder = None
            self._maker = RowMaker(self._columns, forms, required, self._key if self._upsert else ())
            return
        specs = [(str(c.source), forms[c.name], c.name in required) for c in self._columns]
        if self._upsert:
            specs += [("index", "text", True), ("tombstone", "text", True)]
        self._encoder = CopyEncoder(specs)

    # ------------------------------------------------------------ rows

    def encode(self, records: ConsumerRecords, skip: set[int]) -> Rows:
        """Rows of these records, without those at the indices `skip`."""
        if self._encoder is not None:
            blocks, count, bad = self._encoder.encode(records, skip=skip or None)
            return Rows(blocks=blocks, count=count, bad=[(index, ValueError(why)) for index, why in bad])
        assert self._maker is not None
        rows = Rows()
        for index, record, values in self._maker.rows(records, skip, rows.bad):
            if self._upsert:
                values += [index, record.raw_value is None]
            rows.values.append(tuple(values))
        rows.count = len(rows.values)
        return rows

    def store(self, connection: psycopg.Connection[Any], rows: Rows) -> None:
        """Within a transaction."""
        if not rows.count:
            return
        target = sql.Identifier(*self.name.split("."))
        names = [sql.Identifier(column.name) for column in self._columns]
        if not self._upsert:
            self._copy(connection, target, names, rows)
            return
        self._make_stage(connection, target, names)
        stage = sql.Identifier(_STAGE)
        own = [sql.Identifier("penstock_n"), sql.Identifier("penstock_gone")]
        self._copy(connection, stage, [*names, *own], rows)
        connection.execute(self._merge(target, stage, names))
        connection.execute(sql.SQL("TRUNCATE {}").format(stage))

    def _copy(
        self,
        connection: psycopg.Connection[Any],
        target: sql.Identifier,
        names: list[sql.Identifier],
        rows: Rows,
    ) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(target, sql.SQL(", ").join(names))
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for block in rows.blocks:
                copy.write(block)
            for row in rows.values:
                copy.write_row(row)

    def _make_stage(
        self, connection: psycopg.Connection[Any], target: sql.Identifier, names: list[sql.Identifier]
    ) -> None:
        """One per connection. Made from a query, so that it has the types but no constraint: a tombstone has a key alone."""
        connection.execute(
            sql.SQL(
                "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS "
                "SELECT {}, 0::bigint AS penstock_n, false AS penstock_gone FROM {} WITH NO DATA"
            ).format(sql.Identifier(_STAGE), sql.SQL(", ").join(names), target)
        )

    def _merge(
        self, target: sql.Identifier, stage: sql.Identifier, names: list[sql.Identifier]
    ) -> sql.Composed:
        """The last record of each key: deleted if it has no value, else inserted or updated. The two parts share no key, so that it does
        not matter that neither sees what the other does."""
        keys = [sql.Identifier(name) for name in self._key]
        others = [sql.Identifier(c.name) for c in self._columns if c.name not in self._key]
        update = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(name) for name in others)
        return sql.SQL(
            "WITH penstock_last AS MATERIALIZED (SELECT DISTINCT ON ({keys}) * FROM {stage} ORDER BY {keys}, penstock_n DESC), "
            "penstock_deleted AS (DELETE FROM {target} t USING penstock_last l WHERE l.penstock_gone AND {same}) "
            "INSERT INTO {target} ({names}) SELECT {names} FROM penstock_last WHERE NOT penstock_gone "
            "ON CONFLICT ({keys}) DO {action}"
        ).format(
            keys=sql.SQL(", ").join(keys),
            stage=stage,
            target=target,
            names=sql.SQL(", ").join(names),
            same=sql.SQL(" AND ").join(sql.SQL("t.{0} = l.{0}").format(key) for key in keys),
            action=sql.SQL("UPDATE SET {}").format(update) if others else sql.SQL("NOTHING"),
        )


def _form(source: Source, kind: str) -> str:
    """How a source is written for a column of this type. Types are the server's business: it reads them from texts."""
    if kind == "bytea":
        return "bytes"
    if kind in ("json", "jsonb"):
        return "json"
    if source == "timestamp" and (kind.startswith("timestamp") or kind == "date"):
        return "time"
    if kind.endswith("[]") and (callable(source) or source.startswith("value.")):
        return "list"
    return "text"
