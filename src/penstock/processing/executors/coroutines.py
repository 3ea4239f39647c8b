"""Coroutine handlers, run by a crew of tasks in the event loop.

A task of the crew runs handler after handler, so that a record costs no task of its own. Where nothing waits it parks; `kick()` hands
work to those that are parked, and hires until `concurrency` is reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ...errors import HandlerTimeoutError
from ..work import Work, WorkSource

_YIELD_EVERY = 64
"""Calls after which a task lets the loop turn: handlers that never wait would keep everything else waiting."""


class _Hand:
    """One task of the crew. `work` is what it is at; `ending`: the work whose call is to end, and why."""

    __slots__ = ("ending", "parked", "task", "timed_out", "work")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.work: Work | None = None
        self.parked: asyncio.Future[Work | None] | None = None
        self.ending: Work | None = None
        self.timed_out = False


class CoroutineExecutor:
    """See Executor."""

    def __init__(self, handler: Callable[[Any], Awaitable[Any]]) -> None:
        self._handler = handler
        self._crew: set[_Hand] = set()
        self._parked: list[_Hand] = []
        self._stopping = False
        self._watch: asyncio.TimerHandle | None = None

    def start(self, source: WorkSource) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        if source.timeout_s is not None:
            self._look_after(source.timeout_s)

    @property
    def running(self) -> int:
        return sum(1 for hand in self._crew if hand.work is not None)

    @property
    def busy(self) -> int:
        return len(self._crew) - len(self._parked)

    def kick(self) -> None:
        source, parked = self._source, self._parked
        if self._stopping:
            return
        while parked and (work := source.take()) is not None:
            hand = parked.pop()
            assert hand.parked is not None
            hand.parked.set_result(work)
        while len(self._crew) < source.concurrency and (work := source.take()) is not None:
            hand = _Hand()
            self._crew.add(hand)
            hand.task = self._loop.create_task(self._work(hand, work), name="penstock handler")

    # ------------------------------------------------------------ the crew

    async def _work(self, hand: _Hand, work: Work | None) -> None:
        source, handler, clock = self._source, self._handler, self._loop.time
        timed = source.timeout_s is not None
        calls = 0
        try:
            while True:
                if work is None and (work := source.take()) is None:
                    hand.work = None
                    if len(self._crew) > source.concurrency:
                        return
                    work = await self._parking(hand)
                    continue
                hand.work = work
                hand.ending = None  # the call before may have caught what was to end it
                if timed:
                    work.started_s = clock()
                try:
                    result = await handler(work.payload)
                except asyncio.CancelledError as error:
                    self._cancelled(hand, work, error)
                except Exception as error:
                    source.failed(work, error)
                else:
                    source.finished(work, result)
                work = None
                calls += 1
                if calls % _YIELD_EVERY == 0:
                    hand.work = None
                    await self._turn(hand)
        finally:
            self._crew.discard(hand)
            if hand.work is not None:  # KeyboardInterrupt, SystemExit, or the loop's end
                source.released(hand.work)

    async def _parking(self, hand: _Hand) -> Work | None:
        """Wait for work. What was handed over at the moment of a cancellation is not lost."""
        hand.parked = self._loop.create_future()
        self._parked.append(hand)
        try:
            return await hand.parked
        except asyncio.CancelledError:
            if self._stopping:
                if hand.parked.done() and not hand.parked.cancelled():
                    hand.work = hand.parked.result()
                raise
            # It was meant for a call that had ended by then.
            if hand.parked.done() and not hand.parked.cancelled():
                return hand.parked.result()
            self._parked.remove(hand)
            return None
        finally:
            hand.parked = None

    async def _turn(self, hand: _Hand) -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._stopping:
                raise

    def _cancelled(self, hand: _Hand, work: Work, error: asyncio.CancelledError) -> None:
        """By stop(), by cancel(), by the timeout, or by the handler itself, which is a failure like any other."""
        source = self._source
        if self._stopping:
            hand.work = None
            source.released(work)
            raise error
        if hand.ending is not work:
            source.failed(work, error)
        elif hand.timed_out:
            limit_s = source.timeout_s or 0.0
            timeout = HandlerTimeoutError(
                f"the handler took longer than its timeout of {limit_s:g} s and was cancelled"
            )
            timeout.__cause__ = error
            source.failed(work, timeout)
        else:
            source.released(work)
        hand.ending = None
        hand.timed_out = False

    # ------------------------------------------------------------ ends

    def cancel(self, works: frozenset[Work]) -> None:
        for hand in list(self._crew):
            if hand.work is not None and hand.work in works:
                self._end(hand, timed_out=False)

    def _end(self, hand: _Hand, *, timed_out: bool) -> None:
        if hand.task is not None:
            hand.ending, hand.timed_out = hand.work, timed_out
            hand.task.cancel()

    def _look_after(self, timeout_s: float) -> None:
        """One look at all calls, instead of a timer for each."""
        now = self._loop.time()
        for hand in list(self._crew):
            work = hand.work
            if work is None or hand.ending is work or work.started_s is None:
                continue
            if now - work.started_s >= timeout_s:
                self._end(hand, timed_out=True)
        self._watch = self._loop.call_later(min(max(timeout_s / 10, 0.01), 1.0), self._look_after, timeout_s)

    async def stop(self) -> None:
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
        tasks = [hand.task for hand in self._crew if hand.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)
