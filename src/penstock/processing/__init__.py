"""Handlers in parallel, in order, with retries, dead letters and offsets that never pass unfinished work."""

from .adaptive import Adaptive
from .breaker import CircuitBreaker
from .deduplication import Deduplicate
from .failure import DeadLetter, Reject, Retry, RetryThis, RetryTopic, Skip, SkipRecord, Stop
from .health import Health
from .processor import Processor
from .spool import Spool
from .work import Output

__all__ = [
    "Adaptive",
    "CircuitBreaker",
    "DeadLetter",
    "Deduplicate",
    "Health",
    "Output",
    "Processor",
    "Reject",
    "Retry",
    "RetryThis",
    "RetryTopic",
    "Skip",
    "SkipRecord",
    "Spool",
    "Stop",
]
