"""A real PostgreSQL for tests and the demo: the programs that the package pgserver carries, on a loopback port."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import psycopg

from tools.kafka.kafka import HOST, free_port
from tools.kafka.watchdog import Watchdog

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
UNPRIVILEGED_USER = "nobody"  # PostgreSQL refuses to run as root


class RealPostgres:
    """One server in a temporary folder. `dsn` is its address, and stays the same after kill() and start()."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-postgres-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._data = self.folder / "data"
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._watchdog = Watchdog(self.folder)
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

    def start(self) -> RealPostgres:
        """Start the server, or start it again after kill(); waits until it takes connections."""
        if not self._data.exists():
            self._run(
                "initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"
            )
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "max_prepared_transactions": 16,
            # The machine does not crash in these tests, only processes do: their writes are with the kernel.
            "fsync": "off",
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(self._programs / "postgres"),
                    "-D",
                    str(self._data),
                    *(f"--{k}={v}" for k, v in settings.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
                start_new_session=True,
            )
        self._watchdog.add(self.process.pid)
        self._wait_ready()
        return self

    def kill(self) -> None:
        """SIGKILL of the server; its sessions end at once."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server and remove its folder. Idempotent."""
        self._end(signal.SIGINT)  # PostgreSQL's fast shutdown: sessions are ended, not waited for
        self._watchdog.close()

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)
        self._watchdog.remove(self.process.pid)
        self.process = None

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            assert self.process is not None
            try:
                with psycopg.connect(self.dsn, connect_timeout=5):
                    return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "server.log").read_text(errors="replace")
                    raise RuntimeError(
                        f"PostgreSQL did not start ({error}); its log ends with:\n{log[-3000:]}"
                    ) from error
            time.sleep(0.02)

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

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *args],
            capture_output=True, text=True, user=self._user, cwd=self.folder, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


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
