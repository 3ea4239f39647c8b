"""A real PostgreSQL for tests and the demo: the programs that the package pgserver carries, on a loopback port."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import warnings
from pathlib import Path
from typing import Self

import psycopg

from tools.kafka.kafka import HOST
from tools.server import STOP_TIMEOUT_S, RealServer

UNPRIVILEGED_USER = "nobody"  # PostgreSQL refuses to run as root


class RealPostgres(RealServer):
    """One server in a temporary folder. `dsn` is its address, and stays the same after kill() and start()."""

    name = "PostgreSQL"
    ends_by = signal.SIGINT  # its fast shutdown: sessions are ended, not waited for

    def __init__(self) -> None:
        super().__init__()
        self._data = self.folder / "data"
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._programs = self._reachable_programs()

    @property
    def dsn(self) -> str:
        return self.database_dsn("postgres")

    def database_dsn(self, database: str, port: int | None = None) -> str:
        """The address of a database; another port for a proxy's."""
        return f"postgresql://postgres@{HOST}:{port or self.port}/{database}"

    def create_database(self, name: str) -> str:
        """A new database; returns its dsn."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return self.database_dsn(name)

    def start(self) -> Self:
        if not self._data.exists():
            options = ["-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
            self._once([str(self._programs / "initdb"), *options], self._user)
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "max_prepared_transactions": 16,
            # The machine does not crash in these tests, only processes do: their writes are with the kernel.
            "fsync": "off",
        }
        given = [f"--{k}={v}" for k, v in settings.items()]
        self._run([str(self._programs / "postgres"), "-D", str(self._data), *given], self._user)
        self._wait_ready(
            lambda: psycopg.connect(self.dsn, connect_timeout=5).close(), psycopg.OperationalError
        )
        return self

    def kill(self) -> None:
        """SIGKILL of the server. Its sessions see that it is gone, and end; until then the server could not be started again."""
        import psutil

        sessions = psutil.Process(self.process.pid).children() if self.process is not None else []
        super().kill()
        _, alive = psutil.wait_procs(sessions, STOP_TIMEOUT_S)
        assert not alive, alive

    def _reachable_programs(self) -> Path:
        """Where the programs are, or a copy: for root's unprivileged user, root's home (mode 700) is closed."""
        programs = _programs()
        closed = any(not parent.stat().st_mode & stat.S_IXOTH for parent in (programs, *programs.parents))
        if self._user is None or not closed:
            return programs
        # As the wheel has them side by side: the programs look for their libraries in ../../../pgserver.libs
        packages = programs.parent.parent.parent
        for part in ("pgserver/pginstall", "pgserver.libs"):
            if (packages / part).is_dir():
                shutil.copytree(packages / part, self.folder / part, symlinks=True)
        return self.folder / "pgserver" / "pginstall" / "bin"


def _programs() -> Path:
    """Where pgserver keeps PostgreSQL's programs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it speaks up about a runtime folder that is not used here
            import pgserver
    except ImportError as error:
        raise RuntimeError(
            "PostgreSQL for tests comes with the package pgserver: pip install pgserver"
        ) from error
    return Path(pgserver.__file__).parent / "pginstall" / "bin"
