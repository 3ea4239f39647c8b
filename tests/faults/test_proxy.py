"""The proxy of the fault tests does what it is told: each fault is seen from the client's end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import TO_CLIENT, Proxy


class Echo:
    """A server that sends back what it gets, and the end of a connection as well."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.chunks: list[bytes] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    self.chunks.append(data)
                    connection.sendall(data)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        yield connection


def receive(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        if not part:
            break
        data += part
    return data


def test_forwards(client: socket.socket, proxy: Proxy) -> None:
    payload = bytes(range(256)) * 4_000
    sender = threading.Thread(target=client.sendall, args=(payload,))
    sender.start()
    assert receive(client, len(payload)) == payload
    sender.join()
    deadline = time.monotonic() + 10
    # The proxy counts after it has written, when we may have read already.
    while proxy.bytes_to_client < len(payload) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert proxy.bytes_to_server == proxy.bytes_to_client == len(payload)
    assert proxy.open_connections == 1


def test_slices(client: socket.socket, proxy: Proxy, echo: Echo) -> None:
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.slice_bytes = 3
    client.sendall(b"0123456789")
    assert receive(client, 10) == b"0123456789"
    assert b"".join(echo.chunks) == b"x0123456789"


def test_delays(client: socket.socket, proxy: Proxy) -> None:
    proxy.delay_ms = 60
    begin = time.monotonic()
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    assert time.monotonic() - begin >= 0.12, "each direction waits"


def test_blackhole_holds_one_direction_until_healed(client: socket.socket, proxy: Proxy, echo: Echo) -> None:
    proxy.blackhole = TO_CLIENT
    client.sendall(b"held")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert b"".join(echo.chunks) == b"held", "the other direction still works"
    proxy.heal()
    client.settimeout(10)
    assert receive(client, 4) == b"held"


def test_cut_is_an_end_in_order(client: socket.socket, proxy: Proxy) -> None:
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.cut()
    assert client.recv(1) == b""


def test_reset_is_an_error(client: socket.socket, proxy: Proxy) -> None:
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_truncates(client: socket.socket, proxy: Proxy) -> None:
    proxy.cut_after_bytes = 5
    client.sendall(b"0123456789")
    assert receive(client, 10) == b"01234"


def test_connections_of_a_limited_age(client: socket.socket, proxy: Proxy) -> None:
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.max_age_ms = 50
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_refuses_and_accepts_again_on_the_same_port(client: socket.socket, proxy: Proxy) -> None:
    port = proxy.port
    client.sendall(b"x")
    assert receive(client, 1) == b"x"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(b"y")
    assert receive(client, 1) == b"y", "open connections stay"
    proxy.heal()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as again:
        again.sendall(b"z")
        assert receive(again, 1) == b"z"


def test_no_thread_stays(echo: Echo) -> None:
    before = threading.active_count()
    with (
        Proxy(echo.address) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection,
    ):
        connection.sendall(b"x")
        assert receive(connection, 1) == b"x"
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("proxy-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, f"{threading.active_count() - before} threads stay"
        time.sleep(0.01)
