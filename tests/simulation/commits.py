"""What a host commits, as engine/commits.py and engine/coordinator.py do: in order, under the membership of now, tried again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.errors import CommitRewindError
from penstock.offsets import CommitLedger
from penstock.protocol import is_retriable
from penstock.types import OffsetAndMetadata, TopicPartition

from .clock import Wait
from .network import Reply, Request

if TYPE_CHECKING:
    from .host import Handle, Host

MOVED = (15, 16)
LOADING, REBALANCE_IN_PROGRESS, FENCED_INSTANCE_ID, STALE_MEMBER_EPOCH = 14, 27, 82, 113
GROUP_MOVED_ON = (22, 25, FENCED_INSTANCE_ID, 110)
RETRY_MS = 100


@dataclass(eq=False)
class Commit:
    offsets: dict[TopicPartition, int]
    handles: dict[TopicPartition, Handle | None]
    first: tuple[str, int, int]
    quiet: bool
    wait: Wait = field(default_factory=Wait)


class Commits:
    """One at a time; `ledger` is the real one."""

    def __init__(self, host: Host) -> None:
        self.ledger = CommitLedger()
        self._host = host
        self._queue: deque[Commit] = deque()
        self._active: Commit | None = None

    def start(self, offsets: dict[TopicPartition, int], timeout_ms: int, *, quiet: bool) -> Wait:
        """`quiet`: by itself, then partitions that would go back are left out."""
        host = self._host
        if quiet:
            entries = {tp: OffsetAndMetadata(offset) for tp, offset in offsets.items()}
            offsets = {tp: entry.offset for tp, entry in self.ledger.not_behind(entries).items()}
        commit = Commit(offsets, {tp: host.handles.get(tp) for tp in offsets}, host.membership(), quiet)
        if not offsets or not self._may(commit):
            commit.wait.done()
            return commit.wait
        self._queue.append(commit)
        host.world.clock.after(timeout_ms, lambda: self._end(commit))
        self._next()
        return commit.wait

    def _may(self, commit: Commit) -> bool:
        """Commits._ownership: a member, and still of the same generation or with these partitions kept through the rebalance."""
        now = self._host.membership()
        gone = any(self._host.handles.get(tp) is not handle for tp, handle in commit.handles.items())
        return now[1] >= 0 and not (now != commit.first and gone)

    def _next(self) -> None:
        while self._active is None and self._queue:
            self._active = commit = self._queue.popleft()
            try:
                self.ledger.check(
                    {tp: OffsetAndMetadata(offset) for tp, offset in commit.offsets.items()},
                    allow_rewind=False,
                )
            except CommitRewindError:
                self._end(commit)
            else:
                self._try(commit)

    def _end(self, commit: Commit) -> None:
        if self._active is commit:
            self._active = None
        elif commit in self._queue:
            self._queue.remove(commit)
        else:
            return
        commit.wait.done()
        self._next()

    def _try(self, commit: Commit) -> None:
        host = self._host
        if self._active is not commit or not host.alive:
            return
        if not self._may(commit):
            self._end(commit)
            return
        identity = (*host.identity(), host.instance)

        def serve(reply: Reply) -> None:
            host.world.commit_offsets(host.name, identity, commit.offsets, reply)

        def again(reason: str) -> None:
            host.world.clock.after(RETRY_MS, lambda: self._try(commit))

        def answered(code: Any) -> None:
            if self._active is not commit:
                return
            if code == 0:
                kept = {
                    tp: OffsetAndMetadata(offset)
                    for tp, offset in commit.offsets.items()
                    if tp in host.handles
                }
                self.ledger.acknowledged(kept)
                self._end(commit)
                return
            if code in MOVED:
                host.lost_coordinator()
            elif code != LOADING and self._is_refused(code, identity[:2]):
                self._end(commit)
                return
            again("")

        host.request_control(Request(serve, answered, again))

    def _is_refused(self, code: int, sent_as: tuple[str, int]) -> bool:
        """For good: another try would do no better (engine/coordinator.py, _refuse_for_good)."""
        host = self._host
        if code == REBALANCE_IN_PROGRESS:
            return host.waits_for_user
        if code == STALE_MEMBER_EPOCH:
            return False
        if code in GROUP_MOVED_ON:
            moved = sent_as != host.identity()
            return code == FENCED_INSTANCE_ID or not (moved or host.is_rebalancing)
        return not is_retriable(code)
