"""Ends servers whose starter is gone: a test run that is killed leaves no JVM and no PostgreSQL behind.

The starter uses `Watchdog`. The file run as a program is its other half: it reads lines `+pid` and `-pid` from
standard input, whose other end only the starter holds. When that ends, the pids that are left are killed, and the
folder given as argument, if any, is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

CLOSE_TIMEOUT_S = 20.0


class Watchdog:
    """Knows the servers that one object has started. `folder` is removed at the end, None: nothing is."""

    def __init__(self, folder: Path | None = None) -> None:
        arguments = [] if folder is None else [str(folder)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, *arguments], stdin=subprocess.PIPE, start_new_session=True
        )

    def add(self, pid: int) -> None:
        """A server was started."""
        self._tell(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """A server has ended and was waited for: its pid may become another's."""
        self._tell(f"-{pid}\n")

    def close(self) -> None:
        """Kill what is left, remove the folder, and wait until that is done."""
        self._process.communicate(timeout=CLOSE_TIMEOUT_S)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


def main() -> None:
    pids: set[int] = set()
    for line in sys.stdin:
        number = int(line[1:])
        if line.startswith("+"):
            pids.add(number)
        else:
            pids.discard(number)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if len(sys.argv) > 1:
        shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
