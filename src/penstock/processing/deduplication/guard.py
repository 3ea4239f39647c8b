"""What executors call in a handler's place: it claims, calls the handler for what is new, confirms, or releases."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import multiprocessing
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from ..._native import ConsumerRecord, ConsumerRecords
from ...engine.steps import Steps, await_steps, run_steps
from ...errors import DeduplicationError
from ..failure import NotNow
from ..settings import HandlerSpec
from ..work import Duplicates, Handler
from .claims import Claims
from .gathering import Gathering
from .identity import Identity
from .store import Answer

_log = logging.getLogger("penstock.processing")

_PATIENCE_S = (0.2, 5.0)

Payload = ConsumerRecord | ConsumerRecords


class Guard:
    """Of one handler. `stopping` is set by the runtime before it ends the executor."""

    def __init__(self, handler: Handler, identity: Identity, claims: Claims, *, batch: bool) -> None:
        self.claims = claims
        self.stopping = False
        self._handler = handler
        self._identity = identity
        self._batch = batch

    def open(self) -> None:
        """Blocks; DeduplicationError, retriable, while the store is away."""
        self.claims.store.open()

    async def close(self) -> None:
        """After the executor has stopped. What could not be confirmed so far is tried once more."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        try:
            self.claims.settle()
        except DeduplicationError as error:
            _log.error(
                "%d effects are done, but the de-duplication store is away (%s): they are repeated once their lease is over, unless their "
                "records have been committed",
                self.claims.owed,
                error,
            )
        self.claims.store.close()

    def worker_died(self, payload: Payload, pid: int) -> None:
        """It was at this: its claims are given back, since who knows that it is dead need not wait for their lease."""
        # A function that cannot tell the id may raise what it will: nothing was claimed then.
        with contextlib.suppress(Exception):
            ids = {self._identity.of(record) for record in self._records(payload)} - {None}
            self.claims.release(list(ids), pid=pid)  # type: ignore[arg-type]

    # ------------------------------------------------------------ one call

    def __call__(self, payload: Payload) -> Any:
        """What an executor calls: see the handler's."""
        raise NotImplementedError

    def _records(self, payload: Payload) -> Sequence[ConsumerRecord]:
        return payload if self._batch else (payload,)  # type: ignore[return-value]

    def _steps(self, payload: Payload) -> Steps[Any]:
        ids = [self._identity.of(record) for record in self._records(payload)]
        wanted = list(dict.fromkeys(each for each in ids if each is not None))
        if not self.claims.hold(wanted):
            raise NotNow("this process is at the same id")
        try:
            return (yield from self._with_held(payload, ids, wanted))
        finally:
            self.claims.let_go(wanted)

    def _with_held(self, payload: Payload, ids: list[bytes | None], wanted: list[bytes]) -> Steps[Any]:
        answers = (yield from self._claim(wanted)) if wanted else []
        new = [each for each, answer in zip(wanted, answers, strict=True) if answer == "new"]
        if "busy" in answers:
            self._release(new)
            raise NotNow("another's claim stands")
        chosen = _first_of_each(ids, set(new))
        if not chosen:
            return Duplicates(len(ids), called=False)
        given = payload if len(chosen) == len(ids) else _part(payload, chosen)  # type: ignore[arg-type]
        try:
            result = self._handler(given)
            if inspect.isawaitable(result):
                result = yield result
            if result is not None:
                raise DeduplicationError(
                    f"a handler with deduplicate returned {type(result).__name__}: what it returns would be lost with a record that is "
                    "skipped. Let it return nothing, and write outputs in another handler"
                )
        except BaseException:
            # Whoever is cancelled comes here as well: whether its effect was done is not known, and is tried again.
            self._release(new)
            raise
        if new:
            yield from self._confirm(new)
        return Duplicates(len(ids) - len(chosen), called=True) if len(chosen) < len(ids) else None

    def _claim(self, ids: list[bytes]) -> Steps[list[Answer]]:
        raise NotImplementedError

    def _confirm(self, ids: list[bytes]) -> Steps[None]:
        """DeduplicationError: it is owed. The record is tried again later, is 'done' once the store is back, and skipped."""
        raise NotImplementedError

    def _release(self, ids: list[bytes]) -> None:
        raise NotImplementedError


class PlainGuard(Guard):
    """For threads and processes: asks the store in the thread that calls.

    In a worker process it is `patient`: what is owed there is confirmed by nobody else, and the record's next try may come to another
    worker. So it waits, at most as long as the lease, for a store that is away.
    """

    def __init__(
        self, handler: Handler, identity: Identity, claims: Claims, *, batch: bool, patient: bool = False
    ) -> None:
        super().__init__(handler, identity, claims, batch=batch)
        self._patient = patient

    def __call__(self, payload: Payload) -> Any:
        return run_steps(self._steps(payload))

    def _claim(self, ids: list[bytes]) -> Steps[list[Answer]]:
        yield from ()
        return self.claims.claim(ids)

    def _confirm(self, ids: list[bytes]) -> Steps[None]:
        yield from ()
        self.claims.owe(ids)
        deadline_s = time.monotonic() + self.claims.lease_ms / 1000
        wait_s, most_s = _PATIENCE_S
        while True:
            try:
                self.claims.settle()
                return
            except DeduplicationError as error:
                late = time.monotonic() + wait_s > deadline_s
                if not self._patient or not error.retriable or late or _is_orphan():
                    raise
            time.sleep(wait_s)
            wait_s = min(wait_s * 2, most_s)

    def _release(self, ids: list[bytes]) -> None:
        self.claims.release(ids)

    def __reduce__(self) -> tuple[Callable[..., PlainGuard], tuple[Any, ...]]:
        claims = self.claims
        return _in_a_worker, (self._handler, self._identity, claims.settings, self._batch)


def _in_a_worker(handler: Handler, identity: Identity, claims: dict[str, Any], batch: bool) -> PlainGuard:
    if inspect.iscoroutinefunction(handler):
        handler = functools.partial(_run, handler)
    return PlainGuard(handler, identity, Claims(**claims), batch=batch, patient=True)


def _run(handler: Handler, given: Any) -> Any:
    return asyncio.run(handler(given))


def _is_orphan() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


class CoroutineGuard(Guard):
    """For coroutines: what they ask in one turn of the loop is asked in one call of the store, in a thread of its own."""

    def __init__(self, handler: Handler, identity: Identity, claims: Claims, *, batch: bool) -> None:
        super().__init__(handler, identity, claims, batch=batch)
        self._gathering = Gathering(claims)

    async def __call__(self, payload: Payload) -> Any:
        return await await_steps(self._steps(payload))

    def _claim(self, ids: list[bytes]) -> Steps[list[Answer]]:
        answers: list[Answer] = yield from self._asked(self._gathering.claim(ids))
        return answers

    def _confirm(self, ids: list[bytes]) -> Steps[None]:
        yield from self._asked(self._gathering.confirm(ids))

    def _asked(self, answer: asyncio.Future[Any]) -> Generator[Any, Any, Any]:
        try:
            return (yield answer)
        except asyncio.CancelledError as error:
            # By the handler's timeout, or since the partition is another's. Neither is the handler's failure: it has not begun, or it has
            # returned, and a timeout would count as an attempt. When the executor stops it has to be a cancellation.
            task = asyncio.current_task()
            if self.stopping or task is None:
                raise
            task.uncancel()
            raise DeduplicationError(
                "the de-duplication store did not answer in time", retriable=True
            ) from error

    def _release(self, ids: list[bytes]) -> None:
        self._gathering.release(ids)

    async def close(self) -> None:
        await self._gathering.close()
        await super().close()


def _first_of_each(ids: list[bytes | None], new: set[bytes]) -> list[int]:
    """The indices of the records that the handler is given: those without an id, and of each new id the first."""
    chosen = []
    for index, each in enumerate(ids):
        if each is None or each in new:
            chosen.append(index)
            if each is not None:
                new.discard(each)
    return chosen


def _part(records: ConsumerRecords, chosen: list[int]) -> ConsumerRecords:
    """These records, in as few runs as there are."""
    parts: list[ConsumerRecords] = []
    start = previous = chosen[0]
    for index in [*chosen[1:], len(records) + 1]:
        if index != previous + 1:
            parts.append(records[start : previous + 1])
            start = index
        previous = index
    return parts[0] if len(parts) == 1 else ConsumerRecords.concat(parts)


def guard_of(spec: HandlerSpec, group_id: str) -> CoroutineGuard | PlainGuard | None:
    """None where the handler has no `deduplicate`."""
    deduplicate = spec.deduplicate
    if deduplicate is None:
        return None
    # Once more, since the group may have been given after the handler was declared.
    identity = deduplicate.attach(spec, group_id)
    claims = Claims(
        deduplicate.store,
        name=spec.name,
        lease_ms=deduplicate.lease_ms,
        expires_ms=deduplicate.expires_ms,
    )
    kind = CoroutineGuard if spec.executor == "async" else PlainGuard
    return kind(spec.function, identity, claims, batch=bool(spec.batch))
