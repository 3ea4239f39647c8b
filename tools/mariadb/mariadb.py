"""A real MariaDB for tests, on a loopback port."""

from __future__ import annotations

import os
import signal
from typing import Any, Self

import pymysql

from tools.kafka.cluster import HOST
from tools.mariadb.jars import ensure_programs
from tools.server import RealServer

_SYSTEM_TABLES = (
    "mariadb_system_tables.sql",
    "mariadb_performance_tables.sql",
    "mariadb_system_tables_data.sql",
)


class RealMariaDB(RealServer):
    """One server in a temporary folder. What is stored outlives kill()."""

    name = "MariaDB"
    ends_by = signal.SIGTERM

    def __init__(self) -> None:
        super().__init__()
        self._programs = ensure_programs()
        self._data = self.folder / "data"

    def connect(self) -> pymysql.Connection[Any]:
        """As root, who has no password here."""
        return pymysql.connect(host=HOST, port=self.port, user="root", connect_timeout=5)

    def create_database(self, name: str) -> str:
        """A new database; returns its address for SQLAlchemy."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return f"mysql+pymysql://root@{HOST}:{self.port}/{name}"

    def start(self) -> Self:
        if not self._data.exists():
            self._make_system_tables()
        self._run(
            [
                *self._program(),
                f"--bind-address={HOST}",
                f"--port={self.port}",
                f"--socket={self.folder / 'socket'}",
                # The machine does not crash in these tests, only processes do: their writes are with the kernel.
                "--innodb-flush-log-at-trx-commit=2",
            ]
        )
        self._wait_ready(lambda: self.connect().close(), pymysql.OperationalError)
        return self

    def _program(self) -> list[str]:
        command = [
            str(self._programs / "bin" / "mariadbd"),
            "--no-defaults",
            f"--datadir={self._data}",
            f"--lc-messages-dir={self._programs / 'share'}",
            "--innodb-log-file-size=8M",
        ]
        return [*command, "--user=root"] if os.geteuid() == 0 else command

    def _make_system_tables(self) -> None:
        self._data.mkdir()
        scripts = [(self._programs / "share" / name).read_text() for name in _SYSTEM_TABLES]
        self._once(
            [*self._program(), "--bootstrap"],
            input="\n".join(
                ["CREATE DATABASE mysql;", "USE mysql;", "SET @auth_root_socket = NULL;", *scripts]
            ),
        )
