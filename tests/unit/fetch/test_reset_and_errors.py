"""Where to start when nothing says where, and what a fetch error asks for."""

from __future__ import annotations

import pytest
from kio.schema.errors import ErrorCode

from penstock.fetch import FetchErrorAction, action_for, reset_timestamp

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("policy", "timestamp"),
    [
        ("earliest", -2),
        ("latest", -1),
        ("none", None),
        ("by_duration:PT1H", NOW_MS - 3_600_000),
        ("by_duration:P100000D", 0),  # before 1970: all there is
    ],
)
def test_the_timestamp_to_ask_for(policy: str, timestamp: int | None) -> None:
    assert reset_timestamp(policy, NOW_MS) == timestamp


@pytest.mark.parametrize("policy", ["", "soon", "by_duration:", "by_duration:1h", "by_duration:-PT1H"])
def test_what_is_no_policy(policy: str) -> None:
    with pytest.raises(ValueError, match=r"ISO|negative"):
        reset_timestamp(policy, NOW_MS)


# Source: FetchCollector.handleInitializeErrors of Apache Kafka's Java client.
@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("offset_out_of_range", FetchErrorAction.RESET),
        ("topic_authorization_failed", FetchErrorAction.RAISE),
        ("corrupt_message", FetchErrorAction.RAISE),
        ("not_leader_or_follower", FetchErrorAction.RETRY),
        ("replica_not_available", FetchErrorAction.RETRY),
        ("kafka_storage_error", FetchErrorAction.RETRY),
        ("fenced_leader_epoch", FetchErrorAction.RETRY),
        ("offset_not_available", FetchErrorAction.RETRY),
        ("unknown_leader_epoch", FetchErrorAction.RETRY),
        ("unknown_topic_or_partition", FetchErrorAction.RETRY),
        ("unknown_topic_id", FetchErrorAction.RETRY),
        ("inconsistent_topic_id", FetchErrorAction.RETRY),
        ("unknown_server_error", FetchErrorAction.RETRY),
    ],
)
def test_what_an_error_asks_for(name: str, action: FetchErrorAction) -> None:
    assert action_for(int(ErrorCode[name])) is action


def test_what_kafka_calls_retriable_is_never_raised_but_for_damage() -> None:
    raised = {
        code for code in ErrorCode if code.retriable and action_for(int(code)) is FetchErrorAction.RAISE
    }
    assert raised <= {ErrorCode.corrupt_message}


def test_a_code_that_is_newer_than_this_is_tried_again() -> None:
    assert action_for(9_999) is FetchErrorAction.RETRY
