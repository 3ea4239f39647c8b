"""Positions under changing leaders: OffsetForLeaderEpoch, one request per leader, before fetching goes on (KIP-320)."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .._native import Fetcher
from ..errors import KafkaError, UnsupportedVersionError
from ..fetch import EpochEnd, Judgement, SubscriptionState, Verdict, judge, needs_validation
from ..protocol import Api, error_name, is_retriable
from ..types import TopicPartition
from .client import ClusterClient
from .fetching import FetchDriver

_log = logging.getLogger("penstock.engine.leader_epochs")

Place = tuple[int, int]
"""A position, and the leader epoch of the record before it."""


class Question(NamedTuple):
    """What is asked of a leader, and of whom the answer tells: a partition that was given back and taken again, or sought since,
    has another `handle` or `seek_epoch`."""

    handle: int
    seek_epoch: int
    position_epoch: int
    leader_epoch: int


class LeaderEpochs:
    """Lives in the engine's thread.

    Fields: `_known` is the leader epoch under which each position was last looked at; `_waiting` holds the partitions whose position
    must be validated, which the fetch driver holds back; `_doubted` those of them whose leader has said once that it does not know the
    epoch; `_asking` is, by leader, the task that asks it.
    """

    def __init__(
        self,
        client: ClusterClient,
        fetcher: Fetcher,
        fetching: FetchDriver,
        subscription: SubscriptionState,
        on_judged: Callable[[TopicPartition, Place, Judgement], None],
    ) -> None:
        """on_judged(partition, position, judgement) is to release() the partition, or to keep it from being fetched."""
        self._client = client
        self._fetcher = fetcher
        self._fetching = fetching
        self._subscription = subscription
        self._on_judged = on_judged
        self._known: dict[TopicPartition, int] = {}
        self._waiting: set[TopicPartition] = set()
        self._doubted: set[TopicPartition] = set()
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._asks_soon = False

    # ------------------------------------------------------------ what may ask for a validation

    def on_metadata(self) -> None:
        """Leaders may have changed: positions whose leader is another one now are validated before they are fetched from."""
        snapshot = self._client.snapshot
        for tp, handle in self._fetching.handles.items():
            leader_id, epoch = snapshot.leader(*tp)
            if leader_id < 0 or self._known.get(tp) == epoch:
                continue
            self._known[tp] = epoch
            place = self._fetcher.position(handle)
            if place is None:
                continue
            waits = tp in self._waiting
            if needs_validation(place[1], epoch) and (waits or self._subscription.has_valid_position(tp)):
                self._hold(tp)
            elif waits:  # the leader that wrote the record leads, or a broker without epochs
                self._waiting.discard(tp)
                self._on_judged(tp, place, Judgement(Verdict.VALID, *place))
        self._ask_on()

    def before_seek(self, tp: TopicPartition, position_epoch: int, *, is_leaders_word: bool) -> None:
        """The partition is about to be read from another place; what a leader has just told needs no validation."""
        self.release(tp)
        leader_id, epoch = self._client.snapshot.leader(*tp)
        self._known[tp] = epoch
        if is_leaders_word or position_epoch < 0:
            return
        if leader_id < 0:
            del self._known[tp]  # looked at as soon as there is a leader
            self._hold(tp)
        elif needs_validation(position_epoch, epoch):
            self._hold(tp)
            if not self._asks_soon:  # many seeks, one look at all that waits, and one request
                self._asks_soon = True
                self._client.engine.loop.call_soon(self._ask_on)

    def diverged(self, tp: TopicPartition, end: EpochEnd) -> None:
        """A fetch was answered with the place where the log and what was fetched part (KIP-595)."""
        handle = self._fetching.handles.get(tp)
        if handle is None:
            return
        self._hold(tp)
        place = self._fetcher.cut(handle, -1)
        if place is not None:
            epoch = self._client.snapshot.leader(*tp)[1]
            self._waiting.discard(tp)
            self._on_judged(tp, place, judge(*place, end, epoch))

    def _hold(self, tp: TopicPartition) -> None:
        self._waiting.add(tp)
        self._subscription.await_validation(tp)
        self._fetching.hold(tp)

    def release(self, tp: TopicPartition) -> None:
        """Forget what is asked about this partition; it is fetched again soon."""
        self._waiting.discard(tp)
        self._doubted.discard(tp)
        self._fetching.release(tp)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """These are no longer ours, or have no position any more."""
        for tp in partitions:
            self.release(tp)
            self._known.pop(tp, None)

    # ------------------------------------------------------------ asking

    def _ask_on(self) -> None:
        """See to it that each leader of what waits is asked; what has no leader waits for a metadata update."""
        self._asks_soon = False
        for node_id in {self._client.snapshot.leader(*tp)[0] for tp in self._waiting}:
            task = self._asking.get(node_id)
            if node_id >= 0 and (task is None or task.done()):
                self._asking[node_id] = self._client.engine.spawn(self._ask(node_id), "validate positions")

    async def _ask(self, node_id: int) -> None:
        """Until nothing waits that this node leads."""
        backoff = self._client.retry_backoff()
        while questions := self._questions(node_id):
            answers = await epoch_ends(self._client, node_id, questions)
            for tp, end in list(answers.items()):
                if not self._settle(tp, questions[tp], end):
                    del answers[tp]
            if len(answers) < len(questions):
                self._client.want_update()
                await asyncio.sleep(backoff.next_ms() / 1000)

    def _questions(self, node_id: int) -> dict[TopicPartition, Question]:
        questions = {}
        for tp in self._waiting:
            leader_id, leader_epoch = self._client.snapshot.leader(*tp)
            handle = self._fetching.handles.get(tp)
            place = self._fetcher.position(handle) if handle is not None else None
            if leader_id == node_id and handle is not None and place is not None:
                questions[tp] = Question(handle, self._fetcher.epoch(handle), place[1], leader_epoch)
        return questions

    def _settle(self, tp: TopicPartition, asked: Question, end: EpochEnd | None) -> bool:
        """Use an answer (None: this leader cannot say); False if it is not to be trusted without fresh metadata.

        It is dropped, and the partition asked about anew if it still waits, when it concerns another position or leader than those of
        now: poll() goes on returning what was fetched, and may have come to records of a later epoch than the one asked about.
        """
        if tp not in self._waiting or self._fetching.handles.get(tp) != asked.handle:
            return True
        if self._fetcher.epoch(asked.handle) != asked.seek_epoch:
            return True
        if self._client.snapshot.leader(*tp)[1] != asked.leader_epoch:
            return True
        place = self._fetcher.position(asked.handle)
        if place is None or place[1] != asked.position_epoch:
            return True
        if end is not None and end.is_undefined and tp not in self._doubted:
            self._doubted.add(tp)  # a leader that has been deposed without knowing it would say the same
            return False
        if end is None:
            end = EpochEnd(place[1], place[0])
        elif end.is_undefined or end.leader_epoch < asked.position_epoch:
            place = self._fetcher.cut(asked.handle, -1)
        else:
            place = self._fetcher.cut(asked.handle, end.end_offset)
        if place is not None and place[1] == asked.position_epoch:
            self._waiting.discard(tp)
            self._on_judged(tp, place, judge(*place, end, asked.leader_epoch))
        return True


async def epoch_ends(
    client: ClusterClient, node_id: int, questions: Mapping[TopicPartition, Question]
) -> dict[TopicPartition, EpochEnd | None]:
    """Where the epochs end that the questions are about. None where the leader cannot say, so that there is nothing to wait for;
    partitions that another try may get an answer for are left out."""
    topics: dict[str, list[dict[str, int]]] = defaultdict(list)
    for tp, question in questions.items():
        topics[tp.topic].append(
            {
                "partition": tp.partition,
                "current_leader_epoch": question.leader_epoch,
                "leader_epoch": question.position_epoch,
            }
        )
    try:
        response = await client.request(
            Api.OFFSET_FOR_LEADER_EPOCH,
            node_id=node_id,
            replica_id=-1,
            topics=[{"topic": name, "partitions": partitions} for name, partitions in topics.items()],
        )
    except UnsupportedVersionError:
        return dict.fromkeys(questions)
    except KafkaError as error:
        _log.debug("OffsetForLeaderEpoch from node %d: %s", node_id, error)
        return {}
    return _read(response, questions)


def _read(
    response: Any, questions: Mapping[TopicPartition, Question]
) -> dict[TopicPartition, EpochEnd | None]:
    found: dict[TopicPartition, EpochEnd | None] = {}
    for topic in response.topics:
        for p in topic.partitions:
            tp = TopicPartition(str(topic.topic), int(p.partition))
            code = int(p.error_code)
            if tp not in questions:
                continue
            if code == 0:
                found[tp] = EpochEnd(int(p.leader_epoch), int(p.end_offset))
            elif not is_retriable(code):
                # Before version 3 the question needs a right on the whole cluster. The fetch tells of what concerns the topic.
                _log.warning("%s: its position cannot be validated: %s", tp, error_name(code))
                found[tp] = None
            else:
                _log.debug("%s: OffsetForLeaderEpoch: %s; trying again", tp, error_name(code))
    return found
