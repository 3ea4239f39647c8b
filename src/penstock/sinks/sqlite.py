"""Exactly once into SQLite: rows and the offsets after them in one transaction of one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .columns import Columns, checked_mode, given_columns
from .sql_offsets import SqlOffsets
from .sql_session import SqlSession
from .sql_table import SqlTable
from .sqlite_session import SqliteSession
from .storing import StoringSink


class SqliteSink(StoringSink[SqlSession]):
    """Stores records as rows of a table in a file, each exactly once, whatever fails in between.

        processor.sink('orders', sink=SqliteSink('orders.db', 'orders', columns={'id': 'value.id', 'total': 'value.total'}))

    `columns`, `mode`, `key`, `offsets_table` and what becomes of a row that is refused: as for PostgresSink. SQLite itself refuses
    little: a text in an INTEGER column is stored as it is, unless the table is STRICT.

    A file that another process has locked is tried again for `retry_for_s`; then SinkError, retriable. Several processes of a group may
    share a file on one machine: they write one after the other, and offsets are fenced by epoch as in PostgreSQL.
    """

    def __init__(
        self,
        path: str | Path,
        table: str,
        columns: Columns = None,
        *,
        mode: Literal["insert", "upsert"] = "insert",
        key: Sequence[str] = (),
        offsets_table: str = "penstock_offsets",
        retry_for_s: float = 30.0,
    ) -> None:
        """`path`: the file's, or a URI 'file:…'. `table`: its name."""
        self._path = path
        target = SqlTable(table, upsert=checked_mode("SqliteSink", mode), key=tuple(key))
        super().__init__("SQLite", target, SqlOffsets(offsets_table), given_columns(columns), retry_for_s)

    def _connected(self) -> SqlSession:
        return SqliteSession(self._path)
