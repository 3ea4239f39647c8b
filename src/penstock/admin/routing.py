"""Requests to the node that may answer them, again and elsewhere while the cluster moves. Runs in the engine's thread.

Each loop here ends when the caller's time is over (ClusterClient.within), and with a reason: the last error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from ..engine.client import CONTROL, ClusterClient
from ..engine.connection import DisconnectedError
from ..engine.coordinator import GroupCoordinator
from ..errors import KafkaError
from ..protocol import Api, error_for, error_name

_log = logging.getLogger("penstock.admin")

NOT_CONTROLLER: Final = 41
COORDINATOR_CODES: Final = frozenset({14, 15, 16})  # load in progress, not available, not coordinator
_LOADING: Final = 14

Codes = Callable[[Any], Iterable[int]]
"""The error codes of a response, wherever they stand in it."""


async def to_controller(client: ClusterClient, api: Api, codes: Codes, **fields: Any) -> Any:
    """A request to the controller, found again when it moved."""
    pause = client.retry_backoff()
    fresh = False
    while True:
        try:
            if fresh or client.snapshot.controller_id not in client.snapshot.brokers:
                await client.fetch_metadata([])
            response = await client.request(
                api, node_id=client.snapshot.controller_id, purpose=CONTROL, **fields
            )
        except DisconnectedError as error:
            _log.debug("%s: %s", api.name, error)
        else:
            if NOT_CONTROLLER not in codes(response):
                return response
            _log.debug("%s: node %d is not the controller", api.name, client.snapshot.controller_id)
        fresh = True
        await asyncio.sleep(pause.next_ms() / 1000)


async def to_coordinator(
    coordinator: GroupCoordinator, client: ClusterClient, api: Api, codes: Codes, **fields: Any
) -> Any:
    """A request to a group's coordinator, found again when it moved."""
    pause = client.retry_backoff()
    while True:
        try:
            response = await coordinator.request(api, **fields)
        except DisconnectedError as error:
            _log.debug("%s: %s", api.name, error)
        else:
            found = COORDINATOR_CODES.intersection(codes(response))
            if not found:
                return response
            if found != {_LOADING}:
                coordinator.lost(", ".join(error_name(code) for code in found))
        await asyncio.sleep(pause.next_ms() / 1000)


async def to_any(client: ClusterClient, api: Api, **fields: Any) -> Any:
    """A request that every broker can answer."""
    pause = client.retry_backoff()
    while True:
        try:
            return await client.request(api, **fields)
        except DisconnectedError as error:
            _log.debug("%s: %s", api.name, error)
        await asyncio.sleep(pause.next_ms() / 1000)


async def to_every_broker(client: ClusterClient, send: Callable[[int], Awaitable[Any]]) -> dict[int, Any]:
    """send(node id) for each broker of the cluster, at once; by node id. A broker that leaves meanwhile is not waited for."""
    pause = client.retry_backoff()
    answers: dict[int, Any] = {}
    while True:
        await client.fetch_metadata([])
        missing = [node for node in client.snapshot.brokers if node not in answers]
        if not missing:
            return {node: answer for node, answer in answers.items() if node in client.snapshot.brokers}
        results = await asyncio.gather(*(send(node) for node in missing), return_exceptions=True)
        for node, result in zip(missing, results, strict=True):
            if isinstance(result, DisconnectedError):
                _log.debug("node %d: %s", node, result)
            elif isinstance(result, BaseException):
                raise result
            else:
                answers[node] = result
        if len(answers) < len(client.snapshot.brokers):
            await asyncio.sleep(pause.next_ms() / 1000)


def raise_first(doing: str, outcomes: Mapping[str, tuple[int, str | None]]) -> None:
    """Raise the error of the first name that has one; the message tells what became of every name.

    `outcomes` maps each name to its error code and the broker's message.
    """
    failed = {name: outcome for name, outcome in outcomes.items() if outcome[0]}
    if not failed:
        return
    first, (code, message) = next(iter(failed.items()))
    others = [
        f"{name!r}: {error_name(c)}{f' ({m})' if m else ''}"
        for name, (c, m) in failed.items()
        if name != first
    ]
    done = [repr(name) for name in outcomes if name not in failed]
    notes = [message] if message else []
    if others:
        notes.append("also " + ", ".join(others))
    if done:
        notes.append("done for " + ", ".join(done))
    error: KafkaError = error_for(code, f"{doing} {first!r}", "; ".join(notes) or None)
    raise error
