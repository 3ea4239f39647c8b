"""A connection to SQLite, and what SQLite tells of its tables."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from .schema import TableColumn
from .sql_session import DbApiSession, Unique

_BUSY_TIMEOUT_S = 5.0
_FIRST_WITH_MERGES = (3, 24, 0)


class SqliteSession(DbApiSession):
    """Transactions begin as writers: one that read first and then wants to write is refused where another wrote meanwhile."""

    def __init__(self, path: str | Path) -> None:
        connection = sqlite3.connect(
            path,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            uri=str(path).startswith("file:"),
        )
        super().__init__(
            connection,
            paramstyle="qmark",
            merges="on conflict" if sqlite3.sqlite_version_info >= _FIRST_WITH_MERGES else "row by row",
        )

    def _begin(self, depth: int) -> None:
        if depth:
            super()._begin(depth)
        else:
            self._execute("BEGIN IMMEDIATE")

    def _keep(self, depth: int) -> None:
        if depth:
            super()._keep(depth)
        else:
            self._execute("COMMIT")

    def _undo(self, depth: int) -> None:
        if depth:
            super()._undo(depth)
        else:
            self._execute("ROLLBACK")

    def columns(self, table: str) -> list[TableColumn]:
        rows = self.query(f"PRAGMA {self._pragma('table_xinfo', table)}", {})
        return [
            TableColumn(name, sqlite_form(kind), bool(required and default is None and not key), hidden != 0)
            for _, name, kind, required, default, key, hidden in rows
        ]

    def unique(self, table: str) -> Unique | None:
        rows = self.query(f"PRAGMA {self._pragma('table_xinfo', table)}", {})
        primary = tuple(name for _, name in sorted((row[5], row[1]) for row in rows if row[5]))
        indexes = self.query(f"PRAGMA {self._pragma('index_list', table)}", {})
        schema = table.rpartition(".")[0]
        found = [primary] if primary else []
        for _, index, unique, _, partial in indexes:
            if unique and not partial:
                name = f"{schema}.{index}" if schema else index
                parts = self.query(f"PRAGMA {self._pragma('index_info', name)}", {})
                found.append(tuple(part[2] for part in parts))
        return found

    def _pragma(self, name: str, of: str) -> str:
        schema, _, thing = of.rpartition(".") if of.count(".") == 1 else ("", "", of)
        return f"{self.quote(schema) + '.' if schema else ''}{name}({self.quote(thing)})"


def sqlite_form(declared: Any) -> str:
    """A form of values.py by a column's declared type. Source: https://www.sqlite.org/datatype3.html, 3.1 on affinity."""
    kind = str(declared).upper()
    if "BLOB" in kind:
        return "bytes"
    if "TIME" in kind or "DATE" in kind:
        return "clock"
    if "INT" not in kind and any(word in kind for word in ("CHAR", "CLOB", "TEXT")):
        return "text"
    return "any"
