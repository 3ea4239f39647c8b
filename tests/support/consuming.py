"""What tests do with a consumer of ours: make it, read so many records, wait while it polls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from penstock import KafkaConsumer
from tests.support.kafka import RealKafka

WAIT_S = 30.0


@contextmanager
def consumer_of(kafka: RealKafka, *topics: str, **config: Any) -> Iterator[KafkaConsumer]:
    options = {
        "bootstrap_servers": kafka.bootstrap_servers,
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
    }
    with KafkaConsumer(*topics, **{**options, **config}) as consumer:
        yield consumer


def read(consumer: KafkaConsumer, count: int, timeout_s: float = WAIT_S) -> list[Any]:
    """At least `count` records, or as many as come in time."""
    found: list[Any] = []
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        found += consumer.poll(timeout=500)
    return found


def until(condition: Callable[[], Any], consumer: KafkaConsumer | None = None) -> None:
    """Wait for a condition, polling the consumer meanwhile."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        if consumer is not None:
            consumer.poll(timeout=50)
        else:
            time.sleep(0.02)


def numbered(count: int, start: int = 0) -> list[tuple[bytes, bytes]]:
    return [(b"k%d" % i, b"v%d" % i) for i in range(start, start + count)]
