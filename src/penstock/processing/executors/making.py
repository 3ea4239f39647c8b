"""Which executor a handler is run by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..deduplication.guard import Guard
from ..settings import HandlerSpec
from ..work import Executor, Handler
from .coroutines import CoroutineExecutor
from .threads import ThreadExecutor


def executor_of(
    spec: HandlerSpec, config: Mapping[str, Any], guard: Guard | None = None
) -> tuple[Executor, int]:
    """And how many works each of its calls at once counts for. `config`: the consumer's options, for processes' deserializers. `guard` is
    called in the handler's place."""
    handler: Handler = guard or spec.function
    if spec.executor == "async":
        return CoroutineExecutor(handler), 1
    if spec.executor == "thread":
        return ThreadExecutor(handler, name=spec.name), 1
    from .processes import MOST_IN_FRAME, ProcessExecutor

    executor = ProcessExecutor(
        handler,
        key_deserializer=config.get("key.deserializer"),
        value_deserializer=config.get("value.deserializer"),
        batches=bool(spec.batch),
        on_death=None if guard is None else guard.worker_died,
    )
    return executor, 1 if spec.batch else MOST_IN_FRAME
