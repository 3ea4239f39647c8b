"""What many coroutines ask of a store, in few calls: while one call is out, what is asked meanwhile is gathered for the next."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ...errors import DeduplicationError
from .claims import Claims
from .store import Answer

T = TypeVar("T")
Asked = tuple[list[bytes], asyncio.Future[list[Answer]]]


class Gathering:
    """Belongs to the event loop, but `_turn()`, which runs in its thread. What waits is bounded by the handlers that run."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="penstock claims")
        self._claiming: list[Asked] = []
        self._confirming: list[asyncio.Future[None]] = []
        self._releasing: list[bytes] = []
        self._asking: asyncio.Task[None] | None = None
        self._idle = True

    def claim(self, ids: list[bytes]) -> asyncio.Future[list[Answer]]:
        """One answer for each. DeduplicationError: the store is away. Who no longer waits gives back what it would have got."""
        answer: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._claiming.append((ids, answer))
        self._wake()
        return answer

    def confirm(self, ids: list[bytes]) -> asyncio.Future[None]:
        """DeduplicationError: the store is away, and it stays owed. Who no longer waits owes it as well."""
        self._claims.owe(ids)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._confirming.append(answer)
        self._wake()
        return answer

    def release(self, ids: list[bytes]) -> None:
        """Some time soon, and before anything that is claimed after this."""
        self._releasing.extend(ids)
        self._wake()

    def _wake(self) -> None:
        if self._idle:
            self._idle = False
            self._asking = asyncio.get_running_loop().create_task(self._ask(), name="penstock claims")

    async def _ask(self) -> None:
        """Its first step runs after all that was ready when it was made: what they ask is in the first call."""
        loop = asyncio.get_running_loop()
        while self._claiming or self._confirming or self._releasing:
            claiming, self._claiming = self._claiming, []
            confirming, self._confirming = self._confirming, []
            releasing, self._releasing = self._releasing, []
            wanted = [each for ids, answer in claiming if not answer.done() for each in ids]
            claiming = [asked for asked in claiming if not asked[1].done()]
            settled, claimed = await loop.run_in_executor(self._thread, self._turn, releasing, wanted)
            for confirmed in confirming:
                _tell(confirmed, settled)
            at = 0
            for ids, answer in claiming:
                told = claimed if isinstance(claimed, DeduplicationError) else claimed[at : at + len(ids)]
                at += len(ids)
                if not _tell(answer, told) and not isinstance(told, DeduplicationError):
                    self._releasing += [each for each, got in zip(ids, told, strict=True) if got == "new"]
            await asyncio.sleep(0)  # whom this woke may ask in the next call already
        self._idle = True

    def _turn(
        self, releasing: list[bytes], wanted: list[bytes]
    ) -> tuple[DeduplicationError | None, list[Answer] | DeduplicationError]:
        """(None, or why what is owed is not confirmed; answers, or why there are none). Releases come first: what is claimed after them may
        be what they give back."""
        claims = self._claims
        try:
            claims.settle()
        except DeduplicationError as error:
            return error, error
        try:
            if releasing:
                claims.release(releasing)
            return None, claims.claim(wanted) if wanted else []
        except DeduplicationError as error:
            return None, error

    async def close(self) -> None:
        """What was asked is asked still; then the thread ends."""
        if self._asking is not None:
            await asyncio.wait([self._asking])
        self._thread.shutdown(wait=False)


def _tell(answer: asyncio.Future[T], told: T | DeduplicationError) -> bool:
    """False where nobody waits for it any more."""
    if answer.done():
        return False
    if isinstance(told, DeduplicationError):
        # One for each: one that many raise gathers all their tracebacks.
        own = DeduplicationError(str(told), retriable=told.retriable)
        own.__cause__ = told.__cause__
        answer.set_exception(own)
    else:
        answer.set_result(told)
    return True
