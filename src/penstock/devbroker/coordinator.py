"""The shell around the machine of groups: its clock, its timer, its durable offsets, and whom to answer."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

from .cluster import OffsetStore
from .group_events import Effect, Event, Reply, StoreDeletion, StoreOffsets, Tick, TopicDeleted
from .groups import GroupCoordinator, GroupLimits
from .options import BrokerOptions

log = logging.getLogger("penstock.devbroker")


class Coordinator:
    """Runs in the broker's loop. A token is the future that a request handler awaits."""

    def __init__(self, store: OffsetStore, options: BrokerOptions) -> None:
        limits = GroupLimits(
            min_session_timeout_ms=options.number("group.min.session.timeout.ms"),
            max_session_timeout_ms=options.number("group.max.session.timeout.ms"),
            initial_rebalance_delay_ms=options.number("group.initial.rebalance.delay.ms"),
            max_size=options.number("group.max.size"),
            max_metadata_bytes=options.number("offset.metadata.max.bytes"),
        )
        self.machine = GroupCoordinator(lambda prefix: f"{prefix}-{uuid.uuid4()}", limits)
        self._store = store
        self._timer: asyncio.TimerHandle | None = None
        for group_id, offsets in store.live.items():
            self.machine.restore(group_id, offsets)

    def submit(self, event: Callable[[asyncio.Future[Any]], Event]) -> asyncio.Future[Any]:
        """Hand one event to the machine; the future is done when the machine answers it, perhaps much later."""
        token: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._handle(event(token))
        return token

    def topic_deleted(self, name: str) -> None:
        self._handle(TopicDeleted(None, name))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._store.close()

    def _handle(self, event: Event) -> None:
        loop = asyncio.get_running_loop()
        self._perform(self.machine.handle(event, int(loop.time() * 1000)))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline_ms = self.machine.next_deadline_ms()
        if deadline_ms is not None:
            # A millisecond late on purpose: a tick that comes early would find nothing due and be set again.
            self._timer = loop.call_at((deadline_ms + 1) / 1000, self._handle, Tick())

    def _perform(self, effects: list[Effect]) -> None:
        failure: OSError | None = None
        for effect in effects:
            try:
                match effect:
                    case StoreOffsets():
                        self._store.store(effect.group_id, effect.offsets)
                    case StoreDeletion():
                        self._store.forget(effect.group_id)
                    case Reply(token=None):
                        pass
                    case Reply():
                        # The one who asked may have hung up: then the future is cancelled.
                        if not effect.token.done():
                            if failure is None:
                                effect.token.set_result(effect.answer)
                            else:
                                effect.token.set_exception(failure)
            except OSError as error:
                log.error("offsets could not be stored, the commit is refused: %s", error)
                failure = error
