"""A connection of any driver, as the portable sinks use it: statements with `:name` for values, transactions that nest as savepoints."""

from __future__ import annotations

import contextlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..errors import ConfigError, SchemaError
from .faults import driver_error, fault_of
from .schema import TableColumn

Unique = list[tuple[str, ...]]
"""The columns of each unique index, the primary key's first."""

Merges = Literal["row by row", "on conflict", "on duplicate key"]
"""How rows are merged: the clause that an INSERT may have. That of MySQL and MariaDB names no key: any unique index will do."""

Types = Mapping[str, Any] | None
"""What a session is told of some of the values, by their names; see SqlSession.columns()."""

OFFSETS_DDL = (
    "CREATE TABLE {table} ({group_id} VARCHAR(255) NOT NULL, {topic} VARCHAR(249) NOT NULL, {partition} INTEGER NOT NULL, "
    "{next_offset} BIGINT, {epoch} BIGINT NOT NULL, {owner} VARCHAR(255) NOT NULL, {updated_at} TIMESTAMP NOT NULL, "
    "PRIMARY KEY ({group_id}, {topic}, {partition}))"
)
OFFSETS_COLUMNS = ("group_id", "topic", "partition", "next_offset", "epoch", "owner", "updated_at")


class SqlSession(ABC):
    """One connection. `savepoints`, `merges`: what its database can do."""

    savepoints = True
    merges: Merges = "row by row"

    def __init__(self) -> None:
        self._depth = 0
        self._broken = False

    @property
    def closed(self) -> bool:
        return self._broken

    @abstractmethod
    def close(self) -> None:
        """Idempotent; never raises."""

    @contextlib.contextmanager
    def transaction(self, *, force_rollback: bool = False) -> Iterator[None]:
        """Committed at the end, rolled back after an error; within another one a savepoint."""
        depth = self._depth
        self._begin(depth)
        self._depth = depth + 1
        try:
            yield
            (self._undo if force_rollback else self._keep)(depth)
        except BaseException:
            try:
                self._undo(depth)
            except Exception:  # the connection is lost, and with it the transaction
                self._broken = True
            raise
        finally:
            self._depth = depth

    @abstractmethod
    def _begin(self, depth: int) -> None: ...
    @abstractmethod
    def _keep(self, depth: int) -> None: ...
    @abstractmethod
    def _undo(self, depth: int) -> None: ...

    @abstractmethod
    def run(self, sql: str, values: Mapping[str, Any], types: Types = None) -> int:
        """How many rows it changed."""

    @abstractmethod
    def query(self, sql: str, values: Mapping[str, Any], types: Types = None) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def run_many(
        self, sql: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]], types: Types = None
    ) -> None:
        """Once for each row; `names` are those of its values."""

    @abstractmethod
    def quote(self, name: str) -> str: ...

    def quoted(self, table: str) -> str:
        """A table's name, or schema.name."""
        return ".".join(self.quote(part) for part in table.split("."))

    # ------------------------------------------------------------ the schema

    @abstractmethod
    def columns(self, table: str) -> list[TableColumn]:
        """Empty without such a table. `type` is a form of values.py, or a pair of it and what run_many() is to be told."""

    @abstractmethod
    def unique(self, table: str) -> Unique | None:
        """None where the database cannot be asked."""

    def merging(self, table: str, unique: Unique) -> Merges:
        """How rows of this table, which has these unique indexes, are merged."""
        return self.merges

    def create_offsets(self, table: str) -> None:
        """If it is missing."""
        names = {name: self.quote(name) for name in OFFSETS_COLUMNS}
        probe = f"SELECT {names['epoch']} FROM {self.quoted(table)} WHERE 1 = 0"
        if self._works(lambda: self.query(probe, {})) is None:
            return
        ddl = OFFSETS_DDL.format(table=self.quoted(table), **names)
        error = self._works(lambda: self.run(ddl, {}))
        if (
            error is not None and self._works(lambda: self.query(probe, {})) is not None
        ):  # nobody else made it
            raise SchemaError(
                f"the table of offsets cannot be made: {driver_error(error)}. Make it: {ddl}"
            ) from error

    def _works(self, call: Callable[[], Any]) -> Exception | None:
        try:
            with self.transaction():
                call()
        except Exception as error:
            if self.closed or (fault_of(error) == "lost" and not _says_missing(error)):
                raise
            return error
        return None


def _says_missing(error: BaseException) -> bool:
    """Some drivers call a table that is not there an OperationalError."""
    text = str(driver_error(error)).lower()
    return "no such table" in text or "exist" in text


_MARKS = re.compile(r"""("(?:[^"]|"")*"|`[^`]*`|'(?:[^']|'')*')|:([a-z_][a-z0-9_]*)""")
_STYLES = ("qmark", "format", "numeric", "named", "pyformat")


class DbApiSession(SqlSession):
    """A connection of a PEP 249 driver, with autocommit off, which is that standard's rule."""

    def __init__(
        self,
        connection: Any,
        *,
        paramstyle: str,
        quote: str = '"',
        savepoints: bool = True,
        merges: Merges = "row by row",
    ) -> None:
        super().__init__()
        if paramstyle not in _STYLES:
            raise ConfigError(
                f"paramstyle={paramstyle!r}: one of {', '.join(_STYLES)}, as the driver's `paramstyle` says"
            )
        self._connection = connection
        self._style = paramstyle
        self._quote = quote
        self.savepoints = savepoints
        self.merges = merges
        self._statements: dict[str, tuple[str, list[str]]] = {}  # bounded by the statements there are

    @property
    def closed(self) -> bool:
        return self._broken or bool(getattr(self._connection, "closed", False))

    def close(self) -> None:
        self._broken = True
        with contextlib.suppress(Exception):
            self._connection.close()

    def quote(self, name: str) -> str:
        return f"{self._quote}{name.replace(self._quote, self._quote * 2)}{self._quote}"

    def _begin(self, depth: int) -> None:
        if depth:
            self._execute(f"SAVEPOINT penstock_{depth}")

    def _keep(self, depth: int) -> None:
        if depth:
            self._execute(f"RELEASE SAVEPOINT penstock_{depth}")
        else:
            self._connection.commit()

    def _undo(self, depth: int) -> None:
        if depth:
            self._execute(f"ROLLBACK TO SAVEPOINT penstock_{depth}")
        else:
            self._connection.rollback()

    def _execute(self, sql: str) -> None:
        with contextlib.closing(self._connection.cursor()) as cursor:
            cursor.execute(sql)

    def run(self, sql: str, values: Mapping[str, Any], types: Types = None) -> int:
        with contextlib.closing(self._connection.cursor()) as cursor:
            self._run(cursor, sql, values)
            return int(cursor.rowcount)

    def query(self, sql: str, values: Mapping[str, Any], types: Types = None) -> list[tuple[Any, ...]]:
        with contextlib.closing(self._connection.cursor()) as cursor:
            self._run(cursor, sql, values)
            return [tuple(row) for row in cursor.fetchall()]

    def _run(self, cursor: Any, sql: str, values: Mapping[str, Any]) -> None:
        statement, used = self._prepared(sql)
        if not used:
            cursor.execute(statement)
        elif self._style in ("named", "pyformat"):
            cursor.execute(statement, {name: values[name] for name in used})
        else:
            cursor.execute(statement, tuple(values[name] for name in used))

    def run_many(
        self, sql: str, names: Sequence[str], rows: Sequence[tuple[Any, ...]], types: Types = None
    ) -> None:
        statement, used = self._prepared(sql)
        given: Sequence[Any] = rows
        if self._style in ("named", "pyformat"):
            given = [dict(zip(names, row, strict=True)) for row in rows]
        elif used != list(names):
            places = [names.index(name) for name in used]
            given = [tuple(row[place] for place in places) for row in rows]
        with contextlib.closing(self._connection.cursor()) as cursor:
            cursor.executemany(statement, given)

    def _prepared(self, sql: str) -> tuple[str, list[str]]:
        """The statement in the driver's style, and the names of its values in their order."""
        if (known := self._statements.get(sql)) is not None:
            return known
        used: list[str] = []
        percent = self._style in ("format", "pyformat")

        def mark(match: re.Match[str]) -> str:
            name = match[2]
            if name is None:
                return match[1].replace("%", "%%") if percent else match[1]
            used.append(name)
            marks = {
                "qmark": "?",
                "format": "%s",
                "numeric": f":{len(used)}",
                "named": f":{name}",
                "pyformat": f"%({name})s",
            }
            return marks[self._style]

        found = self._statements[sql] = (_MARKS.sub(mark, sql), used)
        return found

    def columns(self, table: str) -> list[TableColumn]:
        """By their names alone: more is not told by every driver."""
        with contextlib.closing(self._connection.cursor()) as cursor:
            cursor.execute(f"SELECT * FROM {self.quoted(table)} WHERE 1 = 0")
            return [TableColumn(entry[0], "any") for entry in cursor.description]

    def unique(self, table: str) -> Unique | None:
        return None
