"""What leaves a processor by its producer: what handlers return, and records for dead-letter and retry topics."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import ProcessingError
from ..producer import KafkaProducer, plain
from ..types import RecordMetadata
from .work import Output

Outcome = Callable[[BaseException | None], None]


Encode = Callable[[Any], bytes | None]


class Encoders:
    """key.serializer and value.serializer, for what handlers return. Producers of a processor have none: a dead letter is bytes already."""

    def __init__(self, producer_config: Mapping[str, Any]) -> None:
        self.key: Encode = _encoder(producer_config.get("key.serializer"))
        self.value: Encode = _encoder(producer_config.get("value.serializer"))


def _encoder(serializer: Callable[[Any], Any] | None) -> Encode:
    def encode(value: Any) -> bytes | None:
        return None if value is None else plain(serializer(value) if serializer is not None else value)

    return encode


def outputs_of(
    result: Any, default_topic: str | None, where: str, encoders: Encoders
) -> list[tuple[str, Output]]:
    """What a handler returned, as (topic, Output of bytes): an Output, bytes or str as a value, or an iterable of these.

    TypeError, ProcessingError where no topic is named, or what a serializer raises: a failure of this call.
    """
    entries = [result] if isinstance(result, (Output, bytes, str)) else result
    if not isinstance(entries, Iterable):
        raise TypeError(
            f"{where}: the handler returned {type(result).__name__}; return an Output, bytes, a str, or a list of these, or None"
        )
    found = []
    for entry in entries:
        output = entry if isinstance(entry, Output) else Output(entry)
        topic = output.topic or default_topic
        if topic is None:
            raise ProcessingError(
                f"{where}: the handler returned a record without a topic: name one in Output(topic=…), or output='…' at the handler"
            )
        encoded = replace(output, key=encoders.key(output.key), value=encoders.value(output.value))
        found.append((topic, encoded))
    return found


class Deliveries:
    """Writes records, and tells in the event loop once all of one call are stored, or that one of them is not.

    The producer's send() waits where its memory is used up, or a topic is new; so it is called in a thread of its own. What waits for that
    thread is bounded by what the processor holds.
    """

    def __init__(self, producer: KafkaProducer) -> None:
        self._producer = producer
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send, name="penstock deliveries", daemon=True)
        self._thread.start()

    def write(self, outputs: list[tuple[str, Output]], outcome: Outcome) -> None:
        """Hand over; returns at once. `outcome(None, or the error)` is called in the event loop."""
        self._queue.put(_Call(outputs, self._teller(outcome)))

    def _teller(self, outcome: Outcome) -> Outcome:
        def tell(error: BaseException | None) -> None:
            self._loop.call_soon_threadsafe(outcome, error)

        return tell

    def close(self) -> None:
        """Nothing more is handed over. What was is the producer's."""
        self._queue.put(None)

    def _send(self) -> None:
        produce = self._producer.produce
        while (call := self._queue.get()) is not None:
            for topic, out in call.outputs:
                try:
                    produce(
                        topic, out.value, out.key, out.headers, out.partition, out.timestamp_ms, call.told
                    )
                except Exception as error:
                    call.told(None, error)


class _Call:
    """What one handler call returned, on its way. `_left` and `_error` are written under the lock, by the two threads that tell."""

    __slots__ = ("_error", "_left", "_lock", "_outcome", "outputs")

    def __init__(self, outputs: list[tuple[str, Output]], outcome: Outcome) -> None:
        self.outputs = outputs
        self._lock = threading.Lock()
        self._left = len(outputs)
        self._error: BaseException | None = None
        self._outcome = outcome

    def told(self, metadata: RecordMetadata | None, error: BaseException | None) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
            if error is not None and self._error is None:
                self._error = error
        if last:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
                self._outcome(self._error)
