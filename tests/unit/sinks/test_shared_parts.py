"""What sinks share: the search for bad rows, what a driver's error means, values in their forms."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st

from penstock.sinks.columns import given_columns
from penstock.sinks.faults import fault_of
from penstock.sinks.refusals import search
from penstock.sinks.sql_session import DbApiSession
from penstock.sinks.values import RowMaker, converted
from tests.support.sinks import TIMESTAMP_MS, records_of


@given(st.integers(1, 60).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1)))))
def test_the_search_finds_what_is_refused_and_keeps_the_rest_in_order(given_: tuple[int, set[int]]) -> None:
    size, refused = given_
    kept: list[int] = []
    attempts = 0

    def attempt(part: Sequence[int]) -> BaseException | None:
        nonlocal attempts
        attempts += 1
        if refused.intersection(part):
            return ValueError(str(part))
        kept.extend(part)
        return None

    found = search(range(size), attempt)
    assert {index for index, _ in found} == refused
    assert kept == [n for n in range(size) if n not in refused]
    assert attempts <= 1 + 2 * len(refused) * size.bit_length()


def test_of_two_that_exclude_each_other_the_later_is_refused() -> None:
    kept: set[int] = set()

    def attempt(part: Sequence[int]) -> BaseException | None:
        values = [index % 5 for index in part]
        if len(set(values)) < len(values) or kept.intersection(values):
            return ValueError()
        kept.update(values)
        return None

    assert sorted(index for index, _ in search(range(8), attempt)) == [5, 6, 7]


def of_sqlite(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("…")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (psycopg.errors.UniqueViolation(), "refused"),
        (psycopg.errors.ProgramLimitExceeded(), "refused"),
        (psycopg.errors.RaiseException(), "refused"),
        (psycopg.errors.InvalidTextRepresentation(), "refused"),
        (psycopg.ProgrammingError("cannot adapt type 'object' using placeholder '%t'"), "refused"),
        (psycopg.errors.IdleInTransactionSessionTimeout(), "lost"),
        (psycopg.errors.AdminShutdown(), "lost"),
        (psycopg.errors.DeadlockDetected(), "lost"),
        (psycopg.errors.SerializationFailure(), "lost"),
        (psycopg.errors.DiskFull(), "lost"),
        (psycopg.OperationalError("server closed the connection unexpectedly"), "lost"),
        (psycopg.errors.InsufficientPrivilege(), "wrong"),
        (psycopg.errors.UndefinedTable(), "wrong"),
        (of_sqlite(sqlite3.SQLITE_BUSY), "lost"),
        (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), "lost"),
        (of_sqlite(sqlite3.SQLITE_FULL), "lost"),
        (of_sqlite(sqlite3.SQLITE_CONSTRAINT_TRIGGER), "refused"),
        (of_sqlite(sqlite3.SQLITE_CANTOPEN), "wrong"),
        (of_sqlite(sqlite3.SQLITE_ERROR), "wrong"),
        (sqlite3.ProgrammingError("Error binding parameter 1: type 'object' is not supported"), "refused"),
        (pymysql.OperationalError(3819, "Check constraint 'c' is violated."), "refused"),
        (pymysql.OperationalError(1205, "Lock wait timeout exceeded"), "lost"),
        (pymysql.OperationalError(2013, "Lost connection to MySQL server during query"), "lost"),
        (sqlalchemy.exc.IntegrityError("INSERT", {}, psycopg.errors.UniqueViolation()), "refused"),
        (sqlalchemy.exc.OperationalError("INSERT", {}, psycopg.errors.ProgramLimitExceeded()), "refused"),
        (sqlalchemy.exc.StatementError("no date", "INSERT", {}, TypeError()), "refused"),
        (sqlalchemy.exc.InternalError("x", {}, psycopg.InternalError(), connection_invalidated=True), "lost"),
        (ConnectionRefusedError(), "lost"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "refused"),
        (OverflowError(), "refused"),
        (KeyError(), "foreign"),
        (KeyboardInterrupt(), "foreign"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_what_an_error_means(error: BaseException, fault: str) -> None:
    assert fault_of(error) == fault


@pytest.mark.parametrize(
    ("style", "expected", "used"),
    [
        ("qmark", 'UPDATE "a:b%" SET x = ?, y = ? WHERE x = ?', ["one", "two", "one"]),
        ("format", 'UPDATE "a:b%%" SET x = %s, y = %s WHERE x = %s', ["one", "two", "one"]),
        ("numeric", 'UPDATE "a:b%" SET x = :1, y = :2 WHERE x = :3', ["one", "two", "one"]),
        ("named", 'UPDATE "a:b%" SET x = :one, y = :two WHERE x = :one', ["one", "two", "one"]),
        ("pyformat", 'UPDATE "a:b%%" SET x = %(one)s, y = %(two)s WHERE x = %(one)s', ["one", "two", "one"]),
    ],
)
def test_styles_of_parameters(style: str, expected: str, used: list[str]) -> None:
    session = DbApiSession(None, paramstyle=style)
    assert session._prepared('UPDATE "a:b%" SET x = :one, y = :two WHERE x = :one') == (expected, used)
    assert session.quote('a"b') == '"a""b"'
    assert session.quoted("s.t") == '"s"."t"'


MOMENT = datetime(2024, 2, 29, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [("5", "int", 5), (2**80, "int", 2**80), ("1.5", "float", 1.5), ("1.10", "decimal", Decimal("1.10")), (True, "text", "true"),
     ("yes", "bool", True), (0, "bool", False), ("x", "bytes", b"x"), ({"a": 1}, "text", '{"a": 1}'), ([1], "any", "[1]"),
     ([True, "a"], "list", ["true", "a"]), ("2024-02-29T12:00:00+02:00", "time", MOMENT), ("2024-02-29", "date", date(2024, 2, 29)),
     ("2024-02-29T12:00:00+02:00", "naive", MOMENT.replace(tzinfo=None)), (None, "int", None)],
)  # fmt: skip
def test_forms(value: Any, form: str, expected: Any) -> None:
    found = converted(value, form)
    assert (found, type(found)) == ((expected, type(expected)) if form != "time" else (expected, datetime))


@pytest.mark.parametrize(
    ("value", "form"),
    [("x", "int"), (1.5, "int"), ({}, "int"), ("x", "decimal"), (True, "float"), ("maybe", "bool"), ("x", "time"), (5, "time"),
     ("a", "list"), ([], "date")],
)  # fmt: skip
def test_what_has_not_that_form_is_refused(value: Any, form: str) -> None:
    with pytest.raises(ValueError):
        converted(value, form)


def test_numbers_of_json_lose_nothing() -> None:
    columns = given_columns({"n": "value.n", "deep": "value.d"}) or []
    (record,) = records_of([b'{"n": 0.12345678901234567890123, "d": {"x": 1.5}}'])
    assert RowMaker(columns, {"n": "decimal", "deep": "text"}, ()).row(record) == [
        Decimal("0.12345678901234567890123"),
        '{"x": 1.5}',
    ]


def test_a_tombstone_has_its_key_alone_where_rows_are_merged() -> None:
    columns = given_columns({"k": "key", "v": lambda record: record.raw_value.decode(), "o": "offset"}) or []
    forms = {"k": "text", "v": "text", "o": "int"}
    (gone,) = records_of([(b"k", None)])
    assert RowMaker(columns, forms, ("k",), ("k",)).row(gone) == ["k", None, None]
    with pytest.raises(ValueError, match="'k': nothing"):
        RowMaker(columns, forms, ("k",), ("k",)).row(records_of([(None, None)])[0])
    (full,) = records_of([(b"k", b"v")])
    assert RowMaker(columns, forms, ()).row(full) == ["k", "v", 0]


def test_a_time_before_1970_or_none() -> None:
    columns = given_columns({"at": "timestamp"}) or []
    (record,) = records_of([(None, b"")])
    assert record.timestamp == TIMESTAMP_MS
    for form, expected in [
        ("clock", "2023-11-14 22:13:20.123"),
        ("int", TIMESTAMP_MS),
        ("date", date(2023, 11, 14)),
    ]:
        assert RowMaker(columns, {"at": form}, ()).row(record) == [expected]
    (without,) = records_of([(None, b"", None, -1)])
    assert RowMaker(columns, {"at": "time"}, ()).row(without) == [None]
