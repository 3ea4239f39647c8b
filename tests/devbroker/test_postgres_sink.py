"""PostgresSink against a real PostgreSQL: what becomes a row and how, what is refused, who is fenced, what a lost connection costs."""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import PostgresSink, TopicPartition
from penstock.errors import ConfigError, FencedError, SchemaError, SinkError
from tests.support.sinks import TIMESTAMP_MS, Database, Letters, cut_everywhere, records_of

if TYPE_CHECKING:
    from tools.postgres import RealPostgres

pytestmark = pytest.mark.postgres

TP = TopicPartition("t", 0)


@pytest.fixture
def database(postgres: RealPostgres) -> Database:
    return Database(postgres.create_database(f"db_{uuid.uuid4().hex}"))


# ---------------------------------------------------------------- what becomes a row


@dataclass
class Order:
    id: int
    total: float
    place: int = field(default=0, metadata={"source": "partition"})


ORDER = b'{"id": 7, "total": 12.50, "customer": {"name": "Ada"}}'


@pytest.mark.parametrize(
    ("ddl", "columns", "expected"),
    [
        ("id int, name text", {"id": "value.id", "name": "value.customer.name"}, (7, "Ada")),
        ("id int, total numeric, place int", Order, (7, Decimal("12.50"), 0)),
        ("id bigint, total numeric, customer jsonb", None, (7, Decimal("12.50"), {"name": "Ada"})),
        ("topic text, partition int, offset_ int", {"topic": "topic", "partition": "partition", "offset_": "offset"}, ("t", 0, 0)),
        ("id int, kafka_offset bigint, kafka_topic text", None, (7, 0, "t")),
        ('"offset" bigint, value text', None, (0, ORDER.decode())),
        ("n int, total numeric", {"n": lambda record: len(record.raw_value), "total": "value.total"}, (54, Decimal("12.50"))),
    ],
    ids=["mapping", "dataclass", "schema", "parts", "kafka_", "names of parts", "function"],
)  # fmt: skip
def test_columns(database: Database, ddl: str, columns: Any, expected: tuple[Any, ...]) -> None:
    database.run(f"CREATE TABLE t ({ddl})")
    assert database.stored(ORDER, columns=columns) == [expected]


TYPES = {
    "a": ("int", -5, -5),
    "b": ("bigint", 2**62, 2**62),
    "c": ("numeric(40, 20)", 12345678901234567.12, Decimal("12345678901234567.12")),
    "d": ("double precision", 1e-300, 1e-300),
    "e": ("bool", True, True),
    "f": (
        "text",
        "tab\there\nline\r\\N \\. back\\slash \u2713",
        "tab\there\nline\r\\N \\. back\\slash \u2713",
    ),
    "g": ("jsonb", {"x": [1, None, "\\n"]}, {"x": [1, None, "\\n"]}),
    "h": ("json", "text", "text"),
    "i": ("bytea", "\\x41", b"\\x41"),
    "j": ("timestamptz", "2024-02-29T12:00:00+02:00", datetime(2024, 2, 29, 10, tzinfo=UTC)),
    "k": ("uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")),
    "l": ("text", None, None),
    "n": ("text", 1.5, "1.5"),
    "o": ("text", {"a": 1}, '{"a": 1}'),
}


@pytest.mark.parametrize("way", ["encoder", "python"])
def test_types(database: Database, way: str) -> None:
    """Rows that are encoded natively, and those made in Python since a column has a function, are the same."""
    of = TYPES
    database.run(
        f"CREATE TABLE t ({', '.join(f'{name} {kind}' for name, (kind, _, _) in of.items())}, z int, w timestamp, v date)"
    )
    columns: dict[str, Any] = {name: f"value.{name}" for name in of} | {
        "z": "offset",
        "w": "timestamp",
        "v": "timestamp",
    }
    if way == "python":
        columns["z"] = lambda record: record.offset
    value = json.dumps({name: given for name, (_, given, _) in of.items()}).replace(
        "1.2345678901234568e+16", "12345678901234567.12"
    )
    (row,) = database.stored(value.encode(), columns=columns)
    moment = datetime.fromtimestamp(TIMESTAMP_MS / 1000, UTC).replace(tzinfo=None)
    assert row == (*(expected for _, _, expected in of.values()), 0, moment, moment.date())


@pytest.mark.parametrize("way", ["encoder", "python"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.binary(max_size=20),
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=50),
)
def test_whatever_bytes_and_texts_there_are_come_back(
    database: Database, way: str, key: bytes, text: str
) -> None:
    database.run("DROP TABLE IF EXISTS t; CREATE TABLE t (key bytea, value text, field text)")
    field_: Any = "value.f" if way == "encoder" else lambda record: json.loads(record.raw_value)["f"]
    value = json.dumps({"f": text})
    rows = database.stored(
        (key, value.encode()),
        columns={"key": "key", "value": "value", "field": field_},
        offsets_table=f"o_{uuid.uuid4().hex}",
    )
    assert rows == [(key, value, text)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON, min_size=1, max_size=8))
def test_both_ways_make_the_same_rows_of_any_json(database: Database, values: list[Any]) -> None:
    """Natively, and in Python where a column has a function."""
    database.run(
        "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS penstock_offsets; CREATE TABLE t (n int, doc jsonb, body text)"
    )
    batch = records_of([json.dumps({"f": value}, ensure_ascii=False).encode() for value in values])
    for group, n in (("encoder", "offset"), ("python", lambda record: record.offset)):
        sink = database.sink("t", {"n": n, "doc": "value.f", "body": "value.f"}, group=group)
        sink.write(batch)
        sink.close()
    rows = database.run(
        "SELECT n, count(*), count(DISTINCT doc), count(DISTINCT body), min(doc::text) FROM t GROUP BY n ORDER BY n"
    )
    some = [int(value is not None) for value in values]
    assert [row[:4] for row in rows] == [(n, 2, there, there) for n, there in enumerate(some)]
    assert [exactly(row[4] or "null") for row in rows] == [exactly(json.dumps(value)) for value in values]


def exactly(text: str) -> Any:
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


def test_arrays_of_json_are_arrays_of_the_table(database: Database) -> None:
    database.run("CREATE TABLE t (tags text[], sizes int[])")
    assert database.stored(b'{"tags": ["a", "b,\\"c"], "sizes": [1, 2]}') == [(["a", 'b,"c'], [1, 2])]


def test_a_function_may_give_json_arrays_and_nothing(database: Database) -> None:
    database.run("CREATE TABLE t (doc jsonb, list int[], nothing text)")
    columns = {"doc": lambda r: {"n": [1]}, "list": lambda r: [1, 2], "nothing": lambda r: None}
    assert database.stored(b"x", columns=columns) == [({"n": [1]}, [1, 2], None)]


def test_a_record_without_a_value_is_inserted_with_what_it_has(database: Database) -> None:
    database.run("CREATE TABLE t (k text, o int, f int)")
    columns = {"k": "key", "o": lambda record: record.offset, "f": "value.f"}
    assert database.stored((b"k", None), columns=columns) == [("k", 0, None)]


def test_headers_and_very_long_values(database: Database) -> None:
    database.run("CREATE TABLE t (headers jsonb, value text)")
    long = "é" * 3_000_000
    given = (None, long.encode(), [("a", b"1"), ("a", None), ("b", b"\xff")])
    assert database.stored(given) == [([["a", "1"], ["a", None], ["b", "\ufffd"]], long)]


# ---------------------------------------------------------------- merging


def changed(database: Database, *batches: Any, **options: Any) -> list[Any]:
    sink = database.sink("t", options.pop("columns", None), mode="upsert", **options)
    offset = 0
    for batch in batches:
        sink.write(records_of(batch, offset=offset))
        offset += len(batch)
    sink.close()
    return sorted(database.run("TABLE t"))


@pytest.mark.parametrize("way", ["encoder", "python"])
def test_the_last_of_a_key_wins_and_no_value_deletes(database: Database, way: str) -> None:
    database.run("CREATE TABLE t (k text PRIMARY KEY, v text NOT NULL, other text DEFAULT 'kept')")
    columns: Any = {
        "k": "key",
        "v": "value" if way == "encoder" else lambda record: record.raw_value.decode(),
    }
    rows = changed(
        database,
        [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"c", None)],
        [(b"b", None), (b"a", b"3"), (b"d", b"1"), (b"d", None), (b"e", None), (b"e", b"1")],
        columns=columns,
    )
    assert rows == [("a", "3", "kept"), ("e", "1", "kept")]


def test_keys_of_several_columns_and_of_a_unique_index(database: Database) -> None:
    database.run(
        "CREATE TABLE t (a int, b int, v int, PRIMARY KEY (a, b)); CREATE TABLE u (a int, b int, v int UNIQUE)"
    )
    made = [b'{"a": %d, "b": %d, "v": %d}' % (n % 2, n % 3, n) for n in range(12)]
    assert changed(database, made) == sorted((n % 2, n % 3, n) for n in range(6, 12))
    sink = database.sink("u", mode="upsert", key=["v"], group="other")
    sink.write(records_of([b'{"a": 1, "b": 1, "v": 1}', b'{"a": 2, "b": 2, "v": 1}']))
    assert database.run("TABLE u") == [(2, 2, 1)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 99)), min_size=1, max_size=8),
        max_size=4,
    )
)
def test_merging_is_what_a_dict_would_hold(
    database: Database, batches: list[list[tuple[int, int | None]]]
) -> None:
    database.run(
        "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS penstock_offsets; CREATE TABLE t (k int PRIMARY KEY, v int)"
    )
    model: dict[int, int] = {}
    for key, value in (pair for batch in batches for pair in batch):
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value
    encoded = [[(b"%d" % k, None if v is None else b"%d" % v) for k, v in batch] for batch in batches]
    assert changed(database, *encoded, columns={"k": "key", "v": "value"}) == sorted(model.items())


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("ddl", "options", "words"),
    [
        ("", {}, r"no table t .*CREATE TABLE t"),
        ("CREATE TABLE t (a int)", {"columns": {"b": "value"}}, r"no column 'b'.*has 'a'.*ADD COLUMN b"),
        ("CREATE TABLE t (a int, b int NOT NULL)", {"columns": {"a": "offset"}}, r"'b' is NOT NULL.*DROP NOT NULL"),
        ("CREATE TABLE t (a int)", {"mode": "upsert"}, r"primary key or a unique index.*CREATE UNIQUE INDEX"),
        ("CREATE TABLE t (a int PRIMARY KEY, b int)", {"mode": "upsert", "key": ["b"]}, r"CREATE UNIQUE INDEX ON t \(b\)"),
        ("CREATE TABLE t (a int PRIMARY KEY DEFAULT 1, b int)", {"mode": "upsert", "columns": {"b": "offset"}}, r"'a', which is the key"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_told_at_the_start(
    database: Database, ddl: str, options: dict[str, Any], words: str
) -> None:
    if ddl:
        database.run(ddl)
    with pytest.raises(SchemaError, match=words):
        PostgresSink(database.dsn, "t", **options).open("g")


def test_columns_that_fill_themselves_are_left_alone(database: Database) -> None:
    database.run(
        "CREATE TABLE t (n serial PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY, double int GENERATED ALWAYS AS (a * 2) STORED, "
        "a int, at timestamptz NOT NULL DEFAULT now())"
    )
    columns = {"a": "value.a"}
    assert [row[:4] for row in database.stored(b'{"a": 4}', columns=columns)] == [(1, 1, 8, 4)]


# ---------------------------------------------------------------- rows that are refused


CHECKED = "CREATE TABLE t (n int PRIMARY KEY, v varchar(8) CHECK (v <> 'no'), d date)"


def test_each_bad_row_is_found_and_all_others_are_stored(database: Database) -> None:
    """A type, a length, a check, a key that is there twice, a date, no JSON, no UTF-8: each in its place among two hundred."""
    database.run(CHECKED)
    values = [b'{"n": %d, "v": "x"}' % n for n in range(200)]
    bad = {3: b'{"n": "x"}', 50: b'{"n": 50, "v": "far too long"}', 51: b'{"n": 51, "v": "no"}', 99: b'{"n": 98}',
           120: b'{"n": 120, "d": "2023-02-29"}', 150: b"no json", 199: b'{"n": 199, "v": "\xff"}', 7: b"[1]", 8: b'{"n": null}',
           9: b'{"n": 9, "v": "\\u0000"}'}  # fmt: skip
    for index, value in bad.items():
        values[index] = value
    sink, letters = database.sink(), Letters()
    sink.dead_letter = letters
    sink.write(records_of(values))
    assert sorted(offset for _, offset, _ in letters) == sorted(bad)
    assert [n for (n,) in database.run("SELECT n FROM t ORDER BY n")] == [
        n for n in range(200) if n not in bad
    ]
    assert (sink.rows, sink.bad_rows) == (190, 10)
    assert database.run("SELECT next_offset FROM penstock_offsets") == [(200,)]
    assert all(f"t-0 offset {offset}" in why for _, offset, why in letters)


@pytest.mark.parametrize("mode", ["insert", "upsert"])
@pytest.mark.parametrize("way", ["encoder", "python"])
def test_what_a_limit_or_a_trigger_refuses_is_a_bad_row_too(database: Database, mode: str, way: str) -> None:
    """An index entry that is too large, JSON that is too deep, an exception of PL/pgSQL: not one of them is a lost connection."""
    database.run(
        "CREATE TABLE t (n int PRIMARY KEY, doc jsonb, word text); CREATE INDEX ON t (word); "
        "CREATE FUNCTION f() RETURNS trigger AS $$ BEGIN IF NEW.n = 13 THEN RAISE EXCEPTION 'unlucky'; END IF; RETURN NEW; END $$ "
        "LANGUAGE plpgsql; CREATE TRIGGER r BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    columns: Any = {"n": "offset", "doc": "value", "word": "key"}
    if way == "python":
        columns["n"] = lambda record: record.offset
    given: list[Any] = [(b"w", b"[%d]" % n) for n in range(20)]
    given[4] = ("".join(chr(33 + n * n % 90) + uuid.uuid4().hex for n in range(3_000)).encode(), b"[]")
    given[5] = (b"w", b"[" * 100_000 + b"]" * 100_000)
    sink, letters = database.sink("t", columns, mode=mode), Letters()
    sink.dead_letter = letters
    sink.write(records_of(given))
    assert [offset for _, offset, _ in letters] == [4, 5, 13]
    assert database.run("SELECT count(*) FROM t") == [(17,)]


def test_a_deferred_constraint_is_found_as_well(database: Database) -> None:
    database.run("CREATE TABLE t (n int, UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)")
    sink, letters = database.sink(), Letters()
    sink.dead_letter = letters
    sink.write(records_of([b'{"n": %d}' % n for n in (1, 2, 2, 3)]))
    assert [offset for _, offset, _ in letters] == [2]


def test_a_function_that_fails_and_a_value_without_a_form(database: Database) -> None:
    database.run("CREATE TABLE t (n int, x text)")
    columns = {
        "n": lambda r: 10 // int(r.raw_value),
        "x": lambda r: object() if r.raw_value == b"5" else "\ud800" * (r.raw_value == b"2"),
    }
    sink, letters = database.sink("t", columns), Letters()
    sink.dead_letter = letters
    sink.write(records_of([b"1", b"0", b"5", b"2", b"10", b"x"]))
    assert [offset for _, offset, _ in letters] == [1, 5, 2, 3]
    assert database.run("SELECT n FROM t ORDER BY n") == [(1,), (10,)]


def test_without_dead_letters_it_stops_right_before_the_bad_row(database: Database) -> None:
    database.run(CHECKED)
    sink = database.sink()
    batch = records_of([b'{"n": %d}' % n for n in (0, 1, 1, 3)])
    for _ in range(2):
        with pytest.raises(
            SinkError, match=r"(?s)t-0 offset 2 is refused by t: duplicate key.*Nothing from it on"
        ) as caught:
            sink.write(batch)
        assert not caught.value.retriable
    assert database.run("SELECT n FROM t") == [(0,), (1,)]
    assert database.run("SELECT next_offset FROM penstock_offsets") == [(2,)]
    database.run("ALTER TABLE t DROP CONSTRAINT t_pkey")
    sink.write(batch)
    assert database.run("SELECT n FROM t") == [(0,), (1,), (1,), (3,)]


def test_a_batch_that_is_given_again_puts_nothing_away_twice(database: Database) -> None:
    """The dead letter is stored, the database is lost, and the processor gives the same batch again."""
    database.run(CHECKED)
    sink, letters = database.sink(retry_for_s=0), Letters()

    def lose(record: Any, error: BaseException) -> None:
        letters(record, error)
        database.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'penstock%'"
        )

    sink.dead_letter = lose
    batch = records_of([b'{"n": 0}', b'{"n": "x"}', b'{"n": 2}'])
    with pytest.raises(SinkError) as caught:
        sink.write(batch)
    assert caught.value.retriable
    sink.write(batch)
    assert [offset for _, offset, _ in letters] == [1]
    assert database.run("SELECT n FROM t") == [(0,), (2,)]


# ---------------------------------------------------------------- whose turn it is


def test_an_owner_that_is_over_stores_nothing(database: Database) -> None:
    database.run("CREATE TABLE t (n int)")
    old = database.sink(owns=2)
    old.write(records_of([b'{"n": 0}']))
    new = database.sink(owns=1)
    with pytest.raises(FencedError, match="t-0: another owner of group 'g-") as caught:
        old.write(records_of([b'{"n": 1}'], offset=1))
    assert not caught.value.retriable
    old.write(records_of([b'{"n": 100}'], partition=1))  # that is its own still
    new.write(records_of([b'{"n": 0}', b'{"n": 1}']))
    old.revoked([TP])
    with pytest.raises(FencedError):
        old.write(records_of([b'{"n": 2}'], offset=2))
    assert database.run("SELECT n FROM t ORDER BY n") == [(0,), (1,), (100,)]


def test_an_owner_that_is_over_is_fenced_after_a_lost_connection_too(database: Database) -> None:
    database.run("CREATE TABLE t (n int)")
    old = database.sink()
    database.sink()
    database.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'penstock%'"
    )
    with pytest.raises(FencedError):
        old.write(records_of([b'{"n": 1}']))
    assert database.run("TABLE t") == []


def test_a_transaction_that_stands_still_is_ended(database: Database, monkeypatch: Any) -> None:
    """Its process is stopped, say, and holds the offsets."""
    monkeypatch.setattr("penstock.sinks.postgres_offsets._LOCK_TIMEOUT_MS", 200)
    database.run("CREATE TABLE t (n int)")
    old, batch = database.sink(), records_of([b'{"n": 0}'])
    with old._session.transaction():  # type: ignore[union-attr]
        old._offsets.advance(old._session, batch)  # type: ignore[arg-type]
        database.sink().write(batch)
        with pytest.raises(psycopg.OperationalError):
            old._session.execute("SELECT 1")  # type: ignore[union-attr]
    with pytest.raises(FencedError):
        old.write(batch)
    assert database.run("TABLE t") == [(0,)]


def test_groups_do_not_touch_each_other(database: Database) -> None:
    database.run("CREATE TABLE t (n int)")
    one, other = database.sink(group="one"), database.sink(group="other")
    for sink in (one, other):
        sink.write(records_of([b'{"n": 1}']))
        sink.write(records_of([b'{"n": 1}']))  # again: left out
    assert database.run("TABLE t") == [(1,), (1,)]


def test_what_is_taken_over_goes_on_where_the_table_says(database: Database, caplog: Any) -> None:
    database.run("CREATE TABLE t (n int)")
    first = database.sink()
    assert first.assigned([TP]) == {}
    first.write(records_of([b'{"n": 0}', b'{"n": 1}']))
    second = database.sink(owns=0)
    assert second.assigned([TP, TopicPartition("t", 1)]) == {TP: 2}
    second.write(records_of([b'{"n": 0}', b'{"n": 1}', b'{"n": 2}']))
    assert database.run("TABLE t") == [(0,), (1,), (2,)]
    assert "t-0: records from offset 0 on come, but what lies before 2 is stored" in caplog.text


# ---------------------------------------------------------------- connections that are lost


@pytest.mark.parametrize("mode", ["insert", "upsert"])
@pytest.mark.parametrize("how", ["before", "after"])
def test_a_connection_cut_at_any_message_costs_and_doubles_nothing(
    database: Database, postgres: RealPostgres, mode: str, how: Literal["before", "after"]
) -> None:
    """Every message of a write, COMMIT among them, is lost, or its answer is."""
    database.run(
        "CREATE TABLE t (n int PRIMARY KEY, twice int DEFAULT 1)"
        if mode == "upsert"
        else "CREATE TABLE t (n int)"
    )

    def sink_at(port: int) -> PostgresSink:
        sink = PostgresSink(
            database.dsn.replace(str(postgres.port), str(port)), "t", {"n": "value.n"}, mode=mode
        )
        sink.open(database.group)
        sink.assigned([TP])
        return sink

    cut_everywhere(
        postgres.port, how, sink_at, lambda: [n for (n,) in database.run("SELECT n FROM t ORDER BY n")]
    )


def test_a_server_that_stays_away_is_retriable_and_a_stranger_to_secrets(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    sink = PostgresSink("postgresql://ada:geh%20eim@127.0.0.1:1/db", "t", retry_for_s=0.1)
    with pytest.raises(SinkError, match=r"PostgreSQL did not answer for 0.1 s") as caught:
        sink.open("g")
    assert caught.value.retriable
    assert "geh" not in f"{caplog.text}{caught.value}{caught.value.__cause__}{sink!r}"


@pytest.mark.parametrize(
    "dsn",
    ["postgres:/ada:geheim@host", "postgresql://ada:gehe@im@host/db", "postgresql://ada:ge/heim@host/db", "password='geheim",
     "postgresql://ada:%zzgeheim@host"],
)  # fmt: skip
def test_a_dsn_that_cannot_be_read_is_not_shown(dsn: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        PostgresSink(dsn, "t")
    shown = f"{caught.value}{caught.value.__cause__}"
    assert "heim" not in shown and "im@" not in shown
    assert caught.value.__suppress_context__
