"""Plain handlers, run by processes of their own: for work that needs a processor core, or that may hang or crash.

Each process has a seat here: a thread that hands it a frame of packed records (nothing is pickled) and reads an outcome for each, in order.
So whoever is at work when a process dies is known: the first without an outcome. Those behind it were not begun, and are run elsewhere.

A frame holds one record while handlers are slow, and more where they are quick, so that handing over costs little.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import pickle
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ...errors import ConfigError, HandlerTimeoutError, WorkerDiedError
from ..work import Work, WorkSource
from . import process_worker

_log = logging.getLogger("penstock.processing")

MOST_IN_FRAME = 64
"""How many works a process may have at once."""
_FRAME_S = 0.005
"""About how long a frame should take: what is done is told at once, but what waits in a frame could run elsewhere."""
_START_TIMEOUT_S = 60.0
_STARTS_IN_VAIN = 3
_STOP_TIMEOUT_S = 5.0
_BACKOFF_S = (0.05, 5.0)
_SURPLUS_S = 60.0
"""For so long there may be more processes than the concurrency has use for: it may rise again, and a start costs."""

Ended = tuple[Work, str, Any]
"""A work and what became of it: 'finished' with a result, 'failed' with an error, or 'released'."""


class _Seat:
    """One process and its thread. `process`, `pipe` and `works` are the thread's; `killed_for` is written by who kills it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.queue: queue.SimpleQueue[list[Work] | None] = queue.SimpleQueue()  # at most one frame
        self.thread: threading.Thread | None = None
        self.process: Any = None
        self.pipe: Connection | None = None
        self.works: list[Work] = []
        self.told = 0  # outcomes of `works` that have come
        self.killed_for: str | None = None
        self.call_s = _FRAME_S  # what a call takes, on average


class ProcessExecutor:
    """See Executor. Processes are made as they are needed, up to the source's concurrency in frames."""

    def __init__(
        self,
        handler: Callable[[Any], Any],
        *,
        key_deserializer: Callable[..., Any] | None = None,
        value_deserializer: Callable[..., Any] | None = None,
        batches: bool = False,
        on_death: Callable[[Any, int], None] | None = None,
    ) -> None:
        """`on_death` is called with what a process that died was at, and its pid, in a thread where it may wait.

        ConfigError where the handler or a deserializer cannot be found by another process: a lambda, or a function within another."""
        try:
            pickle.dumps((handler, key_deserializer, value_deserializer))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"executor='process': another process cannot find the handler or a deserializer ({error}); define them at the top of a "
                "module, and declare the handler with processor.handler(…)(function), not as a decorator that replaces it"
            ) from error
        self._on_death = on_death
        self._what = (handler, key_deserializer, value_deserializer, batches)
        self._context = multiprocessing.get_context(
            "spawn"
        )  # a fork would share the threads' locks and the connections
        self._most_in_frame = 1 if batches else MOST_IN_FRAME
        self._seats: list[_Seat] = []
        self._idle: list[_Seat] = []
        self._ended: deque[Ended | _Seat] = deque()  # appended by threads, taken by the loop
        self._told = False
        self._running = 0
        self._surplus_since_s: float | None = None
        self._stopping = False

    def start(self, source: WorkSource) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()

    @property
    def running(self) -> int:
        return self._running

    @property
    def busy(self) -> int:
        return len(self._seats) - len(self._idle)

    @property
    def pids(self) -> list[int]:
        """Of the processes that run now."""
        return [process.pid for seat in self._seats if (process := seat.process) is not None and process.pid]

    def kick(self) -> None:
        source = self._source
        most_at_work = -(-source.concurrency // self._most_in_frame)
        while not self._stopping and source.waiting and self.busy < most_at_work:
            if self._idle:
                seat = self._idle.pop()
            else:
                seat = _Seat(len(self._seats) + 1)
                self._seats.append(seat)
                seat.thread = threading.Thread(
                    target=self._serve, args=(seat,), name=f"penstock process {seat.number}", daemon=True
                )
                seat.thread.start()
            share = max(1, source.waiting // max(1, len(self._idle) + 1))
            most = min(self._most_in_frame, share, max(1, int(_FRAME_S / seat.call_s)))
            works: list[Work] = []
            while len(works) < most and (work := source.take()) is not None:
                works.append(work)
            if not works:
                self._idle.append(seat)
                return
            self._running += len(works)
            seat.queue.put(works)
        self._end_surplus(most_at_work)

    def _end_surplus(self, most_at_work: int) -> None:
        """An adaptive concurrency has fallen, perhaps to keep to a budget of memory: processes that it has left without work are ended."""
        if len(self._seats) <= most_at_work:
            self._surplus_since_s = None
            return
        now_s = self._loop.time()
        if self._surplus_since_s is None:
            self._surplus_since_s = now_s
        if now_s - self._surplus_since_s < _SURPLUS_S:
            return
        while self._idle and len(self._seats) > most_at_work:
            seat = self._idle.pop(0)  # the one that has had nothing to do for longest
            self._seats.remove(seat)
            seat.queue.put(None)

    def cancel(self, works: frozenset[Work]) -> None:
        """The processes at these are killed; whatever else was handed to them is run again."""
        for seat in self._seats:
            current = seat.works[seat.told : seat.told + 1]
            if current and current[0] in works:
                self._kill(seat, "cancel")

    @staticmethod
    def _kill(seat: _Seat, why: str) -> None:
        process = seat.process
        if process is not None and seat.killed_for is None:
            seat.killed_for = why
            with contextlib.suppress(ValueError, OSError):  # it has ended by itself
                process.kill()

    # ------------------------------------------------------------ the threads

    def _serve(self, seat: _Seat) -> None:
        try:
            while (works := seat.queue.get()) is not None:
                seat.works, seat.told = works, 0
                try:
                    self._hand_over(seat)
                except Exception as error:  # a mistake of ours must not lose works
                    _log.exception("a worker process cannot be used")
                    self._end_process(seat)
                    for work in seat.works[seat.told :]:
                        self._tell((work, "failed", error))
                seat.works = []
                self._tell(seat)
        finally:
            self._end_process(seat)

    def _hand_over(self, seat: _Seat) -> None:
        """One frame, until each work of it has been told of."""
        frame = process_worker.frame_of([work.payload.pack() for work in seat.works])
        while True:
            if seat.process is None and not self._start_process(seat):
                return
            assert seat.pipe is not None
            try:
                seat.pipe.send_bytes(frame)
                break
            except OSError:  # it ended while it had nothing to do: nothing of the frame was begun
                self._end_process(seat)
        timeout_s = self._source.timeout_s
        while seat.told < len(seat.works):
            work = seat.works[seat.told]
            work.started_s = self._loop.time()
            try:
                if not seat.pipe.poll(timeout_s):
                    self._kill(seat, "timeout")
                    raise EOFError
                how, result = process_worker.outcome_of(seat.pipe.recv_bytes())
            except (EOFError, OSError):
                self._died(seat)
                return
            seat.call_s += (self._loop.time() - work.started_s - seat.call_s) / 8
            seat.told += 1
            self._tell((work, how, result))

    def _died(self, seat: _Seat) -> None:
        """The work at hand is to blame, unless we killed its process for another reason."""
        why, pid = seat.killed_for, seat.process.pid
        exit_code = self._end_process(seat)
        rest = seat.works[seat.told :]
        if self._on_death is not None:
            self._on_death(rest[0].payload, pid)
        seat.told = len(seat.works)
        if why == "timeout":
            limit = f"the handler took longer than its timeout of {self._source.timeout_s:g} s, and its process was killed"
            self._tell((rest.pop(0), "failed", HandlerTimeoutError(limit)))
        elif why is None:
            how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
            error = WorkerDiedError(f"the process that ran the handler died ({how})", exit_code)
            self._tell((rest.pop(0), "failed", error))
        for work in rest:
            self._tell((work, "released", None))

    def _start_process(self, seat: _Seat) -> bool:
        """False, with all works of the seat told of, if it will not come up."""
        backoff_s, most_s = _BACKOFF_S
        reason = ""
        for _ in range(_STARTS_IN_VAIN):
            if self._stopping:
                break
            ours, theirs = self._context.Pipe()
            seat.process = self._context.Process(
                target=process_worker.main,
                args=(theirs, *self._what),
                name=f"penstock worker {seat.number}",
                daemon=True,
            )
            seat.pipe, seat.killed_for = ours, None
            seat.process.start()
            theirs.close()
            try:
                if ours.poll(_START_TIMEOUT_S) and ours.recv_bytes() == process_worker.READY:
                    return True
                reason = f"it is not ready after {_START_TIMEOUT_S:g} s"
            except (EOFError, OSError):
                reason = "it died"
            reason += f" (exit code {self._end_process(seat)}; its standard error output says more)"
            time.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, most_s)
        error = ConfigError(f"a worker process cannot be started: {reason}")
        for work in seat.works:
            self._tell((work, "released" if self._stopping else "broken", error))
        seat.told = len(seat.works)
        return False

    def _end_process(self, seat: _Seat) -> int:
        """Its exit code. A process whose pipe is closed ends by itself, if no handler is at work."""
        process, pipe, seat.process, seat.pipe = seat.process, seat.pipe, None, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return 0
        process.join(_STOP_TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
        exit_code = int(process.exitcode or 0)
        process.close()
        return exit_code

    # ------------------------------------------------------------ back in the loop

    def _tell(self, ended: Ended | _Seat) -> None:
        self._ended.append(ended)
        if not self._told:  # see ThreadExecutor
            self._told = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
                self._loop.call_soon_threadsafe(self._take_up)

    def _take_up(self) -> None:
        self._told = False
        source = self._source
        while self._ended:
            ended = self._ended.popleft()
            if isinstance(ended, _Seat):
                self._idle.append(ended)
                continue
            work, how, result = ended
            self._running -= 1
            match how:
                case "finished":
                    source.finished(work, result)
                case "failed":
                    source.failed(work, result)
                case "broken":
                    source.released(work)
                    source.broken(result)
                case _:
                    source.released(work)
        self.kick()

    async def stop(self) -> None:
        if self._stopping:
            return
        self._stopping = True
        for seat in self._seats:
            if seat.works:
                self._kill(seat, "stop")
            seat.queue.put(None)
        deadline_s = self._loop.time() + 2 * _STOP_TIMEOUT_S
        while any(seat.thread is not None and seat.thread.is_alive() for seat in self._seats):
            if self._loop.time() > deadline_s:
                break
            await asyncio.sleep(0.005)
        self._take_up()
