"""What an answer of an HTTP server means for a record. Pure."""

from __future__ import annotations

import datetime
from email.utils import parsedate_to_datetime
from typing import Literal

Outcome = Literal["done", "again", "refused", "stop"]
"""done: the server has it; again: later; refused: this record, for good; stop: it is not the record's fault, nor does it pass."""

Conflict = Literal["again", "done", "refused"]

# Source: RFC 9110, section 15; 425 is RFC 8470's, 429 RFC 6585's.
_AGAIN = (408, 425, 429)
_STOP = (401, 403, 404, 405, 407)  # credentials, or another place: all records would be refused
_MOST_RETRY_AFTER_S = 300.0


def outcome_of(status: int, conflict: Conflict) -> Outcome:
    """`conflict`: what 409 means to this server."""
    if 200 <= status < 300:
        return "done"
    if status == 409:
        return conflict
    if status in _AGAIN or status >= 500:
        return "again"
    return "refused" if 400 <= status < 500 and status not in _STOP else "stop"


def retry_after_s(header: str | None, now_epoch_s: float) -> float:
    """Seconds from now on, by Retry-After (RFC 9110, 10.2.3): a number of them or a date; 0 without one that can be read, at most 300."""
    if header is None:
        return 0.0
    text = header.strip()
    if text.isascii() and text.isdigit():
        wait_s = float(text[:9])
    else:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        wait_s = moment.timestamp() - now_epoch_s
    return min(max(wait_s, 0.0), _MOST_RETRY_AFTER_S)
