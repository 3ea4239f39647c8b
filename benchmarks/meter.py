"""What one contender's process measures of itself.

The clock starts when the warm-up records have been consumed and stops when the count, or the time, is reached.
Processor time is that of all threads of the process over the same span.
"""

from __future__ import annotations

import time
from pathlib import Path


class Meter:
    """Told after every poll what was consumed; `done` when there is enough."""

    def __init__(self, count: int, warmup: int, limit_s: float) -> None:
        self.count = count
        self.warmup = warmup
        self.limit_s = limit_s
        self.records = 0
        self.bytes = 0
        self._begin: tuple[float, float, int, int] | None = None
        self._end: tuple[float, float] | None = None

    @property
    def done(self) -> bool:
        return self._end is not None

    def add(self, records: int, size: int) -> bool:
        """Count one poll's records and the bytes of their keys and values; returns `done`."""
        self.records += records
        self.bytes += size
        if self._begin is None:
            if self.records > self.count / 2:
                raise RuntimeError(
                    f"the first polls brought {self.records} of {self.count} records: too few are left to measure"
                )
            if self.records >= self.warmup:
                self._begin = (time.perf_counter(), time.process_time(), self.records, self.bytes)
            return False
        now = time.perf_counter()
        if self.records >= self.count or now - self._begin[0] >= self.limit_s:
            self._end = (now, time.process_time())
        return self.done

    def result(self) -> dict[str, float]:
        if self._begin is None or self._end is None:
            raise RuntimeError(f"only {self.records} records arrived: too few to measure anything")
        begin_s, begin_cpu_s, records, size = self._begin
        seconds = self._end[0] - begin_s
        return {
            "records": self.records - records,
            "bytes": self.bytes - size,
            "seconds": seconds,
            "cpu_seconds": self._end[1] - begin_cpu_s,
            "peak_rss_bytes": peak_rss_bytes(),
        }


def peak_rss_bytes() -> int:
    """VmHWM: the most memory this process ever had resident."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1_024
    raise RuntimeError("/proc/self/status has no VmHWM; this benchmark needs Linux")
