"""A server that is a process of ours, in a temporary folder: started, killed, started again, ended."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tools.kafka.kafka import free_port
from tools.kafka.watchdog import Watchdog

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0


class RealServer:
    """What the servers here have in common. Its port stays the same after kill() and start()."""

    name: str
    ends_by: signal.Signals
    """What makes it end in order, and soon."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"penstock-{self.name.lower()}-"))
        self.process: subprocess.Popen[bytes] | None = None
        self._watchdog = Watchdog(self.folder)

    def start(self) -> Self:
        """Start the server, or start it again after kill(); waits until it takes connections."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL of the server."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server and remove its folder. Idempotent."""
        self._end(self.ends_by)
        self._watchdog.close()

    def _run(self, command: Sequence[str], user: str | None = None) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=user,
                start_new_session=True,
            )
        self._watchdog.add(self.process.pid)

    def _once(self, command: Sequence[str], user: str | None = None, input: str | None = None) -> None:
        """A program that prepares the folder; RuntimeError with what it wrote if it fails."""
        done = subprocess.run(
            command, input=input, capture_output=True, text=True, user=user, cwd=self.folder, timeout=60, check=False
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(
                f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr[-3000:]}"
            )

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

    def _wait_ready(self, connect: Callable[[], object], refusal: type[Exception]) -> None:
        """Until connect() does not raise a `refusal`."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            assert self.process is not None
            try:
                connect()
                return
            except refusal as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "server.log").read_text(errors="replace")
                    raise RuntimeError(
                        f"{self.name} did not start ({error}); its log ends with:\n{log[-3000:]}"
                    ) from error
            time.sleep(0.02)
