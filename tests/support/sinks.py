"""What tests of sinks share: records made in memory, a relay that cuts a connection at a given step, dead letters that are noted."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import psycopg

from penstock import ConsumerRecords, PostgresSink, TopicPartition
from penstock._native import BatchBuilder, decode_batches

Given = bytes | None | tuple[Any, ...]
"""A value; or (key, value), (key, value, headers), (key, value, headers, timestamp)."""

TIMESTAMP_MS = 1_700_000_000_123


def records_of(
    given: Sequence[Given], *, topic: str = "t", partition: int = 0, offset: int = 0
) -> ConsumerRecords:
    """Records as a poll would give them, from `offset` on."""
    builder = BatchBuilder()
    for one in given:
        key, value, headers, timestamp = _parts(one)
        builder.append(timestamp, key, value, headers)
    batch = bytearray(builder.build())
    batch[:8] = struct.pack(">q", offset)
    return decode_batches(bytes(batch), topic=topic, partition=partition)


def _parts(one: Given) -> tuple[bytes | None, bytes | None, Any, int]:
    if not isinstance(one, tuple):
        return None, one, None, TIMESTAMP_MS
    key, value, *rest = one
    return key, value, rest[0] if rest else None, rest[1] if len(rest) > 1 else TIMESTAMP_MS


class Database:
    """One of PostgreSQL, and a group for it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.group = f"g-{uuid.uuid4().hex[:8]}"

    def run(self, statement: str) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def sink(
        self, table: str = "t", *args: Any, owns: int = 1, group: str | None = None, **options: Any
    ) -> PostgresSink:
        """Opened, and the owner of the first `owns` partitions of topic t."""
        sink = PostgresSink(self.dsn, table, *args, **options)
        sink.open(group or self.group)
        sink.assigned([TopicPartition("t", number) for number in range(owns)])
        return sink

    def stored(self, *given: Any, columns: Any = None, **options: Any) -> list[Any]:
        """Store these values and give the table's rows."""
        sink = self.sink("t", columns, **options)
        sink.write(records_of(given))
        sink.close()
        return self.run("TABLE t")


class Letters(list[tuple[int, int, str]]):
    """Stands where a processor's dead letters would: (partition, offset, why)."""

    def __call__(self, record: Any, error: BaseException) -> None:
        self.append((record.partition, record.offset, str(error)))


class Relay:
    """A TCP relay that cuts one connection at the n-th message of the client: before it is handed on, or once it has been answered."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.has_cut = False
        self._left = 0
        self._how: Literal["before", "after"] = "before"
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, step: int, how: Literal["before", "after"]) -> None:
        self.has_cut, self._left, self._how = False, step, how

    def disarm(self) -> None:
        self._left = 0

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([client, server], [], [])
                for source in ready:
                    data = source.recv(1 << 16)
                    if not data or (source is client and self._cuts(data, server)):
                        return
                    (server if source is client else client).sendall(data)

    def _cuts(self, data: bytes, server: socket.socket) -> bool:
        self._left -= 1
        if self._left != 0:
            return False
        self.has_cut = True
        if self._how == "after":
            server.sendall(data)
            server.settimeout(0.2)  # a part of a copy is not answered
            with contextlib.suppress(TimeoutError):
                server.recv(1 << 16)
        return True


def cut_everywhere(
    port: int,
    how: Literal["before", "after"],
    sink_at: Callable[[int], Any],
    numbers: Callable[[], list[int]],
) -> None:
    """Writes through a relay that cuts one message after the other, three rows {"n": …} each time, until no message is left to cut.

    `sink_at(port)`: a sink that is open and owns t-0. `numbers`: what is stored."""
    with relay_to("127.0.0.1", port) as relay:
        sink = sink_at(relay.port)
        step, stored = 0, 0
        while True:
            step += 1
            relay.arm(step, how)
            sink.write(records_of([b'{"n": %d}' % n for n in range(stored, stored + 3)], offset=stored))
            relay.disarm()
            stored += 3
            assert numbers() == list(range(stored)), f"step {step}"
            if not relay.has_cut:
                break
        sink.close()
    assert step > 3


@contextlib.contextmanager
def relay_to(host: str, port: int) -> Iterator[Relay]:
    relay = Relay(host, port)
    try:
        yield relay
    finally:
        relay.close()
