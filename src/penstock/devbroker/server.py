"""The sockets: frames in, frames out, one request of a connection at a time, as Kafka's own network layer does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .apis import APIS, Api, Call
from .cluster import Cluster
from .codes import Code
from .coordinator import Coordinator, TransactionCoordinator
from .telemetry import Telemetry

if TYPE_CHECKING:
    from .wire import Request

log = logging.getLogger("penstock.devbroker")

QUEUED_BYTES = 4 * 1024 * 1024  # of requests not begun yet; then the connection is not read further
QUEUED_FRAMES = 1000
API_VERSIONS = 18


@dataclass(frozen=True, slots=True)
class Delay:
    """An interceptor's verdict: wait, then go on as if nothing had been said."""

    seconds: float


class _Close:
    def __repr__(self) -> str:
        return "CLOSE"


CLOSE: Final = _Close()
"""An interceptor's verdict: close the connection without an answer."""

Handler = Callable[["Request", "Connection"], Any]


class Connection(asyncio.Protocol):
    """One client. `peer_host` and `peer_port` say who."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._frames: deque[bytes] = deque()
        self._queued_bytes = 0
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._paused = False
        self.peer_host, self.peer_port = "?", 0

    def close(self, reason: str) -> None:
        """End the connection; what it asked and is not answered will not be."""
        if self._transport is not None and not self._transport.is_closing():
            log.info("connection from %s:%d closed: %s", self.peer_host, self.peer_port, reason)
            self._transport.close()

    # ------------------------------------------------------------------ what asyncio calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if peer:
            self.peer_host, self.peer_port = peer[0], peer[1]
        self._server.connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._task is not None:
            self._task.cancel()  # a long poll of a client that is gone would answer nobody

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        position = 0
        while len(self._buffer) - position >= 4:
            (length,) = struct.unpack_from(">i", self._buffer, position)
            if not 0 <= length <= self._server.max_frame_bytes:
                log.warning(
                    "%s:%d sent a frame of %d bytes (socket.request.max.bytes is %d)",
                    self.peer_host,
                    self.peer_port,
                    length,
                    self._server.max_frame_bytes,
                )
                self._buffer.clear()
                self.close("frame too large")
                return
            if len(self._buffer) - position - 4 < length:
                break
            with memoryview(self._buffer) as view:
                self._frames.append(bytes(view[position + 4 : position + 4 + length]))
            self._queued_bytes += length
            position += 4 + length
        if position:
            del self._buffer[:position]
            self._arrived.set()
            self._keep_bounds()

    def _keep_bounds(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        full = self._queued_bytes > QUEUED_BYTES or len(self._frames) > QUEUED_FRAMES
        if full and not self._paused:
            self._transport.pause_reading()
        elif not full and self._paused:
            self._transport.resume_reading()
        self._paused = full

    # ------------------------------------------------------------------ one request after another
    async def _serve(self) -> None:
        assert self._transport is not None
        try:
            while not self._transport.is_closing():
                while not self._frames:
                    self._arrived.clear()
                    await self._arrived.wait()
                frame = self._frames.popleft()
                self._queued_bytes -= len(frame)
                self._keep_bounds()
                response = await self._server.answer(frame, self)
                if response is not None and not self._transport.is_closing():
                    self._transport.write(response)
                    await self._writable.wait()
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("connection from %s:%d failed", self.peer_host, self.peer_port)
            self.close("an internal error")


class Server:
    """Decodes, lets interceptors have their say, calls the handler of the API, encodes."""

    def __init__(
        self,
        cluster: Cluster,
        groups: Coordinator,
        transactions: TransactionCoordinator,
        interceptors: Mapping[int, list[Handler]],
    ) -> None:
        self.cluster = cluster
        self.groups = groups
        self.transactions = transactions
        self.telemetry = Telemetry()
        self.connections: set[Connection] = set()
        self.advertised: tuple[str, int] = ("127.0.0.1", 0)
        self.max_frame_bytes = cluster.options.number("socket.request.max.bytes")
        self._interceptors = interceptors

    async def answer(self, frame: bytes, connection: Connection) -> bytes | None:
        """The response frame; None for none. Bytes that are no request, or none we serve, close the connection."""
        from . import wire  # kio's schemas are loaded by the first request, not before the port is open

        try:
            api_key, version, correlation_id = wire.peek(frame)
            api = APIS.get(api_key)
            if api is not None and api_key == API_VERSIONS and not api.low <= version <= api.high:
                unsupported = api.load()[1](None, Code.UNSUPPORTED_VERSION)
                return wire.encode(API_VERSIONS, 0, correlation_id, unsupported)
            if api is None or not api.low <= version <= api.high:
                raise wire.Malformed(f"api key {api_key} version {version} is not served")
            request = wire.decode(frame)
        except wire.Malformed as error:
            log.warning(
                "%s:%d: %s; the connection is closed", connection.peer_host, connection.peer_port, error
            )
            connection.close("not a request")
            return None
        fields = await self._fields(api, Call(self, connection, request))
        if fields is None:
            return None
        return wire.encode(api_key, version, correlation_id, fields)

    async def _fields(self, api: Api, call: Call) -> Mapping[str, Any] | None:
        handle, refuse = api.load()
        try:
            verdict = await self._intercepted(call)
            if verdict is CLOSE:
                call.connection.close("an interceptor said so")
                return None
            if isinstance(verdict, Mapping):
                return verdict
            if verdict is not None:
                return refuse(call.body, int(verdict))
            answer = handle(call)
            return await answer if isinstance(answer, Awaitable) else answer
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s version %d failed", api.name, call.version)
            return refuse(call.body, Code.UNKNOWN_SERVER_ERROR)

    async def _intercepted(self, call: Call) -> Any:
        """The first verdict that is not None; a Delay, or a future that a test holds, is waited for."""
        for handler in tuple(self._interceptors.get(call.request.api_key, ())):
            verdict = handler(call.request, call.connection)
            if isinstance(verdict, concurrent.futures.Future):
                # Shielded: a client that hangs up must not cancel the future that a test is about to set.
                verdict = await asyncio.shield(asyncio.wrap_future(verdict))
            elif inspect.isawaitable(verdict):
                verdict = await verdict
            if isinstance(verdict, Delay):
                await asyncio.sleep(verdict.seconds)
            elif verdict is not None:
                return verdict
        return None
