"""Tests against a real Apache Kafka. The *_behaviour modules hold what the embedded broker must do as well."""

import pytest

pytest.register_assert_rewrite(
    "tests.kafka.admin_behaviour",
    "tests.kafka.async_behaviour",
    "tests.kafka.async_life_behaviour",
    "tests.kafka.producer_behaviour",
)
