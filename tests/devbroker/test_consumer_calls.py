"""Calls of a consumer that cannot be meant, and what it answers."""

from __future__ import annotations

import pytest

from penstock import DevBroker, KafkaConsumer


class Misspelt:
    def on_partition_assigned(self, partitions: list[object]) -> None:
        raise AssertionError("never called: it is partitions, in the plural")


def test_a_listener_without_any_method_is_refused() -> None:
    with (
        DevBroker() as broker,
        KafkaConsumer(bootstrap_servers=broker.bootstrap_servers, group_id="g") as consumer,
    ):
        with pytest.raises(TypeError, match="on_partitions_assigned"):
            consumer.subscribe(["t"], listener=Misspelt())
        assert consumer.subscription() == set()
