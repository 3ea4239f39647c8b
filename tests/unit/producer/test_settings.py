"""Options that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.config import resolve
from penstock.errors import ConfigError
from penstock.producer.settings import ProducerSettings


def settings_of(**options: Any) -> ProducerSettings:
    return ProducerSettings.of(resolve("producer", {"bootstrap_servers": "localhost:9092", **options}))


def test_defaults_are_kafkas() -> None:
    assert settings_of() == ProducerSettings()


@pytest.mark.parametrize(
    "options", [{"acks": "1"}, {"acks": "0"}, {"retries": 0}, {"max_in_flight_requests_per_connection": 6}]
)
def test_idempotence_gives_way_unless_asked_for(options: dict[str, Any]) -> None:
    assert not settings_of(**options).idempotent
    with pytest.raises(ConfigError, match=r"enable.idempotence"):
        settings_of(enable_idempotence=True, **options)


def test_delivery_timeout_covers_linger_and_request() -> None:
    with pytest.raises(ConfigError, match=r"delivery.timeout.ms"):
        settings_of(delivery_timeout_ms=30_000)
    assert settings_of(request_timeout_ms=200_000).delivery_timeout_ms == 200_005


def test_compression_level_only_when_given() -> None:
    assert settings_of(compression_type="zstd").compression_level is None
    assert settings_of(compression_type="zstd", compression_zstd_level=7).compression_level == 7
    assert settings_of(compression_type="gzip", compression_gzip_level=-1).compression_level is None
    assert settings_of(compression_type="lz4", compression_zstd_level=7).compression_level is None
