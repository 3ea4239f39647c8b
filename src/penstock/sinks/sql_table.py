"""Any table that SQL reaches: rows are inserted, or merged by key."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .._native import ConsumerRecords
from ..errors import ConfigError
from .columns import Column
from .schema import TableColumn, fitted, fitted_key
from .sql_session import Merges, SqlSession
from .storing import Rows
from .values import RowMaker


class SqlTable:
    """Written by look(), once per opening. Rows to be merged have one value more: whether the record had none."""

    def __init__(self, name: str, *, upsert: bool, key: tuple[str, ...]) -> None:
        self.name = name
        self._upsert = upsert
        self._wanted_key = key
        self._key: tuple[str, ...] = ()
        self._merges: Merges = "row by row"
        self._columns: list[Column] = []
        self._marks: list[str] = []  # of the values in the statements, by column
        self._types: dict[str, Any] = {}
        self._maker: RowMaker | None = None

    # ------------------------------------------------------------ the schema

    def look(self, session: SqlSession, given: list[Column] | None) -> None:
        """SchemaError where the columns and the table do not fit."""
        there = {column.name: column for column in session.columns(self.name)}
        self._columns = columns = fitted(self.name, list(there.values()), given)
        self._marks = [f"c{number}" for number in range(len(columns))]
        if self._upsert:
            self._find_key(session)
        told = zip(self._marks, (_type(there[column.name])[1] for column in columns), strict=True)
        self._types = {mark: kind for mark, kind in told if kind is not None}
        required = {c.name for c in columns if there[c.name].required} | set(self._key)
        self._maker = RowMaker(
            columns, {c.name: _type(there[c.name])[0] for c in columns}, required, self._key
        )

    def _find_key(self, session: SqlSession) -> None:
        unique = session.unique(self.name)
        if unique is None:
            if not self._wanted_key:
                raise ConfigError(
                    f"table {self.name}: mode='upsert' needs key=[…]: this driver does not tell a primary key"
                )
            unique = [self._wanted_key]
        wanted = self._wanted_key or (unique[0] if unique else ())
        self._key = fitted_key(self.name, self._columns, wanted, unique)
        self._merges = session.merging(self.name, unique)

    # ------------------------------------------------------------ rows

    def encode(self, records: ConsumerRecords, skip: set[int]) -> Rows:
        """Rows of these records, without those at the indices `skip`; of those with one key the last alone."""
        assert self._maker is not None
        rows = Rows()
        last: dict[Any, tuple[Any, ...]] = {}
        for _, record, values in self._maker.rows(records, skip, rows.bad):
            rows.count += 1
            if self._upsert:
                key = tuple(repr(values[place]) for place in self._key_places)
                last.pop(key, None)  # so that it stands where the last one does
                last[key] = (*values, record.raw_value is None)
            else:
                rows.values.append(tuple(values))
        rows.values += last.values()
        return rows

    @property
    def _key_places(self) -> list[int]:
        names = [column.name for column in self._columns]
        return [names.index(name) for name in self._key]

    # ------------------------------------------------------------ storing

    def store(self, session: SqlSession, rows: Rows) -> None:
        """Within a transaction. In the order of the records: what is two keys here may be one to the database."""
        if not self._upsert:
            self._many(session, self._insert(session), rows.values)
            return
        for gone, run in itertools.groupby(rows.values, key=lambda row: bool(row[-1])):
            part = [row[:-1] for row in run]
            if gone:
                self._many(
                    session, f"DELETE FROM {session.quoted(self.name)} WHERE {self._same(session)}", part
                )
            elif self._merges != "row by row":
                self._many(session, self._merge(session), part)
            else:
                self._update_or_insert(session, part)

    def _many(self, session: SqlSession, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            session.run_many(sql, self._marks, rows, self._types)

    def _insert(self, session: SqlSession) -> str:
        names = ", ".join(session.quote(column.name) for column in self._columns)
        return f"INSERT INTO {session.quoted(self.name)} ({names}) VALUES ({', '.join(f':{mark}' for mark in self._marks)})"

    def _same(self, session: SqlSession) -> str:
        return " AND ".join(
            f"{session.quote(self._columns[place].name)} = :{self._marks[place]}"
            for place in self._key_places
        )

    def _others(self) -> list[tuple[Column, str]]:
        return [
            (column, mark)
            for column, mark in zip(self._columns, self._marks, strict=True)
            if column.name not in self._key
        ]

    def _merge(self, session: SqlSession) -> str:
        quoted = [session.quote(column.name) for column, _ in self._others()]
        if self._merges == "on duplicate key":
            update = ", ".join(f"{name} = VALUES({name})" for name in quoted)
            first = session.quote(self._key[0])
            return f"{self._insert(session)} ON DUPLICATE KEY UPDATE {update or f'{first} = {first}'}"
        update = ", ".join(f"{name} = excluded.{name}" for name in quoted)
        keys = ", ".join(session.quote(name) for name in self._key)
        return f"{self._insert(session)} ON CONFLICT ({keys}) DO {f'UPDATE SET {update}' if update else 'NOTHING'}"

    def _update_or_insert(self, session: SqlSession, rows: Sequence[tuple[Any, ...]]) -> None:
        """One after the other: only so is it known whether a row was there. Some databases count only rows that become different."""
        table, same = session.quoted(self.name), self._same(session)
        changes = ", ".join(f"{session.quote(column.name)} = :{mark}" for column, mark in self._others())
        for row in rows:
            values = dict(zip(self._marks, row, strict=True))
            if changes and session.run(f"UPDATE {table} SET {changes} WHERE {same}", values, self._types):
                continue
            if not session.query(f"SELECT 1 FROM {table} WHERE {same}", values, self._types):
                session.run(self._insert(session), values, self._types)


def _type(column: TableColumn) -> tuple[str, Any]:
    """The form, and what the session is told of its values."""
    return column.type if isinstance(column.type, tuple) else (column.type, None)
