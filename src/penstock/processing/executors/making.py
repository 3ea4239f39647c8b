"""Which executor a handler is run by."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..settings import HandlerSpec
from ..work import Executor
from .coroutines import CoroutineExecutor
from .threads import ThreadExecutor


def executor_of(spec: HandlerSpec, config: Mapping[str, Any]) -> Executor:
    """`config`: the consumer's options, for the deserializers that worker processes run."""
    if spec.executor == "async":
        return CoroutineExecutor(_once_async(spec) if spec.once is not None else spec.function)
    if spec.executor == "thread":
        return ThreadExecutor(_once(spec) if spec.once is not None else spec.function, name=spec.name)
    from .processes import ProcessExecutor

    return ProcessExecutor(
        spec.function,
        processes=spec.concurrency,
        key_deserializer=config.get("key.deserializer"),
        value_deserializer=config.get("value.deserializer"),
    )


def _once(spec: HandlerSpec) -> Any:
    from ..deduplication import once_in_thread

    return functools.partial(once_in_thread, spec.once, spec.function)


def _once_async(spec: HandlerSpec) -> Any:
    from ..deduplication import once_in_loop

    return functools.partial(once_in_loop, spec.once, spec.function)
