"""Waiting for a descriptor in whatever event loop runs."""

from __future__ import annotations

import asyncio


class Readable:
    """One waiter at a time. The loop watches the descriptor only while somebody waits: it may stay readable for long while nobody
    wants to read, and would wake the loop again and again."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self, timeout_s: float) -> None:
        """Until the descriptor is readable, or the time is over, or wake()."""
        loop = self._loop
        waiter = self._waiter = loop.create_future()
        loop.add_reader(self._fd, _wake, waiter)
        timer = loop.call_later(timeout_s, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
            if not loop.is_closed():  # else this coroutine is only being collected
                loop.remove_reader(self._fd)

    def wake(self) -> None:
        """End the wait of whoever waits."""
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
