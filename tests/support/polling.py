"""Consumers of ours in threads of this process, each with its own, and all that they see, for the checkers of tests/support/history.py.

A member in a process of its own can be killed (tests/support/members.py); one in a thread can be held inside its listener or its handler.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from penstock import KafkaConsumer, TopicPartition
from tests.support import history as h
from tests.support.kafka import RealKafka

WAIT_S = 60.0
Hook = Callable[["Polling", list[TopicPartition]], None]
PROTOCOLS = ["range", "cooperative-sticky", "consumer"]
"""Eager, cooperative (KIP-429), and by the coordinator (KIP-848)."""


def member_options(
    kafka: RealKafka, group: str, protocol: str, *, session_ms: int = 30_000, heartbeat_ms: int = 200
) -> dict[str, Any]:
    """Of a member with quick heartbeats: `protocol` is one of PROTOCOLS, or another classic assignor."""
    if protocol != "consumer":
        return {
            "group_id": group,
            "partition_assignment_strategy": protocol,
            "session_timeout_ms": session_ms,
            "heartbeat_interval_ms": heartbeat_ms,
        }
    kafka.configure_group(
        group, consumer_session_timeout_ms=session_ms, consumer_heartbeat_interval_ms=heartbeat_ms
    )
    return {"group_id": group, "group_protocol": "consumer"}


class Polling:
    """A consumer that polls, and commits after each poll, in its own thread. That thread alone writes `events`, `owned`, `calls`, `error`.

    `handle(self, records)`: what is done with what a poll returned; `revoked(self, partitions)`: what the listener does before it returns.
    Both run in the thread and may use `consumer`.
    """

    def __init__(
        self,
        name: str,
        bootstrap: str,
        topics: Sequence[str],
        *,
        handle: Callable[[Polling, Any], None] | None = None,
        revoked: Hook | None = None,
        **config: Any,
    ) -> None:
        self.name = name
        self.events: list[h.Event] = []
        self.calls: list[str] = []
        self.owned: set[h.Place] = set()
        self.error: BaseException | None = None
        self.refused: list[BaseException] = []
        self.consumer: KafkaConsumer
        self._handle, self._revoked = handle, revoked
        self._topics = list(topics)
        self._config = {
            "bootstrap_servers": bootstrap,
            "client_id": name,
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
            **config,
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"polling-{name}", daemon=True)

    # ------------------------------------------------------------ from outside

    @property
    def member(self) -> tuple[str, int]:
        """Member id and generation (or member epoch), as of now; without owning the consumer."""
        me = self.consumer._core.membership.identity()
        return me.member_id, me.generation_id

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
        until([self], condition, what, timeout_s)

    def stop(self) -> None:
        """Close it, from its thread."""
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), f"{self.name} does not end"

    def __enter__(self) -> Polling:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)

    # ------------------------------------------------------------ in its thread

    def _run(self) -> None:
        try:
            with KafkaConsumer(**self._config) as self.consumer:
                self.consumer.subscribe(self._topics, listener=self)
                while not self._stop.is_set():
                    self._take(self.consumer.poll(timeout=50))
        except BaseException as error:
            self.error = error

    def _take(self, records: Any) -> None:
        now = time.monotonic_ns()
        for record in records:
            place = h.Place(record.topic, record.partition)
            value = (record.raw_value or b"").decode()
            self.events.append(h.Read(self.name, now, place, record.offset, value))
        if records and self._handle is not None:
            self._handle(self, records)
        elif records:
            self.commit()

    def commit(self) -> None:
        """What was read; a refusal is kept in `refused`."""
        from penstock.errors import CommitFailedError

        try:
            self.consumer.commit()
        except CommitFailedError as error:
            self.refused.append(error)

    def on_partitions_assigned(self, partitions: list[TopicPartition]) -> None:
        places = frozenset(h.Place(*tp) for tp in partitions)
        self.events.append(h.Given(self.name, time.monotonic_ns(), places))
        self.owned |= places
        self.calls.append("assigned")

    def on_partitions_revoked(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("revoking")
        self.commit()
        if self._revoked is not None:
            self._revoked(self, partitions)
        self._taken(partitions, "revoked", lost=False)

    def on_partitions_lost(self, partitions: list[TopicPartition]) -> None:
        self._taken(partitions, "lost", lost=True)

    def _taken(self, partitions: list[TopicPartition], call: str, lost: bool) -> None:
        places = frozenset(h.Place(*tp) for tp in partitions)
        self.owned -= places
        self.events.append(h.Taken(self.name, time.monotonic_ns(), places, lost))
        self.calls.append(call)


def until(
    crew: Sequence[Polling], condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S
) -> None:
    """Wait for the condition; whoever of them raised ends the wait."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        for one in crew:
            assert one.error is None, f"{what}: {one.name} raised {one.error!r}"
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s; " + "; ".join(
            f"{one.name} owns {sorted(map(str, one.owned))}, was told {one.calls}" for one in crew
        )
        time.sleep(0.01)


def shared_out(crew: Sequence[Polling], places: Sequence[h.Place]) -> bool:
    """Every partition has one owner and every member some."""
    owned = {one.name: set(one.owned) for one in crew}
    return h.one_owner_each(owned, places) == [] and all(owned.values())


@contextlib.contextmanager
def together(*crew: Polling) -> Iterator[list[Polling]]:
    """All of them begin; at the end all are asked to stop before any is waited for."""
    with contextlib.ExitStack() as stack:
        for one in crew:
            stack.enter_context(one)
        yield list(crew)
        for one in crew:
            one._stop.set()


def history_of(crew: Sequence[Polling], acknowledged: Sequence[h.Acknowledged] = ()) -> h.History:
    return h.History(list(acknowledged), {one.name: list(one.events) for one in crew})


def reads(one: Polling) -> list[h.Read]:
    return [event for event in list(one.events) if isinstance(event, h.Read)]
