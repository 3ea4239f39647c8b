"""Heartbeats that a connection's own thread sends: when, what becomes of their answers, and that they need no GIL."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import queue
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from kio.schema.consumer_group_heartbeat.v1 import request as member_request
from kio.schema.consumer_group_heartbeat.v1 import response as member_response
from kio.schema.errors import ErrorCode
from kio.serial import entity_writer

from penstock._native import (
    EVENT_CLOSED,
    EVENT_CONNECTED,
    EVENT_HEARTBEAT,
    EVENT_HEARTBEATS_STOPPED,
    EVENT_RESPONSE,
    Connection,
    EventQueue,
    Fetcher,
)

from .scripted import TOPIC_ID, Bench, Part, batch, encode_answer

PATIENCE_S = 20.0
LONG_MS = 600_000
FIRST_ID = 0x6000_0000
FETCH, HEARTBEAT, METADATA, CONSUMER_GROUP_HEARTBEAT = 1, 12, 3, 68
BEAT = struct.pack(">hhi", HEARTBEAT, 1, -1) + b"\0\1cgroup, generation, member"
# Heartbeat v1 to v3: throttle_time_ms, error_code.
PLAIN = struct.pack(">ih", 0, 0)
REBALANCE = struct.pack(">ih", 0, 27)
Event = tuple[int, int, int, Any]


class Asked:
    """A request as it came, and the way to answer it."""

    def __init__(self, frame: bytes, peer: socket.socket) -> None:
        self.frame = frame
        self.api_key, self.version, self.correlation_id = struct.unpack_from(">hhi", frame)
        self._peer = peer

    def answer(self, body: bytes) -> None:
        """`body`: what follows the correlation id."""
        self._peer.sendall(self.framed(body))

    def framed(self, body: bytes) -> bytes:
        return struct.pack(">ii", 4 + len(body), self.correlation_id) + body


class Line:
    """A connection to a peer that answers when the test says so."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.events = EventQueue()
        self.asked: queue.Queue[Asked] = queue.Queue()
        self.peer: socket.socket | None = None
        self._heard: list[Event] = []
        threading.Thread(target=self._serve, daemon=True).start()
        self.connection = Connection(self.events, 7, "127.0.0.1", self.server.getsockname()[1])
        assert self.event()[0] == EVENT_CONNECTED

    def _serve(self) -> None:
        with contextlib.suppress(OSError, struct.error):  # closed, before or after a connection came
            peer, _ = self.server.accept()
            self.peer = peer
            stream = peer.makefile("rb")
            while prefix := stream.read(4):
                self.asked.put(Asked(stream.read(struct.unpack(">i", prefix)[0]), peer))

    def start(self, frame: bytes = BEAT, **changes: Any) -> int:
        settings: dict[str, Any] = {
            "interval_ms": 5,
            "answer_timeout_ms": LONG_MS,
            "plain_answer": PLAIN,
            "throttle_at": 0,
            "first_in_ms": 0,
        }
        return self.connection.start_heartbeats(frame, **(settings | changes))

    def request(self, api_key: int = HEARTBEAT) -> Asked:
        asked = self.asked.get(timeout=PATIENCE_S)
        assert asked.api_key == api_key
        return asked

    def send(self, correlation_id: int, api_key: int = METADATA) -> None:
        self.connection.send(correlation_id, struct.pack(">hhi", api_key, 0, correlation_id))

    def event(self) -> Event:
        while not self._heard:
            self._heard = self.events.wait(int(PATIENCE_S * 1000))
            assert self._heard, "no event"
        return self._heard.pop(0)

    def nothing_came(self) -> bool:
        return not self._heard and not self.events.wait(0)

    def close(self) -> None:
        self.connection.close()
        for end in [self.peer, self.server]:
            if end is not None:
                with contextlib.suppress(OSError):  # gone already
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@pytest.fixture
def fetcher() -> Iterator[Fetcher]:
    made = Fetcher(EventQueue(), client_id="idle")
    yield made
    made.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def as_of(body: bytes, asked: Asked) -> bytes:
    return struct.pack(">i", asked.correlation_id) + body


# ---------------------------------------------------------------- beats and answers


def test_beats_come_in_order_and_plain_answers_wake_nobody(line: Line) -> None:
    assert line.connection.heartbeats() == (0, 0, -1)
    assert line.start() == 1
    for number in range(10):
        beat = line.request()
        assert beat.correlation_id == FIRST_ID + number
        assert (beat.frame[:4], beat.frame[8:]) == (BEAT[:4], BEAT[8:])
        beat.answer(struct.pack(">ih", number, 0))  # throttled by so many milliseconds
    line.request()  # so the answer before it was heard
    assert line.nothing_came()
    sent, plain, since_good_ms = line.connection.heartbeats()
    assert (sent, plain) == (11, 10)
    assert since_good_ms >= 0
    assert line.connection.in_flight() == 1


def test_the_first_beat_waits_for_its_time(line: Line) -> None:
    line.start(interval_ms=LONG_MS, first_in_ms=None)
    line.send(1)
    line.request(METADATA).answer(b"")
    assert line.event()[0] == EVENT_RESPONSE
    assert line.connection.heartbeats() == (0, 0, -1)
    assert line.start(interval_ms=LONG_MS, first_in_ms=0) == 2
    line.request()


def test_none_is_sent_while_one_is_unanswered(line: Line) -> None:
    line.start(interval_ms=1)
    beat = line.request()
    for number in range(1, 100):
        line.send(number)
        assert line.request(METADATA).correlation_id == number
    beat.answer(PLAIN)
    assert line.request().correlation_id == FIRST_ID + 1


def test_other_answers_are_delivered_and_beats_go_on(line: Line) -> None:
    line.start()
    for body in [REBALANCE, PLAIN, b"", PLAIN + b"\0", REBALANCE[:-1]]:
        beat = line.request()
        beat.answer(body)
        if body != PLAIN:
            assert line.event() == (EVENT_HEARTBEAT, 7, 1, as_of(body, beat))
    line.request()
    assert line.nothing_came()
    assert line.connection.heartbeats()[:2] == (6, 1)


def test_an_answer_that_is_repeated_while_nobody_listens_is_told_once(line: Line) -> None:
    line.start()
    first = line.request()
    first.answer(REBALANCE)
    for _ in range(20):
        line.request().answer(REBALANCE)
    line.request()
    assert line.event() == (EVENT_HEARTBEAT, 7, 1, as_of(REBALANCE, first))
    assert line.nothing_came()


def test_a_late_answer_tells_which_start_it_belongs_to(line: Line) -> None:
    line.start()
    beat = line.request()
    assert line.start(BEAT + b", again", plain_answer=REBALANCE) == 2
    beat.answer(REBALANCE)
    assert line.event() == (EVENT_HEARTBEAT, 7, 1, as_of(REBALANCE, beat))
    again = line.request()
    assert again.frame.endswith(b", again")
    again.answer(REBALANCE)
    line.request()
    assert line.nothing_came()


def test_the_engines_requests_run_between_beats(line: Line) -> None:
    line.start()
    seen = {HEARTBEAT: 0, METADATA: 0}
    for number in range(1, 31):
        line.send(number)
        while True:
            asked = line.asked.get(timeout=PATIENCE_S)
            seen[asked.api_key] += 1
            asked.answer(PLAIN if asked.api_key == HEARTBEAT else b"%d" % number)
            if asked.api_key == METADATA:
                break
        assert line.event() == (EVENT_RESPONSE, 7, number, struct.pack(">i", number) + b"%d" % number)
        if number % 3 == 0:  # leave time for a beat
            line.request().answer(PLAIN)
            seen[HEARTBEAT] += 1
    assert seen[METADATA] == 30
    assert seen[HEARTBEAT] >= 10


def test_the_late_answer_after_a_stop_is_swallowed(line: Line) -> None:
    line.start(interval_ms=1)
    beat = line.request()
    line.connection.stop_heartbeats()
    line.connection.stop_heartbeats()
    line.send(1)
    asked = line.request(METADATA)
    beat.answer(REBALANCE)
    asked.answer(b"")
    assert line.event() == (EVENT_RESPONSE, 7, 1, struct.pack(">i", 1))
    for number in range(2, 50):
        line.send(number)
        line.request(METADATA)
    assert line.nothing_came()
    assert line.connection.heartbeats() == (1, 0, -1)


def test_a_silent_peer_ends_the_connection(line: Line) -> None:
    line.start(answer_timeout_ms=30)
    line.request()
    assert line.event() == (EVENT_CLOSED, 7, 0, "no answer to a heartbeat within 30 ms")
    assert line.connection.in_flight() == 0
    assert line.start() == 2  # without effect, as send() is
    line.connection.stop_heartbeats()


def test_a_beat_behind_a_request_that_the_broker_holds_is_not_late(line: Line) -> None:
    """A JoinGroup is held until all have joined, and nothing behind it is read before."""
    line.send(1)
    held = line.request(METADATA)
    line.start(answer_timeout_ms=300)
    beat = line.request()
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 0.5)
    assert line.nothing_came()
    assert line.peer is not None
    line.peer.sendall(held.framed(b"") + beat.framed(REBALANCE))
    assert line.event()[0] == EVENT_RESPONSE
    assert line.event()[0] == EVENT_HEARTBEAT


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"frame": b"1234567"}, "7 bytes"),
        ({"interval_ms": 0}, "positive"),
        ({"answer_timeout_ms": 0}, "positive"),
        ({"throttle_at": 3}, "byte 3"),
        ({"member_epoch_at": len(BEAT) - 3}, f"byte {len(BEAT) - 3}"),
    ],
)
def test_what_makes_no_sense_is_refused(line: Line, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        line.start(**wrong)


# ---------------------------------------------------------------- KIP-848


def written(entity: Any, **header: Any) -> bytes:
    out = BytesIO()
    header_type = entity.__header_schema__
    entity_writer(header_type)(out, header_type(**header))
    entity_writer(type(entity))(out, entity)
    return out.getvalue()


def member_beat(epoch: int) -> bytes:
    request = member_request.ConsumerGroupHeartbeatRequest(
        group_id="group", member_id="member", member_epoch=epoch, topic_partitions=None
    )
    key, version = CONSUMER_GROUP_HEARTBEAT, 1
    return written(request, request_api_key=key, request_api_version=version, correlation_id=0, client_id="c")


# Where two frames that differ in their epoch alone differ first.
EPOCH_AT = next(
    at for at, pair in enumerate(zip(member_beat(0), member_beat(-1), strict=True)) if pair[0] != pair[1]
)


def member_answer(epoch: int, *, error: int = 0, message: str | None = None, **fields: Any) -> bytes:
    response = member_response.ConsumerGroupHeartbeatResponse(
        throttle_time=fields.pop("throttle", datetime.timedelta()),
        error_code=ErrorCode(error),
        error_message=message,
        member_id="member",
        member_epoch=epoch,
        heartbeat_interval=datetime.timedelta(seconds=5),
        **fields,
    )
    return written(response, correlation_id=0)[4:]


def start_member(line: Line, epoch: int = 7, **changes: Any) -> int:
    settings = {"plain_answer": member_answer(epoch), "member_epoch_at": EPOCH_AT, "throttle_at": 1}
    return line.start(member_beat(epoch), **(settings | changes))


def member_beat_with(line: Line, epoch: int) -> Asked:
    beat = line.request(CONSUMER_GROUP_HEARTBEAT)
    assert beat.frame[8:] == member_beat(epoch)[8:]
    return beat


def test_a_new_member_epoch_is_told_and_named_from_then_on(line: Line) -> None:
    start_member(line)
    member_beat_with(line, 7).answer(member_answer(7))
    raised = member_beat_with(line, 7)
    raised.answer(member_answer(8))
    for _ in range(3):
        member_beat_with(line, 8).answer(member_answer(8, throttle=datetime.timedelta(milliseconds=9)))
    member_beat_with(line, 8)
    assert line.event() == (EVENT_HEARTBEAT, 7, 1, as_of(member_answer(8), raised))
    assert line.nothing_came()
    assert line.connection.heartbeats()[:2] == (6, 4)


def test_a_new_assignment_and_errors_are_told_and_change_no_epoch(line: Line) -> None:
    start_member(line)
    partitions = member_response.TopicPartitions(topic_id=TOPIC_ID, partitions=(0, 1))
    assigned = member_response.Assignment(topic_partitions=(partitions,))
    for body in [
        member_answer(7, assignment=assigned),
        member_answer(9, error=110, message="fenced"),
        member_answer(-1),
        member_answer(8)[:12],
        b"\xff" * 40,
        b"",
    ]:
        beat = member_beat_with(line, 7)
        beat.answer(body)
        assert line.event() == (EVENT_HEARTBEAT, 7, 1, as_of(body, beat))
    assert line.connection.heartbeats()[:2][1] == 0


def test_the_engines_own_heartbeat_keeps_beats_back_and_its_epoch_counts(line: Line) -> None:
    line.connection.send(0, member_beat(7))
    own = line.request(CONSUMER_GROUP_HEARTBEAT)
    start_member(line, interval_ms=1)
    for number in range(1, 50):
        line.send(number)
        line.request(METADATA)
    own.answer(member_answer(8))
    member_beat_with(line, 8)
    assert line.event() == (EVENT_RESPONSE, 7, 0, as_of(member_answer(8), own))


# ---------------------------------------------------------------- progress


def test_without_progress_beats_stop_until_they_are_started_again(line: Line, fetcher: Fetcher) -> None:
    def answer_all() -> None:
        while asked := line.asked.get():
            asked.answer(PLAIN)

    fetcher.note_progress()
    line.start(fetcher=fetcher, max_idle_ms=250)
    line.request().answer(PLAIN)
    threading.Thread(target=answer_all, daemon=True).start()
    kind, number, generation, idle_ms = line.event()
    assert (kind, number, generation) == (EVENT_HEARTBEATS_STOPPED, 7, 1)
    assert idle_ms > 250
    sent = line.connection.heartbeats()[0]
    for correlation_id in range(1, 50):
        line.send(correlation_id)
        assert line.event()[:3] == (EVENT_RESPONSE, 7, correlation_id)
    assert line.connection.heartbeats()[0] == sent
    fetcher.note_progress()
    assert line.start(fetcher=fetcher, max_idle_ms=LONG_MS) == 2
    wait_until(lambda: line.connection.heartbeats()[0] >= sent + 5)
    assert line.nothing_came()


def test_a_fetcher_without_a_limit_stops_nothing(line: Line, fetcher: Fetcher) -> None:
    wait_until(lambda: fetcher.idle_ms() > 1)
    line.start(fetcher=fetcher)
    line.request()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


TAKE: dict[str, Callable[[Any], object]] = {
    "iteration": lambda records: next(iter(records)),
    "index": lambda records: records[-1],
    "slice": lambda records: records[1:],
    "stride": lambda records: records[::2],
    "record of a slice": lambda records: records[1:][0],
    "partition": lambda records: records.records(("t", 0)),
    "arrow": lambda records: records.__arrow_c_stream__(),
}


@pytest.mark.parametrize("take", TAKE.values(), ids=TAKE.keys())
def test_a_record_taken_is_progress(bench: Bench, take: Callable[[Any], object]) -> None:
    bench.broker.fetch().answer(Part(records=batch(0, 5)))
    records = bench.fetcher.poll(500, int(PATIENCE_S * 1000))
    assert len(records) == 5
    wait_until(lambda: bench.fetcher.idle_ms() > 20)
    take(records)
    assert bench.fetcher.idle_ms() == 0
    assert bench.fetcher.last_poll_ms() > 20
    len(records), records.partitions, records.is_empty()
    wait_until(lambda: bench.fetcher.idle_ms() > 1)


def test_who_waits_in_poll_is_not_idle(fetcher: Fetcher) -> None:
    thread = threading.Thread(target=fetcher.poll, args=(500, LONG_MS))
    thread.start()
    wait_until(lambda: fetcher.stats()["polls"] == 1 and fetcher.last_poll_ms() > 50)
    assert fetcher.idle_ms() == 0
    fetcher.wake()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert fetcher.idle_ms() < fetcher.last_poll_ms()
    wait_until(lambda: fetcher.idle_ms() > 1)


def test_progress_is_known_since_the_start_and_by_a_note(fetcher: Fetcher) -> None:
    wait_until(lambda: fetcher.idle_ms() > 20)
    thread = threading.Thread(target=fetcher.note_progress)
    thread.start()
    thread.join()
    assert fetcher.idle_ms() < fetcher.last_poll_ms()


# ---------------------------------------------------------------- with a fetch loop on the same connection


def test_beats_and_fetches_share_a_connection(line: Line) -> None:
    fetcher = Fetcher(line.events, client_id="both", buffer_bytes=10_000)
    handle = fetcher.assign("t", TOPIC_ID.bytes, 0)
    fetcher.set_leader(handle, 1, 7)
    fetcher.seek(handle, 0)
    fetcher.attach(1, line.connection, 12)
    line.start(fetcher=fetcher, max_idle_ms=LONG_MS)
    seen = {FETCH: 0, HEARTBEAT: 0}
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Empty, OSError):
                asked = line.asked.get(timeout=0.05)
                seen[asked.api_key] += 1
                if asked.api_key == HEARTBEAT:
                    asked.answer(PLAIN)
                else:
                    part = Part(records=batch(20 * (seen[FETCH] - 1), 20, size=200))
                    asked.answer(encode_answer(12, asked.correlation_id, (part,))[4:])

    server = threading.Thread(target=serve)
    server.start()
    expected = 0
    while expected < 2000 or seen[HEARTBEAT] < 5:
        for record in fetcher.poll(100, 1000):
            assert record.offset == expected
            expected += 1
    assert seen[FETCH] >= 100
    assert line.nothing_came()
    stop.set()
    server.join()
    fetcher.close()


# ---------------------------------------------------------------- the GIL

# Answers beats; says "y" once it has heard so many after the request that tells it to count, "n" if they stay away.
PEER = """
import socket, struct, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
peer, _ = server.accept()
peer.settimeout(float(sys.argv[2]))
wanted, heard, counting = int(sys.argv[1]), 0, False
stream = peer.makefile("rb")
try:
    while heard < wanted:
        frame = stream.read(struct.unpack(">i", stream.read(4))[0])
        api_key, _, correlation_id = struct.unpack_from(">hhi", frame)
        counting = counting or api_key != 12
        heard += counting and api_key == 12
        peer.sendall(struct.pack(">iiih", 10, correlation_id, 0, 0))
    sys.stdout.write("y")
except OSError:
    sys.stdout.write("n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_no_beat_is_missed_while_the_gil_is_held() -> None:
    wanted, interval_ms = 30, 100
    arguments = [sys.executable, "-c", PEER, str(wanted), str(PATIENCE_S)]
    events, ticks, done = EventQueue(), [0], threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks[0] += 1

    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as peer:
        assert peer.stdout is not None
        connection = Connection(events, 7, "127.0.0.1", int(peer.stdout.readline()))
        ticker = threading.Thread(target=tick)
        try:
            settings: dict[str, Any] = {"interval_ms": interval_ms, "answer_timeout_ms": LONG_MS}
            connection.start_heartbeats(BEAT, plain_answer=PLAIN, throttle_at=0, **settings)
            wait_until(lambda: connection.heartbeats()[1] >= 1)
            ticker.start()
            wait_until(lambda: ticks[0] > 3)
            byte, descriptor = ctypes.create_string_buffer(1), peer.stdout.fileno()
            read_holding_the_gil = ctypes.PyDLL(None).read
            connection.send(1, struct.pack(">hhi", METADATA, 0, 1))
            before = ticks[0]
            count = read_holding_the_gil(descriptor, byte, 1)  # until the peer has counted
            after = ticks[0]
            verdict = byte.raw if count == 1 else os.read(descriptor, 1)
        finally:
            done.set()
            connection.close()
            peer.terminate()
    ticker.join()
    assert verdict == b"y", "heartbeats stayed away while the GIL was held"
    assert after - before < wanted, "another thread ran: the GIL was not held"
    assert connection.heartbeats()[1] >= wanted
