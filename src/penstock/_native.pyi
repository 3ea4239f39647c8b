"""The native data plane as Python sees it. Checked against the built module by stubtest.

Every call that waits, copies or decodes releases the GIL. Nothing here decides: what to fetch, from whom, and when to
commit is told from Python.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, SupportsIndex, final, overload

from typing_extensions import Buffer

from .types import Header, TimestampType, TopicPartition

__all__ = [
    "EVENT_CLOSED",
    "EVENT_CONNECTED",
    "EVENT_DIVERGING",
    "EVENT_FETCH_ERROR",
    "EVENT_FETCH_NODE_ERROR",
    "EVENT_HEARTBEAT",
    "EVENT_HEARTBEATS_STOPPED",
    "EVENT_PREFERRED_REPLICA",
    "EVENT_RESPONSE",
    "VERSION",
    "BatchBuilder",
    "Connection",
    "ConsumerRecord",
    "ConsumerRecords",
    "CopyEncoder",
    "EventQueue",
    "Fetcher",
    "crc32c",
    "decode_batches",
    "murmur2_partition",
    "unpack_records",
]

VERSION: Final[str]

# ---------------------------------------------------------------- events
EVENT_CONNECTED: Final[int]  # (EVENT_CONNECTED, connection_id, 0, address: str)
EVENT_RESPONSE: Final[
    int
]  # (EVENT_RESPONSE, connection_id, correlation_id, frame: bytes, starting at the correlation id)
EVENT_CLOSED: Final[
    int
]  # (EVENT_CLOSED, connection_id, 0, reason: str); the last event of a connection, sent once
EVENT_FETCH_ERROR: Final[
    int
]  # (EVENT_FETCH_ERROR, handle, epoch, (error_code, fetch_offset, leader_id, leader_epoch, node_id)); node_id says so
EVENT_PREFERRED_REPLICA: Final[
    int
]  # (EVENT_PREFERRED_REPLICA, handle, epoch, node_id): the leader names this follower (KIP-392)
EVENT_DIVERGING: Final[
    int
]  # (EVENT_DIVERGING, handle, epoch, (leader_epoch, end_offset)): the leader's log departs from what was fetched (KIP-595)
EVENT_FETCH_NODE_ERROR: Final[
    int
]  # (EVENT_FETCH_NODE_ERROR, connection_id, error_code, None): a whole response failed. The loop rests until set_leader() or
# attach(); after topic ids at odds (100, 103, 106) it goes on by itself; a lost session (70, 71) is no event.
EVENT_HEARTBEAT: Final[
    int
]  # (EVENT_HEARTBEAT, connection_id, generation, frame: bytes, starting at the correlation id): not the plain answer
EVENT_HEARTBEATS_STOPPED: Final[
    int
]  # (EVENT_HEARTBEATS_STOPPED, connection_id, generation, idle_ms: int): the user's thread shows no progress

_Event = tuple[int, int, int, Any]

@final
class EventQueue:
    """The one place where native threads speak to an engine. Any thread may call wake(); one thread waits."""

    def __new__(cls) -> EventQueue: ...
    def wait(self, timeout_ms: int) -> list[_Event]:
        """All pending events, at once if there are some or wake() was called since, else after at most timeout_ms (-1: no limit)."""
    def wake(self) -> None: ...
    def fileno(self) -> int:
        """A descriptor that is readable while wait() would return at once: for a selector or an event loop."""

@final
class Connection:
    """One TCP connection and its native thread, which connects, writes queued requests and reads frames.

    host is a name or an address; each of its addresses is tried in turn, connect_timeout_ms each. Buffer sizes of -1 leave
    them to the operating system. Requests are answered in order (Kafka's rule); a response whose correlation id is not that
    of the oldest request in flight closes the connection. Failures never raise here: they arrive as EVENT_CLOSED with a reason for people.
    """

    def __new__(
        cls,
        events: EventQueue,
        connection_id: int,
        host: str,
        port: int,
        *,
        connect_timeout_ms: int = 10_000,
        max_frame_bytes: int = 1_073_741_824,
        send_buffer_bytes: int = 131_072,
        receive_buffer_bytes: int = 65_536,
    ) -> Connection: ...
    def send(self, correlation_id: int, payload: Buffer, expect_response: bool = True) -> None:
        """Queue one request: header and body, without the length prefix, which is added here."""
    def in_flight(self) -> int:
        """Requests that were queued or sent and are not answered yet; heartbeats included."""
    def start_heartbeats(
        self,
        frame: Buffer,
        *,
        interval_ms: int,
        answer_timeout_ms: int,
        plain_answer: Buffer,
        fetcher: Fetcher | None = None,
        max_idle_ms: int = 0,
        member_epoch_at: int = -1,
        throttle_at: int = -1,
        first_in_ms: int | None = None,
    ) -> int:
        """Repeat a heartbeat from the connection's own thread, which needs no GIL, in place of the one before.

        frame is a whole request, header and body, without the length prefix; its correlation id is replaced at each beat. The
        first goes after first_in_ms (None: interval_ms; 0: at once), none while the one before is unanswered, and none while
        a request of the same API that was given to send() is. Returns the generation: how often this was called here.

        An answer that equals plain_answer after its correlation id is a yes and wakes nobody. Any other is delivered as
        EVENT_HEARTBEAT, with the generation that its beat was of, unless it repeats the one before that still waits in the
        queue; beats go on. throttle_at, if not -1, is where throttle_time_ms stands in plain_answer: it is not compared.
        An answer that takes answer_timeout_ms, without an earlier request's answer being awaited, ends the connection.

        member_epoch_at, if not -1, is where the member epoch stands in the frame of a ConsumerGroupHeartbeat (KIP-848, version 0
        or 1). Answers are compared but for their epoch then, which has to be the frame's. Another one, in an answer without
        error, is delivered and put into the frame, since a broker fences who names the old one; likewise a higher one in the
        answer to such a request that was given to send().

        With a fetcher and max_idle_ms > 0, nothing is sent once idle_ms() is above max_idle_ms at a beat's time:
        EVENT_HEARTBEATS_STOPPED tells so, once. ValueError for a frame or an answer too short for what it should contain, or
        times that are 0.
        """
    def stop_heartbeats(self) -> None:
        """No more beats; idempotent. The answer to one that was sent before is swallowed."""
    def heartbeats(self) -> tuple[int, int, int]:
        """(sent, plain answers, milliseconds since the last good answer or -1), of all starts. Good is a plain answer and, with
        member_epoch_at, any without error."""
    def close(self) -> None:
        """End the connection; idempotent. EVENT_CLOSED follows."""

# ---------------------------------------------------------------- fetching
@final
class Fetcher:
    """The fetch positions, the fetch loops and the bounded buffer of one consumer.

    A partition is known by its handle, an int. It is fetched while it is assigned, has a position and a leader whose
    node is attached, is not paused and not suspended. Each assign() and seek() starts a new epoch of the partition: what was
    fetched under an older epoch is dropped, wherever it is, and never returned.
    """

    def __new__(
        cls,
        events: EventQueue,
        *,
        client_id: str,
        client_rack: str = "",
        isolation_level: int = 0,
        max_wait_ms: int = 500,
        min_bytes: int = 1,
        max_bytes: int = 52_428_800,
        max_partition_bytes: int = 1_048_576,
        check_crcs: bool = True,
        buffer_bytes: int = 16_777_216,
        max_batch_bytes: int = 268_435_456,
        request_timeout_ms: int = 30_000,
        key_deserializer: Callable[..., Any] | None = None,
        value_deserializer: Callable[..., Any] | None = None,
    ) -> Fetcher:
        """buffer_bytes bounds decoded records waiting for poll(); max_batch_bytes bounds one batch after decompression.

        A deserializer is called as f(bytes) (never with None), once per record, when .key or .value is first read.
        """
    # -- partition table (called by the engine's thread only)
    def assign(self, topic: str, topic_id: bytes, partition: int) -> int:
        """A new handle, without position or leader. topic_id: 16 bytes, zeros where the broker has none."""
    def unassign(self, handles: Sequence[int]) -> None:
        """Forget partitions and all that was fetched of them. After this returns, poll() returns nothing of them."""
    def set_topic_id(self, handle: int, topic_id: bytes) -> None: ...
    def set_leader(self, handle: int, node_id: int, leader_epoch: int) -> None:
        """Where to fetch from (-1: nowhere for now). Lifts a suspension that followed an EVENT_FETCH_ERROR, and the rest of a
        node after an EVENT_FETCH_NODE_ERROR."""
    def set_read_replica(self, handle: int, node_id: int, leader_serves_ms: int = 0) -> None:
        """Fetch from this follower (KIP-392); -1: from the leader again, which for leader_serves_ms is not told client_rack, so that
        it serves the records itself instead of naming a follower. Lifts a suspension, as that which follows an
        EVENT_PREFERRED_REPLICA."""
    def seek(self, handle: int, offset: int, last_leader_epoch: int = -1) -> int:
        """Fetch from this offset, in a new epoch, which is returned. offset -1: no position, stop fetching.

        last_leader_epoch is that of the record before, -1 where not known: a leader whose log has another one there answers with
        EVENT_DIVERGING (Fetch version 12), and the partition is suspended until the next seek(). Forgets what is buffered, and
        lifts a suspension or a failure. KeyError for a handle that was unassigned.
        """
    def cut(self, handle: int, end_offset: int) -> tuple[int, int] | None:
        """The log ends at end_offset (KIP-320). Where more was fetched, forget in one step all that poll() has not returned, and
        fetch again from the position. The position, as position() gives it; it stands still until that fetch is answered."""
    def epoch(self, handle: int) -> int: ...
    def position(self, handle: int) -> tuple[int, int] | None:
        """(offset of the next record that poll() will return, leader epoch of the batch before it or -1); None without one."""
    def high_watermark(self, handle: int) -> int: ...
    def last_stable_offset(self, handle: int) -> int: ...
    def log_start_offset(self, handle: int) -> int: ...
    def places(self, handles: Sequence[int]) -> list[tuple[int, int, int, int]]:
        """Per handle, in one step: (offset of the next record that poll() will return, high watermark, last stable offset, log
        start offset). -1 for what is not known; four of them for a handle that was unassigned."""
    def partition_stats(self, handle: int) -> tuple[int, int]:
        """What poll() has handed out of a partition since assign(): (records, bytes of their keys and values). KeyError for a
        handle that was unassigned."""
    def pause(self, handles: Sequence[int]) -> None:
        """Stop returning and fetching; what is buffered is kept, outside the buffer's budget."""
    def resume(self, handles: Sequence[int]) -> None: ...
    def fail(self, handle: int, error: BaseException) -> None:
        """poll() raises this error once it has returned what was buffered before it; until seek() or unassign()."""
    # -- loops
    def attach(self, node_id: int, connection: Connection, api_version: int) -> None:
        """Run the fetch loop of a node on its connection: Fetch version 4 to 17 (a higher one is lowered), from 7 on in a session
        (KIP-227). A session that the broker has lost costs one full request, without an event.

        Replaces the node's loop on another connection. The connection should carry nothing else: while the buffer is full
        it is not read, and answers to other requests would wait with the rest.
        """
    def detach(self, node_id: int) -> None:
        """End a node's loop. What it has fetched and not yet buffered will be fetched again, from whoever leads then."""
    # -- the user's thread
    def poll(self, max_records: int, timeout_ms: int) -> ConsumerRecords:
        """Up to max_records, oldest fetch first; waits up to timeout_ms for the first. Empty also after wake().

        Signals are seen while waiting (Ctrl-C raises KeyboardInterrupt, nothing is lost). Raises the partition's error when
        one is next in line: CorruptRecordError, UnsupportedFormatError, RecordTooLargeError, or what fail() was given; each is
        raised again after the others' turn, until seek() or unassign(). Their offset is the last one of the batch that
        cannot be read, so that seek() to the offset after it goes past it. ClosedError after close().
        """
    def fileno(self) -> int:
        """A descriptor for an event loop: readable while poll(n, 0) may return records, raise an error, or was woken.

        It is raised by whatever comes and lowered by the poll() after which nothing is left, so that no wake-up is lost:
        level-triggered, call poll(n, 0) once each time it is readable; edge-triggered, until it returns nothing. It may be
        readable for nothing, once. After close() it stays readable. It belongs to the fetcher: do not close it, and stop
        watching it before the fetcher goes.
        """
    def wake(self) -> None:
        """Make a waiting poll(), or the next one, return at once."""
    def last_poll_ms(self) -> int:
        """Monotonic milliseconds since poll() was last entered, or since the start."""
    def idle_ms(self) -> int:
        """Milliseconds since the user's thread last showed progress: entered poll(), took a record out of what poll returned, or
        called note_progress(); or since the start. 0 while it waits inside poll().

        A record is taken by iteration or indexing (a slice, records() or an Arrow stream counts once). That is noticed at the next
        question, by whoever asks: the answer is too low by at most the time between two questions, and never too high.
        """
    def note_progress(self) -> None:
        """Count as progress, for handlers that are long at one record, or run elsewhere. Any thread."""
    def buffered_bytes(self) -> int:
        """What waits for poll(), without what is paused: at most buffer_bytes, or one chunk where that alone is larger."""
    def buffered_records(self) -> int: ...
    def stats(self) -> dict[str, int]:
        """Counters since the start: fetches, responses, bytes, batches, records, chunks, stale, errors, decode_failures,
        crc_failures, full_waits (times that a loop had to wait for room), polls; fetch_latency_us_total and _max (from sending
        a request until its answer is taken up, the broker's waiting included), throttle_ms_total and _max (KIP-219),
        fetch_bytes (of record batches, as they came), records_returned (handed out by poll()), bytes_returned (keys and values
        of those), session_resets (fetch sessions that a broker had lost), partitions_asked (that requests named)."""
    def node_stats(self) -> dict[int, tuple[int, int]]:
        """Per node that was ever fetched from: (requests sent, bytes of record batches that came)."""
    def close(self) -> None:
        """End all loops and forget what is buffered; idempotent. Connections stay open."""

@final
class ConsumerRecord:
    """One record. key and value are deserialized when first read; headers and raw bytes are copied when read."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def timestamp_type(self) -> TimestampType: ...
    @property
    def leader_epoch(self) -> int: ...
    @property
    def key(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def headers(self) -> list[Header]: ...
    @property
    def raw_key(self) -> bytes | None: ...
    @property
    def raw_value(self) -> bytes | None: ...
    @property
    def topic_partition(self) -> TopicPartition: ...
    def raw_key_view(self) -> memoryview | None: ...
    def raw_value_view(self) -> memoryview | None: ...
    def pack(self) -> bytes:
        """This record as bytes, for unpack_records() in another process or later."""

@final
class ConsumerRecords:
    """What one poll() returned: a sequence, and an Arrow stream (PyCapsule protocol).

    It has all methods of a sequence but is not registered as a collections.abc.Sequence: Polars would take it for a list of
    Python objects then, before it looks for an Arrow stream. Records are made when they are accessed, each time anew.
    """

    @property
    def partitions(self) -> list[TopicPartition]: ...
    def records(self, topic_partition: TopicPartition | tuple[str, int]) -> ConsumerRecords: ...
    def next_offsets(self) -> dict[TopicPartition, int]:
        """Per partition, the position after the last record here: what commit() would store. It passes transaction markers
        and withheld records that follow that record."""
    @staticmethod
    def concat(parts: Sequence[ConsumerRecords]) -> ConsumerRecords:
        """All records of these, in their order, over the same memory."""
    def pack(self) -> bytes:
        """These records as bytes, for unpack_records() in another process or later: all that a record has, and next_offsets()."""
    def is_empty(self) -> bool: ...
    def size_bytes(self) -> int: ...
    def to_arrow(self) -> Any:
        """A pyarrow.Table (pyarrow must be installed). Others read the object itself, through __arrow_c_stream__."""
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...
    def __arrow_c_schema__(self) -> object: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __iter__(self) -> Iterator[ConsumerRecord]: ...
    def index(self, value: object, start: int = 0, stop: int | None = None) -> int: ...
    def count(self, value: object) -> int: ...
    @overload
    def __getitem__(self, index: SupportsIndex, /) -> ConsumerRecord: ...
    @overload
    def __getitem__(self, index: slice, /) -> ConsumerRecords: ...

# ---------------------------------------------------------------- batches, for the producer, tests and tools
def decode_batches(
    data: Buffer,
    *,
    topic: str = "",
    partition: int = 0,
    offset: int = 0,
    check_crcs: bool = True,
    max_batch_bytes: int = 268_435_456,
) -> ConsumerRecords:
    """The records of a partition's raw record set (v0, v1 or v2) from `offset` on. Errors as in Fetcher.poll()."""

@final
class BatchBuilder:
    """One v2 record batch in the making. Not thread-safe."""

    def __new__(cls, compression: str = "none", level: int | None = None) -> BatchBuilder: ...
    def append(
        self,
        timestamp_ms: int,
        key: Buffer | None,
        value: Buffer | None,
        headers: Sequence[Header] | None = None,
    ) -> int:
        """Add a record; returns the batch's size in bytes so far, before compression."""
    def __len__(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def build(
        self,
        *,
        producer_id: int = -1,
        producer_epoch: int = -1,
        base_sequence: int = -1,
        transactional: bool = False,
    ) -> bytes:
        """The whole batch, compressed, with its CRC; base offset 0, ready for a Produce request. The builder stays usable for a retry."""

def unpack_records(
    data: Buffer,
    *,
    key_deserializer: Callable[..., Any] | None = None,
    value_deserializer: Callable[..., Any] | None = None,
) -> ConsumerRecords:
    """What pack() made of records. ProtocolError for bytes that are none, or of another version: a private form, for the same penstock."""

@final
class CopyEncoder:
    """Records as rows of PostgreSQL's COPY, text format.

    columns: (source, form, required). Sources: key, value, topic, partition, offset, timestamp, leader_epoch, headers (JSON), index (the
    place in what is encoded), tombstone (whether the value is null), value.<field>[.<field>...] of a JSON object. Forms: text, bytes (for
    bytea), json (a field as it stands), time (a timestamp as date and time, UTC; else milliseconds). required: NULL makes a bad row.
    """

    def __new__(cls, columns: Sequence[tuple[str, str, bool]]) -> CopyEncoder: ...
    def encode(
        self, records: ConsumerRecords, *, skip: set[int] | None = None
    ) -> tuple[list[bytes], int, list[tuple[int, str]]]:
        """(blocks of whole rows, how many rows, records left out since they cannot be a row: (index, why)). `skip`: indices left out
        without a word."""

def murmur2_partition(key: Buffer, partition_count: int) -> int:
    """The partition that Java's default partitioner gives this key."""

def crc32c(data: Buffer) -> int: ...
