"""DevBroker: the embedded broker as an object, its loop in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from .cluster import Cluster
from .coordinator import Coordinator, TransactionCoordinator
from .options import BrokerOptions
from .server import Connection, Handler, Server
from .storage import FileStorage, MemoryStorage, Storage
from .stores import OffsetStore, TransactionStore
from .telemetry import TelemetryPush, Wanted

log = logging.getLogger("penstock.devbroker")
T = TypeVar("T")

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


class DevBroker:
    """A Kafka broker inside this process, for the first run and for tests. Production is a Kafka cluster.

    In memory, or durable in the folder `data_dir`: then what was acknowledged survives kill -9 of the process, and with
    `flush=True` (fsync) also the machine. `port=0` takes a free one, and keeps it over stop() and start(). Other options
    are Kafka's broker settings: `num_partitions=3` or `**{"num.partitions": 3}`.

    Raises ValueError for an unknown option; RuntimeError if the folder belongs to a running broker; OSError if the port
    is taken.

        with DevBroker() as broker:
            KafkaConsumer("my-topic", bootstrap_servers=broker.bootstrap_servers)
    """

    def __init__(
        self,
        data_dir: str | Path | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertised_host: str | None = None,
        flush: bool = False,
        **options: Any,
    ) -> None:
        self._data_dir = None if data_dir is None else Path(data_dir)
        self._host, self._port = host, port
        self._advertised_host = advertised_host or ("localhost" if host in ("", "0.0.0.0", "::") else host)
        self._flush = flush
        self._options = BrokerOptions(options)
        self._memory = MemoryStorage()
        self._interceptors: dict[int, list[Handler]] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: Server | None = None
        self._stopping: asyncio.Event | None = None

    # ------------------------------------------------------------------ its life
    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start of a broker that takes a free one."""
        return self._port

    @property
    def bootstrap_servers(self) -> str:
        """host:port, for clients. RuntimeError before start()."""
        if self._port == 0:
            raise RuntimeError(
                "the broker has no port yet: call start() first, or use it in a with statement"
            )
        return f"{self._advertised_host}:{self._port}"

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> Self:
        """Open the port; clients may connect when this returns. Does nothing if it runs."""
        if self.running:
            return self
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="penstock-devbroker", daemon=True
        )
        self._thread.start()
        try:
            ready.result(START_TIMEOUT_S)
        except BaseException:
            self._thread.join(STOP_TIMEOUT_S)
            self._thread = None
            raise
        return self

    def stop(self) -> None:
        """Close all connections and the port. What is in memory stays for another start() of this object."""
        thread, loop, stopping = self._thread, self._loop, self._stopping
        if thread is None or loop is None or stopping is None:
            return
        if thread.is_alive():
            loop.call_soon_threadsafe(stopping.set)
            thread.join(STOP_TIMEOUT_S)
            if thread.is_alive():
                raise RuntimeError(f"the broker on port {self._port} did not stop within {STOP_TIMEOUT_S} s")
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------ what one may do with it
    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, Any] | None = None) -> None:
        """Make a topic; `config` has Kafka's topic settings. Raises ValueError with the reason if it cannot be."""
        from .codes import RequestRefused

        try:
            self._call(lambda server: server.cluster.create_topic(name, partitions, config))
        except RequestRefused as error:
            raise ValueError(f"{error.code.name}: {error.message}") from None

    def delete_topic(self, name: str) -> None:
        """Raises ValueError if there is no such topic."""
        from .codes import RequestRefused

        try:
            self._call(lambda server: server.cluster.delete_topic(server.cluster.topic(name)))
        except RequestRefused as error:
            raise ValueError(f"{error.code.name}: {error.message}") from None

    def elect(self, topic: str, partition: int = 0, end_offset: int | None = None) -> int:
        """Begin a new leader epoch, as after an election, and return it; clients learn of it by asking for metadata.

        With `end_offset` the election is unclean: the batches that reach beyond it are lost, with all that was acknowledged in them.
        """
        return self._call(lambda server: server.cluster.topics[topic].partitions[partition].elect(end_offset))

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Per partition the offset after the last record, read from the log itself."""
        return self._call(
            lambda server: {
                index: partition.end_offset
                for index, partition in enumerate(server.cluster.topics[topic].partitions)
            }
        )

    def committed(self, group_id: str) -> dict[tuple[str, int], int]:
        """The committed offsets of a group, by (topic, partition)."""

        def look(server: Server) -> dict[tuple[str, int], int]:
            group = server.groups.machine.groups.get(group_id)
            offsets = {} if group is None else group.offsets
            return {(topic, partition): value.offset for (topic, partition), value in offsets.items()}

        return self._call(look)

    def want_telemetry(self, *prefixes: str, **wishes: Any) -> None:
        """Ask all clients for measurements whose names begin so ("*": all; none: for nothing more), as KIP-714 has it.

        `wishes`: interval_ms (300,000), delta (True), max_bytes (1 MiB), compression_types (gzip alone). Forgotten by a stop().
        """
        wanted = Wanted(prefixes, **wishes)
        self._call(lambda server: setattr(server.telemetry, "wanted", wanted))

    def telemetry(self) -> list[TelemetryPush]:
        """What clients have pushed since start(), oldest first; at most the last 1000."""
        return self._call(lambda server: list(server.telemetry.pushes))

    def disconnect_all(self) -> int:
        """Close every client's connection, as a broker's restart would; returns how many there were."""

        def close(server: Server) -> int:
            connections: list[Connection] = list(server.connections)
            for connection in connections:
                connection.close("disconnect_all")
            return len(connections)

        return self._call(close)

    def intercept(self, api_key: int, handler: Handler) -> Callable[[], None]:
        """Ask `handler(request, connection)` about every request of this API first; returns what takes it away again.

        It runs in the broker's thread, so it must not wait. It returns None (go on), an error code (answered everywhere
        the response has one), a dict of response fields, Delay(seconds), CLOSE, or a concurrent.futures.Future of any of
        these: then the request is held until the future is done.
        """
        handlers = self._interceptors.setdefault(api_key, [])
        handlers.append(handler)

        def remove() -> None:
            if handler in handlers:
                handlers.remove(handler)

        return remove

    def _call(self, work: Callable[[Server], T]) -> T:
        """Run `work` in the broker's thread, to which all its state belongs."""
        loop, server = self._loop, self._server
        if not self.running or loop is None or server is None:
            raise RuntimeError("the broker does not run: call start() first, or use it in a with statement")
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(work(server))
            except BaseException as error:
                result.set_exception(error)

        loop.call_soon_threadsafe(run)
        return result.result(START_TIMEOUT_S)

    # ------------------------------------------------------------------ its thread
    def _run(self, ready: Future[None]) -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as error:
            if ready.done():
                log.exception("the embedded broker failed")
            else:
                ready.set_exception(error)

    async def _main(self, ready: Future[None]) -> None:
        storage: Storage = (
            self._memory if self._data_dir is None else FileStorage(self._data_dir, self._flush)
        )
        cluster = Cluster(storage, self._options)
        groups = Coordinator(OffsetStore(storage), self._options)
        for topic in cluster.topics.values():
            groups.topic_changed(topic)
        cluster.on_topic_changed = groups.topic_changed
        cluster.on_topic_deleted = groups.topic_deleted
        transactions = TransactionCoordinator(TransactionStore(storage), cluster, groups)
        server = Server(cluster, groups, transactions, self._interceptors)
        self._loop, self._server, self._stopping = asyncio.get_running_loop(), server, asyncio.Event()
        try:
            listener = await self._loop.create_server(
                lambda: Connection(server), self._host, self._port, backlog=1024
            )
            self._port = listener.sockets[0].getsockname()[1]
            server.advertised = (self._advertised_host, self._port)
            where = "in memory" if self._data_dir is None else f"in {self._data_dir}"
            log.warning(
                "the embedded broker listens on %s (data %s). It is for development and tests: production is a Kafka cluster.",
                self.bootstrap_servers,
                where,
            )
            ready.set_result(None)
            await self._stopping.wait()
            listener.close()
            for connection in tuple(server.connections):
                connection.close("the broker stops")
        finally:
            transactions.close()
            groups.close()
            cluster.close()


def run(
    host: str = "127.0.0.1",
    port: int = 9092,
    data_dir: str | Path | None = None,
    *,
    advertised_host: str | None = None,
    flush: bool = False,
    on_start: Callable[[DevBroker], None] | None = None,
    **options: Any,
) -> None:
    """Run a broker until Ctrl-C or SIGTERM; the command line's way in. `on_start` is called once the port is open."""
    import signal

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    broker = DevBroker(
        data_dir, host=host, port=port, advertised_host=advertised_host, flush=flush, **options
    )
    with broker:
        if on_start is not None:
            on_start(broker)
        while broker.running and not stopped.wait(1.0):
            pass
