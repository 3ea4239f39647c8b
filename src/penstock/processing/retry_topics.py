"""Retries that wait in a topic: for delays beyond memory, and restarts. Order is given up; see FailurePolicy.check().

A record of a retry topic says in its headers when it is due and where it comes from. The processor reads its retry topics with the same
handler; a partition whose next record is not due is paused until it is. So a topic holds records of one delay: with several delays the
longer ones would stand before the shorter.
"""

from __future__ import annotations

from .._native import ConsumerRecord
from ..types import Header
from .dead_letters import ORIGIN, OURS, headers_of

DUE = "penstock_retry-due"
"""Text: ms since 1970 from which on it is to be handled."""
ATTEMPTS = "penstock_retry-attempts"
"""Text: how many calls of the handler have failed."""


def headers_for_retry(
    record: ConsumerRecord, error: BaseException, attempts: int, due_epoch_ms: int, group_id: str
) -> list[Header]:
    """The record's own headers, its first origin, when it is due, and after how many attempts."""
    kept = [header for header in record.headers if header[0] not in OURS and header[0] not in (DUE, ATTEMPTS)]
    origin = [header for header in headers_of(record, error, attempts, group_id) if header[0] in ORIGIN]
    return [*kept, *origin, (DUE, str(due_epoch_ms).encode()), (ATTEMPTS, str(attempts).encode())]


def due_epoch_ms(record: ConsumerRecord) -> int:
    """0 where it does not say."""
    return _number(record, DUE)


def attempts_of(record: ConsumerRecord) -> int:
    """Attempts before it came to the retry topic; 0 where it does not say."""
    return _number(record, ATTEMPTS)


def _number(record: ConsumerRecord, name: str) -> int:
    value = dict(record.headers).get(name) or b""
    return int(value) if value.isdigit() and len(value) < 20 else 0
