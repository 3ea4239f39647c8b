"""A unit of work and the way it goes between the lanes (which order it) and the executors (which run it)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .._native import ConsumerRecord, ConsumerRecords
from .progress import PartitionProgress

Handler = Callable[[Any], Any]
"""The user's function: of one ConsumerRecord, or in a batch handler of ConsumerRecords. A coroutine function or a plain one."""


class Parcel:
    """Records that came together, and whose memory goes together: when the last of them is done."""

    __slots__ = ("bytes", "records")

    def __init__(self, records: int, size_bytes: int) -> None:
        self.records = records
        self.bytes = size_bytes


LOOSE = Parcel(0, 0)
"""Of works that no memory is counted for."""


class Span(NamedTuple):
    """A run of one partition's records in a batch: from `offset` on, up to `next_offset`, `records` of them."""

    partition: PartitionProgress
    offset: int
    next_offset: int
    records: int
    parcel: Parcel


class Work:
    """One call of a handler to come: a record, or a batch of records.

    Belongs to its lane, but `started_s`, which its executor writes (event loop's time; None while it waits).
    """

    __slots__ = (
        "attempts",
        "error",
        "first_failed_ms",
        "key",
        "parcel",
        "partition",
        "payload",
        "postponed",
        "rest",
        "spans",
        "started_s",
    )

    def __init__(
        self,
        payload: ConsumerRecord | ConsumerRecords,
        partition: PartitionProgress,
        key: object,
        parcel: Parcel = LOOSE,
        spans: tuple[Span, ...] = (),
    ) -> None:
        """`spans`: the runs that a batch consists of, in its order; empty for one record."""
        self.payload = payload
        self.partition = partition
        self.key = key  # what orders it among others of its partition; None: nothing does
        self.parcel = parcel
        self.spans = spans
        self.rest: list[ConsumerRecords] | None = (
            None  # of a batch that was cut in two: what follows, last first
        )
        self.error: BaseException | None = None  # why it waits for another attempt
        self.attempts = 0  # calls of the handler that have failed
        self.postponed = 0  # times that its turn came and the handler was not called
        self.first_failed_ms = 0.0
        self.started_s: float | None = None


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Reported in place of a result: so many records were left out, since their effects are done. `called`: the handler was, for others."""

    records: int
    called: bool


class WorkSource(Protocol):
    """What an executor sees of its lane. Every call is made in the event loop's thread, and is quick."""

    concurrency: int
    """How many works may be out at once; may change while running."""
    timeout_s: float | None
    """How long one call of the handler may take."""

    @property
    def waiting(self) -> int:
        """How many works may be taken now, if `concurrency` allows."""

    def take(self) -> Work | None:
        """The next work whose turn it is, or None. The executor owes one of the three calls below for it."""

    def finished(self, work: Work, result: Any) -> None:
        """The handler has returned."""

    def failed(self, work: Work, error: BaseException) -> None:
        """The handler has raised, has run into its timeout (HandlerTimeoutError) or has killed its process (WorkerDiedError)."""

    def broken(self, error: Exception) -> None:
        """No handler can be run any more; the processor has to end."""

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

    @property
    def busy(self) -> int:
        """How many calls are under way; works may be out that wait behind another in their process."""

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
