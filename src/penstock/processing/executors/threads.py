"""Plain handlers, run by threads of a pool of our own.

A call in a thread cannot be ended from outside: one that takes longer than the timeout is reported, and goes on, since a second call of the
same record, or key, must not run beside it.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..work import Work, WorkSource

_log = logging.getLogger("penstock.processing")

_STOP_TIMEOUT_S = 5.0


class _NotRun(Exception):
    """The work's partition was fenced before its turn came."""


class ThreadExecutor:
    """See Executor. Threads are made as they are needed, up to the source's concurrency, and are daemons."""

    def __init__(self, handler: Callable[[Any], Any], name: str = "penstock handler") -> None:
        self._handler = handler
        self._name = name
        self._queue: queue.SimpleQueue[Work | None] = (
            queue.SimpleQueue()
        )  # bounded by the source's concurrency
        self._threads: list[threading.Thread] = []
        self._ended: deque[tuple[Work, Any, BaseException | None]] = (
            deque()
        )  # appended by threads, taken by the loop
        self._told = False  # whether the loop will look at `_ended`
        self._out: set[Work] = set()
        self._overdue: set[Work] = set()
        self._stopping = False
        self._watch: asyncio.TimerHandle | None = None

    def start(self, source: WorkSource) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        if source.timeout_s is not None:
            self._look_after(source.timeout_s)

    @property
    def running(self) -> int:
        return len(self._out)

    @property
    def busy(self) -> int:
        return min(len(self._out), len(self._threads))

    @property
    def overdue(self) -> int:
        """Calls that run for longer than the timeout."""
        return len(self._overdue)

    def kick(self) -> None:
        while not self._stopping and (work := self._source.take()) is not None:
            self._out.add(work)
            if len(self._threads) < min(len(self._out), self._source.concurrency):
                thread = threading.Thread(
                    target=self._run, name=f"{self._name} {len(self._threads) + 1}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
            self._queue.put(work)

    def cancel(self, works: frozenset[Work]) -> None:
        """Only what has not begun: see the top."""

    # ------------------------------------------------------------ the threads

    def _run(self) -> None:
        handler, time = self._handler, self._loop.time
        while (work := self._queue.get()) is not None:
            result: Any = None
            error: BaseException | None = None
            work.started_s = time()
            try:
                if work.partition.fenced:  # while it waited here; another owner handles it
                    error = _NotRun()
                else:
                    result = handler(work.payload)
            except BaseException as raised:  # SystemExit too: a thread that ended would be missed by nobody
                error = raised
            self._ended.append((work, result, error))
            if not self._told:
                # The other order of this and the append would lose it: the loop empties the deque and then this thread appends.
                # Twice told does no harm.
                self._told = True
                try:
                    self._loop.call_soon_threadsafe(self._take_up)
                except RuntimeError:
                    return  # the loop is closed: nobody asks any more

    def _take_up(self) -> None:
        """What threads have ended."""
        self._told = False  # before looking: whoever appends from here on tells again
        source, ended = self._source, self._ended
        while ended:
            work, result, error = ended.popleft()
            self._out.discard(work)
            self._overdue.discard(work)
            if error is None:
                source.finished(work, result)
            elif isinstance(error, _NotRun):
                source.released(work)
            else:
                source.failed(work, error)
        self.kick()

    def _look_after(self, timeout_s: float) -> None:
        now = self._loop.time()
        for work in self._out - self._overdue:
            if work.started_s is not None and now - work.started_s >= timeout_s:
                self._overdue.add(work)
                _log.error(
                    "a handler runs for longer than its timeout of %g s in a thread, where it cannot be ended (%r); use a coroutine or "
                    "executor='process' for calls that may hang",
                    timeout_s,
                    work.payload,
                )
        self._watch = self._loop.call_later(min(max(timeout_s / 10, 0.01), 1.0), self._look_after, timeout_s)

    async def stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        for _ in self._threads:
            self._queue.put(None)
        deadline = self._loop.time() + _STOP_TIMEOUT_S
        while any(thread.is_alive() for thread in self._threads) and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
        self._take_up()
        for work in list(self._out):  # it hangs, and dies with the process
            self._source.released(work)
        self._out.clear()
