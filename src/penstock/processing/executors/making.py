"""Which executor a handler is run by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..settings import HandlerSpec
from ..work import Executor
from .coroutines import CoroutineExecutor
from .threads import ThreadExecutor


def executor_of(spec: HandlerSpec, config: Mapping[str, Any]) -> tuple[Executor, int]:
    """And how many works each of its calls at once counts for. `config`: the consumer's options, for processes' deserializers."""
    if spec.executor == "async":
        return CoroutineExecutor(spec.function), 1
    if spec.executor == "thread":
        return ThreadExecutor(spec.function, name=spec.name), 1
    from .processes import MOST_IN_FRAME, ProcessExecutor

    executor = ProcessExecutor(
        spec.function,
        key_deserializer=config.get("key.deserializer"),
        value_deserializer=config.get("value.deserializer"),
        batches=bool(spec.batch),
    )
    return executor, 1 if spec.batch else MOST_IN_FRAME
