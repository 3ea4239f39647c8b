"""Heartbeats that a connection repeats by itself, as native/dataplane/src/heartbeat.rs and engine/heartbeats.py do it together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .network import Connection, Reply, Request

if TYPE_CHECKING:
    from .world import World


@dataclass(eq=False, slots=True)
class Beating:
    """What is repeated. `epoch` follows the answers where `follows`; `is_plain(reply, epoch)`: nobody need hear of this one."""

    serve: Callable[[int, Reply], None]
    is_plain: Callable[[Any, int], bool]
    epoch: int
    interval_ms: int
    follows: bool
    due_ms: int = 0


def raised_epoch(reply: Any) -> int:
    """The member epoch of a yes, 0 of anything else."""
    return 0 if isinstance(reply, int) or int(reply.code) else int(reply.member_epoch)


class Heart:
    """The heartbeats of one connection. The answer to a beat of what was replaced or stopped meanwhile is nobody's news."""

    def __init__(
        self, world: World, connection: Connection, answered: Callable[[Any], None], timeout_ms: int
    ) -> None:
        self._clock = world.clock
        self._connection = connection
        self._answered = answered
        self._timeout_ms = timeout_ms
        self._beating: Beating | None = None
        self._unanswered: Beating | None = None
        connection.on_answer = self._overhear

    def start(self, what: Beating, first_in_ms: int) -> None:
        self._beating = what
        what.due_ms = self._clock.now_ms + first_in_ms
        self._clock.after(first_in_ms, self._beat)

    def stop(self) -> None:
        self._beating = None

    def _beat(self) -> None:
        """The beat, if it is time: one at a time, and none while the engine's own heartbeat may raise the epoch."""
        beating = self._beating
        if beating is None or self._connection.broken or self._unanswered is not None:
            return
        if self._clock.now_ms < beating.due_ms or (beating.follows and self._connection.beats_in_flight()):
            return
        self._unanswered, sent = beating, beating.epoch
        beating.due_ms = self._clock.now_ms + beating.interval_ms
        self._clock.after(beating.interval_ms, self._beat)

        def heard(reply: Any) -> None:
            self._unanswered = None
            epoch = raised_epoch(reply) if beating.follows else 0
            if epoch and self._beating is not None and self._beating.epoch == sent:
                self._beating.epoch = epoch
            if self._beating is beating and not beating.is_plain(reply, sent):
                self._answered(reply)
            self._beat()

        serve = beating.serve
        request = Request(lambda reply: serve(sent, reply), heard, lambda reason: None)
        self._connection.send(request, self._timeout_ms)

    def _overhear(self, request: Request, reply: Any) -> None:
        """The engine's own heartbeat was answered, and Python may not know it yet."""
        if request.beat and self._beating is not None and self._beating.follows:
            self._beating.epoch = max(self._beating.epoch, raised_epoch(reply))
            self._clock.after(0, self._beat)
