"""Measures a processor once a window, and sets what `adaptive` decides: how many calls at once, and how much may be held."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from . import resources
from .adaptive import Adaptive, AdaptiveLimit, Budget, IntakeShare, Window
from .lanes import Lane, Load
from .work import Executor

_log = logging.getLogger("penstock.processing")

_SAMPLE_S = 0.05
_SAMPLES = 20
_LEAST_RECORDS, _LEAST_BYTES = 50, 256 * 1024


@dataclass
class Dial:
    """One adaptive handler. `unit`: how many works one of its calls counts for (frames of processes). `samples` are this window's."""

    lane: Lane
    executor: Executor
    limit: AdaptiveLimit
    unit: int
    ended_before: int = 0
    samples: list[tuple[int, bool]] = field(default_factory=list)

    def sample(self) -> None:
        out = self.executor.busy
        self.samples.append((out, out >= self.limit.limit and self.lane.waiting > 0))

    def window(self, seconds: float, overloaded: bool) -> Window:
        samples, self.samples = self.samples, []
        ended = self.lane.ended_calls
        before, self.ended_before = self.ended_before, ended
        mean = sum(out for out, _ in samples) / len(samples)
        pressed = sum(full for _, full in samples) * 2 > len(samples)
        return Window(seconds, mean, ended - before, pressed, overloaded)

    def turn(self, window: Window) -> None:
        self.lane.concurrency = self.limit.decide(window) * self.unit
        self.executor.kick()


class Adapter:
    """Belongs to the event loop. Of the load it writes the limits, nobody else does."""

    def __init__(self, budget: Budget, load: Load, pids: Callable[[], Sequence[int]]) -> None:
        """`pids`: of the worker processes."""
        self._budget = budget
        self._load = load
        self._pids = pids
        self._dials: list[Dial] = []
        self._whole = load.limit_records, load.limit_bytes
        self._intake = IntakeShare(budget)
        self._warned = False

    def add(self, lane: Lane, executor: Executor, given: Adaptive, unit: int) -> None:
        """Have this handler adapted. Its lane has the first limit already."""
        self._dials.append(Dial(lane, executor, AdaptiveLimit(given), unit))

    @property
    def needed(self) -> bool:
        """Whether there is anything to adapt."""
        return bool(self._dials) or self._budget.memory_bytes is not None

    async def for_ever(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        began_s, cpu_before_s = loop.time(), resources.cpu_s(self._pids())
        while True:
            for _ in range(_SAMPLES):
                await asyncio.sleep(_SAMPLE_S)
                for dial in self._dials:
                    dial.sample()
            now_s, pids = loop.time(), self._pids()
            cpu_s = resources.cpu_s(pids)
            seconds = now_s - began_s
            self.window(seconds, resources.memory_bytes(pids), (cpu_s - cpu_before_s) / seconds)
            began_s, cpu_before_s = now_s, cpu_s

    def window(self, seconds: float, memory_bytes: int, cpu_cores: float) -> None:
        """What was sampled since the last one, beside what the processes used."""
        overloaded = self._budget.exceeded(memory_bytes, cpu_cores)
        for dial in self._dials:
            dial.turn(dial.window(seconds, overloaded))
        if self._budget.memory_bytes is not None:
            self._hold(memory_bytes)

    def _hold(self, memory_bytes: int) -> None:
        share = self._intake.decide(memory_bytes)
        load, (records, size_bytes) = self._load, self._whole
        load.limit_records = max(min(records, _LEAST_RECORDS), int(records * share))
        load.limit_bytes = max(min(size_bytes, _LEAST_BYTES), int(size_bytes * share))
        if self._intake.exhausted and not self._warned:
            self._warned = True
            _log.warning(
                "memory_budget of %d bytes is not kept: %d bytes are resident with as little held as may be; "
                "the rest is the handlers', the imports' and the fetch buffer's (fetch.buffer.bytes)",
                self._budget.memory_bytes,
                memory_bytes,
            )
