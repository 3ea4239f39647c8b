"""A peer on a real socket that hears Fetch requests and answers what the test says, in kio's encoding, not ours."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import queue
import socket
import struct
import threading
import uuid
from io import BytesIO
from typing import Any

from kio.schema.errors import ErrorCode
from kio.serial import entity_reader, entity_writer

from penstock._native import BatchBuilder, Connection, EventQueue, Fetcher

PATIENCE_S = 20.0
TOPIC_ID = uuid.UUID(int=0x1234567890ABCDEF)


@dataclasses.dataclass
class Part:
    """One partition of an answer."""

    partition: int = 0
    records: bytes | None = None
    error: int = 0
    topic: str = "t"
    topic_id: uuid.UUID = TOPIC_ID
    high_watermark: int = 1000
    last_stable_offset: int = 900
    log_start_offset: int = 5
    aborted: tuple[tuple[int, int], ...] = ()
    leader: tuple[int, int] | None = None
    preferred_read_replica: int = -1
    diverging: tuple[int, int] | None = None


class Call:
    """A Fetch request as it came, and the way to answer it."""

    def __init__(self, frame: bytes, connection: socket.socket) -> None:
        api_key, self.version, self.correlation_id = struct.unpack_from(">hhi", frame)
        assert api_key == 1, f"a request of API {api_key}"
        module = importlib.import_module(f"kio.schema.fetch.v{self.version}.request")
        request_type = module.FetchRequest
        header, size = entity_reader(request_type.__header_schema__)(frame, 0)
        self.request, body_size = entity_reader(request_type)(frame, size)
        assert size + body_size == len(frame), "kio reads less than was sent"
        self.client_id: str = header.client_id
        self._connection = connection

    @property
    def partitions(self) -> list[tuple[Any, int, int]]:
        """(topic or topic id, partition, fetch offset) in the request's order."""
        return [
            (getattr(topic, "topic", None) or topic.topic_id, p.partition, p.fetch_offset)
            for topic in self.request.topics
            for p in topic.partitions
        ]

    @property
    def session(self) -> tuple[int, int]:
        """(session id, session epoch)"""
        return self.request.session_id, self.request.session_epoch

    @property
    def forgotten(self) -> list[tuple[Any, int]]:
        """(topic or topic id, partition)"""
        return [
            (getattr(topic, "topic", None) or topic.topic_id, partition)
            for topic in self.request.forgotten_topics_data
            for partition in topic.partitions
        ]

    def offset(self, partition: int = 0) -> int:
        (offset,) = [offset for _, number, offset in self.partitions if number == partition]
        return int(offset)

    def answer(self, *parts: Part, error: int = 0, throttle_ms: int = 0, session_id: int = 0) -> None:
        self.send(encode_answer(self.version, self.correlation_id, parts, error, throttle_ms, session_id))

    def send(self, frame: bytes) -> None:
        self._connection.sendall(struct.pack(">i", len(frame)) + frame)

    def send_raw(self, data: bytes) -> None:
        self._connection.sendall(data)


def encode_answer(
    version: int,
    correlation_id: int,
    parts: tuple[Part, ...],
    error: int = 0,
    throttle_ms: int = 0,
    session_id: int = 0,
) -> bytes:
    """A Fetch response without its length prefix."""
    module = importlib.import_module(f"kio.schema.fetch.v{version}.response")

    def fitting(entity: type[Any], **fields: Any) -> Any:
        known = {field.name for field in dataclasses.fields(entity)}
        return entity(**{name: value for name, value in fields.items() if name in known})

    topics = []
    for part in parts:
        tagged = {}
        if part.leader is not None and version >= 12:
            leader_id, leader_epoch = part.leader
            tagged["current_leader"] = module.LeaderIdAndEpoch(leader_id=leader_id, leader_epoch=leader_epoch)
        if part.diverging is not None and version >= 12:
            epoch, end_offset = part.diverging
            tagged["diverging_epoch"] = module.EpochEndOffset(epoch=epoch, end_offset=end_offset)
        aborted = tuple(
            module.AbortedTransaction(producer_id=producer, first_offset=first)
            for producer, first in part.aborted
        )
        data = fitting(
            module.PartitionData,
            partition_index=part.partition,
            error_code=ErrorCode(part.error),
            high_watermark=part.high_watermark,
            last_stable_offset=part.last_stable_offset,
            log_start_offset=part.log_start_offset,
            aborted_transactions=aborted,
            preferred_read_replica=part.preferred_read_replica,
            records=part.records,
            **tagged,
        )
        topics.append(
            fitting(
                module.FetchableTopicResponse, topic=part.topic, topic_id=part.topic_id, partitions=(data,)
            )
        )
    response = fitting(
        module.FetchResponse,
        throttle_time=datetime.timedelta(milliseconds=throttle_ms),
        error_code=ErrorCode(error),
        session_id=session_id,
        responses=tuple(topics),
    )
    out = BytesIO()
    header_type = module.FetchResponse.__header_schema__
    entity_writer(header_type)(out, header_type(correlation_id=correlation_id))
    entity_writer(module.FetchResponse)(out, response)
    return out.getvalue()


class ScriptedBroker:
    """Accepts connections; every Fetch request waits in `calls` until the test answers it."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.calls: queue.Queue[Call] = queue.Queue()
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def fetch(self) -> Call:
        return self.calls.get(timeout=PATIENCE_S)

    def close(self) -> None:
        for end in [self._server, *self.connections]:
            with contextlib.suppress(OSError):  # gone already
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        try:
            while prefix := stream.read(4):
                self.calls.put(Call(stream.read(struct.unpack(">i", prefix)[0]), connection))
        except (OSError, struct.error):
            return


class Bench:
    """A fetcher of partitions of the topic `t`, each with position 0, on one connection to a scripted broker."""

    def __init__(self, partitions: int = 1, version: int = 12, node_id: int = 1, **settings: Any) -> None:
        self.broker = ScriptedBroker()
        self.events = EventQueue()
        self.fetcher = Fetcher(self.events, client_id="bench", **settings)
        self.node_id = node_id
        self._heard: list[tuple[int, int, int, Any]] = []
        self.connections: list[Connection] = []
        self.handles = [self.fetcher.assign("t", TOPIC_ID.bytes, number) for number in range(partitions)]
        for handle in self.handles:
            self.fetcher.set_leader(handle, node_id, 7)
            self.fetcher.seek(handle, 0)
        self.attach(version)

    def attach(self, version: int = 12) -> Connection:
        connection = Connection(self.events, len(self.connections) + 1, "127.0.0.1", self.broker.port)
        self.connections.append(connection)
        self.fetcher.attach(self.node_id, connection, version)
        return connection

    def event(self, *kinds: int) -> tuple[int, int, int, Any]:
        """The next event of one of these kinds; others before it are dropped."""
        while True:
            while self._heard:
                event = self._heard.pop(0)
                if event[0] in kinds:
                    return event
            self._heard = self.events.wait(int(PATIENCE_S * 1000))
            assert self._heard, f"no event of the kinds {kinds}"

    def poll_all(self, count: int, max_records: int = 500) -> list[Any]:
        """Poll until so many records are there."""
        records: list[Any] = []
        while len(records) < count:
            polled = self.fetcher.poll(max_records, int(PATIENCE_S * 1000))
            assert polled, f"{len(records)} of {count} records came"
            records.extend(polled)
        return records

    def close(self) -> None:
        self.fetcher.close()
        for connection in self.connections:
            connection.close()
        self.broker.close()


def batch(
    base: int, count: int = 1, *, size: int = 10, compression: str = "none", epoch: int = 7, **build: Any
) -> bytes:
    """A batch of records `base`..., each with its offset as key."""
    builder = BatchBuilder(compression)
    for index in range(count):
        builder.append(1_700_000_000_000 + base + index, str(base + index).encode(), b"v" * size)
    return at(base, builder.build(**build), epoch)


def at(base: int, raw: bytes, epoch: int = 7) -> bytes:
    """A built batch as a broker would store it: offset and leader epoch are outside of the checksum."""
    return struct.pack(">q", base) + raw[8:12] + struct.pack(">i", epoch) + raw[16:]


def damaged(raw: bytes) -> bytes:
    """The same batch with one bit flipped in its last record's value, which the count of its headers follows."""
    return raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:]
