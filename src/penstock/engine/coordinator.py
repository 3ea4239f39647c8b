"""The group's coordinator, found when needed and forgotten when it moves; and the offset requests that go to it."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CommitFailedError, RebalanceInProgressError
from ..metrics import ConsumerMetrics
from ..protocol import Api, error_for, error_name, is_retriable
from ..types import OffsetAndMetadata, TopicPartition
from .client import CONTROL, ClusterClient
from .connection import DisconnectedError

_log = logging.getLogger("penstock.engine.coordinator")

COORDINATOR_MOVED = frozenset({14, 15, 16})  # load in progress, not available, not coordinator
_LOAD_IN_PROGRESS = 14
_ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID, _REBALANCE_IN_PROGRESS = 22, 25, 27
_STALE_MEMBER_EPOCH, _FENCED_INSTANCE_ID = 113, 82
_FENCED_MEMBER_EPOCH = 110
_GROUP_MOVED_ON = frozenset(
    {_ILLEGAL_GENERATION, _UNKNOWN_MEMBER_ID, _FENCED_INSTANCE_ID, _FENCED_MEMBER_EPOCH}
)
_EPOCH_MAY_CHANGE = frozenset({_STALE_MEMBER_EPOCH, _UNKNOWN_MEMBER_ID, _FENCED_MEMBER_EPOCH})


@dataclass(frozen=True, slots=True)
class MemberIdentity:
    """Under which name a consumer asks about offsets. The default is no member: with assign(), anyone may read and commit."""

    member_id: str = ""
    generation_id: int = -1
    group_instance_id: str | None = None
    of_a_group: bool = False
    rebalancing: bool = False  # the generation is about to change by itself
    waits_for_user: bool = False  # a callback is to run in the user's poll() before the group can go on
    has_epoch: bool = (
        False  # generation_id is a member epoch of KIP-848, which reading offsets is checked by, too
    )


def by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[int]]:
    """Partition numbers grouped under their topic, as requests list them."""
    grouped: dict[str, list[int]] = defaultdict(list)
    for topic, partition in partitions:
        grouped[topic].append(partition)
    return dict(grouped)


class GroupCoordinator:
    """Lives in the engine's thread. `node_id` is None while the coordinator is not known."""

    def __init__(self, client: ClusterClient, group_id: str) -> None:
        self._client = client
        self._finding: asyncio.Task[int] | None = None
        self.group_id = group_id
        self.node_id: int | None = None
        self.identity: Callable[[], MemberIdentity] = MemberIdentity  # set once, by the consumer's core
        self.measurements: ConsumerMetrics | None = None  # likewise
        self.on_rebalance: Callable[[], None] = lambda: None  # likewise: a commit was answered by a rebalance

    async def find(self) -> int:
        """The coordinator's node id; one search serves all who wait."""
        if self.node_id is not None:
            return self.node_id
        if self._finding is None:
            self._finding = self._client.engine.loop.create_task(self._find(), name="find coordinator")
            self._finding.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # nobody may be left to hear
        return await asyncio.shield(self._finding)

    async def _find(self) -> int:
        try:
            self.node_id = await self._client.find_coordinator(self.group_id)
            return self.node_id
        finally:
            self._finding = None

    def lost(self, reason: str) -> None:
        """Search anew at the next need: the broker said it is not the coordinator, or cannot be reached."""
        if self.node_id is not None:
            _log.info("group %s: coordinator %s left: %s", self.group_id, self.node_id, reason)
            self.node_id = None

    async def request(self, api: Api, *, purpose: str = CONTROL, **fields: Any) -> Any:
        """One request to the coordinator. DisconnectedError forgets it, so that the next try searches.

        What a broker may hold for minutes goes over COORDINATOR, a connection apart: offsets are read and committed during a join.
        """
        node_id = await self.find()
        try:
            return await self._client.request(api, node_id=node_id, purpose=purpose, **fields)
        except DisconnectedError as error:
            self.lost(str(error))
            raise

    async def committed(
        self, partitions: Iterable[TopicPartition], *, require_stable: bool
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed, None where nothing is. Retries until the caller's time is over.

        A member of the consumer protocol asks with its epoch. One that is behind the coordinator's (STALE_MEMBER_EPOCH) waits for the
        heartbeat that brings the new one: taking the answer for "nothing committed" would reset its positions.
        """
        topics = [{"name": t, "partition_indexes": sorted(p)} for t, p in by_topic(partitions).items()]
        backoff = self._client.retry_backoff()
        while True:
            me = self.identity()
            by_epoch = me.has_epoch and me.generation_id >= 0  # else as anybody, who may read as well
            group = {
                "group_id": self.group_id,
                "member_id": me.member_id if by_epoch else None,
                "member_epoch": me.generation_id if by_epoch else -1,
                "topics": topics,
            }
            try:
                response = await self.request(
                    Api.OFFSET_FETCH,
                    group_id=self.group_id,
                    topics=topics,
                    groups=[group],
                    require_stable=require_stable,
                )
            except DisconnectedError as error:
                _log.debug("OffsetFetch of group %s: %s", self.group_id, error)
                await asyncio.sleep(backoff.next_ms() / 1000)
                continue
            answer = response.groups[0] if hasattr(response, "groups") else response
            codes = [int(getattr(answer, "error_code", 0))]
            codes += [int(p.error_code) for topic in answer.topics for p in topic.partitions]
            code = next((c for c in codes if c), 0)
            if code == 0:
                return _read_committed(answer)
            if code in COORDINATOR_MOVED and code != _LOAD_IN_PROGRESS:
                self.lost(error_name(code))
            elif not (is_retriable(code) or (by_epoch and code in _EPOCH_MAY_CHANGE)):
                raise error_for(code, f"reading the committed offsets of group {self.group_id!r}")
            await asyncio.sleep(backoff.next_ms() / 1000)

    async def commit(
        self,
        offsets: Mapping[TopicPartition, OffsetAndMetadata],
        check: Callable[[], MemberIdentity] = MemberIdentity,
    ) -> None:
        """Store offsets; `check` says under which membership, before every try, or raises.

        CommitFailedError if the group moved on, RebalanceInProgressError if the rebalance waits for the user's poll(); what time may
        mend, a rebalance that goes on by itself too, is tried again until the caller's time is over.
        """
        if not offsets:
            return
        topics = [
            {
                "name": topic,
                "partitions": [_commit_entry(p, offsets[TopicPartition(topic, p)]) for p in numbers],
            }
            for topic, numbers in by_topic(offsets).items()
        ]
        backoff = self._client.retry_backoff()
        while True:
            me = check()
            began_s = self._client.engine.loop.time()
            try:
                response = await self.request(
                    Api.OFFSET_COMMIT,
                    group_id=self.group_id,
                    generation_id_or_member_epoch=me.generation_id,
                    member_id=me.member_id,
                    group_instance_id=me.group_instance_id,
                    retention_time=-1,
                    topics=topics,
                )
            except DisconnectedError as error:
                _log.debug("OffsetCommit of group %s: %s", self.group_id, error)
            else:
                code, tp = _gravest(response)
                if self.measurements is not None:
                    now_s = self._client.engine.loop.time()
                    self.measurements.commit_finished(
                        now_s * 1000, (now_s - began_s) * 1000, failed=code != 0
                    )
                if code == 0:
                    return
                what = f"committing offset {offsets[tp].offset} of {tp} for group {self.group_id!r}"
                if code in COORDINATOR_MOVED:
                    if code != _LOAD_IN_PROGRESS:
                        self.lost(error_name(code))
                else:
                    if code == _REBALANCE_IN_PROGRESS:
                        self.on_rebalance()  # earlier than the next heartbeat would tell
                    _refuse_for_good(code, what, me, self.identity())
            await asyncio.sleep(backoff.next_ms() / 1000)


def _commit_entry(partition: int, offset: OffsetAndMetadata) -> dict[str, Any]:
    return {
        "partition_index": partition,
        "committed_offset": offset.offset,
        "committed_leader_epoch": offset.leader_epoch,
        "committed_metadata": offset.metadata,
    }


def _read_committed(answer: Any) -> dict[TopicPartition, OffsetAndMetadata | None]:
    found: dict[TopicPartition, OffsetAndMetadata | None] = {}
    for topic in answer.topics:
        for p in topic.partitions:
            offset = int(p.committed_offset)
            found[TopicPartition(str(topic.name), int(p.partition_index))] = (
                None
                if offset < 0
                else OffsetAndMetadata(
                    offset, p.metadata or "", int(getattr(p, "committed_leader_epoch", -1))
                )
            )
    return found


def _gravest(response: Any) -> tuple[int, TopicPartition]:
    """(error code, partition) of a commit's answer: one that no retry mends wins over one that it may; (0, ...) where all is stored."""
    found = (0, TopicPartition("", -1))
    for topic in response.topics:
        for p in topic.partitions:
            code = int(p.error_code)
            if code and (found[0] == 0 or is_retriable(found[0])):
                found = code, TopicPartition(str(topic.name), int(p.partition_index))
    return found


def _refuse_for_good(code: int, what: str, sent_as: MemberIdentity, now: MemberIdentity) -> None:
    """Raise, unless another try may do better."""
    if code == _REBALANCE_IN_PROGRESS:
        if now.waits_for_user:
            raise RebalanceInProgressError(
                f"{what}: a rebalance is under way; call poll() to take part in it, then commit what is still assigned"
            )
    elif code == _STALE_MEMBER_EPOCH:
        return  # the heartbeat that brings the new epoch is on its way
    elif code in _GROUP_MOVED_ON:
        moved = (sent_as.member_id, sent_as.generation_id) != (now.member_id, now.generation_id)
        if code == _FENCED_INSTANCE_ID or not (moved or now.rebalancing):
            raise CommitFailedError(
                f"{what}: {error_name(code)}: the group has rebalanced and this member's partitions belong to others. "
                "Raise max.poll.interval.ms or lower max.poll.records if handling one poll takes that long"
            )
    elif not is_retriable(code):
        raise error_for(code, what)
