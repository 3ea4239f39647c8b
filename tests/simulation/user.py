"""The user's thread of one consumer: polls, listeners, commits, close. What it is told and returned is what the checkers judge."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from penstock.group import messages as g
from penstock.types import TopicPartition

from .clock import Wait
from .commits import FENCED_INSTANCE_ID, Commits
from .world import Violation

if TYPE_CHECKING:
    from .host import Handle, Host

Steps = Generator[int | Wait, None, None]
Partitions = tuple[TopicPartition, ...]
API_TIMEOUT_MS, AUTO_COMMIT_MS = 10_000, 2_000
MOST_RECORDS = 400


class User:
    """A thread as a generator: it yields milliseconds, or what it waits for."""

    def __init__(self, host: Host) -> None:
        self.host, self.world = host, host.world
        self.commits = Commits(host)
        self.closing: tuple[bool | None] | None = None  # leave_group, once it is to close
        self.closed = False
        self.owned: set[TopicPartition] = set()  # as the listener was told
        self.told: list[tuple[str, Partitions]] = []
        self._callbacks: deque[Callable[[], Steps]] = deque()
        self._commit_at_ms = 0
        self._polled_at_ms = self.world.clock.now_ms
        self._expired = False
        self._thread = self._live()

    def begin(self) -> None:
        """Subscribe, and poll from now on."""
        self.host.feed(self.host.wanted())
        self._watch_polls()
        self._step()

    def _step(self) -> None:
        if not self.host.alive:
            return
        try:
            value = next(self._thread)
        except StopIteration:
            return
        if isinstance(value, int):
            self.world.clock.after(value, self._step)
        else:
            value.then(self._step)

    def _live(self) -> Steps:
        while True:
            yield self._pause_ms()
            if self.closing is not None:
                yield from self._close(*self.closing)
                return
            yield from self._poll()
            if not self.host.settings.auto_commit and self.world.random.random() < 0.3:
                yield self.commits.start(self.positions(), API_TIMEOUT_MS, quiet=False)

    def _pause_ms(self) -> int:
        chance, max_poll_ms = self.world.random, self.host.settings.max_poll_ms
        if self.world.faults and chance.random() < self.world.faults / 10:
            return chance.randrange(max_poll_ms, 2 * max_poll_ms)  # the handler hangs
        return 50 + int(chance.random() * 950)

    def _watch_polls(self) -> None:
        """GroupDriver._watch_polls: whether poll() is still called."""
        host, max_poll_ms = self.host, self.host.settings.max_poll_ms
        if not host.alive or self.closed:
            return
        idle_ms = self.world.clock.now_ms - self._polled_at_ms
        if idle_ms > max_poll_ms and not self._expired:
            self._expired = True
            host.feed(g.PollExpired())
        left_ms = max_poll_ms - idle_ms
        self.world.clock.after(left_ms + 1 if left_ms >= 0 else max_poll_ms, self._watch_polls)

    # ------------------------------------------------------------ poll and close

    def _poll(self) -> Steps:
        clock = self.world.clock
        self._polled_at_ms, self._expired = clock.now_ms, False
        if self.host.settings.auto_commit and clock.now_ms >= self._commit_at_ms:
            self._commit_at_ms = clock.now_ms + AUTO_COMMIT_MS
            self.commits.start(self.positions(), self.host.settings.request_ms, quiet=True)
        self.host.feed(g.PollProgress())
        yield from self._run_callbacks()
        for tp, handle in self.host.handles.items():
            if handle.fetched and handle.position is not None:
                self._take_records(tp, handle)

    def _take_records(self, tp: TopicPartition, handle: Handle) -> None:
        log, position = handle.log, handle.position
        assert log is not None
        assert position is not None
        if log.deleted:
            return
        if position > log.seen:
            raise Violation(
                f"{self.host.name} reads {tp} from {position} on, but nobody has seen {log.seen} to {position}"
            )
        if tp not in self.owned:
            raise Violation(f"{self.host.name} was returned records of {tp}, which it was not told to own")
        count = min(self.world.end(log) - position, int(self.world.random.random() * MOST_RECORDS))
        handle.position = position + max(0, count)
        log.seen = max(log.seen, handle.position)

    def _close(self, leave_group: bool | None) -> Steps:
        """Membership.give_back: commit, what is to be called, the listener, leave."""
        host = self.host
        if host.settings.auto_commit:
            yield self.commits.start(self.positions(), API_TIMEOUT_MS, quiet=True)
        yield from self._run_callbacks()
        owned = tuple(sorted(host.handles))
        if owned:
            yield from self._call("revoked", owned)
        self.closed = True
        host.drop(list(host.handles))
        host.feed(g.Leave(leave_group))
        self.world.clock.after(API_TIMEOUT_MS, lambda: host.die("close() took too long"))

    def positions(self) -> dict[TopicPartition, int]:
        """Per assigned partition the offset after the last record that poll returned."""
        return {tp: h.position for tp, h in self.host.handles.items() if h.position is not None}

    def start_at(self, tp: TopicPartition, handle: Handle, offset: int) -> None:
        log = handle.log
        assert log is not None
        if offset < log.committed and not log.deleted and self.world.is_member(self.host):
            raise Violation(f"{self.host.name} starts {tp} at {offset}, though {log.committed} is committed")
        handle.position = offset

    def raised(self, code: int) -> None:
        """What poll raises. The user gives up where another runs under the same name; else goes on polling."""
        if code == FENCED_INSTANCE_ID and self.closing is None:
            self.closing = (None,)

    # ------------------------------------------------------------ callbacks, as engine/membership.py hands them

    def _run_callbacks(self) -> Steps:
        while self._callbacks:
            yield from self._callbacks.popleft()()

    def hand_revocation(self, partitions: Partitions, commit: bool, done: Callable[[], None]) -> None:
        def revoke() -> Steps:
            if commit and self.host.settings.auto_commit:
                positions = {tp: at for tp, at in self.positions().items() if tp in partitions}
                yield self.commits.start(positions, API_TIMEOUT_MS, quiet=True)
            yield from self._call("revoked", partitions)
            self._taken(partitions, done)

        self._callbacks.append(revoke)

    def hand_loss(self, partitions: Partitions, done: Callable[[], None]) -> None:
        for tp in partitions:
            if tp in self.host.handles:
                self.host.handles[tp].fetched = False

        def lose() -> Steps:
            yield from self._call("lost", partitions)
            self._taken(partitions, done)

        self._callbacks.append(lose)

    def _taken(self, partitions: Partitions, done: Callable[[], None]) -> None:
        self.host.drop(partitions)
        done()

    def hand_assignment(self, partitions: Partitions, done: Callable[[], None]) -> None:
        def assigned() -> Steps:
            yield from self._call("assigned", partitions)
            for tp in partitions:
                if tp in self.host.handles:
                    self.host.handles[tp].fetched = True
            done()

        self._callbacks.append(assigned)

    def _call(self, call: str, partitions: Partitions) -> Steps:
        """The listener: what was assigned is revoked or lost once before it is assigned again, and nothing else is."""
        told = set(partitions)
        self.told.append((call, partitions))
        self.world.note(self.host.name, lambda: f"listener: {call} {partitions}")
        counts = self.world.counts
        setattr(counts, call, getattr(counts, call) + bool(partitions))
        if call == "assigned":
            wrong = told & self.owned
            self.owned |= told
        else:
            wrong = told - self.owned
            self.owned -= told
        if wrong or len(told) < len(partitions):
            raise Violation(
                f"{self.host.name} was told {call} of {sorted(wrong) or partitions}, which it knew already"
            )
        chance = self.world.random
        if chance.random() < 0.2:
            yield chance.randrange(10, 1_000)
        if self.world.faults and chance.random() < self.world.faults / 4:
            yield chance.randrange(self.host.settings.max_poll_ms)
