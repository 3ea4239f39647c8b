"""What a handler was declared with, and what a processor was made with, checked and in plain units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .adaptive import Adaptive, Budget
from .breaker import CircuitBreaker
from .failure import FailurePolicy
from .spool import Spool
from .work import Handler


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One handler. `batch` is 0 for single records. `executor`: 'async', 'thread' or 'process'."""

    name: str
    function: Handler
    topics: tuple[str, ...]
    order_by: str | None
    concurrency: int
    adaptive: Adaptive | None  # changes the concurrency, which begins as its first
    executor: str
    batch: int
    within_ms: float
    timeout_s: float | None
    policy: FailurePolicy
    breaker: CircuitBreaker | None
    output: str | None
    sink: Any = None  # a Sink, or None
    deduplicate: Any = None  # a Deduplicate, or None


@dataclass(frozen=True, slots=True)
class ProcessorSettings:
    """`given`: what the user wrote; `config`: the consumer's options of it; `producer_config`: those that a producer has."""

    given: Mapping[str, Any]
    config: Mapping[str, Any]
    producer_config: Mapping[str, Any]
    exactly_once: bool
    drain_timeout_s: float
    commit_interval_s: float
    max_buffered_records: int
    max_buffered_bytes: int
    budget: Budget
    spool: Spool | None
