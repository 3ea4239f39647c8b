"""One consumer, one thread at a time."""

from __future__ import annotations

import threading
from types import TracebackType

from ..errors import ConcurrentUseError


class Ownership:
    """Entered by each public call. The thread that is inside may enter again (a listener that commits); another may not.

    A plain lock would make the second thread wait and hide the mistake: what it does would then happen between two steps
    of the first one's loop (a seek between its poll and its commit, say). Java's consumer refuses likewise.
    """

    __slots__ = ("_depth", "_lock", "_owner", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._owner = 0
        self._depth = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner != me:
            if not self._lock.acquire(blocking=False):
                raise ConcurrentUseError(
                    f"{self._what} is in use by thread {self._owner} and thread {me} called it too: use it from one thread "
                    "at a time, or make one consumer per thread; only wakeup() may be called from another thread"
                )
            self._owner = me
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0
            self._lock.release()
