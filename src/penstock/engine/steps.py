"""What runs in the user's thread and has to wait in between, written once for both shells.

Steps are a generator that yields what is to be waited for: a future of the engine, or an awaitable that a user's coroutine function has
returned. The sync shell blocks on it, the async shell awaits it; all else is the same.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Waitable: TypeAlias = "concurrent.futures.Future[Any] | Awaitable[Any]"
Steps: TypeAlias = Generator[Waitable, Any, T]


def run_steps(steps: Steps[T]) -> T:
    """In a thread that may block. TypeError where a user's function turns out to be a coroutine function."""
    try:
        waited = next(steps)
        while True:
            try:
                outcome = _block_on(waited)
            except BaseException as error:
                waited = steps.throw(error)
            else:
                waited = steps.send(outcome)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def await_steps(steps: Steps[T]) -> T:
    """In a task of the user's event loop."""
    try:
        waited = next(steps)
        while True:
            try:
                if isinstance(waited, concurrent.futures.Future):
                    waited = asyncio.wrap_future(waited)
                outcome = await waited
            except BaseException as error:
                waited = steps.throw(error)
            else:
                waited = steps.send(outcome)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def call_user(function: Callable[..., object], *args: object) -> Steps[None]:
    """Call a function of the user, and wait for it if it is a coroutine function."""
    returned = function(*args)
    if inspect.isawaitable(returned):
        yield returned


def _block_on(waited: Waitable) -> Any:
    if isinstance(waited, concurrent.futures.Future):
        return waited.result()
    if inspect.iscoroutine(waited):
        waited.close()
    raise TypeError(
        "a listener or callback of KafkaConsumer is a coroutine function; only AsyncKafkaConsumer can await it"
    )
