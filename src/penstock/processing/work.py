"""A unit of work and the way it goes between the lanes (which order it) and the executors (which run it)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .._native import ConsumerRecord, ConsumerRecords
from .progress import PartitionProgress

Handler = Callable[[Any], Any]
"""The user's function: of one ConsumerRecord, or in a batch handler of ConsumerRecords. A coroutine function or a plain one."""


class Work:
    """One call of a handler to come: a record, or a batch of records.

    Belongs to its lane, but `started_s`, which its executor writes (event loop's time; None while it waits).
    """

    __slots__ = ("attempts", "first_failed_ms", "key", "partition", "payload", "spans", "started_s")

    def __init__(
        self,
        payload: ConsumerRecord | ConsumerRecords,
        partition: PartitionProgress,
        key: object,
        spans: tuple[tuple[PartitionProgress, int, int], ...] = (),
    ) -> None:
        """`spans`: for a batch, (partition, first offset, offset after the last) of each run in it; empty for one record."""
        self.payload = payload
        self.partition = partition
        self.key = key  # what orders it among others of its partition; None: nothing does
        self.spans = spans
        self.attempts = 0  # calls of the handler that have failed
        self.first_failed_ms = 0.0
        self.started_s: float | None = None


class WorkSource(Protocol):
    """What an executor sees of its lane. Every call is made in the event loop's thread, and is quick."""

    concurrency: int
    """How many works may be out at once; may change while running."""
    timeout_s: float | None
    """How long one call of the handler may take."""

    def take(self) -> Work | None:
        """The next work whose turn it is, or None. The executor owes one of the three calls below for it."""

    def finished(self, work: Work, result: Any) -> None:
        """The handler has returned."""

    def failed(self, work: Work, error: BaseException) -> None:
        """The handler has raised, has run into its timeout (HandlerTimeoutError) or has killed its process (WorkerDiedError)."""

    def released(self, work: Work) -> None:
        """The handler was not run, or was cancelled: the work counts as never taken."""


class Executor(Protocol):
    """Runs handlers. Every call is made in the event loop's thread; `stop()` is awaited there."""

    def start(self, source: WorkSource) -> None:
        """Begin; called once, with a running event loop."""

    def kick(self) -> None:
        """The source may have work, or a higher concurrency: take while there is room. Quick, never blocks."""

    def cancel(self, works: frozenset[Work]) -> None:
        """End those of these calls that can be ended (coroutines; processes); each still owes its call to the source."""

    @property
    def running(self) -> int:
        """How many works are out."""

    async def stop(self) -> None:
        """End all that belongs to the executor; what runs is cancelled where it can be. Idempotent."""


@dataclass(frozen=True, slots=True)
class Output:
    """A record that a handler returns, to be written to `topic` (None: the handler's `output` topic)."""

    value: Any
    key: Any = None
    topic: str | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int | None = None
    timestamp_ms: int | None = None
