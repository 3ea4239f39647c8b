"""The sender: takes batches from the accumulator to the brokers that lead their partitions. Lives in the engine's thread."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from typing import Any

from ..engine.backoff import Backoff
from ..engine.client import PRODUCE, ClusterClient
from ..engine.connection import BrokerConnection, DisconnectedError
from ..engine.thread import EngineThread
from ..errors import KafkaError, ProduceError, TransactionError
from ..protocol import Api, error_for, error_name, is_retriable
from ..types import TopicPartition
from .accumulator import PartitionQueue, Readiness, RecordAccumulator
from .batch import ProducerBatch, Stored
from .outcomes import Verdict, expired_error, judge, refused, split
from .sequences import ProducerIdentity
from .settings import ProducerSettings
from .transaction_states import MAY_ABORT, TransactionState, TransactionStates
from .transactions import CONCURRENT_BACKOFF_MS, CONCURRENT_TRANSACTIONS, Transactions

_log = logging.getLogger("penstock.producer")

_OUT_OF_ORDER_SEQUENCE = 45
_UNKNOWN_SERVER_ERROR, _UNKNOWN_TOPIC = -1, 3
_HOPELESS_TOPIC_CODES = frozenset({17, 29})  # invalid name, not authorized: waiting does not help
Parcel = tuple[PartitionQueue, ProducerBatch]


class Sender:
    """One per producer. Fields are written in the engine's thread, but for `_signalled`.

    `identity` is whose sequence numbers are used; `fatal` an error after which nothing can be sent any more;
    `_in_flight` counts the unanswered requests of each node, at most max.in.flight.requests.per.connection.
    """

    def __init__(
        self,
        engine: EngineThread,
        client: ClusterClient,
        settings: ProducerSettings,
        accumulator: RecordAccumulator,
        lock: threading.Lock,
        freed: threading.Condition,
    ) -> None:
        self.identity = ProducerIdentity(transactional_id=settings.transactional_id)
        self.fatal: KafkaError | None = None
        self.thread_id: int | None = None
        self._engine = engine
        self._client = client
        self._settings = settings
        self._accumulator = accumulator
        self._lock = lock  # guards the accumulator
        self._freed = freed  # over the same lock: told when memory comes free
        self._event = asyncio.Event()
        self._signalled = False
        self._in_flight: dict[int, int] = {}
        self._opening: set[int] = set()
        self._not_before_ms: dict[int, int] = {}  # by node: a quota asks for silence
        self._identifying = False
        self.transactions: Transactions | None = None  # set once, by a producer with transactional.id
        self._awaited: Counter[str] = Counter()  # calls that wait for a topic to be there
        client.on_update.append(self._on_metadata)

    def start(self) -> None:
        self._engine.spawn(self._run(), "sender")

    def wake(self) -> None:
        """There is something to look at; from any thread. Many calls make one turn."""
        if not self._signalled:
            self._signalled = True
            self._engine.post(self._event.set)

    @property
    def here(self) -> bool:
        """Whether the caller runs in the engine's thread, in a delivery callback, where waiting would wait for itself."""
        return threading.get_ident() == self.thread_id

    # ------------------------------------------------------------ topics

    async def await_topic(self, topic: str, timeout_ms: float) -> None:
        """Wait until the cluster shows partitions of this topic (it may be created by our asking for it)."""
        client = self._client
        client.add_interest([topic])
        if not _shows(client, topic):
            self._awaited[topic] += 1
            try:
                async with client.within(timeout_ms, f"waiting for the metadata of topic {topic!r}"):
                    while not _shows(client, topic):
                        await client.updated()
            except KafkaError as error:
                (client.interest or set()).discard(
                    topic
                )  # else it would be asked for, and created, ever after
                state = client.snapshot.topics.get(topic)
                if (
                    isinstance(error, TimeoutError)
                    and state is not None
                    and state.error_code == _UNKNOWN_TOPIC
                ):
                    raise error_for(
                        _UNKNOWN_TOPIC,
                        f"topic {topic!r} does not exist, and did not come within {timeout_ms:.0f} ms",
                    ) from None
                raise
            finally:
                self._awaited[topic] -= 1
        self._on_metadata()

    async def await_partition(self, topic: str, partition: int) -> None:
        """Look once more whether a topic has grown to have this partition."""
        await self._client.fetch_metadata([topic])
        count = len(self._client.snapshot.topics[topic].partitions)
        self._on_metadata()
        if partition >= count:
            raise error_for(
                _UNKNOWN_TOPIC, f"{topic}-{partition}: the topic has {count} partitions, 0 to {count - 1}"
            )

    def _on_metadata(self) -> None:
        snapshot = self._client.snapshot
        with self._lock:
            wanted = self._client.interest or ()
            for name in wanted:
                state = snapshot.topics.get(name)
                if state is not None:
                    self._accumulator.topic(name).resize(len(state.partitions))
        self._event.set()

    # ------------------------------------------------------------ the loop

    async def _run(self) -> None:
        self.thread_id = threading.get_ident()
        while True:
            self._event.clear()
            self._signalled = False
            next_ms = self._turn(self._engine.now_ms())
            if next_ms is None:
                await self._event.wait()
                continue
            timer = self._engine.loop.call_later(
                max(0, next_ms - self._engine.now_ms()) / 1000, self._event.set
            )
            await self._event.wait()
            timer.cancel()

    def _turn(self, now_ms: int) -> int | None:
        """Send what can be sent now; when to look again."""
        self._expire(now_ms)
        if self.fatal is not None:
            self.give_up(self.fatal)
            return None
        if self.transactions is not None and (lost := self.transactions.states.lost) is not None:
            self.give_up(lost)
        if self._settings.idempotent and not self._may_send():
            with self._lock:
                return self._accumulator.next_expiry_ms()
        snapshot = self._client.snapshot
        while True:
            with self._lock:
                ready = self._accumulator.ready(
                    now_ms, lambda topic, partition: snapshot.leader(topic, partition)[0]
                )
            by_node = {node: self._in_transaction(queues) for node, queues in ready.by_node.items()}
            sent = [self._send_to(node, queues, now_ms, ready) for node, queues in by_node.items() if queues]
            if not any(sent):
                break
        if ready.leaderless:
            self._client.want_update_later()
        with self._lock:
            expiry_ms = self._accumulator.next_expiry_ms()
        if expiry_ms is not None:
            ready.look_again(expiry_ms)
        return ready.next_ms

    def _may_send(self) -> bool:
        """Whether there is a producer id, and, with transactions, one is open that has not failed."""
        if self.transactions is not None:
            return self.identity.known and self.transactions.states.may_send
        if not self.identity.known:
            self._identify()
        return self.identity.known

    def _in_transaction(self, queues: list[PartitionQueue]) -> list[PartitionQueue]:
        """Those whose partitions the coordinator knows to be in the transaction; it is asked to take the others in."""
        if self.transactions is None:
            return queues
        known = self.transactions.states.partitions
        if any((queue.topic, queue.partition) not in known for queue in queues):
            self.transactions.want({TopicPartition(queue.topic, queue.partition) for queue in queues})
        return [queue for queue in queues if (queue.topic, queue.partition) in known]

    def _send_to(self, node: int, queues: list[PartitionQueue], now_ms: int, ready: Readiness) -> bool:
        """One request to a node with a batch of each of these partitions, as far as they fit; whether one was sent."""
        if self._in_flight.get(node, 0) >= self._settings.max_in_flight or node in self._opening:
            return False
        if self._not_before_ms.get(node, 0) > now_ms:
            ready.look_again(self._not_before_ms[node])
            return False
        connection = self._client.opened(node, PRODUCE)
        if connection is None:
            self._opening.add(node)
            self._engine.spawn(self._open(node), f"produce connection to node {node}")
            return False
        parcels: list[Parcel] = []
        room = self._settings.max_request_size_bytes
        with self._lock:
            for queue in queues:
                # the first one always goes: its size was checked when it was added, before the batch's header was counted
                batch = self._accumulator.take(queue, room if parcels else 2**31)
                if batch is None:
                    continue
                if not self._numbered(queue, batch):
                    self._accumulator.put_back(queue, batch, 0)
                    break
                batch.on_wire = True
                queue.on_wire += 1
                parcels.append((queue, batch))
                room -= batch.size_bytes
                # the next request starts with the partitions that this one had no room for
                if queue in self._accumulator.active:
                    self._accumulator.active[queue] = self._accumulator.active.pop(queue)
        if not parcels:
            return False
        self._in_flight[node] = self._in_flight.get(node, 0) + 1
        self._engine.spawn(self._send(node, connection, parcels), f"produce to node {node}")
        return True

    def _numbered(self, queue: PartitionQueue, batch: ProducerBatch) -> bool:
        """Give the batch its sequence number; False while there is no producer id to number for."""
        if not self._settings.idempotent:
            return True
        if self.identity.known:
            queue.sequences.number(batch, self.identity)
        return batch.base_sequence >= 0

    async def _open(self, node: int) -> None:
        try:
            await self._client.connection(node, PRODUCE)
        except KafkaError as error:
            _log.debug("no produce connection to node %d: %s", node, error)
            self._client.want_update()
            await asyncio.sleep(self._client.config["reconnect.backoff.ms"] / 1000)
        finally:
            self._opening.discard(node)
            self._event.set()

    # ------------------------------------------------------------ one request

    async def _send(self, node: int, connection: BrokerConnection, parcels: list[Parcel]) -> None:
        try:
            fields = _produce_fields(self._settings, parcels)
            if self._settings.acks == 0:
                await connection.send_without_response(Api.PRODUCE, **fields)
                for queue, batch in parcels:
                    self._landed(queue, batch)
                    self._finish(queue, batch, Stored(-1))
            else:
                at_most = self.transactions.produce_version if self.transactions is not None else None
                answer = await connection.request(Api.PRODUCE, at_most=at_most, **fields)
                self._answered(node, parcels, answer)
        except KafkaError as error:
            self._lost(parcels, error)
        except Exception as error:  # a mistake of ours must not leave records without an outcome
            _log.exception("sending to node %d failed", node)
            self._lost(parcels, ProduceError(f"sending to node {node} failed: {error!r}"))
        finally:
            self._in_flight[node] -= 1
            self._event.set()

    def _lost(self, parcels: list[Parcel], error: KafkaError) -> None:
        """The request has no answer: it may have been carried out, or not."""
        _log.debug("produce request without an answer: %s", error)
        self._client.want_update()
        for queue, batch in parcels:
            if not batch.on_wire:
                continue  # decided before the failure
            self._landed(queue, batch)
            batch.fate_known = False
            if isinstance(error, DisconnectedError):
                self._try_again(queue, batch, error)
            else:
                self._finish(queue, batch, error)

    def _answered(self, node: int, parcels: list[Parcel], response: Any) -> None:
        throttle_ms = int(response.throttle_time.total_seconds() * 1000)
        if throttle_ms > 0:  # KIP-219: the broker asks for silence
            self._not_before_ms[node] = self._engine.now_ms() + throttle_ms
        answers = {
            (str(topic.name), int(p.index)): p
            for topic in response.responses
            for p in topic.partition_responses
        }
        for queue, batch in parcels:
            self._landed(queue, batch)
            answer = answers.get((batch.topic, batch.partition))
            if answer is None:
                batch.fate_known = False
                self._try_again(queue, batch, DisconnectedError(f"the broker's answer leaves out {batch!r}"))
            else:
                self._judge(queue, batch, answer)

    def _judge(self, queue: PartitionQueue, batch: ProducerBatch, answer: Any) -> None:
        code = int(answer.error_code)
        verdict = judge(code, idempotent=self._settings.idempotent, count=batch.count)
        if verdict is Verdict.STORED:
            queue.not_before_ms = 0
            append_time = answer.log_append_time
            append_ms = -1 if append_time is None else int(append_time.timestamp() * 1000 + 0.5)
            self._finish(queue, batch, Stored(int(answer.base_offset) if code == 0 else -1, append_ms))
            return
        _log.debug("%r: %s", batch, error_name(code))
        overtook = code == _OUT_OF_ORDER_SEQUENCE and queue.sequences.comes_after_another(batch)
        if verdict is Verdict.OUT_OF_ORDER and self.transactions is not None and not overtook:
            # The epoch is the coordinator's here: holes are mended by a new one, after the abort.
            self._finish(queue, batch, refused(code, batch, answer))
            return
        if verdict is Verdict.SPLIT:
            self._split(queue, batch)
            return
        error = refused(code, batch, answer)
        if verdict is Verdict.REFUSED:
            batch.fate_known = batch.fate_known and code != _UNKNOWN_SERVER_ERROR
            self._finish(queue, batch, error)
            return
        if verdict is Verdict.OUT_OF_ORDER:
            queue.sequences.out_of_order(batch)
        elif verdict is Verdict.UNCERTAIN:
            batch.fate_known = False
        if code == CONCURRENT_TRANSACTIONS:  # the leader is the right one
            self._try_again(queue, batch, error, CONCURRENT_BACKOFF_MS)
            return
        if not self._learn_leader(batch, getattr(answer, "current_leader", None)):
            self._client.want_update()
        self._try_again(queue, batch, error)

    def _learn_leader(self, batch: ProducerBatch, hint: Any) -> bool:
        """Take the new leader that the answer names, if it does (KIP-951); whether it was news."""
        if hint is None or int(hint.leader_id) < 0:
            return False
        return self._client.learn_leader(
            batch.topic, batch.partition, int(hint.leader_id), int(hint.leader_epoch)
        )

    # ------------------------------------------------------------ what becomes of a batch

    def _landed(self, queue: PartitionQueue, batch: ProducerBatch) -> None:
        batch.on_wire = False
        queue.on_wire -= 1

    def _try_again(
        self, queue: PartitionQueue, batch: ProducerBatch, error: KafkaError, wait_ms: int | None = None
    ) -> None:
        """`wait_ms`: instead of the backoff that grows with the attempts."""
        batch.attempts += 1
        batch.last_error = error
        if batch.outcome is not None:
            return  # its time ran out while it was on the wire
        if batch.attempts > self._settings.retries:
            self._finish(queue, batch, error)
            return
        if wait_ms is None:
            backoff = Backoff(self._settings.retry_backoff_ms, self._settings.retry_backoff_max_ms)
            backoff.failures = batch.attempts - 1
            wait_ms = backoff.next_ms()
        with self._lock:
            self._accumulator.put_back(queue, batch, self._engine.now_ms() + wait_ms)

    def _split(self, queue: PartitionQueue, batch: ProducerBatch) -> None:
        """MESSAGE_TOO_LARGE of several records: each half may still fit."""
        if batch.outcome is not None:
            return
        parts = split(batch, self._settings)
        halves = [part for _, part in parts]
        queue.sequences.split(batch, halves)
        with self._lock:
            self._accumulator.replace(queue, batch, halves)
        batch.split_into(parts)

    def _finish(self, queue: PartitionQueue, batch: ProducerBatch, outcome: Stored | BaseException) -> None:
        if isinstance(outcome, Stored):
            queue.sequences.stored(batch)
        else:
            queue.sequences.given_up(batch, surely_not_stored=True)
            if self.transactions is not None:
                self.transactions.states.failed(outcome)
        with self._lock:
            if self._accumulator.finished(batch) and self._accumulator.starved:
                self._freed.notify_all()
        batch.complete(outcome)

    def _expire(self, now_ms: int) -> None:
        with self._lock:
            oldest_ms = self._accumulator.next_expiry_ms()
            late = self._accumulator.expired(now_ms) if oldest_ms is not None and oldest_ms <= now_ms else []
        for queue, batch in late:
            unreachable = "; ".join(
                f"{address}: {reason}" for address, reason in self._client.attempts.items()
            )
            self._finish(queue, batch, expired_error(batch, self._settings.delivery_timeout_ms, unreachable))

    def give_up(self, error: BaseException) -> None:
        """Decide over all that is not stored yet."""
        with self._lock:
            accumulator = self._accumulator
            doomed = [(accumulator.topics[b.topic].queues[b.partition], b) for b in accumulator.incomplete]
            for queue, _ in doomed:
                queue.batches.clear()
                queue.open = None
            accumulator.active.clear()
            for _, batch in doomed:
                batch.sealed = True
        for queue, batch in doomed:
            self._finish(queue, batch, error)

    async def flush_transaction(self) -> None:
        """Nothing can be added to the transaction from here on: a send() that is under way comes before, or is refused. Under the lock,
        since it looks at the state when it has the lock, too."""
        states = self._states("commit_transaction()", TransactionState.OPEN, TransactionState.FLUSHING)
        if states.state is TransactionState.OPEN:
            with self._lock:
                states.go(TransactionState.FLUSHING)

    async def commit_transaction(self) -> None:
        """Once all is stored: EndTxn, until its outcome is known."""
        states = self._states("commit_transaction()", TransactionState.FLUSHING, TransactionState.COMMITTING)
        if states.state is TransactionState.FLUSHING:
            states.go(TransactionState.COMMITTING)
        assert self.transactions is not None
        await self.transactions.end(commit=True)
        states.go(TransactionState.READY)

    async def abort_transaction(self) -> None:
        """All that is not stored yet is given up, then EndTxn."""
        states = self._states("abort_transaction()", *MAY_ABORT)
        if states.state is not TransactionState.ABORTING:
            with self._lock:  # see flush_transaction()
                states.go(TransactionState.ABORTING)
        if self._accumulator.incomplete:
            states.unclean = True
        self.give_up(TransactionError("the transaction was aborted before this record was stored"))
        while any(self._in_flight.values()):  # else a late one could be stored after the abort's marker
            await asyncio.sleep(0.005)
        assert self.transactions is not None
        await self.transactions.end(commit=False)
        states.go(TransactionState.READY)

    def _states(self, what: str, *states: TransactionState) -> TransactionStates:
        assert self.transactions is not None
        self.transactions.states.need(what, *states)
        return self.transactions.states

    async def shut_down(self, error: BaseException) -> None:
        """Give up all that is not stored yet and close the connections."""
        self.give_up(error)
        self._client.close()

    # ------------------------------------------------------------ the producer id

    def _identify(self) -> None:
        if not self._identifying:
            self._identifying = True
            self._engine.spawn(self._fetch_producer_id(), "producer id")

    async def _fetch_producer_id(self) -> None:
        """InitProducerId (KIP-98), from any broker, as long as it takes."""
        backoff = Backoff(self._settings.retry_backoff_ms, self._settings.retry_backoff_max_ms)
        try:
            while True:
                try:
                    answer = await self._client.request(
                        Api.INIT_PRODUCER_ID, transactional_id=None, transaction_timeout=2**31 - 1
                    )
                except DisconnectedError as error:
                    _log.debug("asking for a producer id: %s", error)
                else:
                    code = int(answer.error_code)
                    if code == 0:
                        self.identity.producer_id = int(answer.producer_id)
                        self.identity.epoch = int(answer.producer_epoch)
                        return
                    if not is_retriable(code):
                        self.fatal = error_for(
                            code,
                            "asking for a producer id (enable.idempotence=True needs it; False does without)",
                        )
                        return
                await asyncio.sleep(backoff.next_ms() / 1000)
        except KafkaError as error:
            self.fatal = error
        finally:
            self._identifying = False
            self._event.set()


def _shows(client: ClusterClient, topic: str) -> bool:
    state = client.snapshot.topics.get(topic)
    if state is None:
        return False
    if state.error_code in _HOPELESS_TOPIC_CODES:
        raise error_for(state.error_code, f"producing to topic {topic!r}")
    return bool(state.partitions)


def _produce_fields(settings: ProducerSettings, parcels: list[Parcel]) -> dict[str, Any]:
    topics: dict[str, list[dict[str, Any]]] = {}
    for _, batch in parcels:
        records = batch.build(transactional=settings.transactional_id is not None)
        entry = {"index": batch.partition, "records": records}
        topics.setdefault(batch.topic, []).append(entry)
    return {
        "transactional_id": settings.transactional_id,
        "acks": settings.acks,
        "timeout": settings.request_timeout_ms,
        "topic_data": [{"name": name, "partition_data": entries} for name, entries in topics.items()],
    }
