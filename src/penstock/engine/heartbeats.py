"""Heartbeats that the coordinator's connection repeats by itself, in a native thread, whatever Python does meanwhile.

Why: with Python in between, C code that holds the GIL for longer than the session costs a member its partitions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .._native import EVENT_HEARTBEATS_STOPPED, Fetcher
from ..errors import KafkaError
from ..protocol import Api, decode_response, encode_answer
from .client import COORDINATOR, ClusterClient
from .connection import BrokerConnection
from .coordinator import GroupCoordinator

_log = logging.getLogger("penstock.engine.group")


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
        self._wanted: object | None = None
        self._connection: BrokerConnection | None = None
        self._api = Api.HEARTBEAT
        self._version = 0
        self._generation = 0
        self._watched: set[int] = set()

    def repeat(
        self, api: Api, interval_ms: int, request: dict[str, Any], answer: dict[str, Any], *, at_once: bool
    ) -> None:
        """Repeat this request, in place of the one before; `answer` is what a plain yes has beside the protocol's defaults."""
        wanted = self._wanted = object()
        node_id = self._coordinator.node_id
        opened = None if node_id is None else self._client.opened(node_id, COORDINATOR)
        if opened is not None:  # at once: what is sent behind this is sent behind it
            self._start(opened, api, interval_ms, request, answer, at_once)
        else:
            self._client.engine.spawn(
                self._open(wanted, api, interval_ms, request, answer, at_once), "group: heartbeats"
            )

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

    async def _open(
        self,
        wanted: object,
        api: Api,
        interval_ms: int,
        request: dict[str, Any],
        answer: dict[str, Any],
        at_once: bool,
    ) -> None:
        try:
            node_id = await self._coordinator.find()
            connection = await self._client.connection(node_id, COORDINATOR)
        except KafkaError as error:
            if self._wanted is wanted:
                self._coordinator.lost(str(error))
                self._failed(str(error))
            return
        if self._wanted is wanted:
            self._start(connection, api, interval_ms, request, answer, at_once)

    def _start(
        self,
        connection: BrokerConnection,
        api: Api,
        interval_ms: int,
        request: dict[str, Any],
        answer: dict[str, Any],
        at_once: bool,
    ) -> None:
        if connection.id not in self._watched:
            self._watched.add(connection.id)
            connection.on_closed.append(self._on_closed)
            connection.on_heartbeat = self._on_event
        version, frame = connection.encode(api, **request)
        epoch_at = _member_epoch_at(connection, api, request) if api is Api.CONSUMER_GROUP_HEARTBEAT else -1
        throttled = api is Api.CONSUMER_GROUP_HEARTBEAT or version >= 1
        plain = encode_answer(api, version, **answer)
        self._connection, self._api, self._version = connection, api, version
        self._generation = connection.native.start_heartbeats(
            frame,
            interval_ms=interval_ms,
            answer_timeout_ms=self._answer_timeout_ms,
            plain_answer=plain,
            fetcher=self._fetcher,
            max_idle_ms=self._max_idle_ms,
            member_epoch_at=epoch_at,
            throttle_at=(1 if _flexible(api, version) else 0) if throttled else -1,
            first_in_ms=0 if at_once else interval_ms,
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


def _member_epoch_at(connection: BrokerConnection, api: Api, request: dict[str, Any]) -> int:
    """Where the member epoch stands in the frame: where two frames that differ in nothing else first differ."""
    _, zero = connection.encode(api, **{**request, "member_epoch": 0})
    _, all_ones = connection.encode(api, **{**request, "member_epoch": -1})
    return next(place for place, (one, other) in enumerate(zip(zero, all_ones, strict=True)) if one != other)
