"""The cluster as the engine reaches it: bootstrap, connections by node and purpose, metadata, coordinators."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

from .._native import VERSION
from ..cluster import Address, ClusterSnapshot, parse_bootstrap
from ..config import ClientKind, Config
from ..errors import ConnectionFailedError, KafkaError, KafkaTimeoutError
from ..metrics import ConsumerMetrics
from ..protocol import Api, BrokerVersions, error_for, error_name, is_retriable
from ..types import Node, TopicPartition
from .backoff import Backoff
from .connection import BrokerConnection, ConnectionSettings, DisconnectedError
from .thread import EngineThread

_log = logging.getLogger("penstock.engine.client")

CONTROL = "control"
COORDINATOR = "coordinator"  # apart, since a broker answers in order and may hold a JoinGroup for minutes
FETCH = "fetch"  # apart, since a full buffer stops reading
PRODUCE = "produce"

_client_numbers: dict[str, Iterator[int]] = defaultdict(lambda: itertools.count(1))

GROUP_COORDINATOR = 0
TRANSACTION_COORDINATOR = 1
_REBOOTSTRAP_REQUIRED = 129


def with_client_id(kind: ClientKind, config: Config) -> Config:
    """A client.id that tells clients apart in the broker's logs and quotas, where the user gave none (as Java's does)."""
    if config["client.id"]:
        return config
    name = f"penstock-{config.get('group.id') or kind}-{next(_client_numbers[kind])}"
    return Config(kind, {**config, "client.id": name}, config.given)


class ClusterClient:
    """Lives in the engine's thread.

    Fields: `snapshot` is replaced, never changed, by _learn(); `attempts` remembers the last failure of each address for
    the error that names them all; `interest` holds the topics that metadata requests name (None: all);
    `newest_versions` is what the broker offers that told of the newest features, of all that were connected to (KIP-584);
    `_without_metadata_since_ms` is when the first of the metadata updates began that have failed since the last that did not.
    """

    def __init__(
        self,
        engine: EngineThread,
        config: Config,
        *,
        allow_auto_create: bool | None = None,
        measurements: ConsumerMetrics | None = None,
    ) -> None:
        """`allow_auto_create`: whether asking for a topic may create it; by default as allow.auto.create.topics says, else yes."""
        self.engine = engine
        self.config = config
        self.bootstrap: tuple[Address, ...] = parse_bootstrap(config["bootstrap.servers"])
        self.snapshot = ClusterSnapshot()
        self.attempts: dict[str, str] = {}
        self.newest_versions: BrokerVersions | None = None
        self.interest: set[str] | None = set()
        self.on_update: list[Callable[[], None]] = []
        self._settings = ConnectionSettings(
            client_id=config["client.id"],
            request_timeout_ms=config["request.timeout.ms"],
            connect_timeout_ms=config["socket.connection.setup.timeout.ms"],
            send_buffer_bytes=config["send.buffer.bytes"],
            receive_buffer_bytes=config["receive.buffer.bytes"],
            client_software_version=VERSION,
        )
        self._measurements = measurements
        self._open: dict[tuple[Address, str], BrokerConnection] = {}
        self._opening: dict[tuple[Address, str], asyncio.Task[BrokerConnection]] = {}
        self._backoffs: dict[Address, Backoff] = {}
        self._not_before_ms: dict[Address, int] = {}
        self._coordinator_nodes: dict[int, Node] = {}
        self._update_wanted = asyncio.Event()
        self._updated: asyncio.Future[None] = engine.loop.create_future()
        if allow_auto_create is None:
            allow_auto_create = bool(config.get("allow.auto.create.topics", True))
        self._allow_auto_create = allow_auto_create
        self._later: asyncio.TimerHandle | None = None
        self._patience = self.retry_backoff()
        self._hints: dict[TopicPartition, tuple[int, int]] = {}
        self._may_rebootstrap = config["metadata.recovery.strategy"] == "rebootstrap"
        self._without_metadata_since_ms: int | None = None
        self._closed = False

    def start(self) -> None:
        self.engine.spawn(self._keep_metadata(), "metadata")

    def retry_backoff(self) -> Backoff:
        """A fresh backoff between tries of a request."""
        return Backoff(self.config["retry.backoff.ms"], self.config["retry.backoff.max.ms"])

    def _reconnect_backoff(self) -> Backoff:
        return Backoff(self.config["reconnect.backoff.ms"], self.config["reconnect.backoff.max.ms"])

    # ------------------------------------------------------------ connections

    async def connection(self, node_id: int, purpose: str = CONTROL) -> BrokerConnection:
        """A usable connection to a node of the snapshot. DisconnectedError if it cannot be had now."""
        node = self.node(node_id)
        if node is None:
            raise DisconnectedError(f"node {node_id} is not in the cluster's metadata")
        return await self._connect(Address(node.host, node.port), node_id, purpose)

    def node(self, node_id: int) -> Node | None:
        """A broker that the metadata or a coordinator's search has named."""
        return self.snapshot.brokers.get(node_id) or self._coordinator_nodes.get(node_id)

    def opened(self, node_id: int, purpose: str = CONTROL) -> BrokerConnection | None:
        """The connection to a node, if it is there and usable now."""
        node = self.node(node_id)
        connection = None if node is None else self._open.get((Address(node.host, node.port), purpose))
        return connection if connection is not None and connection.usable else None

    async def any_connection(self) -> BrokerConnection:
        """A usable control connection to any broker: an open one, else the known brokers in random order, then the bootstrap
        addresses, if metadata.recovery.strategy allows (KIP-899). Tries until one answers; the caller bounds it (see within())."""
        backoff = self._reconnect_backoff()
        while True:
            for (_, purpose), connection in self._open.items():
                if purpose == CONTROL and connection.usable:
                    return connection
            for address, node_id in self._candidates():
                try:
                    connection = await self._connect(address, node_id, CONTROL)
                except DisconnectedError:
                    continue  # noted with its reason in `attempts`
                if node_id < 0 and self.snapshot.brokers and not self.snapshot.doubted:
                    _log.warning("no known broker can be reached: starting again from %s", address)
                    self.snapshot = self.snapshot.doubt()
                return connection
            await asyncio.sleep(backoff.next_ms() / 1000)

    def _candidates(self) -> list[tuple[Address, int]]:
        known = [(Address(node.host, node.port), node.id) for node in self.snapshot.brokers.values()]
        random.shuffle(known)
        if known and not self._may_rebootstrap:
            return known
        reached = {address for address, _ in known}
        return known + [(address, -1) for address in self.bootstrap if address not in reached]

    async def _connect(self, address: Address, node_id: int, purpose: str) -> BrokerConnection:
        key = (address, purpose)
        connection = self._open.get(key)
        if connection is not None and connection.usable:
            return connection
        if self._closed:
            raise DisconnectedError(f"{address}: this client is closed")
        task = self._opening.get(key)
        if task is None:
            task = self.engine.loop.create_task(
                self._open_connection(address, node_id, purpose), name=f"open {address}"
            )
            self._opening[key] = task
            task.add_done_callback(
                lambda done: (self._opening.pop(key, None), done.cancelled() or done.exception())
            )
        return await asyncio.shield(task)  # shield: one caller's cancellation is not the others'

    async def _open_connection(self, address: Address, node_id: int, purpose: str) -> BrokerConnection:
        wait_ms = self._not_before_ms.get(address, 0) - self.engine.now_ms()
        if wait_ms > 0:
            await asyncio.sleep(wait_ms / 1000)
        connection = BrokerConnection(self.engine, address, node_id, self._settings, self._measurements)
        connection.on_closed.append(lambda closed: self._on_connection_closed(closed, purpose))
        try:
            await connection.open()
        except DisconnectedError as error:
            self._note_failure(address, str(error).removeprefix(f"{address}: "))
            raise
        self._open[(address, purpose)] = connection
        self._compare(connection.versions)
        if self._measurements is not None:
            self._measurements.connection_opened(self.engine.now_ms())
        self.attempts.pop(str(address), None)
        self._backoffs.pop(address, None)
        self._not_before_ms.pop(address, None)
        _log.debug("connected to %s for %s", address, purpose)
        return connection

    def _compare(self, versions: BrokerVersions | None) -> None:
        """A broker that lags behind the cluster's metadata tells of older features: the highest epoch counts."""
        newest = self.newest_versions
        if versions is not None and (newest is None or versions.features.epoch > newest.features.epoch):
            self.newest_versions = versions

    def _on_connection_closed(self, connection: BrokerConnection, purpose: str) -> None:
        if self._open.get((connection.address, purpose)) is connection:
            del self._open[(connection.address, purpose)]
            if self._measurements is not None:
                self._measurements.connection_closed(self.engine.now_ms())
            if not self._closed:
                _log.info(
                    "the %s connection to %s ended: %s", purpose, connection.address, connection.closed_reason
                )
                self.want_update()

    def _note_failure(self, address: Address, reason: str) -> None:
        backoff = self._backoffs.setdefault(address, self._reconnect_backoff())
        level = (
            logging.WARNING if backoff.failures in (0, 5) else logging.DEBUG
        )  # loud once, and once more if it lasts
        _log.log(level, "%s is no use: %s", address, reason)
        self.attempts[str(address)] = reason
        self._not_before_ms[address] = self.engine.now_ms() + backoff.next_ms()

    # ------------------------------------------------------------ requests

    async def request(
        self, api: Api, *, node_id: int | None = None, purpose: str = CONTROL, **fields: Any
    ) -> Any:
        """One request to a node, or to any broker, without retries."""
        connection = await (self.any_connection() if node_id is None else self.connection(node_id, purpose))
        return await connection.request(api, **fields)

    @asynccontextmanager
    async def within(self, timeout_ms: float, what: str) -> AsyncIterator[None]:
        """Bound the time of what is done inside; on running out tell the user which addresses were tried and why they failed."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                yield
        except TimeoutError as error:
            if isinstance(error, KafkaError):
                raise
            raise self.timeout_error(timeout_ms, what) from None

    def timeout_error(self, timeout_ms: float, what: str) -> KafkaTimeoutError:
        """The error for `what` having taken too long, with each address that could not be reached."""
        tried = "; ".join(f"{address}: {reason}" for address, reason in self.attempts.items())
        if tried and not any(connection.usable for connection in self._open.values()):
            return ConnectionFailedError(
                f"{what}: no broker could be reached within {timeout_ms:.0f} ms ({tried}); "
                "check bootstrap.servers and that the brokers run",
                dict(self.attempts),
            )
        return KafkaTimeoutError(
            f"{what}: not done within {timeout_ms:.0f} ms{f' ({tried})' if tried else ''}; "
            "give it more time, or look at the broker's log"
        )

    # ------------------------------------------------------------ metadata

    def want_update(self) -> None:
        """Ask for fresh metadata soon; many calls make one request."""
        self._update_wanted.set()

    def want_update_later(self) -> None:
        """Ask for fresh metadata after a backoff that grows while nothing changes: for what only time can mend."""
        if self._later is None:
            self._later = self.engine.loop.call_later(self._patience.next_ms() / 1000, self._ask_now)

    def _ask_now(self) -> None:
        self._later = None
        self.want_update()

    def add_interest(self, topics: Iterable[str]) -> None:
        """Have these topics in the snapshot from now on."""
        if self.interest is not None and not self.interest.issuperset(topics):
            self.interest.update(topics)
            self._patience.reset()  # what another topic has waited is not this one's
            self.want_update()

    async def updated(self) -> None:
        """Wait for the next successful metadata update (ask for it with want_update())."""
        await asyncio.shield(self._updated)

    async def fetch_metadata(self, topics: Iterable[str] | None, *, allow_auto_create: bool = False) -> Any:
        """One Metadata request (None: all topics), laid over the snapshot, and its response."""
        backoff = self.retry_backoff()
        while True:
            connection = await self.any_connection()
            response = await connection.request(
                Api.METADATA,
                topics=None if topics is None else [{"name": topic} for topic in topics],
                allow_auto_topic_creation=allow_auto_create,
            )
            code = int(getattr(response, "error_code", 0))
            if code == _REBOOTSTRAP_REQUIRED and self._may_rebootstrap:
                self._rebootstrap(f"{connection.address} asks for it")
                await asyncio.sleep(backoff.next_ms() / 1000)
                continue
            if code:
                raise error_for(code, f"asking {connection.address} for metadata")
            self._learn(self.snapshot.merge(response, whole=topics is None))
            return response

    def _rebootstrap(self, why: str) -> None:
        """Trust no broker that is known: what answers at the bootstrap addresses names the cluster anew (KIP-1102)."""
        _log.warning("starting again from bootstrap.servers: %s", why)
        self.snapshot = self.snapshot.doubt(forget_brokers=True)
        self._coordinator_nodes.clear()
        self.newest_versions = None  # another cluster counts from another epoch
        for connection in list(self._open.values()):
            connection.close(f"starting again from bootstrap.servers: {why}")

    def _learn(self, snapshot: ClusterSnapshot) -> None:
        self.snapshot = snapshot
        for callback in self.on_update:
            callback()

    def learn_leader(self, topic: str, partition: int, leader_id: int, leader_epoch: int) -> bool:
        """Take a leader hint from a fetch response (KIP-951); whether it was news. The snapshot has it soon: one response may tell of
        thousands of partitions, and those who hear of updates look through all of theirs."""
        tp = TopicPartition(topic, partition)
        if not self.snapshot.is_leader_news(tp, leader_id, leader_epoch):
            return False
        if not self._hints:
            self.engine.loop.call_soon(self._take_hints)
        self._hints[tp] = (leader_id, leader_epoch)
        return True

    def _take_hints(self) -> None:
        hints, self._hints = self._hints, {}
        snapshot = self.snapshot.with_leaders(hints)
        if snapshot is not self.snapshot:
            self._learn(snapshot)

    async def _keep_metadata(self) -> None:
        backoff = self.retry_backoff()
        while True:
            try:
                await self._update_in_time()
                backoff.reset()
            except Exception as error:  # whatever a broker answers, the next one may answer better
                if self._closed:
                    return
                expected = isinstance(error, KafkaError)
                level = logging.DEBUG if expected and backoff.failures else logging.WARNING
                _log.log(level, "no metadata: %s; trying again", error, exc_info=None if expected else error)
                self._update_wanted.set()
                await asyncio.sleep(backoff.next_ms() / 1000)
                continue
            if any(state.error_code for name, state in self.snapshot.topics.items() if self._is_wanted(name)):
                self.want_update_later()
            elif self._later is None:
                self._patience.reset()
            self._updated.set_result(None)
            self._updated = self.engine.loop.create_future()
            try:
                async with asyncio.timeout(self.config["metadata.max.age.ms"] / 1000):
                    await self._update_wanted.wait()
            except TimeoutError:
                pass

    async def _update_in_time(self) -> None:
        """One update; when metadata has failed for too long in a row, the brokers that are known are left (KIP-1102)."""
        trigger_ms = self.config["metadata.recovery.rebootstrap.trigger.ms"]
        if self._without_metadata_since_ms is None:
            self._without_metadata_since_ms = self.engine.now_ms()
        left_ms = self._without_metadata_since_ms + trigger_ms - self.engine.now_ms()
        is_bounded = self._may_rebootstrap and bool(self.snapshot.brokers)
        try:
            async with asyncio.timeout(max(0, left_ms) / 1000 if is_bounded else None):
                await self._update_once()
        except TimeoutError:
            self._rebootstrap(f"the known brokers gave no metadata within {trigger_ms} ms")
            self._without_metadata_since_ms = None
            await self._update_once()
        self._without_metadata_since_ms = None

    def _is_wanted(self, topic: str) -> bool:
        return self.interest is not None and topic in self.interest

    async def _update_once(self) -> None:
        self._update_wanted.clear()
        topics = None if self.interest is None else sorted(self.interest)
        await self.fetch_metadata(topics, allow_auto_create=self._allow_auto_create and bool(topics))

    # ------------------------------------------------------------ coordinators

    async def find_coordinator(self, key: str, key_type: int = GROUP_COORDINATOR) -> int:
        """The node that coordinates a group or a transactional id; retries while the cluster has none yet."""
        backoff = self.retry_backoff()
        kind = "group" if key_type == GROUP_COORDINATOR else "transactional id"
        while True:
            try:
                connection = await self.any_connection()
                response = await connection.request(
                    Api.FIND_COORDINATOR, key=key, key_type=key_type, coordinator_keys=[key]
                )
            except DisconnectedError:
                await asyncio.sleep(backoff.next_ms() / 1000)
                continue
            answer = response.coordinators[0] if hasattr(response, "coordinators") else response
            code = int(answer.error_code)
            if code == 0:
                node = Node(int(answer.node_id), answer.host, int(answer.port))
                self._coordinator_nodes[node.id] = node
                return node.id
            if not is_retriable(code):
                raise error_for(code, f"looking for the coordinator of {kind} {key!r}")
            _log.debug("no coordinator of %s %r yet: %s", kind, key, error_name(code))
            await asyncio.sleep(backoff.next_ms() / 1000)

    def close(self) -> None:
        self._closed = True
        for task in list(self._opening.values()):
            task.cancel()
        for connection in list(self._open.values()):
            connection.close("the client was closed")
