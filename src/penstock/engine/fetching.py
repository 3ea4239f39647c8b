"""Keeps the native fetch loops fed: which partition is fetched from which broker, over which connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from .._native import EVENT_FETCH_ERROR, Fetcher
from ..errors import KafkaError
from ..protocol import Api, error_name
from ..types import TopicPartition
from .backoff import Backoff
from .client import FETCH, ClusterClient
from .connection import BrokerConnection

_log = logging.getLogger("penstock.engine.fetching")
_NO_ID = bytes(16)


class FetchDriver:
    """Lives in the engine's thread.

    Fields: `handles` maps each assigned partition to the fetcher's handle (read, as a whole copy, by the user's thread too);
    `_leaders` is what the fetcher was last told; `_loops` holds the open fetch connection of each node, `_opening` the
    tasks that open one; `_resting` the partitions that wait out a backoff after an error, `_held` those held back.
    """

    def __init__(
        self,
        client: ClusterClient,
        fetcher: Fetcher,
        on_error: Callable[[TopicPartition, int, int], None],
        on_recreated: Callable[[TopicPartition], None],
    ) -> None:
        """on_error(partition, error code, fetch offset) decides on errors that fresh metadata does not mend;
        on_recreated(partition) on a topic that was deleted and made again under its name."""
        self.handles: dict[TopicPartition, int] = {}
        self._client = client
        self._fetcher = fetcher
        self._on_error = on_error
        self._on_recreated = on_recreated
        self._by_handle: dict[int, TopicPartition] = {}
        self._leaders: dict[TopicPartition, tuple[int, int]] = {}
        self._topic_ids: dict[TopicPartition, bytes] = {}
        self._loops: dict[int, BrokerConnection] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._backoffs: dict[TopicPartition, Backoff] = {}
        self._resting: set[TopicPartition] = set()
        self._held: set[TopicPartition] = set()
        self._refresh_is_due = False
        client.engine.fetch_events = self._on_event

    def add(self, partitions: Iterable[TopicPartition]) -> None:
        """Take partitions up, without position: they are fetched after seek()."""
        for tp in partitions:
            if tp in self.handles:
                continue
            topic_id = self._client.snapshot.topic_id(tp.topic)
            handle = self._fetcher.assign(tp.topic, topic_id, tp.partition)
            self.handles[tp] = handle
            self._by_handle[handle] = tp
            self._topic_ids[tp] = topic_id
        self.refresh_leaders()

    def remove(self, partitions: Iterable[TopicPartition]) -> None:
        """Drop partitions; afterwards poll() returns nothing of them."""
        handles = []
        for tp in partitions:
            handle = self.handles.pop(tp, None)
            if handle is None:
                continue
            handles.append(handle)
            del self._by_handle[handle]
            for table in (self._leaders, self._topic_ids, self._backoffs):
                table.pop(tp, None)
            self._resting.discard(tp)
            self._held.discard(tp)
        if handles:
            self._fetcher.unassign(handles)

    def hold(self, tp: TopicPartition) -> None:
        """Fetch nothing of this partition until release(); what was fetched is returned."""
        handle = self.handles.get(tp)
        if handle is not None and tp not in self._held:
            self._held.add(tp)
            self._leaders[tp] = (-1, -1)
            self._fetcher.set_leader(handle, -1, -1)

    def release(self, tp: TopicPartition) -> None:
        """Let it be fetched again, soon: many are released at once, and the leaders are looked up once for all."""
        if tp in self._held:
            self._held.discard(tp)
            self._leaders.pop(tp, None)
            if not self._refresh_is_due:
                self._refresh_is_due = True
                self._client.engine.loop.call_soon(self.refresh_leaders)

    def refresh_leaders(self) -> None:
        """Bring the fetcher in line with the snapshot; ask for news while a partition has no leader."""
        self._refresh_is_due = False
        snapshot = self._client.snapshot
        wanted_nodes = set()
        leaderless = False
        for tp, handle in self.handles.items():
            node_id, epoch = snapshot.leader(*tp)
            topic_id = snapshot.topic_id(tp.topic)
            if topic_id not in (_NO_ID, self._topic_ids[tp]):
                known, self._topic_ids[tp] = self._topic_ids[tp], topic_id
                self._fetcher.set_topic_id(handle, topic_id)
                if known != _NO_ID:
                    self._on_recreated(tp)
            leaderless = leaderless or node_id < 0
            wanted_nodes.add(node_id)
            is_kept_back = tp in self._resting or tp in self._held
            if not is_kept_back and self._leaders.get(tp) != (node_id, epoch):
                self._leaders[tp] = (node_id, epoch)
                self._fetcher.set_leader(handle, node_id, epoch)
        wanted_nodes.discard(-1)
        for node_id in wanted_nodes:
            self._ensure_loop(node_id)
        for node_id in [n for n in self._loops if n not in wanted_nodes]:
            self._loops[node_id].close("no partition is read from this broker any more")
        if leaderless and snapshot.version:
            self._client.want_update_later()

    # ------------------------------------------------------------ connections

    def _ensure_loop(self, node_id: int) -> None:
        connection = self._loops.get(node_id)
        if (connection is not None and connection.usable) or node_id in self._opening:
            return
        task = self._client.engine.spawn(self._open_loop(node_id), f"fetch from node {node_id}")
        self._opening[node_id] = task
        task.add_done_callback(lambda _: self._opening.pop(node_id, None))

    async def _open_loop(self, node_id: int) -> None:
        """Connect, as often as it takes while the node leads a partition of ours."""
        while any(leader == node_id for leader, _ in self._leaders.values()):
            try:
                connection = await self._client.connection(node_id, FETCH)
            except KafkaError as error:
                _log.debug("no fetch connection to node %d: %s", node_id, error)
                self._client.want_update()
                await asyncio.sleep(self._client.config["reconnect.backoff.ms"] / 1000)
                continue
            assert connection.versions is not None
            self._loops[node_id] = connection
            connection.on_closed.append(self._on_closed)
            self._fetcher.attach(node_id, connection.native, connection.versions.pick(Api.FETCH))
            return

    def _on_closed(self, connection: BrokerConnection) -> None:
        node_id = connection.node_id
        if self._loops.get(node_id) is connection:
            del self._loops[node_id]
            self._fetcher.detach(node_id)
            if any(leader == node_id for leader, _ in self._leaders.values()):
                self._client.want_update()
                self._client.engine.loop.call_soon(self._ensure_loop, node_id)

    # ------------------------------------------------------------ errors of fetch responses

    def _on_event(self, kind: int, source: int, number: int, payload: Any) -> None:
        if kind != EVENT_FETCH_ERROR:
            self._on_response_error(source, number)
            return
        tp = self._by_handle.get(source)
        if tp is None or self._fetcher.epoch(source) != number:
            return  # revoked or sought meanwhile: the error concerns a fetch that nobody waits for
        error_code, fetch_offset, leader_id, leader_epoch = payload
        _log.debug("fetching %s at offset %d: %s", tp, fetch_offset, error_name(error_code))
        if leader_id >= 0 and self._client.learn_leader(tp.topic, tp.partition, leader_id, leader_epoch):
            return  # set_leader() in refresh_leaders() has lifted the suspension
        self._on_error(tp, error_code, fetch_offset)

    def _on_response_error(self, connection_id: int, error_code: int) -> None:
        """A whole response failed: start over on a fresh connection, which re-attaches all partitions of the node."""
        for connection in list(self._loops.values()):
            if connection.id == connection_id:
                connection.close(f"fetch was refused: {error_name(error_code)}")

    def retry_later(self, tp: TopicPartition) -> None:
        """Fetch this partition again after a backoff, from whoever leads it then."""
        backoff = self._backoffs.setdefault(tp, self._client.retry_backoff())
        self._resting.add(tp)
        self._client.want_update()
        self._client.engine.loop.call_later(backoff.next_ms() / 1000, self._wake, tp, self.handles.get(tp))

    def _wake(self, tp: TopicPartition, handle: int | None) -> None:
        self._resting.discard(tp)
        if handle is not None and self.handles.get(tp) == handle:
            self._leaders.pop(tp, None)  # so that set_leader() is said again, which lifts the suspension
            self.refresh_leaders()
