"""What the engine has for the user's thread: callbacks to run, errors to raise."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .._native import Fetcher
from ..errors import WakeupError
from .steps import Steps

_MOST_ERRORS = 16


class UserThread:
    """Shared between two threads, each field with one writer at a time under the GIL: `attention` is set by the engine and cleared by the
    user's thread before it looks; `callbacks` and `_errors` are appended to by the engine and popped by the user's thread.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self.attention = True  # the first poll() is news to the engine
        self.callbacks: deque[Callable[[], Steps[None]]] = deque()
        self._errors: deque[BaseException] = deque()
        self._fetcher = fetcher
        self._wakeup = False

    def attend(self) -> None:
        """Have the user's thread look at callbacks and errors at once, even from inside a waiting poll()."""
        self.attention = True
        self._fetcher.wake()

    def hand(self, callback: Callable[[], Steps[None]]) -> None:
        """Have this run in the user's next poll()."""
        self.callbacks.append(callback)
        self.attend()

    def raise_in_poll(self, error: BaseException) -> None:
        """Have the user's next poll() raise this. Bounded: what repeats while nobody polls is kept once, and the first ones stay."""
        if len(self._errors) < _MOST_ERRORS and not any(str(error) == str(other) for other in self._errors):
            self._errors.append(error)
        self.attend()

    @property
    def has_errors(self) -> bool:
        return bool(self._errors)

    def wakeup(self) -> None:
        self._wakeup = True
        self.attend()

    def clear_wakeup(self) -> None:
        self._wakeup = False

    # ------------------------------------------------------------ in the user's thread

    def run_callbacks(self) -> Steps[None]:
        """Listeners and commit callbacks, in the order they came. One that raises has been called; its error goes to the user."""
        while self.callbacks:
            yield from self.callbacks.popleft()()

    def run_all_callbacks(self) -> Steps[Exception | None]:
        """For the end, after which there is no poll(): all of them, whatever they raise; the first error."""
        failed: Exception | None = None
        while self.callbacks:
            try:
                yield from self.run_callbacks()
            except Exception as error:
                failed = failed or error
        return failed

    def raise_pending(self) -> None:
        """Raise what waits for the user: wakeup() first, then errors in the order they came. One at a time; attend() sees to the rest."""
        if self._wakeup:
            self._wakeup = False
            raise WakeupError("wakeup() was called")
        if self._errors:
            raise self._errors.popleft()
