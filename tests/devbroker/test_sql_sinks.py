"""SqliteSink and DatabaseSink by SQLAlchemy and by drivers alone: one contract, on SQLite and on a real PostgreSQL and MariaDB."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import signal
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import psycopg
import pymysql
import pytest
import sqlalchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import DatabaseSink, DevBroker, KafkaProducer, SqliteSink, TopicPartition
from penstock.errors import ConfigError, FencedError, SchemaError, SinkError
from tests.support.processors import child, ended
from tests.support.sinks import TIMESTAMP_MS, Letters, cut_everywhere, records_of

from .test_processor import Running, committed, processor_of, until

TP = TopicPartition("t", 0)
OF_SQLITE = ("sqlite", "sqlite by its driver", "sqlite without savepoints", "sqlite by sqlalchemy")
OF_POSTGRES = ("postgres by its driver", "postgres by sqlalchemy")
OF_MARIADB = ("mariadb by its driver", "mariadb by sqlalchemy")
WAYS = [
    *OF_SQLITE,
    *(pytest.param(way, marks=pytest.mark.postgres) for way in OF_POSTGRES),
    *(pytest.param(way, marks=pytest.mark.mariadb) for way in OF_MARIADB),
]


class Place:
    """A database, and one way to it. `dsn`: as libpq and SQLAlchemy have it."""

    def __init__(self, way: str, path: Path, dsn: str = "") -> None:
        self.way, self.path, self.dsn = way, path, dsn
        self.group = f"g-{uuid.uuid4().hex[:8]}"
        self._sinks: list[Any] = []

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def sink(self, *args: Any, owns: int = 1, group: str | None = None, dsn: str = "", **options: Any) -> Any:
        """Opened, and the owner of the first `owns` partitions of topic t."""
        sink = self.made(*args, dsn=dsn, **options)
        sink.open(group or self.group)
        sink.assigned([TopicPartition("t", number) for number in range(owns)])
        return sink

    def made(self, table: str = "t", *args: Any, dsn: str = "", **options: Any) -> Any:
        self._sinks.append(self._made(table, *args, dsn=dsn or self.dsn, **options))
        return self._sinks[-1]

    def _made(self, table: str, *args: Any, dsn: str, **options: Any) -> Any:
        match self.way:
            case "sqlite":
                return SqliteSink(self.path, table, *args, **options)
            case "sqlite by sqlalchemy":
                return DatabaseSink(f"sqlite:///{self.path}", table, *args, **options)
            case "postgres by its driver":
                return DatabaseSink(
                    lambda: psycopg.connect(dsn), table, *args, paramstyle="pyformat", **options
                )
            case "postgres by sqlalchemy":
                return DatabaseSink(
                    dsn.replace("postgresql:", "postgresql+psycopg:"), table, *args, **options
                )
            case "mariadb by its driver":
                return DatabaseSink(
                    lambda: mariadb_connection(dsn), table, *args, paramstyle="pyformat", quote="`", **options
                )
            case "mariadb by sqlalchemy":
                return DatabaseSink(dsn, table, *args, **options)
        savepoints = self.way != "sqlite without savepoints"
        connect: Callable[[], Any] = lambda: sqlite3.connect(self.path, check_same_thread=False)  # noqa: E731
        return DatabaseSink(connect, table, *args, paramstyle="qmark", savepoints=savepoints, **options)

    def run(self, script: str) -> list[Any]:
        if self.way in OF_POSTGRES:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                cursor = connection.execute(script.encode())
                return cursor.fetchall() if cursor.description else []
        if self.way in OF_MARIADB:
            with mariadb_connection(self.dsn, autocommit=True) as maria, maria.cursor() as asking:
                asking.execute("SET sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')")
                asking.execute(script)
                return list(asking.fetchall())
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=30)) as lite:
            if ";" in script:
                lite.executescript(script)
                return []
            return lite.execute(script).fetchall()


def mariadb_connection(dsn: str, **options: Any) -> Any:
    url = sqlalchemy.make_url(dsn)
    return pymysql.connect(
        host=url.host, port=url.port or 0, user=url.username, database=url.database, **options
    )


def place_of(request: pytest.FixtureRequest, way: str, path: Path) -> Place:
    """A database of its own, of the server that this way leads to."""
    server = "postgres" if way in OF_POSTGRES else "mariadb" if way in OF_MARIADB else None
    dsn = ""
    if server is not None:
        dsn = request.getfixturevalue(server).create_database(f"db_{uuid.uuid4().hex}")
    place = Place(way, path / "db", dsn)
    request.addfinalizer(place.close)
    return place


@pytest.fixture(params=OF_SQLITE)
def lite(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request, request.param, tmp_path)


@pytest.fixture(params=WAYS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request, request.param, tmp_path)


# ---------------------------------------------------------------- rows


def test_rows_and_offsets(place: Place) -> None:
    place.run("CREATE TABLE t (id integer, name text, total numeric(10, 2), kafka_offset bigint)")
    sink = place.sink(owns=2)
    sink.write(records_of([b'{"id": %d, "name": "n%d", "total": 1.25}' % (n, n) for n in range(5)]))
    sink.write(records_of([b'{"id": 7}'], partition=1, offset=40))
    sink.close()
    rows = place.run("SELECT id, name, total, kafka_offset FROM t ORDER BY id")
    assert rows == [*((n, f"n{n}", Decimal("1.25"), n) for n in range(5)), (7, None, None, 40)]
    offsets = place.run(
        'SELECT group_id, topic, "partition", next_offset, epoch FROM penstock_offsets ORDER BY "partition"'
    )
    assert offsets == [(place.group, "t", 0, 5, 1), (place.group, "t", 1, 41, 1)]


def test_every_part_of_a_record(place: Place) -> None:
    place.run(
        "CREATE TABLE t (k text, v text, topic text, part int, off bigint, at bigint, headers text, f text, g text)"
    )
    columns = {"k": "key", "v": "value", "topic": "topic", "part": "partition", "off": "offset", "at": "timestamp",
               "headers": "headers", "f": lambda record: record.raw_value.decode()[:3], "g": "value.a.b"}  # fmt: skip
    sink = place.sink("t", columns)
    sink.write(records_of([(b"k", b'{"a": {"b": [1, true]}}', [("h", b"x")])]))
    assert place.run("SELECT * FROM t") == [
        ("k", '{"a": {"b": [1, true]}}', "t", 0, 0, TIMESTAMP_MS, '[["h", "x"]]', '{"a', "[1, true]")
    ]


def test_sqlite_types(lite: Place) -> None:
    lite.run("CREATE TABLE t (i INTEGER, r REAL, b BLOB, s TEXT, x, at DATETIME, f BOOLEAN, j JSON)")
    columns = {"i": "value.i", "r": "value.r", "b": "value", "s": "value.s", "x": "value.x", "at": "timestamp", "f": "value.f",
               "j": "value.j"}  # fmt: skip
    if "driver" in lite.way or "savepoints" in lite.way:
        columns |= {"b": lambda r: r.raw_value, "at": lambda r: "2023-11-14 22:13:20.123"}
    value = '{"i": 5, "r": 2.5, "s": "tab\\t\\u0000é", "x": 1.0, "f": true, "j": {"a": [1]}}'
    sink = lite.sink("t", columns)
    sink.write(records_of([value.encode()]))
    assert lite.run("SELECT * FROM t") == [
        (5, 2.5, value.encode(), "tab\t\0é", 1.0, "2023-11-14 22:13:20.123", 1, '{"a": [1]}')
    ]


@pytest.mark.postgres
def test_types_of_postgres_by_sqlalchemy(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place = place_of(request, "postgres by sqlalchemy", tmp_path)
    place.run(
        "CREATE TABLE t (i int, n numeric, d double precision, b bool, s text, c varchar(5), j jsonb, raw bytea, at timestamptz, "
        "naive timestamp, day date, u uuid, tags text[], made int GENERATED ALWAYS AS IDENTITY, sum int GENERATED ALWAYS AS (i) STORED)"
    )
    value = {"i": 5, "n": 0.1, "d": 1e10, "b": True, "s": 5, "c": "é", "j": {"a": None}, "raw": "x", "at": "2024-02-29T12:00:00+02:00",
             "naive": "2024-02-29T12:00:00Z", "day": "2024-02-29", "u": str(uuid.UUID(int=5)), "tags": ["a", "b"]}  # fmt: skip
    sink = place.sink()
    sink.write(records_of([json.dumps(value).encode(), b"{}"]))
    rows = place.run("SELECT * FROM t ORDER BY i")
    assert rows[0] == (
        5, Decimal("0.1"), 1e10, True, "5", "é", {"a": None}, b"x", datetime(2024, 2, 29, 10, tzinfo=UTC), datetime(2024, 2, 29, 12),
        date(2024, 2, 29), uuid.UUID(int=5), ["a", "b"], 1, 5,
    )  # fmt: skip
    assert rows[1] == (*[None] * 13, 2, None)


# ---------------------------------------------------------------- merging


def test_merging_by_a_key_of_two_columns(place: Place) -> None:
    place.run("CREATE TABLE t (a int, b int, v text, other text DEFAULT 'kept', PRIMARY KEY (a, b))")
    columns = {"a": lambda r: int(r.raw_key[:1]), "b": lambda r: int(r.raw_key[1:]), "v": "value"}
    sink = place.sink("t", columns, mode="upsert", key=["a", "b"])
    sink.write(records_of([(b"11", b"1"), (b"12", b"1"), (b"11", b"2"), (b"21", None)]))
    sink.write(
        records_of(
            [(b"12", None), (b"11", b"3"), (b"22", b"1"), (b"22", None), (b"31", None), (b"31", b"1")],
            offset=4,
        )
    )
    assert sorted(place.run("SELECT * FROM t")) == [(1, 1, "3", "kept"), (3, 1, "1", "kept")]


def test_a_row_that_is_stored_again_as_it_was(place: Place) -> None:
    """Some databases count only rows that become different: it is there all the same, and is not to be inserted."""
    place.run("CREATE TABLE t (k varchar(9) PRIMARY KEY, v text)")
    sink, letters = place.sink("t", {"k": "key", "v": "value"}, mode="upsert", key=["k"]), Letters()
    sink.dead_letter = letters
    for offset in (0, 2):
        sink.write(records_of([(b"x", b"1"), (b"y", b"2")], offset=offset))
    assert not letters and sorted(place.run("SELECT * FROM t")) == [("x", "1"), ("y", "2")]


@pytest.mark.mariadb
@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE t (k varchar(9) PRIMARY KEY, v varchar(9) UNIQUE)",
        "CREATE TABLE t (k text, v text, PRIMARY KEY (k(1)))",
    ],
    ids=["another index", "an index of a prefix"],
)
def test_only_the_row_with_the_key_is_changed(
    request: pytest.FixtureRequest, tmp_path: Path, ddl: str
) -> None:
    """ON DUPLICATE KEY UPDATE takes any row that stands in the way."""
    place = place_of(request, "mariadb by sqlalchemy", tmp_path)
    place.run(ddl)
    sink, letters = place.sink("t", {"k": "key", "v": "value"}, mode="upsert", key=["k"]), Letters()
    sink.dead_letter = letters
    sink.write(records_of([(b"aa", b"1")]))
    sink.write(records_of([(b"ab" if "text" in ddl else b"b", b"1")], offset=1))
    sink.write(records_of([(b"aa", b"2")], offset=2))
    assert place.run("SELECT * FROM t") == [("aa", "2")]
    assert [offset for _, offset, _ in letters] == [1]


@pytest.mark.mariadb
def test_types_of_mariadb_by_sqlalchemy(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place = place_of(request, "mariadb by sqlalchemy", tmp_path)
    place.run(
        "CREATE TABLE t (i int, n decimal(9, 2), d double, b boolean, s text, j json, raw blob, at datetime(3), day date, "
        "made int PRIMARY KEY AUTO_INCREMENT, twice int GENERATED ALWAYS AS (i * 2) STORED)"
    )
    value = {"i": 5, "n": 0.1, "d": 1e10, "b": True, "s": "é\U0001f980", "j": {"a": None}, "raw": "x",
             "at": "2024-02-29T12:00:00.125Z", "day": "2024-02-29"}  # fmt: skip
    sink = place.sink()
    sink.write(records_of([json.dumps(value).encode(), b"{}"]))
    rows = place.run("SELECT * FROM t ORDER BY made")
    assert rows[0] == (
        5, Decimal("0.10"), 1e10, 1, "é\U0001f980", '{"a": null}', b"x", datetime(2024, 2, 29, 12, 0, 0, 125_000),
        date(2024, 2, 29), 1, 10,
    )  # fmt: skip
    assert rows[1] == (*[None] * 9, 2, None)


def test_a_table_of_keys_alone(place: Place) -> None:
    place.run("CREATE TABLE t (a varchar(9) PRIMARY KEY)")
    sink = place.sink("t", {"a": "key"}, mode="upsert", key=["a"])
    sink.write(records_of([(b"x", b""), (b"y", b""), (b"x", b"")]))
    sink.write(records_of([(b"x", b""), (b"y", None)], offset=3))
    assert place.run("SELECT * FROM t") == [("x",)]


def test_two_keys_here_may_be_one_to_the_database(place: Place) -> None:
    """'1' and '01' in a column of numbers."""
    place.run("CREATE TABLE t (a int PRIMARY KEY, v text)")
    sink = place.sink("t", {"a": "key", "v": "value"}, mode="upsert", key=["a"])
    sink.write(records_of([(b"1", b"a"), (b"01", b"b"), (b"2", b"a"), (b"02", None)]))
    assert place.run("SELECT * FROM t") == [(1, "b")]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 99)), min_size=1, max_size=8),
        max_size=4,
    )
)
def test_merging_is_what_a_dict_would_hold(lite: Place, batches: list[list[tuple[int, int | None]]]) -> None:
    lite.run(
        "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS penstock_offsets; CREATE TABLE t (k int PRIMARY KEY, v int);"
    )
    model: dict[int, int] = {}
    sink = lite.sink("t", {"k": "key", "v": "value"}, mode="upsert", key=["k"])
    offset = 0
    for batch in batches:
        sink.write(
            records_of([(b"%d" % k, None if v is None else b"%d" % v) for k, v in batch], offset=offset)
        )
        offset += len(batch)
        for key, value in batch:
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
    sink.close()
    assert sorted(lite.run("SELECT * FROM t")) == sorted(model.items())


@pytest.mark.postgres
def test_merging_row_by_row_knows_the_types_too(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any
) -> None:
    """As in databases of SQLAlchemy without ON CONFLICT."""
    monkeypatch.setattr("penstock.sinks.alchemy._MERGES", {})
    place = place_of(request, "postgres by sqlalchemy", tmp_path)
    place.run("CREATE TABLE t (id uuid PRIMARY KEY, doc jsonb, tags text[], at timestamptz)")
    columns = {"id": "key", "doc": "value.doc", "tags": "value.tags", "at": "timestamp"}
    keys = [str(uuid.UUID(int=n)).encode() for n in range(3)]
    sink = place.sink("t", columns, mode="upsert")
    sink.write(records_of([(key, b'{"doc": {"v": 1}, "tags": ["a"]}') for key in keys]))
    sink.write(records_of([(keys[0], b'{"doc": {"v": 2}, "tags": []}'), (keys[1], None)], offset=3))
    at = datetime.fromtimestamp(TIMESTAMP_MS / 1000, UTC)
    assert place.run("SELECT * FROM t ORDER BY id") == [
        (uuid.UUID(int=0), {"v": 2}, [], at),
        (uuid.UUID(int=2), {"v": 1}, ["a"], at),
    ]


# ---------------------------------------------------------------- what does not fit, what is refused


@pytest.mark.parametrize(
    ("ddl", "options", "words"),
    [
        ("", {}, r"no table t .*CREATE TABLE t"),
        ("CREATE TABLE t (a int)", {"columns": {"b": "value"}}, r"no column 'b'.*has 'a'.*ADD COLUMN b"),
        ("CREATE TABLE t (a int, b int NOT NULL)", {"columns": {"a": "offset"}}, r"'b' is NOT NULL.*DROP NOT NULL"),
        ("CREATE TABLE t (a int)", {"mode": "upsert"}, r"primary key or a unique index.*CREATE UNIQUE INDEX"),
        ("CREATE TABLE t (a int PRIMARY KEY, b int)", {"mode": "upsert", "key": ["b"]}, r"CREATE UNIQUE INDEX ON t \(b\)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "way",
    [
        "sqlite",
        "sqlite by sqlalchemy",
        pytest.param("postgres by sqlalchemy", marks=pytest.mark.postgres),
        pytest.param("mariadb by sqlalchemy", marks=pytest.mark.mariadb),
    ],
)
def test_a_table_that_does_not_fit_is_told_at_the_start(
    way: str, request: pytest.FixtureRequest, tmp_path: Path, ddl: str, options: dict[str, Any], words: str
) -> None:
    place = place_of(request, way, tmp_path)
    if ddl:
        place.run(ddl)
    with pytest.raises(SchemaError, match=words):
        place.made("t", **options).open("g")


def test_unique_indexes_of_sqlite(tmp_path: Path) -> None:
    for way in ("sqlite", "sqlite by sqlalchemy"):
        place = Place(way, tmp_path / way.replace(" ", ""), "")
        place.run(
            "CREATE TABLE t (a int, b int, c int UNIQUE); CREATE UNIQUE INDEX i ON t (a, b); CREATE UNIQUE INDEX p ON t (a) WHERE b > 1;"
        )
        for key in (["b", "a"], ["c"]):
            place.made("t", mode="upsert", key=key).open("g")
        with pytest.raises(SchemaError, match="unique index"):
            place.made("t", mode="upsert", key=["a"]).open("g")


def test_what_a_driver_alone_cannot_tell_has_to_be_given(tmp_path: Path) -> None:
    place = Place("sqlite by its driver", tmp_path / "db", "")
    with pytest.raises(SchemaError, match="no such table"):
        place.made().open("g")
    place.run("CREATE TABLE t (a int PRIMARY KEY)")
    with pytest.raises(ConfigError, match=r"needs key="):
        place.made("t", mode="upsert").open("g")
    with pytest.raises(ConfigError, match="paramstyle"):
        DatabaseSink(lambda: None, "t")
    autocommit = DatabaseSink(
        lambda: sqlite3.connect(place.path, isolation_level=None), "t", paramstyle="qmark"
    )
    with pytest.raises(ConfigError, match="turn autocommit off"):
        autocommit.open("g")
    assert place.run("SELECT * FROM penstock_offsets") == []


@pytest.mark.parametrize("mode", ["insert", "upsert"])
def test_each_bad_row_is_found_and_all_others_are_stored(place: Place, mode: str) -> None:
    place.run("CREATE TABLE t (n int PRIMARY KEY, v varchar(8) CHECK (v <> 'no'))")
    bad = {
        3: b'{"n": null}',
        50: b'{"n": 50, "v": "no"}',
        51: b'{"n": 51, "v": "no"}',
        70: b"no json",
        99: b"\xff",
    }
    if mode == "insert":
        bad[60] = b'{"n": 59}'
    else:
        bad[60] = b'{"n": 60, "v": "no"}'
    sink, letters = place.sink("t", {"n": "value.n", "v": "value.v"}, mode=mode, key=["n"]), Letters()
    sink.dead_letter = letters
    if place.way in OF_SQLITE and mode == "insert":
        bad.pop(3)  # NULL is no key to merge by, but SQLite takes it otherwise
    sink.write(records_of([bad.get(n, b'{"n": %d}' % n) for n in range(100)]))
    assert sorted(offset for _, offset, _ in letters) == sorted(bad)
    assert [n for (n,) in place.run("SELECT n FROM t ORDER BY n")] == [n for n in range(100) if n not in bad]
    assert sink.bad_rows == len(bad) and sink.rows == 100 - len(bad)
    assert place.run("SELECT next_offset FROM penstock_offsets") == [(100,)]


@pytest.mark.mariadb
@pytest.mark.parametrize("way", OF_MARIADB)
def test_a_trigger_refuses_a_row(request: pytest.FixtureRequest, tmp_path: Path, way: str) -> None:
    """SIGNAL is an OperationalError to the driver, as a lost connection is; its SQLSTATE tells."""
    place = place_of(request, way, tmp_path)
    place.run("CREATE TABLE t (n int)")
    place.run(
        "CREATE TRIGGER no_sevens BEFORE INSERT ON t FOR EACH ROW "
        "IF NEW.n = 7 THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no sevens'; END IF"
    )
    sink, letters = place.sink(), Letters()
    sink.dead_letter = letters
    sink.write(records_of([b'{"n": %d}' % n for n in range(10)]))
    assert [offset for _, offset, _ in letters] == [7]
    assert sorted(place.run("SELECT n FROM t")) == [(n,) for n in range(10) if n != 7]


def test_values_that_do_not_fit_a_driver_are_bad_rows(lite: Place) -> None:
    lite.run("CREATE TABLE t (n, x)")
    columns = {
        "n": "value.n",
        "x": lambda r: object() if r.offset == 2 else "\ud800" if r.offset == 4 else {"a": 1},
    }
    sink, letters = lite.sink("t", columns), Letters()
    sink.dead_letter = letters
    sink.write(records_of([b'{"n": %d}' % n for n in (1, 2**70, 3, 4, 5)]))
    assert [offset for _, offset, _ in letters] == [1, 2, 4]
    assert lite.run("SELECT * FROM t") == [(1, '{"a": 1}'), (4, '{"a": 1}')]


def test_without_dead_letters_it_stops_right_before_the_bad_row(place: Place) -> None:
    place.run("CREATE TABLE t (n int PRIMARY KEY)")
    sink = place.sink()
    with pytest.raises(SinkError, match=r"(?s)t-0 offset 2 is refused by t: .*Nothing from it on") as caught:
        sink.write(records_of([b'{"n": %d}' % n for n in (0, 1, 1, 3)]))
    assert not caught.value.retriable
    assert sorted(place.run("SELECT n FROM t")) == [(0,), (1,)]
    assert place.run("SELECT next_offset FROM penstock_offsets") == [(2,)]


# ---------------------------------------------------------------- whose turn it is


def test_an_owner_that_is_over_stores_nothing(place: Place) -> None:
    place.run("CREATE TABLE t (n int)")
    old = place.sink(owns=2)
    old.write(records_of([b'{"n": 0}']))
    new = place.sink(owns=0)
    assert new.assigned([TP]) == {TP: 1}
    with pytest.raises(FencedError, match=r"t-0: another owner of group 'g-"):
        old.write(records_of([b'{"n": 1}'], offset=1))
    old.write(records_of([b'{"n": 100}'], partition=1))
    new.write(records_of([b'{"n": 0}', b'{"n": 1}']))
    old.revoked([TP])
    with pytest.raises(FencedError):
        old.write(records_of([b'{"n": 2}'], offset=2))
    assert sorted(place.run("SELECT n FROM t")) == [(0,), (1,), (100,)]


def test_many_that_take_over_at_once_get_an_epoch_each(place: Place) -> None:
    """The first insert of a row is a race."""
    place.run("CREATE TABLE t (n int)")
    sinks, errors = [place.made() for _ in range(4)], []
    start = threading.Barrier(len(sinks))

    def take(sink: Any) -> None:
        try:
            sink.open(place.group)
            start.wait(30)
            sink.assigned([TopicPartition("t", number) for number in range(3)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=take, args=(sink,)) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert place.run("SELECT epoch FROM penstock_offsets") == [(4,)] * 3
    stored = 0
    for sink in sinks:
        with contextlib.suppress(FencedError):
            sink.write(records_of([b'{"n": 1}']))
            stored += 1
        sink.close()
    assert stored == 1 and place.run("SELECT n FROM t") == [(1,)]


# ---------------------------------------------------------------- connections that are lost


@pytest.mark.parametrize("way", [way for way in WAYS if way not in OF_SQLITE])
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_connection_cut_at_any_message_costs_and_doubles_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, way: str, how: Literal["before", "after"]
) -> None:
    """Every message of a write, COMMIT among them, is lost, or its answer is."""
    place = place_of(request, way, tmp_path)
    place.run("CREATE TABLE t (n int)")
    server_port = sqlalchemy.make_url(place.dsn).port
    assert server_port is not None
    cut_everywhere(
        server_port,
        how,
        lambda port: place.sink(dsn=place.dsn.replace(str(server_port), str(port))),
        lambda: [n for (n,) in place.run("SELECT n FROM t ORDER BY n")],
    )


def test_a_file_that_is_locked_is_waited_for(lite: Place) -> None:
    lite.run("CREATE TABLE t (n int)")
    sink = lite.sink()
    other = sqlite3.connect(lite.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("ROLLBACK")).start()
    sink.write(records_of([b'{"n": 1}']))
    assert lite.run("SELECT * FROM t") == [(1,)]
    other.close()


def test_a_server_that_stays_away_is_retriable_and_a_stranger_to_secrets(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    sink = DatabaseSink("postgresql+psycopg://ada:geh%20eim@127.0.0.1:1/db", "t", retry_for_s=0.1)
    with pytest.raises(SinkError, match=r"postgresql did not answer for 0.1 s") as caught:
        sink.open("g")
    assert caught.value.retriable
    assert "geh" not in f"{caplog.text}{caught.value}{caught.value.__cause__}{sink!r}"


def test_a_url_that_cannot_be_read_is_not_shown() -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        DatabaseSink("postgresql//ada:geheim@host", "t")
    assert "geheim" not in f"{caught.value}{caught.value.__cause__}" and caught.value.__suppress_context__
    with pytest.raises(ConfigError, match="not installed"):
        DatabaseSink("mysql+mysqldb://ada:geheim@host/db", "t")


def test_an_engine_of_the_user_is_not_disposed_of(tmp_path: Path) -> None:
    place = Place("sqlite by sqlalchemy", tmp_path / "db", "")
    place.run("CREATE TABLE t (n int)")
    engine = sqlalchemy.create_engine(f"sqlite:///{place.path}")
    sink = DatabaseSink(engine, "t")
    sink.open("g")
    sink.assigned([TP])
    sink.write(records_of([b'{"n": 1}']))
    sink.close()
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT n FROM t")).all() == [(1,)]
    engine.dispose()


# ---------------------------------------------------------------- in processors that die


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


def send(producer: KafkaProducer, topic: str, first: int, count: int) -> int:
    for number in range(first, first + count):
        producer.send(topic, b"%d" % number, partition=number % 3)
    producer.flush()
    return count


def test_kill_9_at_any_moment_leaves_each_record_as_one_row(broker: DevBroker, tmp_path: Path) -> None:
    """Two processes of a group store into one file; again and again one of them is killed."""
    place, topic, chance = Place("sqlite", tmp_path / "db", ""), f"t-{uuid.uuid4().hex[:8]}", random.Random(9)
    place.run("CREATE TABLE copies (place INT, kafka_offset INT, body INT)")
    place.run("PRAGMA journal_mode=WAL")
    broker.create_topic(topic, partitions=3)
    arguments = ("store-sqlite", broker.bootstrap_servers, place.group, topic, str(place.path))
    produced = 0

    def rows() -> int:
        return int(place.run("SELECT count(*) FROM copies")[0][0])

    with (
        KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer,
        contextlib.ExitStack() as stack,
    ):
        steady = stack.enter_context(child(*arguments))
        for _ in range(10):
            other: subprocess.Popen[bytes] = stack.enter_context(child(*arguments))
            before = rows()
            produced += send(producer, topic, produced, 900)
            until(lambda: rows() > before, "any row")  # noqa: B023
            time.sleep(chance.random() * 0.2)
            doomed, steady = (other, steady) if chance.random() < 0.7 else (steady, other)
            ended(doomed, signal.SIGKILL)
        ended(steady, signal.SIGKILL)
        last = stack.enter_context(child(*arguments))
        produced += send(producer, topic, produced, 300)
        until(lambda: rows() >= produced, "all rows")
        until(lambda: sum(committed(broker, place.group, topic).values()) == produced, "all committed")
        errors = ended(last, signal.SIGTERM)
        assert last.returncode == 0, errors
    assert place.run("SELECT body FROM copies ORDER BY body") == [(n,) for n in range(produced)]
    assert sum(row[0] for row in place.run("SELECT next_offset FROM penstock_offsets")) == produced


class Unlucky(SqliteSink):
    """Its first writes of later batches find the database away."""

    fails = 3

    def write(self, records: Any) -> None:
        if self.fails and records[0].offset >= 10:
            self.fails -= 1
            raise SinkError("away", retriable=True)
        super().write(records)


def test_a_batch_that_is_to_be_tried_again_is_not_overtaken(broker: DevBroker, tmp_path: Path) -> None:
    """Or the offsets would pass it, and it would count as stored."""
    place, topic = Place("sqlite", tmp_path / "db", ""), f"t-{uuid.uuid4().hex[:8]}"
    place.run("CREATE TABLE t (n int)")
    broker.create_topic(topic, partitions=1)
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(50):
            producer.send(topic, b'{"n": %d}' % number)
    processor = processor_of(broker, place.group)
    processor.sink(topic, sink=Unlucky(place.path, "t"), batch=10)
    with Running(processor) as running:
        until(lambda: committed(broker, place.group, topic, 1) == {0: 50}, "all committed")
    assert running.error is None
    assert sorted(place.run("SELECT n FROM t")) == [(n,) for n in range(50)]


def test_a_processor_stops_although_its_dead_letters_find_no_place(tmp_path: Path, caplog: Any) -> None:
    place, topic = Place("sqlite", tmp_path / "db", ""), f"t-{uuid.uuid4().hex[:8]}"
    place.run("CREATE TABLE t (n int CHECK (n <> 1))")
    with DevBroker(group_initial_rebalance_delay_ms=0, auto_create_topics_enable=False) as away:
        away.create_topic(topic, partitions=1)
        with KafkaProducer(bootstrap_servers=away.bootstrap_servers) as producer:
            for number in range(3):
                producer.send(topic, b'{"n": %d}' % number)
        processor = processor_of(away, place.group, drain_timeout="100ms", **{"max.block.ms": 200})
        sink = place.made()
        processor.sink(topic, sink=sink, dead_letter="nowhere")
        with Running(processor) as running:
            until(lambda: "cannot be put into nowhere" in caplog.text, "an attempt")
        assert running.error is None
    assert place.run("SELECT n FROM t") == []
    assert sink.bad_rows == 0


def test_a_processor_with_sqlalchemy(broker: DevBroker, tmp_path: Path) -> None:
    place, topic = Place("sqlite by sqlalchemy", tmp_path / "db", ""), f"t-{uuid.uuid4().hex[:8]}"
    place.run("CREATE TABLE t (n int)")
    broker.create_topic(topic, partitions=2)
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number in range(500):
            producer.send(topic, b'{"n": %d}' % number)
    processor = processor_of(broker, place.group)
    processor.sink(topic, sink=place.made())
    with Running(processor) as running:
        until(lambda: sum(committed(broker, place.group, topic, 2).values()) == 500, "all committed")
    assert running.error is None
    assert sorted(place.run("SELECT n FROM t")) == [(n,) for n in range(500)]
