"""Which processes of a processor run, wait, and are started again. Pure: time is given.

    an instance:  STARTING --ready--> RUNNING --exits--> RESTING --its backoff is over--> STARTING
                      \\-----------------exits-------------^
    a standby:    WAITING, with the application imported; when an instance ends it takes its number at once

The number of an instance stays, and with it its group.instance.id: who takes it over is the same member to the group (KIP-345).
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import Enum

_BACKOFF_MS = (200.0, 30_000.0)
_HEALTHY_MS = 60_000.0
"""An instance that ran for so long starts with the first backoff again."""
_SHORT_RUNS = 3
"""An instance that ends more often than that in short succession has a cause that a standby does not mend: it waits."""
_SILENT_MS = 60_000.0
"""An instance that says nothing for so long hangs: it is killed."""


class State(Enum):
    STARTING = "starting"
    RUNNING = "running"
    RESTING = "resting"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Start:
    """Make a process: for an instance's number, or (0) a standby."""

    number: int


@dataclass(frozen=True, slots=True)
class Promote:
    """Tell this standby which number it has from now on."""

    pid: int
    number: int


@dataclass(frozen=True, slots=True)
class Kill:
    pid: int
    signal: signal.Signals


@dataclass(frozen=True, slots=True)
class Say:
    """A line for people."""

    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """All have ended."""

    exit_code: int


Effect = Start | Promote | Kill | Say | Finish


@dataclass(slots=True)
class Instance:
    """Written by the machine only. `pid` is 0 while it has no process."""

    number: int
    state: State = State.RESTING
    pid: int = 0
    started_ms: float = 0.0
    heard_ms: float = 0.0
    due_ms: float = 0.0
    vain_starts: int = 0  # ends in a row without having been ready
    short_runs: int = 0  # ends in a row before it had run for _HEALTHY_MS
    restarts: int = 0
    health: dict[str, object] = field(default_factory=dict)


class Supervision:
    """The machine. The shell performs effects, and says started(), said() and exited()."""

    def __init__(self, instances: int, standbys: int, grace_ms: float, most_vain_starts: int = 5) -> None:
        self.instances = [Instance(number) for number in range(1, instances + 1)]
        self.waiting: list[int] = []  # pids of standbys that are ready
        self._making = 0  # standbys that were asked for and are not ready
        self._standbys = standbys
        self._grace_ms = grace_ms
        self._most_vain_starts = most_vain_starts
        self._pids: dict[int, Instance | None] = {}  # None: a standby
        self._stop_ms: float | None = None  # when the grace is over
        self._exit_code = 0

    @property
    def stopping(self) -> bool:
        return self._stop_ms is not None

    # ------------------------------------------------------------ what happens

    def begin(self, now_ms: float) -> list[Effect]:
        return self.tick(now_ms)

    def started(self, number: int, pid: int, now_ms: float) -> None:
        """A process was made as Start asked."""
        if number == 0:
            self._pids[pid] = None
            return
        instance = self.instances[number - 1]
        self._pids[pid] = instance
        instance.pid, instance.started_ms, instance.heard_ms = pid, now_ms, now_ms

    def said(self, pid: int, health: dict[str, object], now_ms: float) -> list[Effect]:
        """A process tells how it is."""
        if pid not in self._pids:
            return []
        instance = self._pids[pid]
        if instance is None:
            if pid not in self.waiting and not self.stopping:
                self.waiting.append(pid)
                self._making -= 1
            return []
        instance.heard_ms, instance.health = now_ms, health
        if instance.state is State.STARTING and health.get("ready"):
            instance.state = State.RUNNING
            instance.vain_starts = 0
            return [Say(f"instance {instance.number} (process {pid}) is ready")]
        if health.get("alive") is False:
            return [
                Say(f"instance {instance.number} is not alive: {health.get('reason')}"),
                Kill(pid, signal.SIGKILL),
            ]
        return []

    def exited(self, pid: int, exit_code: int, now_ms: float) -> list[Effect]:
        """A process has ended; exit_code is negative for a signal."""
        if pid not in self._pids:
            return []
        instance = self._pids.pop(pid)
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        if instance is None:
            if pid in self.waiting:
                self.waiting.remove(pid)
            else:
                self._making -= 1
            return [] if self.stopping else [Say(f"a standby (process {pid}) {how}")]
        instance.pid = 0
        if self.stopping:
            if exit_code and not self._exit_code:
                self._exit_code = 1
            instance.state = State.ENDED
            return self._finished()
        return self._lost(instance, pid, how, now_ms)

    def stop(self, now_ms: float) -> list[Effect]:
        """End all: at first kindly, after the grace, or when asked again, at once."""
        pids = sorted(self._pids)
        if self.stopping:
            return [Kill(pid, signal.SIGKILL) for pid in pids]
        self._stop_ms = now_ms + self._grace_ms
        for instance in self.instances:
            if not instance.pid:
                instance.state = State.ENDED
        said: list[Effect] = [Say(f"stopping {len(pids)} processes")]
        return [*said, *(Kill(pid, signal.SIGTERM) for pid in pids), *self._finished()]

    def tick(self, now_ms: float) -> list[Effect]:
        """What time brings."""
        if self._stop_ms is not None:
            late = now_ms >= self._stop_ms
            return [Kill(pid, signal.SIGKILL) for pid in sorted(self._pids)] if late else []
        effects: list[Effect] = []
        for instance in self.instances:
            if instance.state is State.RESTING and now_ms >= instance.due_ms:
                instance.state = State.STARTING
                effects.append(Start(instance.number))
            elif instance.pid and now_ms - instance.heard_ms > _SILENT_MS:
                instance.heard_ms = now_ms
                effects += [
                    Say(
                        f"instance {instance.number} has said nothing for {_SILENT_MS / 1000:.0f} s and is killed"
                    ),
                    Kill(instance.pid, signal.SIGKILL),
                ]
        while len(self.waiting) + self._making < self._standbys:
            self._making += 1
            effects.append(Start(0))
        return effects

    def next_tick_ms(self, now_ms: float) -> float:
        """When to call tick() at the latest."""
        dues = [i.due_ms for i in self.instances if i.state is State.RESTING]
        if self._stop_ms is not None:
            dues.append(self._stop_ms)
        return min([*dues, now_ms + 1_000.0])

    # ------------------------------------------------------------ what it leads to

    def _lost(self, instance: Instance, pid: int, how: str, now_ms: float) -> list[Effect]:
        was_ready = instance.state is State.RUNNING
        instance.vain_starts = 0 if was_ready else instance.vain_starts + 1
        instance.restarts += 1
        if instance.vain_starts >= self._most_vain_starts:
            self._exit_code = 1
            text = (
                f"instance {instance.number} {how} {instance.vain_starts} times without having been ready; its messages above say why. "
                "Giving up"
            )
            instance.state = State.ENDED
            return [Say(text), *self.stop(now_ms)]
        ran_well = was_ready and now_ms - instance.started_ms >= _HEALTHY_MS
        instance.short_runs = 0 if ran_well else instance.short_runs + 1
        if self.waiting and was_ready and instance.short_runs <= _SHORT_RUNS:
            standby = self.waiting.pop(0)
            self._pids[standby] = instance
            instance.pid, instance.state = standby, State.STARTING
            instance.started_ms = instance.heard_ms = now_ms
            text = f"instance {instance.number} (process {pid}) {how}; a standby (process {standby}) takes its place"
            return [Say(text), Promote(standby, instance.number), *self.tick(now_ms)]
        low_ms, high_ms = _BACKOFF_MS
        instance.state = State.RESTING
        instance.due_ms = now_ms + min(high_ms, low_ms * 2.0 ** max(0, instance.short_runs - 1))
        return [Say(f"instance {instance.number} (process {pid}) {how}; it is started again")]

    def _finished(self) -> list[Effect]:
        if any(instance.pid for instance in self.instances):
            return []
        standbys = [Kill(pid, signal.SIGTERM) for pid, instance in self._pids.items() if instance is None]
        return [*standbys, Finish(self._exit_code)]

    # ------------------------------------------------------------ how it is

    def health(self) -> dict[str, object]:
        """For probes: ready if all instances are, alive while any is not given up."""
        rows = [
            {
                "number": i.number,
                "state": i.state.value,
                "process": i.pid,
                "restarts": i.restarts,
                **({"health": i.health} if i.health else {}),
            }
            for i in self.instances
        ]
        ready = all(i.state is State.RUNNING and i.health.get("ready") for i in self.instances)
        return {
            "ready": ready and not self.stopping,
            "alive": True,
            "reason": "stopping" if self.stopping else "running" if ready else "not all instances are ready",
            "instances": rows,
            "standbys": len(self.waiting),
        }
