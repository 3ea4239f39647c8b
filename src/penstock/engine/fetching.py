"""Keeps the native fetch loops fed: which partition is fetched from which broker, over which connection.

Source: KIP-392 (the nearest replica), with the rules of Java's SubscriptionState and FetchCollector: a follower is read until
metadata.max.age.ms have passed, then the leader is asked again; any error of a follower leads back to the leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from .._native import EVENT_DIVERGING, EVENT_FETCH_ERROR, EVENT_PREFERRED_REPLICA, Fetcher
from ..errors import KafkaError
from ..protocol import Api, error_name
from ..types import TopicPartition
from .backoff import Backoff
from .client import FETCH, ClusterClient
from .connection import BrokerConnection

_log = logging.getLogger("penstock.engine.fetching")
_NO_ID = bytes(16)
_OFFSET_OUT_OF_RANGE = 1
_METADATA_ERRORS = (100, 103, 106)  # UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID, FETCH_SESSION_TOPIC_ID_ERROR
_AFTER_ERROR_MS = 1_000
_AFTER_DISCONNECT_MS = 30_000
"""How long the leader is to serve the records itself after a follower failed. It goes on naming one that is dead until the
cluster has noticed, and one that lags, and would answer without records each time."""


class _Lease:
    """A follower that a partition is read from. Its identity tells one lease from the next."""

    def __init__(self, node_id: int) -> None:
        self.node_id = node_id


class FetchDriver:
    """Lives in the engine's thread.

    Fields: `handles` maps each assigned partition to the fetcher's handle (read, as a whole copy, by the user's thread too);
    `_leaders` is what the fetcher was last told, or is to be told on release(); `_loops` holds the open fetch connection of each
    node, `_opening` the tasks that open one; `_resting` the partitions that wait out a backoff after an error, `_held` those held back;
    `_replicas` the partitions that are read from a follower.
    """

    def __init__(
        self,
        client: ClusterClient,
        fetcher: Fetcher,
        on_error: Callable[[TopicPartition, int, int], None],
        on_recreated: Callable[[TopicPartition], None],
        on_diverging: Callable[[TopicPartition, int, int], None] | None = None,
    ) -> None:
        """on_error(partition, error code, fetch offset) decides on errors that fresh metadata does not mend;
        on_recreated(partition) on a topic that was deleted and made again under its name; on_diverging(partition, leader epoch, end
        offset) when the leader's log has other records than were fetched, from where that epoch ends in it (KIP-320): fetching
        rests until seek(). Without it, fetching goes on where it is after a backoff."""
        self.handles: dict[TopicPartition, int] = {}
        self._client = client
        self._fetcher = fetcher
        self._on_error = on_error
        self._on_recreated = on_recreated
        self._on_diverging = on_diverging or self._read_on
        self._by_handle: dict[int, TopicPartition] = {}
        self._leaders: dict[TopicPartition, tuple[int, int]] = {}
        self._topic_ids: dict[TopicPartition, bytes] = {}
        self._loops: dict[int, BrokerConnection] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._backoffs: dict[TopicPartition, Backoff] = {}
        self._resting: set[TopicPartition] = set()
        self._held: set[TopicPartition] = set()
        self._replicas: dict[TopicPartition, _Lease] = {}
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
            for table in (self._leaders, self._topic_ids, self._backoffs, self._replicas):
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
            self._fetcher.set_leader(handle, -1, -1)

    def release(self, tp: TopicPartition) -> None:
        """Let it be fetched again."""
        if tp in self._held:
            self._held.discard(tp)
            leader = self._leaders.get(tp)
            if leader is not None and tp not in self._resting:
                self._fetcher.set_leader(self.handles[tp], *leader)

    def refresh_leaders(self) -> None:
        """Bring the fetcher in line with the snapshot; ask for news while a partition has no leader."""
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
            lease = self._replicas.get(tp)
            if lease is not None and lease.node_id not in snapshot.brokers:
                self._leave_replica(tp, _AFTER_DISCONNECT_MS)
            wanted_nodes.add(self._source(tp, node_id))
            if tp not in self._resting and self._leaders.get(tp) != (node_id, epoch):
                self._leaders[tp] = (node_id, epoch)
                if tp not in self._held:
                    self._fetcher.set_leader(handle, node_id, epoch)
        wanted_nodes.discard(-1)
        for node_id in wanted_nodes:
            self._ensure_loop(node_id)
        for node_id in [n for n in self._loops if n not in wanted_nodes]:
            self._loops[node_id].close("no partition is read from this broker any more")
        if leaderless and snapshot.version:
            self._client.want_update_later()

    def _source(self, tp: TopicPartition, leader_id: int) -> int:
        """The node to fetch from."""
        lease = self._replicas.get(tp)
        return leader_id if lease is None or leader_id < 0 else lease.node_id

    def _reads_from(self, node_id: int) -> bool:
        return any(self._source(tp, leader_id) == node_id for tp, (leader_id, _) in self._leaders.items())

    # ------------------------------------------------------------ connections

    def _ensure_loop(self, node_id: int) -> None:
        connection = self._loops.get(node_id)
        opening = self._opening.get(
            node_id
        )  # one that has found nothing to read, and ended, opens nothing any more
        if (connection is not None and connection.usable) or (opening is not None and not opening.done()):
            return
        self._opening[node_id] = self._client.engine.spawn(
            self._open_loop(node_id), f"fetch from node {node_id}"
        )

    async def _open_loop(self, node_id: int) -> None:
        """Connect, as often as it takes while the node leads a partition of ours."""
        while self._reads_from(node_id):
            try:
                connection = await self._client.connection(node_id, FETCH)
            except KafkaError as error:
                _log.debug("no fetch connection to node %d: %s", node_id, error)
                self._client.want_update()
                self._leave_replicas_at(node_id)
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
            self._leave_replicas_at(node_id)
            if self._reads_from(node_id):
                self._client.want_update()
                self._client.engine.loop.call_soon(self._ensure_loop, node_id)

    # ------------------------------------------------------------ errors of fetch responses

    def _on_event(self, kind: int, source: int, number: int, payload: Any) -> None:
        if kind not in (EVENT_FETCH_ERROR, EVENT_PREFERRED_REPLICA, EVENT_DIVERGING):
            self._on_response_error(source, number)
            return
        tp = self._by_handle.get(source)
        if tp is None or self._fetcher.epoch(source) != number:
            return  # revoked or sought meanwhile: the error concerns a fetch that nobody waits for
        if kind == EVENT_PREFERRED_REPLICA:
            self._read_replica(tp, source, payload)
        elif kind == EVENT_DIVERGING:
            _log.warning("%s: the leader's log departs at epoch %d, offset %d", tp, *payload)
            self._on_diverging(tp, *payload)
        else:
            self._on_partition_error(tp, source, *payload)

    def _on_partition_error(
        self,
        tp: TopicPartition,
        handle: int,
        error_code: int,
        fetch_offset: int,
        leader_id: int,
        leader_epoch: int,
        node_id: int,
    ) -> None:
        _log.debug(
            "fetching %s at offset %d from node %d: %s", tp, fetch_offset, node_id, error_name(error_code)
        )
        if node_id != self._leaders.get(tp, (node_id, -1))[0]:
            # What a follower does not have, the leader may: no position is reset on a follower's word.
            self._leave_replica(tp, _AFTER_ERROR_MS)
            if error_code != _OFFSET_OUT_OF_RANGE:
                self._client.want_update()
            return
        if leader_id >= 0 and self._client.learn_leader(tp.topic, tp.partition, leader_id, leader_epoch):
            return  # set_leader() in refresh_leaders() has lifted the suspension
        self._on_error(tp, error_code, fetch_offset)

    def _on_response_error(self, connection_id: int, error_code: int) -> None:
        """A whole response failed: start over on a fresh connection, which re-attaches all partitions of the node. Where only topic
        ids are at odds, the fetch loop starts over by itself, and fresh metadata has the ids."""
        if error_code in _METADATA_ERRORS:
            self._client.want_update()
            return
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
        """This one alone: thousands may have failed at once, and all be looked through for each of them."""
        if handle is None or self.handles.get(tp) != handle:
            return
        self._resting.discard(tp)
        node_id, epoch = self._leaders[tp] = self._client.snapshot.leader(*tp)
        if tp not in self._held:
            self._fetcher.set_leader(handle, node_id, epoch)  # which lifts the suspension
        if node_id >= 0:
            self._ensure_loop(self._source(tp, node_id))
        else:
            self._client.want_update_later()

    def _read_on(self, tp: TopicPartition, diverging_epoch: int, end_offset: int) -> None:
        """Nobody minds that the log is another one: go on where we are, without naming the epoch that it lacks."""
        handle = self.handles[tp]
        backoff = self._backoffs.setdefault(tp, self._client.retry_backoff())
        self._client.engine.loop.call_later(
            backoff.next_ms() / 1000, self._forget_epoch, tp, handle, self._fetcher.epoch(handle)
        )

    def _forget_epoch(self, tp: TopicPartition, handle: int, epoch: int) -> None:
        if self.handles.get(tp) == handle and self._fetcher.epoch(handle) == epoch:
            place = self._fetcher.position(handle)
            if place is not None:
                self._fetcher.seek(handle, place[0])

    # ------------------------------------------------------------ the nearest replica

    def replicas(self) -> dict[TopicPartition, int]:
        """The followers that partitions are read from now, by node id."""
        return {tp: lease.node_id for tp, lease in self._replicas.items() if lease.node_id >= 0}

    def _read_replica(self, tp: TopicPartition, handle: int, node_id: int) -> None:
        """The leader names a follower that is nearer (KIP-392)."""
        lease = self._replicas[tp] = _Lease(node_id)
        if node_id not in self._client.snapshot.brokers:
            self._client.want_update()
            self._leave_replica(tp, _AFTER_ERROR_MS)
            return
        _log.debug("%s: reading from the follower %d", tp, node_id)
        self._fetcher.set_read_replica(handle, node_id)
        self._ensure_loop(node_id)
        lease_ms = self._client.config["metadata.max.age.ms"]
        self._client.engine.loop.call_later(lease_ms / 1000, self._lease_ended, tp, lease)

    def _lease_ended(self, tp: TopicPartition, lease: _Lease) -> None:
        if self._replicas.get(tp) is lease:
            self._leave_replica(tp, 0)

    def _leave_replica(self, tp: TopicPartition, leader_serves_ms: int) -> None:
        """Read from the leader again, which for this time is not asked for the nearest replica. Lifts a suspension."""
        lease = self._replicas.pop(tp, None)
        if lease is not None:
            _log.debug("%s: reading from the leader again, after node %d", tp, lease.node_id)
        self._fetcher.set_read_replica(self.handles[tp], -1, leader_serves_ms)
        leader_id = self._leaders.get(tp, (-1, -1))[0]
        if leader_id >= 0:
            self._ensure_loop(leader_id)

    def _leave_replicas_at(self, node_id: int) -> None:
        for tp in [tp for tp, lease in self._replicas.items() if lease.node_id == node_id]:
            self._leave_replica(tp, _AFTER_DISCONNECT_MS)
