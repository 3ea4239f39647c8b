"""What a failure leads to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigError, DeserializationError, FencedError, SinkError, WorkerDiedError
from penstock.processing import (
    CircuitBreaker,
    DeadLetter,
    Reject,
    Retry,
    RetryThis,
    RetryTopic,
    Skip,
    SkipRecord,
    Stop,
)
from penstock.processing.failure import (
    FailurePolicy,
    RetryAt,
    SkipIt,
    StopIt,
    ToDeadLetter,
    ToRetryTopic,
    to_duration_ms,
)

NOW = 1_000.0


def test_attempts_then_the_dead_letter_topic_or_the_end() -> None:
    retry = Retry(attempts=3, backoff="1s..3s", jitter=0)
    policy = FailurePolicy(retry=retry, dead_letter="d")
    assert policy.decide(OSError(), 1, NOW, 0.5) == RetryAt(NOW + 1_000)
    assert policy.decide(OSError(), 2, NOW, 0.5) == RetryAt(NOW + 2_000)
    assert policy.decide(OSError(), 3, NOW, 0.5) == ToDeadLetter("d")
    assert FailurePolicy(retry=retry).decide(OSError(), 3, NOW, 0.5) == StopIt()
    assert FailurePolicy().decide(OSError(), 1, NOW, 0.5) == StopIt()


def test_the_most_specific_class_decides() -> None:
    policy = FailurePolicy(
        dead_letter="d",
        on_error={
            OSError: Skip(),
            ConnectionError: "dead_letter",
            ConnectionResetError: DeadLetter("other"),
            Exception: "stop",
        },
    )
    assert policy.decide(FileNotFoundError(), 1, NOW, 0) == SkipIt()
    assert policy.decide(ConnectionAbortedError(), 1, NOW, 0) == ToDeadLetter("d")
    assert policy.decide(ConnectionResetError(), 1, NOW, 0) == ToDeadLetter("other")
    assert policy.decide(KeyError(), 1, NOW, 0) == StopIt()
    assert policy.topics == ("d", "other")


def test_a_handler_decides_over_one_record() -> None:
    policy = FailurePolicy(dead_letter="d")
    assert policy.decide(RetryThis("2s"), 99, NOW, 0) == RetryAt(NOW + 2_000)
    assert policy.decide(Reject("no"), 1, NOW, 0) == ToDeadLetter("d")
    assert policy.decide(SkipRecord(), 1, NOW, 0) == SkipIt()


def test_bytes_that_do_not_deserialize_are_not_tried_again() -> None:
    error = DeserializationError("x", "t", 0, 0, "value", None, b"")
    assert FailurePolicy(retry=Retry(), dead_letter="d").decide(error, 1, NOW, 0) == ToDeadLetter("d")


def test_a_record_that_kills_its_process_twice_is_poison() -> None:
    policy = FailurePolicy(retry=Retry(attempts=10, backoff=0), dead_letter="d")
    died = WorkerDiedError("x", -9)
    assert policy.decide(died, 1, NOW, 0) == RetryAt(NOW)
    assert policy.decide(died, 2, NOW, 0) == ToDeadLetter("d")


def test_retry_topics_then_what_follows() -> None:
    policy = FailurePolicy(
        retry=Retry(attempts=2, backoff=0, then=RetryTopic("later", "1m", attempts=4, then=DeadLetter("d")))
    )
    decisions = [policy.decide(OSError(), attempts, NOW, 0) for attempts in range(1, 5)]
    later = ToRetryTopic("later", NOW + 60_000)
    assert decisions == [RetryAt(NOW), later, later, ToDeadLetter("d")]
    assert policy.retry_topics == ("later",)
    policy.check("h", None)
    for order_by in ("key", "partition"):
        with pytest.raises(ConfigError, match="order_by"):
            policy.check("h", order_by)


def test_a_sinks_failures_pass_or_stop_and_never_put_all_away() -> None:
    policy = FailurePolicy.of_sink("d")
    assert isinstance(policy.decide(SinkError("x", retriable=True), 500, NOW, 0), RetryAt)
    assert policy.decide(SinkError("x"), 1, NOW, 0) == StopIt()
    assert policy.decide(TypeError(), 1, NOW, 0) == StopIt()
    assert isinstance(policy.decide(FencedError("x"), 1, NOW, 0), RetryAt)
    assert policy.decide(FencedError("x"), 8, NOW, 0) == StopIt()


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_31_delays_are_bounded(attempts: int, chance: float) -> None:
    delay_ms = Retry(attempts=None, backoff="100ms..30s", jitter=0.2).delay_ms(attempts, chance)
    assert 80 <= delay_ms <= 36_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [("200ms", 200), ("1s", 1_000), ("1.5m", 90_000), ("2h", 7_200_000), ("1d", 86_400_000), (5, 5)],
)
def test_durations(text: str | float, ms: float) -> None:
    assert to_duration_ms(text) == ms


@pytest.mark.parametrize("make", [
    lambda: Retry(attempts=0), lambda: Retry(backoff="1m..1s"), lambda: Retry(jitter=2), lambda: RetryTopic(""),
    lambda: to_duration_ms("1 week"), lambda: to_duration_ms(-1), lambda: FailurePolicy(on_error={OSError: "later"}),  # type: ignore[dict-item]
    lambda: FailurePolicy(on_error={OSError: "retry"}), lambda: FailurePolicy(on_error={"OSError": Stop()}),  # type: ignore[dict-item]
    lambda: CircuitBreaker(failures=0),
])  # fmt: skip
def test_nonsense_is_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


def test_a_breaker_opens_probes_and_closes() -> None:
    breaker = CircuitBreaker(OSError, failures=3, within="10s", pause="1s..3s")
    assert not breaker.failed(KeyError(), 0)
    assert [breaker.failed(OSError(), now) for now in (0.0, 20_000.0, 21_000.0)] == [False, False, False]
    assert breaker.failed(OSError(), 22_000.0) and breaker.state == "open"
    assert not breaker.may_run(22_999.0)
    assert breaker.may_run(23_000.0) and breaker.state == "half-open"
    assert not breaker.may_run(23_001.0), "one probe at a time"
    assert breaker.failed(OSError(), 23_100.0)
    assert breaker.next_try_ms == 25_100.0, "the pause doubles"
    assert breaker.may_run(25_100.0)
    breaker.succeeded(25_200.0)
    assert breaker.state == "closed" and breaker.may_run(25_201.0)


def test_a_probe_that_never_ends_does_not_keep_it_half_open() -> None:
    breaker = CircuitBreaker(OSError, failures=1, pause="1s")
    breaker.failed(OSError(), 0.0)
    assert breaker.may_run(1_000.0)
    assert not breaker.may_run(1_500.0)
    assert breaker.may_run(2_000.0)
