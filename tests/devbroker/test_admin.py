"""Admin against the embedded broker: the same as against a real Kafka."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from penstock.devbroker import DevBroker
from tests.kafka.admin_behaviour import *  # noqa: F403 - the tests that both brokers pass
from tests.kafka.admin_behaviour import Admin, NewTopic

_CREATE_TOPICS, _FIND_COORDINATOR = 19, 10
_NOT_CONTROLLER, _COORDINATOR_NOT_AVAILABLE = 41, 15


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker() as broker:
        yield broker


@pytest.fixture
def bootstrap(broker: DevBroker) -> str:
    return broker.bootstrap_servers


def test_a_controller_that_moved_is_found_again(broker: DevBroker, topic: str) -> None:
    answers = [_NOT_CONTROLLER, _NOT_CONTROLLER]
    remove = broker.intercept(_CREATE_TOPICS, lambda request, connection: answers.pop() if answers else None)
    try:
        with Admin(bootstrap_servers=broker.bootstrap_servers, retry_backoff_ms=1) as admin:
            admin.create_topics([NewTopic(topic, 1)])
            assert topic in admin.describe_topics()
    finally:
        remove()
    assert answers == []


def test_a_coordinator_that_is_not_there_yet_is_awaited(broker: DevBroker, topic: str) -> None:
    answers = [_COORDINATOR_NOT_AVAILABLE] * 3
    remove = broker.intercept(
        _FIND_COORDINATOR, lambda request, connection: answers.pop() if answers else None
    )
    try:
        with Admin(bootstrap_servers=broker.bootstrap_servers, retry_backoff_ms=1) as admin:
            assert admin.group_offsets(f"{topic}-group") == {}
    finally:
        remove()
    assert answers == []
