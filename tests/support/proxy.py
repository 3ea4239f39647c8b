"""A TCP proxy that misbehaves on command: delays, slices, goes silent, cuts, resets, refuses.

    with Proxy((host, port)) as proxy:
        client_of(proxy.address)
        proxy.slice_bytes = 1          # every byte in a packet of its own
        proxy.blackhole = TO_CLIENT    # one way only
        proxy.heal()

Each direction of each connection has a thread that reads and one that writes, with a bounded queue between them,
so that a delay is latency and not a lower throughput. Settings may be changed from any thread, and hold from the
next chunk on.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType

TO_SERVER = "to_server"
TO_CLIENT = "to_client"
BOTH = "both"

CHUNK_BYTES = 65_536
QUEUED_CHUNKS = 64
TICK_S = 0.01
CONNECT_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 5.0


class Proxy:
    """Forwards connections to `target` (host, port).

    delay_ms             latency of each direction
    slice_bytes          the most bytes written at once, None: as they come
    bytes_per_second     bandwidth of each direction, None: unlimited
    blackhole            None, TO_SERVER, TO_CLIENT or BOTH: bytes of that direction wait, as they do when packets
                         get lost
    cut_after_bytes      close a connection once this many more bytes went to its client, None: never
    max_age_ms           connections live no longer than this, None: as long as they like
    rewrite              a function of direction and bytes, as they come, that gives the bytes to forward instead
    """

    def __init__(self, target: tuple[str, int], *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = target
        self.heal_settings()
        self._host = host
        self._port = port
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self.connections_made = 0
        self.bytes_to_client = 0
        self.bytes_to_server = 0

    @property
    def port(self) -> int:
        """Known from start() on when 0 was asked for; stays the same over refuse() and accept()."""
        return self._port

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._links)

    # -- life
    def start(self) -> Proxy:
        self.accept()
        return self

    def stop(self) -> None:
        """Refuse, reset what is open, and wait for the threads. Idempotent."""
        self.refuse()
        self.reset()

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- faults
    def heal_settings(self) -> None:
        """All faults of bytes off; the listener is left as it is."""
        self.delay_ms: float = 0
        self.slice_bytes: int | None = None
        self.bytes_per_second: int | None = None
        self.blackhole: str | None = None
        self.cut_after_bytes: int | None = None
        self.max_age_ms: float | None = None
        self.rewrite: Callable[[str, bytes], bytes] | None = None

    def heal(self) -> None:
        """All faults off; connections that were cut stay cut."""
        self.heal_settings()
        self.accept()

    def cut(self) -> None:
        """Close every open connection in order (FIN)."""
        for link in self._open_links():
            link.close(reset=False)

    def reset(self) -> None:
        """Close every open connection with a reset (RST)."""
        for link in self._open_links():
            link.close(reset=True)

    def refuse(self) -> None:
        """New connections are refused; open ones stay."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        # shutdown() wakes a thread that is waiting in accept(); close() alone would not.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        if self._accepting is not None:
            self._accepting.join(JOIN_TIMEOUT_S)
            self._accepting = None

    def accept(self) -> None:
        """Take connections (again)."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._host, self._port))
        listener.listen(128)
        self._port = listener.getsockname()[1]
        self._listener = listener
        self._accepting = threading.Thread(
            target=self._accept_loop, args=(listener,), daemon=True, name="proxy-accept"
        )
        self._accepting.start()

    # -- threads
    def _accept_loop(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.target, timeout=CONNECT_TIMEOUT_S)
            except OSError:
                _reset_socket(client)
                continue
            server.settimeout(None)
            link = _Link(self, client, server)
            with self._lock:
                self._links.add(link)
                self.connections_made += 1
            link.start()

    def _open_links(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    def forget(self, link: _Link) -> None:
        """A connection has ended."""
        with self._lock:
            self._links.discard(link)


class _Link:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.closed = threading.Event()
        self._born = time.monotonic()
        self._closing = threading.Lock()
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        for direction, source, sink in (
            (TO_SERVER, self.client, self.server),
            (TO_CLIENT, self.server, self.client),
        ):
            chunks: queue.Queue[tuple[float, bytes]] = queue.Queue(QUEUED_CHUNKS)
            for work, args in ((self._read, (source, chunks)), (self._write, (direction, sink, chunks))):
                threading.Thread(target=work, args=args, daemon=True, name=f"proxy-{direction}").start()

    def close(self, *, reset: bool) -> None:
        with self._closing:
            if self.closed.is_set():
                return
            self.closed.set()
            for end in (self.client, self.server):
                if reset:
                    _reset_socket(end)
                else:
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                    end.close()
        self.proxy.forget(self)

    def _read(self, source: socket.socket, chunks: queue.Queue[tuple[float, bytes]]) -> None:
        """An empty chunk tells the writer that the source has ended."""
        while not self.closed.is_set():
            try:
                data = source.recv(CHUNK_BYTES)
            except OSError:
                data = b""
            item = (time.monotonic() + self.proxy.delay_ms / 1000, data)
            while not self.closed.is_set():
                try:
                    chunks.put(item, timeout=TICK_S)
                    break
                except queue.Full:
                    continue
            if not data:
                return

    def _write(self, direction: str, sink: socket.socket, chunks: queue.Queue[tuple[float, bytes]]) -> None:
        while not self.closed.is_set():
            self._die_of_age()
            try:
                due, data = chunks.get(timeout=TICK_S)
            except queue.Empty:
                continue
            if not data:
                # All that came before was written: an end in order reaches the other side as one.
                self.close(reset=False)
                return
            if not self._wait_until_allowed(direction, due):
                return
            try:
                self._forward(direction, sink, data)
            except OSError:
                self.close(reset=True)

    def _wait_until_allowed(self, direction: str, due: float) -> bool:
        """False when the connection ended while waiting."""
        while self.proxy.blackhole in (direction, BOTH) or time.monotonic() < due:
            wait_s = TICK_S if self.proxy.blackhole else min(TICK_S, max(0.0, due - time.monotonic()))
            if self.closed.wait(wait_s):
                return False
            self._die_of_age()
        return not self.closed.is_set()

    def _forward(self, direction: str, sink: socket.socket, data: bytes) -> None:
        proxy = self.proxy
        if proxy.rewrite is not None:
            data = proxy.rewrite(direction, data)
        position = 0
        while position < len(data) and not self.closed.is_set():
            part = data[position : position + (proxy.slice_bytes or len(data))]
            left = proxy.cut_after_bytes
            if direction == TO_CLIENT and left is not None:
                part = part[:left]
                proxy.cut_after_bytes = left - len(part)
            sink.sendall(part)
            position += len(part)
            if direction == TO_CLIENT:
                proxy.bytes_to_client += len(part)
                if proxy.cut_after_bytes == 0:
                    proxy.cut_after_bytes = None
                    self.close(reset=False)
                    return
            else:
                proxy.bytes_to_server += len(part)
            if proxy.bytes_per_second:
                self.closed.wait(len(part) / proxy.bytes_per_second)

    def _die_of_age(self) -> None:
        age = self.proxy.max_age_ms
        if age is not None and (time.monotonic() - self._born) * 1000 >= age:
            self.close(reset=True)


def _reset_socket(end: socket.socket) -> None:
    """Close with RST: no lingering (SO_LINGER with zero), so that what is unsent is thrown away.

    shutdown() wakes a thread of ours that is inside recv(): the kernel keeps the connection until it leaves.
    """
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)
    end.close()
