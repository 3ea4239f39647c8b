"""A circuit breaker: stop calling what is down, and see now and then whether it is up again. Pure: time is given."""

from __future__ import annotations

from collections import deque
from typing import Literal

from ..errors import ConfigError
from .units import to_duration_ms

State = Literal["closed", "open", "half-open"]


class CircuitBreaker:
    """For a handler: after `failures` errors of the classes `on` within a time, pause it; then let `probes` calls try.

        closed --failures within the time--> open --the pause is over--> half-open --a probe succeeds--> closed
                                               ^------------a probe fails, the pause doubles------------/

    While it is open no handler is started, and what failed because of it does not count as an attempt. `pause`: '10s..2m', doubling.
    One breaker belongs to one handler.
    """

    def __init__(
        self,
        on: type[BaseException] | tuple[type[BaseException], ...] = (ConnectionError, TimeoutError),
        *,
        failures: int = 5,
        within: float | str = "30s",
        pause: float | str = "10s..2m",
        probes: int = 1,
    ) -> None:
        if failures < 1 or probes < 1:
            raise ConfigError(f"CircuitBreaker(failures={failures!r}, probes={probes!r}): numbers from 1 on")
        self._on = on if isinstance(on, tuple) else (on,)
        self._failures = failures
        self._within_ms = to_duration_ms(within)
        low, _, high = pause.partition("..") if isinstance(pause, str) else (pause, "", "")
        self._pause_ms = self._first_pause_ms = to_duration_ms(low)
        self._most_pause_ms = to_duration_ms(high) if high else self._first_pause_ms
        self._probes = probes
        self._recent: deque[float] = deque(maxlen=failures)  # when the last failures were
        self._probing = 0
        self.state: State = "closed"
        self.next_try_ms = 0.0

    def may_run(self, now_ms: float) -> bool:
        """Whether a call may be started now. Half-open, each yes is one of the probes."""
        if self.state == "closed":
            return True
        if self.state == "open":
            if now_ms < self.next_try_ms:
                return False
            self.state = "half-open"
            self._probing = 0
        if self._probing >= self._probes:
            # A probe that never ends (its partition went away, say) must not keep it half-open for ever.
            if now_ms < self.next_try_ms:
                return False
            self._probing = 0
        self._probing += 1
        self.next_try_ms = now_ms + self._pause_ms
        return True

    def succeeded(self, now_ms: float) -> None:
        if self.state == "half-open":
            self.state = "closed"
            self._pause_ms = self._first_pause_ms
            self._recent.clear()

    def failed(self, error: BaseException, now_ms: float) -> bool:
        """Whether the failure is the dependency's: it has opened the breaker, or happened while it is not closed."""
        if not isinstance(error, self._on):
            self.succeeded(now_ms)  # whoever answers with another error is there
            return False
        if self.state == "open":
            return True
        if self.state == "half-open":
            self._pause_ms = min(self._pause_ms * 2, self._most_pause_ms)
            self._open(now_ms)
            return True
        self._recent.append(now_ms)
        if len(self._recent) == self._failures and now_ms - self._recent[0] <= self._within_ms:
            self._open(now_ms)
            return True
        return False

    def _open(self, now_ms: float) -> None:
        self.state = "open"
        self.next_try_ms = now_ms + self._pause_ms
        self._recent.clear()
