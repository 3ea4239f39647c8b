"""The engine's thread: an asyncio loop of its own that hears the native plane's events and serves the user's calls."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .._native import (
    EVENT_DIVERGING,
    EVENT_FETCH_ERROR,
    EVENT_FETCH_NODE_ERROR,
    EVENT_PREFERRED_REPLICA,
    EventQueue,
)
from ..errors import ClosedError, ForkedError

T = TypeVar("T")
_log = logging.getLogger("penstock.engine")
_numbers = itertools.count(1)
_FETCH_EVENTS = (EVENT_FETCH_ERROR, EVENT_FETCH_NODE_ERROR, EVENT_PREFERRED_REPLICA, EVENT_DIVERGING)

EventHandler = Callable[[int, int, Any], None]
"""Called as handler(kind, number, payload) with the rest of a native event."""


class EngineThread:
    """One thread, one loop. Everything named `_on_...` and every coroutine of the engine runs in it, and only there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events = EventQueue()
        self.loop = asyncio.new_event_loop()
        self.fetch_events: Callable[[int, int, int, Any], None] | None = None
        self._pid = os.getpid()
        self._connections: dict[int, EventHandler] = {}  # written by the engine's thread only
        self._connection_ids = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self._thread = threading.Thread(
            target=self._run, name=f"penstock-{name}-{next(_numbers)}", daemon=True
        )
        _all_engines.add(self)

    def start(self) -> None:
        self._thread.start()

    # ------------------------------------------------------------ from any thread

    def check_process(self) -> None:
        """ForkedError in a forked child, where neither this thread nor its connections exist."""
        if os.getpid() != self._pid:
            raise ForkedError(
                f"{self.name} was created in process {self._pid} and this is its forked child {os.getpid()}: "
                "threads and connections do not survive fork(); create a new one in the child"
            )

    def call(
        self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """Run a coroutine in the engine's thread; its future may be waited for, or cancelled with what runs, from any other.

        The coroutine is made in the engine's thread, too: a signal that arrives in the caller's thread meanwhile (Ctrl-C) cannot
        leave one behind that nobody awaits. ForkedError in a forked child, ClosedError after stop().
        """
        self.check_process()
        if self._stopped:
            raise ClosedError(f"{self.name} is closed")
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def start() -> None:
            if future.cancelled():
                return
            task = self.loop.create_task(function(*args, **kwargs))
            task.add_done_callback(lambda done: _hand_over(done, future))
            future.add_done_callback(lambda done: self.post(task.cancel) if done.cancelled() else None)

        self.loop.call_soon_threadsafe(start)
        return future

    def ask(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """call(), and wait for the outcome, open to Ctrl-C: it ends the wait and cancels what runs."""
        future = self.call(function, *args)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def post(self, function: Callable[..., object], *args: object) -> None:
        """Run a plain function in the engine's thread, soon; silently nothing once the engine has stopped."""
        if not self._stopped:
            try:
                self.loop.call_soon_threadsafe(function, *args)
            except RuntimeError:  # the loop closed between the check and the call
                return

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the loop and the thread; idempotent. Does nothing in a forked child."""
        if self._stopped or os.getpid() != self._pid:
            return
        self._stopped = True
        if self._thread.ident is None:  # never started
            self.loop.close()
        elif self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and os.getpid() == self._pid

    # ------------------------------------------------------------ in the engine's thread

    def register(self, handler: EventHandler) -> int:
        """A new connection id whose events go to this handler."""
        connection_id = next(self._connection_ids)
        self._connections[connection_id] = handler
        return connection_id

    def unregister(self, connection_id: int) -> None:
        self._connections.pop(connection_id, None)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A background task whose failure is logged, never lost."""
        task = self.loop.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def now_ms(self) -> int:
        """Monotonic milliseconds: the clock that the pure rooms are given."""
        return int(self.loop.time() * 1000)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s: the task %s failed", self.name, task.get_name(), exc_info=error)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.add_reader(self.events.fileno(), self._on_events)
        try:
            self.loop.run_forever()
        finally:
            self.loop.remove_reader(self.events.fileno())
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    def _on_events(self) -> None:
        for kind, source, number, payload in self.events.wait(0):
            try:
                if kind in _FETCH_EVENTS:
                    if self.fetch_events is not None:
                        self.fetch_events(kind, source, number, payload)
                elif (handler := self._connections.get(source)) is not None:
                    handler(kind, number, payload)
            except Exception:  # one event's handler must not take the engine down with it
                _log.exception("%s: handling an event of kind %d failed", self.name, kind)


def _hand_over(task: asyncio.Task[T], future: concurrent.futures.Future[T]) -> None:
    if task.cancelled():
        future.cancel()
        return
    error = task.exception()
    if not future.set_running_or_notify_cancel():
        return  # cancelled by its caller at the same moment
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


_all_engines: weakref.WeakSet[EngineThread] = weakref.WeakSet()


def stop_all_engines() -> None:
    """At interpreter exit: end what the user left open, within a bound, so that no thread runs into a torn-down interpreter."""
    for engine in list(_all_engines):
        engine.stop(timeout_s=1.0)


atexit.register(stop_all_engines)
