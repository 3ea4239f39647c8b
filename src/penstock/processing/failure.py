"""What a failure leads to: a policy by the exception's type. Pure: time and chance are given.

    Retry         again after a while; meanwhile other keys go on. When the attempts are used up: `then`, else the dead-letter topic,
                  else the processor stops
    RetryTopic    as a record of a retry topic, handled again once it is due: for delays beyond memory, and without order
    DeadLetter    to a dead-letter topic, with the place it came from and the exception in its headers
    Skip          it counts as done
    Stop          the processor ends; nothing is committed past the record

A handler may also say it for one record: raise RetryThis, Reject or SkipRecord.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError, DeserializationError, FencedError, SinkError, WorkerDiedError
from .units import to_duration_ms

# ---------------------------------------------------------------- actions


@dataclass(frozen=True)
class DeadLetter:
    """To `topic` (None: the handler's dead_letter topic)."""

    topic: str | None = None


@dataclass(frozen=True)
class Skip:
    """Count it as done, with a warning in the log."""


@dataclass(frozen=True)
class Stop:
    """End the processor; nothing is committed past the record."""


@dataclass(frozen=True)
class RetryTopic:
    """To a retry topic, to be handled again after `delay`; after `attempts` calls in all: `then`, else as for Retry."""

    topic: str
    delay: float | str = "1m"
    attempts: int = 5
    then: DeadLetter | Skip | Stop | None = None

    def __post_init__(self) -> None:
        if not self.topic:
            raise ConfigError("RetryTopic needs the name of a topic")
        if self.attempts < 1:
            raise ConfigError(f"RetryTopic(attempts={self.attempts!r}): a number from 1 on")
        to_duration_ms(self.delay)


@dataclass(frozen=True)
class Retry:
    """`attempts` calls in all (None: without end), after delays that double from the first of `backoff` to the second, as '1s..1m'
    ('5s': always that), each varied by up to `jitter` of itself.

    A record whose handler has killed its process `process_deaths` times is poison: no more attempts (see WorkerDiedError).
    """

    attempts: int | None = 5
    backoff: float | str = "1s..1m"
    jitter: float = 0.2
    then: DeadLetter | RetryTopic | Skip | Stop | None = None
    process_deaths: int = 2

    def __post_init__(self) -> None:
        if self.attempts is not None and (not isinstance(self.attempts, int) or self.attempts < 1):
            raise ConfigError(
                f"Retry(attempts={self.attempts!r}): a number of calls from 1 on, or None for no limit"
            )
        if not 0 <= self.jitter <= 1:
            raise ConfigError(f"Retry(jitter={self.jitter!r}): a share from 0 to 1")
        low_ms, high_ms = self._range_ms()
        if low_ms > high_ms:
            raise ConfigError(f"Retry(backoff={self.backoff!r}): the first delay is longer than the last")

    def _range_ms(self) -> tuple[float, float]:
        if isinstance(self.backoff, str) and ".." in self.backoff:
            low, _, high = self.backoff.partition("..")
            return to_duration_ms(low), to_duration_ms(high)
        fixed_ms = to_duration_ms(self.backoff)
        return fixed_ms, fixed_ms

    def delay_ms(self, attempts: int, chance: float) -> float:
        """The delay after so many failed calls. `chance`: from 0 to 1, evenly."""
        low_ms, high_ms = self._range_ms()
        delay_ms = min(high_ms, low_ms * 2.0 ** min(attempts - 1, 60))
        return delay_ms * (1 + self.jitter * (2 * chance - 1))


WHILE_AWAY = Retry(attempts=None, backoff="200ms..10s")
"""For what passes by itself and is nobody's failure: a database that is away, a claim of another."""

Action = Retry | RetryTopic | DeadLetter | Skip | Stop
OnError = Mapping[type[BaseException], Action | Literal["retry", "dead_letter", "skip", "stop"]]


# ---------------------------------------------------------------- what a handler may raise


class RetryThis(Exception):
    """Raised by a handler: call it again for this record after `delay`, however many attempts there were."""

    def __init__(self, delay: float | str = "1s", reason: str = "") -> None:
        super().__init__(reason or f"again after {delay}")
        self.delay_ms = to_duration_ms(delay)


class Reject(Exception):
    """Raised by a handler: this record can never be handled; to the dead-letter topic with it, without another attempt."""


class SkipRecord(Exception):
    """Raised by a handler: count this record as done."""


class NotNow(Exception):
    """The handler was not called, since another is at what it would do. No failure, and no attempt; again after a while."""


# ---------------------------------------------------------------- decisions


@dataclass(frozen=True, slots=True)
class RetryAt:
    due_ms: float


@dataclass(frozen=True, slots=True)
class ToDeadLetter:
    topic: str


@dataclass(frozen=True, slots=True)
class ToRetryTopic:
    topic: str
    due_ms: float


@dataclass(frozen=True, slots=True)
class SkipIt:
    pass


@dataclass(frozen=True, slots=True)
class StopIt:
    pass


Decision = RetryAt | ToDeadLetter | ToRetryTopic | SkipIt | StopIt


class FailurePolicy:
    """A handler's. The most specific class of `on_error` that fits an exception decides; where none does, `retry`; without one, the
    dead-letter topic; without one, the processor stops."""

    def __init__(
        self, retry: Retry | None = None, dead_letter: str | None = None, on_error: OnError | None = None
    ) -> None:
        self.retry = retry
        self.dead_letter = dead_letter
        self._on_error: dict[type[BaseException], Action] = {}
        for kind, action in (on_error or {}).items():
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ConfigError(f"on_error: the keys are exception classes; got {kind!r}")
            self._on_error[kind] = self._plain(kind, action)

    @classmethod
    def of_sink(cls, dead_letter: str | None) -> FailurePolicy:
        """What a sink could not store for a reason that passes is tried for ever. A sink that is fenced has lost its partitions, which the
        group tells soon; if it does not, someone else writes under this group's name, and nothing may go on."""
        fenced = Retry(attempts=8, backoff="200ms..10s", then=Stop())
        # Records that are refused are put away by the sink itself. What it raises is about all of them, or a mistake in the program.
        policy = cls(None, dead_letter, {FencedError: fenced, Exception: Stop()})
        policy._sink_retry = WHILE_AWAY
        return policy

    _sink_retry: Retry | None = None

    def _plain(self, kind: type[BaseException], action: object) -> Action:
        match action:
            case Retry() | RetryTopic() | Skip() | Stop():
                return action
            case "dead_letter" | DeadLetter():
                found = action if isinstance(action, DeadLetter) else DeadLetter()
                if (found.topic or self.dead_letter) is None:
                    raise ConfigError(
                        f"on_error: {kind.__name__} goes to a dead letter, but the handler has no dead_letter='topic'"
                    )
                return found
            case "retry":
                if self.retry is None:
                    raise ConfigError(
                        f"on_error: {kind.__name__} is 'retry', but the handler has no retry=Retry(…)"
                    )
                return self.retry
            case "skip":
                return Skip()
            case "stop":
                return Stop()
        raise ConfigError(
            f"on_error: {kind.__name__} leads to {action!r}; say Retry(…), RetryTopic(…), DeadLetter(…), Skip(), Stop(), or "
            "'retry', 'dead_letter', 'skip', 'stop'"
        )

    def check(self, name: str, order_by: str | None, batch: int = 0) -> None:
        """ConfigError where a retry topic would break the order that was asked for, or stands beside batches."""
        if self.retry_topics and batch:
            raise ConfigError(
                f"{name}: retry topics go with handlers of single records, not with batch={batch}; use Retry(…)"
            )
        if self.retry_topics and order_by is not None:
            raise ConfigError(
                f"{name}: a retry topic and order_by={order_by!r} do not go together: later records of a key would overtake the one that "
                "waits in the topic. Use Retry(…), which holds back that key alone, or order_by=None"
            )

    @property
    def _actions(self) -> list[Action]:
        direct = [*self._on_error.values(), *([self.retry] if self.retry else [])]
        return [
            *direct,
            *(a.then for a in direct if isinstance(a, (Retry, RetryTopic)) and a.then is not None),
        ]

    @property
    def retry_topics(self) -> tuple[str, ...]:
        """The retry topics that it may send to."""
        return tuple(dict.fromkeys(a.topic for a in self._actions if isinstance(a, RetryTopic)))

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics that it may send to."""
        dead = [a.topic for a in self._actions if isinstance(a, DeadLetter) and a.topic]
        return tuple(
            dict.fromkeys([*([self.dead_letter] if self.dead_letter else []), *dead, *self.retry_topics])
        )

    # ------------------------------------------------------------ deciding

    def decide(self, error: BaseException, attempts: int, now_ms: float, chance: float) -> Decision:
        """After so many failed calls, the last of which raised `error`."""
        match error:
            case RetryThis():
                return RetryAt(now_ms + error.delay_ms)
            case Reject():
                return self._dead_letter(None)
            case SkipRecord():
                return SkipIt()
        action = self._action(error)
        match action:
            case Retry() if self._may_retry(action, error, attempts):
                return RetryAt(now_ms + action.delay_ms(attempts, chance))
            case RetryTopic() if attempts < action.attempts:
                return ToRetryTopic(action.topic, now_ms + to_duration_ms(action.delay))
            case Retry() | RetryTopic():
                return self._then(action.then, attempts, now_ms)
        return self._then(action, attempts, now_ms)

    def _action(self, error: BaseException) -> Action | None:
        if self._sink_retry is not None and isinstance(error, SinkError) and error.retriable:
            return self._sink_retry
        for kind in type(error).__mro__:
            if kind in self._on_error:
                return self._on_error[kind]
        if isinstance(error, DeserializationError):
            return None  # the bytes stay as they are
        return self.retry

    @staticmethod
    def _may_retry(retry: Retry, error: BaseException, attempts: int) -> bool:
        if isinstance(error, WorkerDiedError) and attempts >= retry.process_deaths:
            return False
        return retry.attempts is None or attempts < retry.attempts

    def _then(self, action: Action | None, attempts: int, now_ms: float) -> Decision:
        match action:
            case Skip():
                return SkipIt()
            case Stop():
                return StopIt()
            case RetryTopic() if attempts < action.attempts:
                return ToRetryTopic(action.topic, now_ms + to_duration_ms(action.delay))
            case RetryTopic():
                return self._then(action.then, attempts, now_ms)
            case DeadLetter():
                return self._dead_letter(action.topic)
        return self._dead_letter(None)

    def _dead_letter(self, topic: str | None) -> Decision:
        chosen = topic or self.dead_letter
        return StopIt() if chosen is None else ToDeadLetter(chosen)
