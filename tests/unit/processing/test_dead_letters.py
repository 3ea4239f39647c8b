"""Which headers a dead letter keeps."""

from __future__ import annotations

import pytest

from penstock.errors import RecordTooLargeError
from penstock.processing.dead_letters import STACKTRACE, fitting, headers_of
from penstock.producer import record_size_bytes, refuse_too_large
from tests.support.sinks import records_of


def test_the_stack_trace_stays_exactly_where_the_record_can_be_sent_with_it() -> None:
    """With one byte more of them in a transaction, it would fail, and everybody's with it."""
    record = records_of([(b"key", bytes(500))])[0]
    headers = headers_of(record, ValueError("no such order"), 3, "g")
    size = record_size_bytes(record.raw_key, record.raw_value, headers)
    assert fitting(record, headers, size) == headers
    refuse_too_large("dead", record.raw_key, record.raw_value, headers, None, size)
    with pytest.raises(RecordTooLargeError):
        refuse_too_large("dead", record.raw_key, record.raw_value, headers, None, size - 1)
    assert [h for h in headers if h not in fitting(record, headers, size - 1)] == [
        h for h in headers if h[0] == STACKTRACE
    ]
