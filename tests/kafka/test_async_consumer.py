"""AsyncKafkaConsumer against a real Apache Kafka."""

from __future__ import annotations

import pytest

from tests.support.async_consumer import *  # noqa: F403 - their fixtures
from tests.support.kafka import RealKafka

from .async_behaviour import *  # noqa: F403 - the tests that both brokers pass
from .async_life_behaviour import *  # noqa: F403

pytestmark = pytest.mark.kafka


@pytest.fixture
def bootstrap(kafka: RealKafka) -> str:
    return kafka.bootstrap_servers
