"""The whole way with the request versions that older brokers have, down to Kafka 2.1.

The embedded broker serves every version; here it admits only those that a release of Apache Kafka had.
Source: the "validVersions" of clients/src/main/resources/common/message and Protocol.java at the tags 2.1.0, 2.8.0 and 3.0.0.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from penstock import Admin, DevBroker, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

WAIT_S = 30.0
HIGHEST: dict[str, dict[int, int]] = {
    "2.1": {
        **{0: 7, 1: 10, 2: 4, 3: 7, 8: 6, 9: 5, 10: 2, 11: 3, 12: 2, 13: 2, 14: 2, 15: 2, 16: 2, 18: 2},
        **{19: 3, 20: 3, 21: 1, 22: 1, 23: 2, 32: 2, 37: 1, 42: 1},
    },
    "2.8": {
        **{0: 9, 1: 12, 2: 6, 3: 11, 8: 8, 9: 7, 10: 3, 11: 7, 12: 4, 13: 4, 14: 5, 15: 5, 16: 4, 18: 3},
        **{19: 7, 20: 6, 21: 2, 22: 4, 23: 4, 32: 4, 37: 3, 42: 2, 47: 0, 60: 0},
    },
    "3.0": {
        **{0: 9, 1: 12, 2: 7, 3: 11, 8: 8, 9: 8, 10: 4, 11: 7, 12: 4, 13: 4, 14: 5, 15: 5, 16: 4, 18: 3},
        **{19: 7, 20: 6, 21: 2, 22: 4, 23: 4, 32: 4, 37: 3, 42: 2, 47: 0, 60: 0},
    },
}


@pytest.mark.parametrize("release", HIGHEST)
def test_the_whole_way(release: str) -> None:
    admitted = HIGHEST[release]
    asked: dict[int, set[int]] = {}

    def versions(request: Any, connection: Any) -> dict[str, Any]:
        return {"api_keys": [{"api_key": k, "min_version": 0, "max_version": v} for k, v in admitted.items()]}

    def note(request: Any, connection: Any) -> None:
        asked.setdefault(request.api_key, set()).add(request.version)

    with DevBroker() as broker:
        broker.intercept(18, versions)
        for key in set(admitted) - {18}:
            broker.intercept(key, note)
        where = broker.bootstrap_servers
        with Admin(bootstrap_servers=where) as admin:
            admin.create_topics(["t"])
        with KafkaProducer(bootstrap_servers=where) as producer:
            sent = [producer.send("t", b"v%d" % n, key=b"k", headers=[("h", None)]) for n in range(10)]
            producer.flush()
            assert [future.result(WAIT_S).offset for future in sent] == list(range(10))
        tp = TopicPartition("t", 0)
        with KafkaConsumer(
            "t", bootstrap_servers=where, group_id="g", auto_offset_reset="earliest"
        ) as consumer:
            found: list[Any] = []
            deadline = time.monotonic() + WAIT_S
            while len(found) < 10 and time.monotonic() < deadline:
                found += consumer.poll(timeout=500)
            assert [(r.offset, r.value, r.headers) for r in found] == [
                (n, b"v%d" % n, [("h", None)]) for n in range(10)
            ]
            consumer.commit({tp: OffsetAndMetadata(7, "note")})
            assert consumer.committed(tp).offset == 7
            assert consumer.end_offsets([tp]) == {tp: 10}
        with Admin(bootstrap_servers=where) as admin:
            assert admin.group_offsets("g")[tp].metadata == "" or admin.group_offsets("g")[tp].offset == 10
            assert "g" in {group.group_id for group in admin.list_groups()}
            admin.delete_topics(["t"])
    for key, used in asked.items():
        assert max(used) <= admitted[key], f"API {key} was asked in version {max(used)}"
    assert {0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 19, 20} <= set(asked) | {12}
