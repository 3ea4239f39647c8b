"""What this process has claimed, and what it still owes the store. Thread-safe."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import DeduplicationError
from .store import Answer, DeduplicationStore

_log = logging.getLogger("penstock.processing")

_MOST_IDS = 1_000
"""Of one call of a store: what it does at once has to be short, others wait."""
_MOST_OWED = 100_000


class Claims:
    """Of one handler, as one owner.

    An owner's claim can be claimed again by the owner, so that nothing waits out a lease that is our own: after an answer that was lost, or
    a release. So it is kept here who is at work: `hold()` is refused while the id is held.

    What was done and could not be confirmed is owed. It is confirmed before anything else is claimed; so an id that is owed is 'done' once
    the store is there again, and never 'new', unless its lease was over and another has taken it.
    """

    def __init__(
        self, store: DeduplicationStore, *, name: str, lease_ms: int, expires_ms: int, family: str = ""
    ) -> None:
        """`family`: what the owners of a handler's processes have in common; if not given, a new one."""
        self.store = store
        self._family = family or os.urandom(8).hex()
        self.owner = self._owner_of(os.getpid())
        self.lease_ms = lease_ms
        self._name = name
        self._expires_ms = expires_ms
        self._lock = threading.Lock()
        self._held: set[bytes] = set()  # under the lock
        self._owed: dict[bytes, None] = {}  # under the lock
        self._away = False  # whether the store was, at the last call; under the lock

    # ------------------------------------------------------------ here

    def hold(self, ids: Sequence[bytes]) -> bool:
        """False, and none is, if one of them is held."""
        with self._lock:
            if not self._held.isdisjoint(ids):
                return False
            self._held.update(ids)
            return True

    def let_go(self, ids: Sequence[bytes]) -> None:
        with self._lock:
            self._held.difference_update(ids)

    def owe(self, ids: Sequence[bytes]) -> None:
        """These are done; settle() tells the store."""
        with self._lock:
            self._owed.update(dict.fromkeys(ids))
            lost = list(self._owed)[: max(0, len(self._owed) - _MOST_OWED)]
            for each in lost:
                del self._owed[each]
        if lost:
            _log.error(
                "%s: %d effects are done, but could not be confirmed while the store was away; they may be repeated",
                self._name,
                len(lost),
            )

    @property
    def settings(self) -> dict[str, Any]:
        """For those of a worker process: Claims(**settings)."""
        return {
            "store": self.store,
            "name": self._name,
            "lease_ms": self.lease_ms,
            "expires_ms": self._expires_ms,
            "family": self._family,
        }

    def _owner_of(self, pid: int) -> str:
        return f"{self._family}-{pid:x}"

    @property
    def owed(self) -> int:
        return len(self._owed)

    # ------------------------------------------------------------ the store

    def claim(self, ids: Sequence[bytes]) -> list[Answer]:
        """After what is owed. DeduplicationError: the store is away; what was claimed nevertheless can be claimed again."""
        self.settle()
        answers: list[Answer] = []
        with self._noting():
            for part in _parts(ids):
                answers += self.store.claim(part, self.owner, self.lease_ms)
        return answers

    def settle(self) -> None:
        """Confirm what is owed. DeduplicationError: the store is away, and it stays owed."""
        if not self._owed:
            return
        with self._lock:
            owed = list(self._owed)
        with self._noting():
            for part in _parts(owed):
                lost = self.store.confirm(part, self.owner, self._expires_ms)
                with self._lock:
                    for each in part:
                        self._owed.pop(each, None)
                for each in lost:
                    _log.error(
                        "%s: the effect with the id %s took longer than its lease of %g s, and another has taken it over: it may be done "
                        "twice. Give Deduplicate(lease=…) a longer one",
                        self._name,
                        each.hex(),
                        self.lease_ms / 1000,
                    )

    def release(self, ids: Sequence[bytes], pid: int | None = None) -> None:
        """Never fails: a claim that is not given back ends with its lease, and we may claim it again until then. `pid`: a worker's."""
        owner = self.owner if pid is None else self._owner_of(pid)
        try:
            for part in _parts(ids):
                self.store.release(part, owner)
        except Exception as error:
            _log.debug("%s: %d claims could not be given back: %s", self._name, len(ids), error)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except DeduplicationError as error:
            if error.retriable:
                self._note(error)
            raise
        except Exception as error:  # of a store that is not ours: it must not pass for the handler's failure
            raise DeduplicationError(f"{self.store!r} failed: {error!r}") from error
        self._note(None)

    def _note(self, error: DeduplicationError | None) -> None:
        """One line when the store goes away, and one when it is back, not one for each record."""
        with self._lock:
            before, self._away = self._away, error is not None
        if error is not None and not before:
            _log.warning(
                "%s: the de-duplication store is away; records wait until it is back: %s", self._name, error
            )
        elif error is None and before:
            _log.warning("%s: the de-duplication store is back", self._name)


def _parts(ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(ids), _MOST_IDS):
        yield ids[start : start + _MOST_IDS]
