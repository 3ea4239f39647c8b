"""Whatever is paused, sought, moved, given back and lost, in whatever order: each partition is read on, from where it stood.

Two brokers keep fetch sessions by Kafka's rules (`FetchSession.scala`): an incremental answer names a partition only if it has records
or another high watermark, and a partition that a request both lists and forgets is forgotten. So a change that a fetch loop does not
pass on leaves its partition standing still, or reading from another place; both fail here.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest

from penstock._native import (
    EVENT_FETCH_ERROR,
    EVENT_PREFERRED_REPLICA,
    Connection,
    EventQueue,
    Fetcher,
)

from .scripted import PATIENCE_S, TOPIC_ID, Call, Part, ScriptedBroker, batch

PARTITIONS = 12
PER_ANSWER = 3
NOT_LEADER = 6
LOST, WRONG_EPOCH = 70, 71


class Session:
    """The broker's side of one: what it was told by partition, in the order in which it serves them."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.epoch = 1
        self.wanted: dict[int, int] = {}
        self.marks: dict[int, int] = {}


class SessionBroker:
    """Serves `ends[partition]` records of each partition; refuses those in `not_here`, once each time they are asked for."""

    def __init__(self, ends: dict[int, int], seed: int) -> None:
        self.scripted = ScriptedBroker()
        self.not_here: set[int] = set()
        self._ends = ends
        self._random = random.Random(seed)
        self._sessions: dict[int, Session] = {}
        self._numbers = iter(range(1, 1 << 30))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._stopped = threading.Event()
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        self.scripted.close()
        self._thread.join(PATIENCE_S)

    def forget_sessions(self) -> None:
        self._sessions = {}

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                call = self.scripted.calls.get(timeout=0.05)
            except Exception:
                continue
            try:
                self._answer(call)
            except OSError:
                continue  # the connection was closed meanwhile

    def _answer(self, call: Call) -> None:
        number, epoch = call.session
        if epoch == 0:
            session = Session(next(self._numbers))
            self._sessions.pop(number, None)
            if self._random.random() < 0.9:
                self._sessions[session.id] = session
            else:
                session.id = 0
        else:
            found = self._sessions.get(number)
            if found is None or found.epoch != epoch:
                call.answer(error=LOST if found is None else WRONG_EPOCH)
                return
            session = found
            session.epoch += 1
        for _, partition, offset in call.partitions:
            session.wanted[partition] = offset
        for _, partition in call.forgotten:
            session.wanted.pop(partition, None)
            session.marks.pop(partition, None)
        call.answer(*self._parts(session, full=epoch == 0), session_id=session.id)

    def _parts(self, session: Session, full: bool) -> list[Part]:
        parts = []
        for partition, offset in list(session.wanted.items()):
            end = self._ends[partition]
            if partition in self.not_here:
                parts.append(Part(partition, error=NOT_LEADER))
                continue
            count = min(PER_ANSWER, end - offset)
            if count > 0 and sum(part.records is not None for part in parts) < 4:
                parts.append(Part(partition, batch(offset, count), high_watermark=end))
                session.wanted[partition] = session.wanted.pop(partition)  # to the end of the line
            elif full or session.marks.get(partition) != end:
                parts.append(Part(partition, high_watermark=end))
            session.marks[partition] = end
        return parts


class Reader:
    """A fetcher on both brokers, and what each partition should give next."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ends = dict.fromkeys(range(PARTITIONS), 5)
        self.brokers = {node: SessionBroker(self.ends, seed + node) for node in (1, 2)}
        self.events = EventQueue()
        self.fetcher = Fetcher(self.events, client_id="random", max_wait_ms=1)
        self.version = self.random.choice([7, 12, 17])
        self.connections: dict[int, Connection] = {}
        self.handles: dict[int, int] = {}
        self.next: dict[int, int] = {}
        self.leaders: dict[int, int] = {}
        self.hidden: set[int] = set()
        self.following: set[int] = set()
        self.paused: set[int] = set()
        for node in self.brokers:
            self.reconnect(node)
        for partition in range(PARTITIONS):
            self.assign(partition)

    def close(self) -> None:
        self.fetcher.close()
        for connection in self.connections.values():
            connection.close()
        for broker in self.brokers.values():
            broker.close()

    def poll(self) -> None:
        self._hear()
        for record in self.fetcher.poll(self.random.choice([1, 5, 50]), self.random.choice([0, 1])):
            assert record.offset == self.next[record.partition], f"partition {record.partition}"
            self.next[record.partition] += 1

    def _hear(self) -> None:
        for kind, handle, epoch, payload in self.events.wait(0):
            partitions = [p for p, known in self.handles.items() if known == handle]
            if not partitions or self.fetcher.epoch(handle) != epoch:
                continue
            if kind == EVENT_FETCH_ERROR:
                assert payload[0] == NOT_LEADER
                self.follow_no_more(partitions[0])
                self.lead(partitions[0], 3 - payload[4])
            assert kind != EVENT_PREFERRED_REPLICA

    # ------------------------------------------------ what may happen

    def assign(self, partition: int) -> None:
        handle = self.handles[partition] = self.fetcher.assign("t", TOPIC_ID.bytes, partition)
        self.fetcher.set_leader(handle, self.leaders.setdefault(partition, 1 + partition % 2), 7)
        self.seek(partition)

    def reassign(self, partition: int) -> None:
        self.fetcher.unassign([self.handles[partition]])
        for states in (self.hidden, self.following, self.paused):
            states.discard(partition)
        self.assign(partition)

    def seek(self, partition: int) -> None:
        self.next[partition] = self.random.randrange(self.ends[partition])
        self.fetcher.seek(self.handles[partition], self.next[partition])

    def pause(self, partition: int) -> None:
        self.paused.add(partition)
        self.fetcher.pause([self.handles[partition]])

    def resume(self, partition: int) -> None:
        self.paused.discard(partition)
        self.fetcher.resume([self.handles[partition]])

    def append(self, partition: int) -> None:
        self.ends[partition] += self.random.randrange(1, 9)

    def lead(self, partition: int, node: int) -> None:
        self.leaders[partition] = node
        self.hidden.discard(partition)
        for number, broker in self.brokers.items():
            (broker.not_here.discard if number == node else broker.not_here.add)(partition)
        self.fetcher.set_leader(self.handles[partition], node, 7)

    def move(self, partition: int) -> None:
        self.lead(partition, 3 - self.leaders[partition])

    def move_unsaid(self, partition: int) -> None:
        """The brokers know, and an error tells the fetcher."""
        node = self.leaders[partition]
        self.brokers[node].not_here.add(partition)
        self.brokers[3 - node].not_here.discard(partition)

    def follow(self, partition: int) -> None:
        """Read from the other node, which has the records too."""
        self.following.add(partition)
        self.brokers[3 - self.leaders[partition]].not_here.discard(partition)
        self.fetcher.set_read_replica(self.handles[partition], 3 - self.leaders[partition])

    def follow_no_more(self, partition: int) -> None:
        self.following.discard(partition)
        self.fetcher.set_read_replica(self.handles[partition], -1)

    def hide_leader(self, partition: int) -> None:
        self.hidden.add(partition)
        self.fetcher.set_leader(self.handles[partition], -1, -1)

    def lose_sessions(self, partition: int) -> None:
        self.brokers[1 + partition % 2].forget_sessions()

    def reconnect(self, node: int) -> None:
        node = 1 + node % 2 if node not in self.brokers else node
        if node in self.connections:
            self.connections[node].close()
        port = self.brokers[node].scripted.port
        self.connections[node] = Connection(self.events, node, "127.0.0.1", port)
        self.fetcher.attach(node, self.connections[node], self.version)

    def settle(self) -> None:
        """Afterwards every partition can be read. Nothing is said of those of which nothing has to be said."""
        for partition in sorted(self.hidden):
            self.lead(partition, self.leaders[partition])
        for partition in sorted(self.following):
            self.follow_no_more(partition)
        for partition in sorted(self.paused):
            self.resume(partition)
        for partition in self.handles:
            self.append(partition)


@pytest.mark.parametrize("seed", range(12))
def test_every_partition_is_read_on(seed: int) -> None:
    reader = Reader(seed)
    often: list[Any] = [reader.append, reader.seek, reader.pause, reader.resume, reader.reassign, reader.move]
    seldom: list[Any] = [
        reader.move_unsaid,
        reader.follow,
        reader.follow_no_more,
        reader.hide_leader,
        reader.lose_sessions,
        reader.reconnect,
    ]
    try:
        for _ in range(400):
            step = reader.random.choice(often * 3 + seldom)
            step(reader.random.randrange(PARTITIONS))
            for _ in range(reader.random.randrange(4)):
                reader.poll()
        reader.settle()
        deadline = time.monotonic() + PATIENCE_S
        while reader.next != reader.ends:
            behind = {p: (reader.next[p], end) for p, end in reader.ends.items() if reader.next[p] != end}
            assert time.monotonic() < deadline, f"standing still: {behind}, {reader.fetcher.stats()}"
            reader.poll()
    finally:
        reader.close()
