"""What a worker process does: it reads frames of packed records, calls the handler for each, and tells each outcome at once."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import signal
import struct
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ..._native import unpack_records

READY = b"ready"
_DONE, _RESULT, _ERROR = b"d", b"r", b"e"
_SINGLE, _BATCH = 0, 1


class RemoteError(Exception):
    """Stands for an exception of a worker process that cannot be pickled; its text has the type, the message and the traceback."""


def frame_of(payloads: list[bytes]) -> bytes:
    """Packed records, one after another, each with its length."""
    return b"".join(part for payload in payloads for part in (struct.pack("<Q", len(payload)), payload))


def _payloads(frame: bytes) -> list[memoryview]:
    view, at, found = memoryview(frame), 0, []
    while at < len(view):
        (length,) = struct.unpack_from("<Q", view, at)
        found.append(view[at + 8 : at + 8 + length])
        at += 8 + length
    return found


def outcome_of(message: bytes) -> tuple[str, Any]:
    """('finished', result) or ('failed', error)."""
    kind = message[:1]
    if kind == _DONE:
        return "finished", None
    value = pickle.loads(message[1:])  # from our own child
    return ("finished" if kind == _RESULT else "failed"), value


def main(
    pipe: Connection,
    handler: Callable[[Any], Any],
    key_deserializer: Callable[..., Any] | None,
    value_deserializer: Callable[..., Any] | None,
    batches: bool = False,
) -> None:
    """Until the pipe is closed, which the parent's end does as well. Ctrl-C is the parent's to decide about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send_bytes(READY)
    is_coroutine = inspect.iscoroutinefunction(handler)
    while True:
        try:
            frame = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        for payload in _payloads(frame):
            records = unpack_records(
                payload, key_deserializer=key_deserializer, value_deserializer=value_deserializer
            )
            try:
                given: Any = records if batches else records[0]
                result = handler(given)
                if is_coroutine:
                    result = asyncio.run(result)
                message = _DONE if result is None else _RESULT + pickle.dumps(result)
            except Exception as error:
                message = _ERROR + _pickled(error)
            try:
                pipe.send_bytes(message)
            except OSError:
                os._exit(0)  # the parent is gone: nobody wants the rest


def _pickled(error: Exception) -> bytes:
    """The exception, with its traceback as a note, or what stands for it."""
    trace = "".join(traceback.format_exception(error))
    try:
        error.add_note(f"in the worker process:\n{trace}")
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # some exceptions can be pickled and not be made again
    except Exception:
        return pickle.dumps(RemoteError(trace))
    return pickled
