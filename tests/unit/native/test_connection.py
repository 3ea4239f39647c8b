"""Connections: what arrives, in which order, and what is said when a peer is no Kafka broker."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock._native import EVENT_CLOSED, EVENT_CONNECTED, EVENT_RESPONSE, Connection, EventQueue

PATIENCE_S = 20.0
Script = Callable[[socket.socket], object]


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def answer(correlation_id: int, body: bytes = b"") -> bytes:
    return framed(struct.pack(">i", correlation_id) + body)


def read_exactly(peer: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count and (part := peer.recv(min(count - len(parts), 1 << 20))):
        parts += part
    return parts


def read_frame(peer: socket.socket) -> bytes:
    prefix = read_exactly(peer, 4)
    return read_exactly(peer, struct.unpack(">i", prefix)[0]) if prefix else b""


class Line:
    """A connection to a server that follows a script, and what it has said so far."""

    def __init__(self, script: Script, **settings: Any) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.events = EventQueue()
        self.thread = threading.Thread(target=self._serve, args=(script,), daemon=True)
        self.thread.start()
        port = self.server.getsockname()[1]
        self.connection = Connection(self.events, 7, "127.0.0.1", port, **settings)
        self._heard: list[tuple[int, int, int, Any]] = []

    def _serve(self, script: Script) -> None:
        try:
            peer, _ = self.server.accept()
        except OSError:  # the test has ended before this thread had its turn
            return
        with peer:
            script(peer)

    def next(self) -> tuple[int, int, int, Any]:
        while not self._heard:
            self._heard = self.events.wait(int(PATIENCE_S * 1000))
            assert self._heard, "no event"
        return self._heard.pop(0)

    def next_but_connected(self) -> tuple[int, int, int, Any]:
        event = self.next()
        return self.next() if event[0] == EVENT_CONNECTED else event

    def close(self) -> None:
        self.connection.close()
        self.server.close()


@pytest.fixture
def line() -> Iterator[Callable[..., Line]]:
    made: list[Line] = []

    def make(script: Script, **settings: Any) -> Line:
        made.append(Line(script, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_requests_are_framed_and_answers_come_in_order(line: Callable[..., Line]) -> None:
    heard: list[bytes] = []

    def script(peer: socket.socket) -> None:
        heard.extend(read_frame(peer) for _ in range(3))
        peer.sendall(answer(5, b"five") + answer(7))

    one = line(script)
    for correlation_id, payload, expects in [
        (5, b"a" * 10, True),
        (6, bytearray(b"bb"), False),
        (7, memoryview(b"c"), True),
    ]:
        one.connection.send(correlation_id, payload, expects)
    kind, number, zero, address = one.next()
    assert (kind, number, zero) == (EVENT_CONNECTED, 7, 0)
    assert address.startswith("127.0.0.1:")
    assert one.next() == (EVENT_RESPONSE, 7, 5, b"\0\0\0\5five")
    assert one.next() == (EVENT_RESPONSE, 7, 7, b"\0\0\0\7")
    assert one.next() == (EVENT_CLOSED, 7, 0, "the peer closed the connection")
    assert heard == [b"a" * 10, b"bb", b"c"]
    assert one.connection.in_flight() == 0


def test_large_requests_and_answers_pass_through_small_socket_buffers(line: Callable[..., Line]) -> None:
    request, response = b"q" * 3_000_000, b"r" * 5_000_000

    def script(peer: socket.socket) -> None:
        assert read_frame(peer) == request
        peer.sendall(answer(1, response))
        peer.recv(1)

    one = line(script, send_buffer_bytes=4096, receive_buffer_bytes=4096)
    one.connection.send(1, request)
    assert one.connection.in_flight() == 1
    assert one.next()[0] == EVENT_CONNECTED
    assert one.next() == (EVENT_RESPONSE, 7, 1, b"\0\0\0\1" + response)


def test_bytes_that_come_one_by_one(line: Callable[..., Line]) -> None:
    def script(peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        read_frame(peer)
        for byte in answer(1, b"slowly"):
            peer.sendall(bytes([byte]))
        peer.recv(1)

    one = line(script)
    one.connection.send(1, b"x")
    assert one.next_but_connected() == (EVENT_RESPONSE, 7, 1, b"\0\0\0\1slowly")


def reset(peer: socket.socket) -> None:
    peer.recv(4)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP, not Kafka"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "security.protocol=SSL"),
        (b"\x16\x03\x03\x00\x7a", "speaks TLS"),
        (b"SSH-2.0-OpenSSH_9.6", "'SSH-'"),
        (struct.pack(">i", -2), "negative length -2"),
        (struct.pack(">i", 2_000_000_000), "2000000000 bytes, above the limit of 1073741824"),
        (struct.pack(">i", 2), "2 bytes, too short"),
        (answer(1)[:2], "after 2 of a length's 4 bytes"),
        (framed(bytes(100))[:50], "after 46 of a frame's 100 bytes"),
        (answer(2), "answered request 2 although request 1 is the oldest"),
        (answer(1) + answer(1), "although no request waits"),
        (b"", "at the first request, without an answer"),
    ],
)
def test_the_reason_says_what_the_peer_did(line: Callable[..., Line], reply: bytes, reason: str) -> None:
    def script(peer: socket.socket) -> None:
        read_frame(peer)
        peer.sendall(reply)

    one = line(script)
    one.connection.send(1, b"x" * 20)
    event = one.next_but_connected()
    if event[0] == EVENT_RESPONSE:
        event = one.next()
    assert event[:3] == (EVENT_CLOSED, 7, 0)
    assert reason in event[3].replace('"', "'")


def test_a_reset_is_named(line: Callable[..., Line]) -> None:
    one = line(reset)
    one.connection.send(1, b"x" * 20)
    kind, _, _, reason = one.next_but_connected()
    assert kind == EVENT_CLOSED
    assert "reset" in reason and "first request" in reason


def test_a_limit_of_the_configuration_is_named(line: Callable[..., Line]) -> None:
    one = line(lambda peer: (read_frame(peer), peer.sendall(answer(1, bytes(1000)))), max_frame_bytes=1000)
    one.connection.send(1, b"x")
    assert "1004 bytes, above the limit of 1000" in one.next_but_connected()[3]


def test_close_is_prompt_idempotent_and_the_last_event(line: Callable[..., Line]) -> None:
    one = line(lambda peer: peer.recv(1))
    assert one.next()[0] == EVENT_CONNECTED
    one.connection.close()
    one.connection.close()
    one.connection.send(1, b"too late")
    assert one.next() == (EVENT_CLOSED, 7, 0, "closed by this side")
    assert one.events.wait(0) == []
    one.thread.join(PATIENCE_S)
    assert not one.thread.is_alive(), "the peer sees the end"


def test_a_dropped_connection_is_closed(line: Callable[..., Line]) -> None:
    one = line(lambda peer: peer.recv(1))
    assert one.next()[0] == EVENT_CONNECTED
    one.connection = None  # type: ignore[assignment]
    assert one.next() == (EVENT_CLOSED, 7, 0, "closed by this side")
    one.connection = Connection(one.events, 8, "127.0.0.1", 1)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_who_refuses_is_named() -> None:
    events = EventQueue()
    port = unused_port()
    connection = Connection(events, 1, "127.0.0.1", port)
    ((kind, number, _, reason),) = events.wait(int(PATIENCE_S * 1000))
    assert (kind, number) == (EVENT_CLOSED, 1)
    assert f"127.0.0.1:{port}: Connection refused" in reason
    connection.close()


def test_a_name_without_address_is_named() -> None:
    events = EventQueue()
    connection = Connection(events, 1, "no-such-host.invalid", 9092)
    ((kind, _, _, reason),) = events.wait(int(PATIENCE_S * 1000))
    assert kind == EVENT_CLOSED
    assert "no-such-host.invalid" in reason and "cannot be resolved" in reason
    connection.close()


def test_connecting_ends_with_its_timeout_or_a_close() -> None:
    """A listener whose queue is full leaves further connections without an answer."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        events = EventQueue()
        slow = Connection(events, 1, *address, connect_timeout_ms=50)
        ((kind, _, _, reason),) = events.wait(int(PATIENCE_S * 1000))
        assert kind == EVENT_CLOSED
        assert "no connection within 50 ms" in reason
        given_up = Connection(events, 2, *address, connect_timeout_ms=3_600_000)
        given_up.close()
        assert events.wait(int(PATIENCE_S * 1000)) == [(EVENT_CLOSED, 2, 0, "closed by this side")]
        slow.close()
        for filler in fillers:
            filler.close()


def test_the_queue_is_woken_and_can_be_watched() -> None:
    import select

    events = EventQueue()
    assert events.wait(0) == []
    assert select.select([events.fileno()], [], [], 0)[0] == []
    events.wake()
    assert select.select([events.fileno()], [], [], 0)[0] == [events.fileno()]
    assert events.wait(-1) == []
    assert select.select([events.fileno()], [], [], 0)[0] == []
    waker = threading.Timer(0.02, events.wake)
    waker.start()
    assert events.wait(-1) == []
    waker.join()
