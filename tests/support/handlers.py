"""Plain handlers at the top of a module, where worker processes find them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

from penstock import ConsumerRecord


def of_orders(record: Any) -> bytes | None:
    """What the value says."""
    match record.value:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "crash":
            ctypes.string_at(0)
        case "hang":
            time.sleep(1000)
        case "fail":
            raise ValueError(f"no such order in process {os.getpid()}")
        case "odd":
            raise OddError(lambda: None)
    return f"{os.getpid()} {record.value}".encode()


class OddError(Exception):
    """One that cannot be pickled."""


def slowly(record: Any) -> None:
    """As a call that waits."""
    time.sleep(0.002)


def count(records: Any) -> bytes:
    """A batch handler."""
    return b"%d" % len(records)


def text(raw: bytes) -> str:
    """A deserializer."""
    return raw.decode()


def note_or_die(record: Any) -> None:
    """note(), but the first time it dies, or hangs, where the value says so."""
    mark = Path(f"{os.environ['PENSTOCK_TEST_EFFECTS']}.{record.partition}-{record.offset}")
    if record.value in (b"die", b"hang") and not mark.exists():
        mark.touch()
        if record.value == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1000)
    note(record)


def note(given: Any) -> None:
    """Effects that can be counted: a line for each record, in the file that the environment names."""
    records = [given] if isinstance(given, ConsumerRecord) else given
    with Path(os.environ["PENSTOCK_TEST_EFFECTS"]).open("ab", buffering=0) as file:
        file.write(b"".join(b"%d-%d\n" % (record.partition, record.offset) for record in records))
