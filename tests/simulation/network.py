"""The network between a member and its brokers: it delays, cuts, and lets through one way only; each connection keeps its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .world import World

Reply = Callable[[Any], None]


@dataclass(eq=False, slots=True)
class Request:
    """One request on its way; answered or failed once. `serve(reply)` is what the broker does; `beat`: it is a ConsumerGroupHeartbeat."""

    serve: Callable[[Reply], None]
    answered: Callable[[Any], None]
    failed: Callable[[str], None]
    beat: bool = False
    over: bool = False

    def answer(self, reply: Any) -> None:
        if not self.over:
            self.over = True
            self.answered(reply)

    def fail(self, reason: str) -> None:
        if not self.over:
            self.over = True
            self.failed(reason)


class Link:
    """How a member's host stands to the network. Until the two times nothing arrives there, or from there; then all that waited does."""

    def __init__(self) -> None:
        self.deaf_until_ms = 0
        self.mute_until_ms = 0

    def is_cut(self, now_ms: int) -> bool:
        """Whether no connection can be opened."""
        return now_ms < max(self.deaf_until_ms, self.mute_until_ms)


class Connection:
    """To one broker: in order, one request at a time is served, broken as a whole."""

    def __init__(self, world: World, link: Link, node: int) -> None:
        self.node = node
        self.broken = link.is_cut(world.clock.now_ms)
        self.on_closed: Callable[[str], None] = lambda reason: None
        self.on_answer: Callable[[Request, Any], None] = lambda request, reply: (
            None
        )  # before who asked hears it
        self._world = world
        self._link = link
        self._travelling: deque[Request] = deque()  # to the broker
        self._arrived: deque[Request] = deque()  # there, and not served yet
        self._waiting: deque[Request] = deque()  # not answered
        self._serving = False
        self._there_ms = self._here_ms = 0  # nothing overtakes

    def beats_in_flight(self) -> bool:
        return any(request.beat for request in self._waiting)

    def send(self, request: Request, timeout_ms: int) -> None:
        clock = self._world.clock
        if self.broken:
            clock.after(self._world.delay_ms(), lambda: request.fail("no connection"))
            return
        self._waiting.append(request)
        self._travelling.append(request)
        self._there_ms = max(self._there_ms, self._link.mute_until_ms, clock.now_ms + self._world.delay_ms())
        clock.after(self._there_ms - clock.now_ms, self._arrive)
        clock.after(timeout_ms, lambda: None if request.over else self.cut("no answer in time"))
        if self._world.loses():
            clock.after(self._world.delay_ms(), lambda: self.cut("connection reset"))

    def _arrive(self) -> None:
        if not self.broken:
            self._arrived.append(self._travelling.popleft())
            self._serve()

    def _serve(self) -> None:
        if not self._serving and self._arrived and not self.broken:
            self._serving = True
            request = self._arrived.popleft()
            self._world.at_broker(self.node, request, lambda reply: self._replied(request, reply))

    def _replied(self, request: Request, reply: Any) -> None:
        clock = self._world.clock

        def arrive() -> None:
            if not self.broken:
                self._waiting.popleft()
                self.on_answer(request, reply)
                request.answer(reply)

        self._here_ms = max(self._here_ms, self._link.deaf_until_ms, clock.now_ms + self._world.delay_ms())
        clock.after(self._here_ms - clock.now_ms, arrive)
        self._serving = False
        self._serve()

    def cut(self, reason: str) -> None:
        """What travels may still arrive and be done, without anybody hearing of it."""
        if self.broken:
            return
        self.broken = True
        if self._travelling and self._world.clock.now_ms >= self._link.mute_until_ms and self._world.flips():
            self._world.at_broker(self.node, self._travelling[0], lambda reply: None)
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            request.fail(reason)
        self.on_closed(reason)
