"""What is done, in a file: for the processes of one machine."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...errors import ConfigError, DeduplicationError
from .store import SWEEP_ROWS, Answer, Sweeping

T = TypeVar("T")

_BUSY_TIMEOUT_S = 5.0
_MOST_VARIABLES = 500
"""Of one statement; SQLite allowed 999 before 3.32. Source: https://sqlite.org/limits.html"""

_CREATE = (
    "CREATE TABLE IF NOT EXISTS {table} (id BLOB PRIMARY KEY, owner TEXT NOT NULL, done INTEGER NOT NULL, until_ms INTEGER NOT NULL) "
    "WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {table}_until ON {table} (until_ms)",
)
_PUT = (
    "INSERT INTO {table} (id, owner, done, until_ms) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, done = excluded.done, until_ms = excluded.until_ms"
)


class SqliteStore:
    """A file, made where it is missing, for any number of processes of one machine; not on a network's file system.

    Each call is one transaction that is on the disk when it returns (WAL, synchronous=FULL). Times are the machine's clock: set back by an
    hour, it lets claims stand an hour longer. `clock_ms` is for tests.
    """

    one_process = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "penstock_done",
        clock_ms: Callable[[], float] | None = None,
    ) -> None:
        self._path = Path(path)
        if str(path) in ("", ":memory:"):
            raise ConfigError("SqliteStore needs the path of a file; for memory there is MemoryStore()")
        if not table.isidentifier():
            raise ConfigError(f"SqliteStore(table={table!r}): letters, digits and _")
        self._table = table
        self._clock_ms = clock_ms or _clock_ms
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None  # under the lock
        self._sweeping = Sweeping()  # under the lock
        self._pid = os.getpid()  # whose connection it is: one that came with a fork must not be used

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_table": self._table, "_clock_ms": self._clock_ms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    # ------------------------------------------------------------ the contract

    def open(self) -> None:
        folder = self._path.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{self!r}: there is no folder {folder}; make it")
        self._transact(lambda connection: None)

    def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
        def claim(connection: sqlite3.Connection) -> list[Answer]:
            now_ms = int(self._clock_ms())
            self._sweep(connection, now_ms)
            found = self._read(connection, ids, now_ms)
            answers = [_answer(found.get(each), owner) for each in ids]
            new = [each for each, answer in zip(ids, answers, strict=True) if answer == "new"]
            connection.executemany(self._sql(_PUT), [(each, owner, 0, now_ms + lease_ms) for each in new])
            return answers

        return self._transact(claim)

    def confirm(self, ids: Sequence[bytes], owner: str, expires_ms: int) -> list[bytes]:
        def confirm(connection: sqlite3.Connection) -> list[bytes]:
            now_ms = int(self._clock_ms())
            others = {each for each, row in self._read(connection, ids, now_ms).items() if row[0] != owner}
            rows = [(each, owner, 1, now_ms + expires_ms) for each in ids if each not in others]
            connection.executemany(self._sql(_PUT), rows)
            return [each for each in ids if each in others]

        return self._transact(confirm)

    def release(self, ids: Sequence[bytes], owner: str) -> None:
        def release(connection: sqlite3.Connection) -> None:
            connection.executemany(
                self._sql("DELETE FROM {table} WHERE id = ? AND owner = ? AND NOT done"),
                [(each, owner) for each in ids],
            )

        self._transact(release)

    def close(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.close()

    # ------------------------------------------------------------ rows

    def _read(
        self, connection: sqlite3.Connection, ids: Sequence[bytes], now_ms: int
    ) -> dict[bytes, tuple[str, bool]]:
        """(owner, done) of those that are claimed or done now."""
        found = {}
        for part in _parts(ids):
            marks = ",".join("?" * len(part))
            rows = connection.execute(
                self._sql(f"SELECT id, owner, done FROM {{table}} WHERE until_ms > ? AND id IN ({marks})"),
                (now_ms, *part),
            )
            found.update({bytes(each): (owner, bool(done)) for each, owner, done in rows})
        return found

    def _sweep(self, connection: sqlite3.Connection, now_ms: int) -> None:
        now_s = time.monotonic()
        if self._sweeping.is_due(now_s):
            swept = connection.execute(
                self._sql(
                    "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE until_ms <= ? ORDER BY until_ms LIMIT ?)"
                ),
                (now_ms, SWEEP_ROWS),
            )
            self._sweeping.swept(swept.rowcount, now_s)

    def _sql(self, text: str) -> str:
        return text.format(table=self._table)

    # ------------------------------------------------------------ the connection

    def _transact(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction. It is begun as a writer's: of two that read first and then write, one would have to fail."""
        with self._lock:
            try:
                connection = self._connected()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = call(connection)
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
                return result
            except sqlite3.OperationalError as error:  # locked for too long, a full disk, a file that is gone
                self.close()
                raise DeduplicationError(f"{self!r}: {error}", retriable=True) from error
            except sqlite3.Error as error:
                self.close()
                raise DeduplicationError(f"{self!r}: SQLite refuses: {error}") from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Of several that make a file at once, SQLite lets some fail without waiting, lest they wait for each other."""
        deadline_s = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                for statement in _CREATE:
                    connection.execute(self._sql(statement))
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline_s:
                    raise
            time.sleep(0.01)

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._path)!r})"


def _clock_ms() -> float:
    return time.time() * 1000


def _answer(row: tuple[str, bool] | None, owner: str) -> Answer:
    if row is None or (row[0] == owner and not row[1]):
        return "new"
    return "done" if row[1] else "busy"


def _parts(ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(ids), _MOST_VARIABLES):
        yield ids[start : start + _MOST_VARIABLES]
