"""Calls of a consumer that cannot be meant, and what it answers."""

from __future__ import annotations

import pytest

from penstock import DevBroker, KafkaConsumer, KafkaProducer, TopicPartition


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


@pytest.mark.parametrize("most", [1, 7, 600])
def test_poll_takes_no_more_records_than_it_is_told(most: int) -> None:
    with DevBroker() as broker:
        broker.create_topic("numbers", partitions=1)
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for number in range(1_000):
                producer.send("numbers", b"%d" % number)
        with KafkaConsumer(
            bootstrap_servers=broker.bootstrap_servers, max_poll_records=500, auto_offset_reset="earliest"
        ) as consumer:
            consumer.assign([TopicPartition("numbers", 0)])
            sizes, values = [], []
            while len(values) < 1_000:
                records = consumer.poll(1000, max_records=most)
                sizes.append(len(records))
                values.extend(int(record.value) for record in records)
            assert max(sizes) <= most
            assert values == list(range(1_000))
            for wrong in (0, -1, True, 1.5):
                with pytest.raises(ValueError, match="max_records"):
                    consumer.poll(0, max_records=wrong)  # type: ignore[arg-type]
