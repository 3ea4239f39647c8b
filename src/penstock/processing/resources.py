"""What this process and its workers use, as the system tells it."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def cpu_s(pids: Iterable[int] = ()) -> float:
    """Seconds of processor time of this process, and of these. Those that have ended are left out."""
    return time.process_time() + sum(_cpu_of(pid) for pid in pids)


def memory_bytes(pids: Iterable[int] = ()) -> int:
    """Resident memory of this process, and of these. Where the system has no /proc: the most that this process had."""
    own = _resident("self")
    if not own:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        own = most if sys.platform == "darwin" else most * 1024
    return own + sum(_resident(str(pid)) for pid in pids)


def _cpu_of(pid: int) -> float:
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    fields = told.rpartition(")")[2].split()  # the name before it may have blanks
    return (int(fields[11]) + int(fields[12])) * _TICK_S  # utime, stime. Source: proc(5)


def _resident(name: str) -> int:
    try:
        return int(Path(f"/proc/{name}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
