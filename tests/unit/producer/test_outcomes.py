"""What an error code means for a batch, and what the user is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from penstock._native import BatchBuilder, decode_batches
from penstock.errors import AuthorizationError, BrokerError, ProduceError, RecordTooLargeError
from penstock.producer.batch import ProducerBatch
from penstock.producer.outcomes import Verdict, expired_error, judge, refused, split
from penstock.producer.settings import ProducerSettings


@pytest.mark.parametrize(
    ("code", "idempotent", "verdict"),
    [
        (0, True, Verdict.STORED),
        (46, True, Verdict.STORED),
        (6, True, Verdict.AGAIN),
        (3, False, Verdict.AGAIN),
        (7, True, Verdict.UNCERTAIN),
        (20, True, Verdict.UNCERTAIN),
        (45, True, Verdict.OUT_OF_ORDER),
        (45, False, Verdict.REFUSED),
        (59, True, Verdict.OUT_OF_ORDER),
        (29, True, Verdict.REFUSED),
        (87, True, Verdict.REFUSED),
        (-1, True, Verdict.REFUSED),
    ],
)
def test_verdicts(code: int, idempotent: bool, verdict: Verdict) -> None:
    assert judge(code, idempotent=idempotent, count=1) is verdict


def test_only_several_records_can_be_split() -> None:
    assert judge(10, idempotent=True, count=2) is Verdict.SPLIT
    assert judge(10, idempotent=True, count=1) is Verdict.REFUSED


def batch_of(*values: bytes) -> ProducerBatch:
    batch = ProducerBatch("t", 3, BatchBuilder("zstd"), 7)
    for number, value in enumerate(values):
        headers = [("n", b"%d" % number), ("none", None)]
        batch.size_bytes = batch.builder.append(1_000 + number, b"k%d" % number, value, headers)
        batch.count += 1
        batch.reserved_bytes += 100
    return batch


def test_splitting_keeps_every_record() -> None:
    parts = split(batch_of(b"a", b"b", b"c"), ProducerSettings(compression="lz4"))
    assert [(first, part.count, part.reserved_bytes, part.created_ms) for first, part in parts] == [
        (0, 2, 200, 7),
        (2, 1, 100, 7),
    ]
    records = [record for _, part in parts for record in decode_batches(part.build())]
    assert [(r.timestamp, r.raw_key, r.raw_value) for r in records] == [
        (1_000, b"k0", b"a"),
        (1_001, b"k1", b"b"),
        (1_002, b"k2", b"c"),
    ]
    assert records[2].headers == [("n", b"2"), ("none", None)]


@pytest.mark.parametrize(
    ("code", "kind"),
    [(29, AuthorizationError), (87, ProduceError), (10, RecordTooLargeError), (19, ProduceError)],
)
def test_errors_name_the_place_and_the_brokers_words(code: int, kind: type[BaseException]) -> None:
    entry = SimpleNamespace(batch_index=1, batch_index_error_message="no key")
    answer = SimpleNamespace(error_message="One record was bad", record_errors=(entry,))
    error = refused(code, batch_of(b"a", b"b"), answer)
    assert type(error) is kind
    for expected in ("t-3", "One record was bad", "record 1 of the batch: no key", "2 records"):
        assert expected in str(error)
    if isinstance(error, BrokerError):
        assert error.code == code


def test_an_expired_batch_says_what_went_wrong_last() -> None:
    batch = batch_of(b"a")
    batch.attempts, batch.last_error, batch.fate_known = 3, ProduceError("NOT_ENOUGH_REPLICAS"), False
    error = expired_error(batch, 120_000, "127.0.0.1:1: refused")
    for expected in (
        "t-3",
        "120000 ms",
        "3 attempts",
        "NOT_ENOUGH_REPLICAS",
        "may have been stored",
        "127.0.0.1:1: refused",
    ):
        assert expected in str(error)
    assert error.__cause__ is batch.last_error
