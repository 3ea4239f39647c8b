"""Heartbeats that the coordinator's connection repeats by itself, in a native thread, whatever Python does meanwhile.

Why: with Python in between, C code that holds the GIL for longer than the session costs a member its partitions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._native import EVENT_HEARTBEATS_STOPPED, Fetcher
from ..errors import KafkaError
from ..protocol import Api, decode_response, encode_answer
from .client import COORDINATOR, ClusterClient
from .connection import BrokerConnection
from .coordinator import GroupCoordinator

_log = logging.getLogger("penstock.engine.group")


@dataclass(frozen=True, slots=True, eq=False)
class Repeated:
    """A request to repeat; `answer` is what a plain yes has beside the protocol's defaults. `at_once`: the first does not wait for an
    interval. Each equals itself alone: a later one with the same fields takes its place all the same."""

    api: Api
    interval_ms: int
    request: dict[str, Any]
    answer: dict[str, Any]
    at_once: bool = False


class Heartbeats:
    """Lives in the engine's thread. One heartbeat is repeated at a time: `_wanted` is the last that was asked for, None after stop().

    Between repeat() and the moment when the connection is there, another repeat() or a stop() may come; `_wanted` tells.
    """

    def __init__(
        self,
        client: ClusterClient,
        coordinator: GroupCoordinator,
        fetcher: Fetcher,
        *,
        answer_timeout_ms: int,
        max_idle_ms: int,
        answered: Callable[[Any], None],
        failed: Callable[[str], None],
        idle: Callable[[], None],
    ) -> None:
        """`answered(response)`: not a plain yes; `failed(reason)`: no answer, or no connection; `idle()`: the user's thread has shown no
        progress for max_idle_ms, and heartbeats have ceased."""
        self._client = client
        self._coordinator = coordinator
        self._fetcher = fetcher
        self._answer_timeout_ms = answer_timeout_ms
        self._max_idle_ms = max_idle_ms
        self._answered = answered
        self._failed = failed
        self._idle = idle
        self._wanted: Repeated | None = None
        self._connection: BrokerConnection | None = None
        self._api = Api.HEARTBEAT
        self._version = 0
        self._generation = 0
        self._watched: set[int] = set()

    def repeat(self, wanted: Repeated) -> None:
        """Repeat this request, in place of the one before."""
        self._wanted = wanted
        node_id = self._coordinator.node_id
        opened = None if node_id is None else self._client.opened(node_id, COORDINATOR)
        if opened is not None:  # at once: what is sent behind this is sent behind it
            self._start(opened, wanted)
        else:
            self._client.engine.spawn(self._open(wanted), "group: heartbeats")

    def stop(self) -> None:
        """No more, from here on: what the caller sends next is not sent behind a heartbeat."""
        self._wanted = None
        if self._connection is not None:
            self._connection.native.stop_heartbeats()
            self._connection = None

    def counts(self) -> tuple[int, int, int] | None:
        """(connection's id, heartbeats that it has sent, milliseconds since the last good answer or -1); None while none repeats any."""
        if self._connection is None:
            return None
        sent, _, last_ms_ago = self._connection.native.heartbeats()
        return self._connection.id, sent, last_ms_ago

    # ------------------------------------------------------------ inside

    async def _open(self, wanted: Repeated) -> None:
        try:
            node_id = await self._coordinator.find()
            connection = await self._client.connection(node_id, COORDINATOR)
        except KafkaError as error:
            if self._wanted is wanted:
                self._coordinator.lost(str(error))
                self._failed(str(error))
            return
        if self._wanted is wanted:
            self._start(connection, wanted)

    def _start(self, connection: BrokerConnection, wanted: Repeated) -> None:
        if connection.id not in self._watched:
            self._watched.add(connection.id)
            connection.on_closed.append(self._on_closed)
            connection.on_heartbeat = self._on_event
        api = wanted.api
        has_epoch = api is Api.CONSUMER_GROUP_HEARTBEAT
        version, frame = connection.encode(api, **wanted.request)
        throttled = has_epoch or version >= 1
        self._connection, self._api, self._version = connection, api, version
        self._generation = connection.native.start_heartbeats(
            frame,
            interval_ms=wanted.interval_ms,
            answer_timeout_ms=self._answer_timeout_ms,
            plain_answer=encode_answer(api, version, **wanted.answer),
            fetcher=self._fetcher,
            max_idle_ms=self._max_idle_ms,
            member_epoch_at=_member_epoch_at(connection, wanted, frame) if has_epoch else -1,
            throttle_at=(1 if _flexible(api, version) else 0) if throttled else -1,
            first_in_ms=0 if wanted.at_once else wanted.interval_ms,
        )

    def _on_event(self, kind: int, generation: int, payload: Any) -> None:
        if self._wanted is None or generation != self._generation:
            return  # of a membership, or a generation, that is over
        if kind == EVENT_HEARTBEATS_STOPPED:
            self._idle()
        else:
            self._answered(decode_response(self._api, self._version, payload))

    def _on_closed(self, connection: BrokerConnection) -> None:
        self._watched.discard(connection.id)
        if self._connection is connection and self._wanted is not None:
            self._connection, self._wanted = None, None
            reason = connection.closed_reason or "the connection ended"
            self._coordinator.lost(reason)
            self._failed(reason)


def _flexible(api: Api, version: int) -> bool:
    """Whether the answer's header has tagged fields, one byte where there are none."""
    return api is Api.CONSUMER_GROUP_HEARTBEAT or version >= 4


def _member_epoch_at(connection: BrokerConnection, wanted: Repeated, frame: bytes) -> int:
    """Where the member epoch stands in the frame: where one that has all its bits turned, and all else the same, first differs."""
    turned = {**wanted.request, "member_epoch": ~wanted.request["member_epoch"]}
    _, other = connection.encode(wanted.api, **turned)
    return next(place for place, (a, b) in enumerate(zip(frame, other, strict=True)) if a != b)
