"""The demo's processes: started in sessions of their own, ended one by one, by their pids."""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.kafka.watchdog import Watchdog

STOP_TIMEOUT_S = 15.0
LOG_TAIL_CHARACTERS = 2_000


class DemoError(Exception):
    """The demo cannot go on, or did not come out even; the message is for the user."""


class Child:
    """One process of a Python module. Its standard output is read by us, its errors go to a file."""

    def __init__(self, name: str, module: str, *arguments: str, folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end them in order
            )

    def line(self, timeout_s: float) -> str:
        """The next line that the process writes; DemoError if none comes in time."""
        out = self.process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], timeout_s)
        text = out.readline().strip() if ready else ""
        if not text:
            raise DemoError(self._story(f"said nothing within {timeout_s:.0f} s"))
        return text

    def check(self) -> None:
        """DemoError if the process has ended with an error."""
        if self.process.poll() not in (None, 0):
            raise DemoError(self._story("failed"))

    def stop(self) -> None:
        """SIGTERM, time to finish, and only then SIGKILL, which is an error. Idempotent."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise DemoError(
                self._story(f"did not end within {STOP_TIMEOUT_S:.0f} s and was killed")
            ) from None
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()

    def _story(self, what: str) -> str:
        log = self._log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:].strip()
        code = self.process.poll()
        ended = "" if code is None else f" (exit code {code})"
        return f"the process {self.name} {what}{ended}. It wrote:\n{log or '(nothing)'}"


class Family:
    """All children. If this process is killed outright, a watchdog kills what is left of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._watchdog = Watchdog(folder)
        self.children: list[Child] = []

    @contextlib.contextmanager
    def start(self, name: str, module: str, *arguments: str) -> Iterator[Child]:
        """A child until the end of the block."""
        child = Child(name, module, *arguments, folder=self._folder)
        self._watchdog.add(child.process.pid)
        self.children.append(child)
        try:
            yield child
        finally:
            self.children.remove(child)
            try:
                child.stop()
            finally:
                self._watchdog.remove(child.process.pid)

    def check(self) -> None:
        """DemoError if one has failed."""
        for child in self.children:
            child.check()

    def close(self) -> None:
        """Also removes the folder."""
        self._watchdog.close()
