"""A leader that has other records than were fetched says so in the fetch itself (KIP-320, KIP-595): what real brokers answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from penstock._native import EVENT_CONNECTED, EVENT_DIVERGING, Connection, EventQueue, Fetcher
from tests.support.kafka import RealKafka

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
BY_NAME = 12
"""The last Fetch version that names topics, and the first that names the epoch of the last record."""


def move_leader(kafka: RealKafka, topic: str) -> int:
    """The leader goes, another one leads under the next epoch, and the first comes back; who leads now."""
    before = kafka.leaders(topic)[0]
    kafka.kill(before)
    deadline = time.monotonic() + WAIT_S
    while kafka.leaders(topic).get(0) in (before, -1, None):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kafka.restart(before)
    return kafka.wait_leaders(topic, 1)[0]


@contextmanager
def fetching(
    kafka: RealKafka, topic: str, offset: int, last_epoch: int
) -> Iterator[tuple[EventQueue, Fetcher, int]]:
    """A fetcher of the partition's leader, with this place behind it."""
    leader = kafka.leaders(topic)[0]
    events = EventQueue()
    fetcher = Fetcher(events, client_id="diverging", max_wait_ms=50)
    connection = Connection(events, 1, "127.0.0.1", kafka.nodes[leader].port)
    handle = fetcher.assign(topic, bytes(16), 0)
    fetcher.seek(handle, offset, last_epoch)
    fetcher.set_leader(handle, leader, -1)
    fetcher.attach(leader, connection, BY_NAME)
    try:
        yield events, fetcher, handle
    finally:
        fetcher.close()
        connection.close()


def first_event(events: EventQueue) -> tuple[int, int, int, Any]:
    while True:
        for event in events.wait(int(WAIT_S * 1000)):
            if event[0] != EVENT_CONNECTED:
                return event


def test_a_place_that_the_leaders_log_does_not_lead_to(kafka3: RealKafka, topic: str) -> None:
    kafka3.create_topic(topic, 1)
    kafka3.produce(topic, [(None, b"old")] * 50)
    move_leader(kafka3, topic)
    kafka3.produce(topic, [(None, b"new")] * 50)
    with fetching(kafka3, topic, 70, 0) as (events, fetcher, handle):  # epoch 0 ended at offset 50
        assert first_event(events) == (EVENT_DIVERGING, handle, fetcher.epoch(handle), (0, 50))
        assert not fetcher.poll(10, 0)
        fetcher.seek(handle, 50, 0)
        records = fetcher.poll(500, int(WAIT_S * 1000))
        assert (records[0].offset, records[0].value) == (50, b"new")


def test_an_epoch_in_which_nothing_was_written_is_none_lost(kafka3: RealKafka, topic: str) -> None:
    """Epoch 1 has no record, and the log of the next leader has no trace of it."""
    kafka3.create_topic(topic, 1)
    kafka3.produce(topic, [(None, b"old")] * 50)
    move_leader(kafka3, topic)
    move_leader(kafka3, topic)
    kafka3.produce(topic, [(None, b"new")] * 5)
    with fetching(kafka3, topic, 50, 1) as (events, fetcher, _):
        records = fetcher.poll(500, int(WAIT_S * 1000))
        assert (records[0].offset, records[0].value) == (50, b"new")
        assert {event[0] for event in events.wait(0)} <= {EVENT_CONNECTED}
