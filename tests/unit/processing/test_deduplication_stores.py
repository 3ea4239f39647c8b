"""Stores in memory and in a file, against a naive model, and what is theirs alone."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings

from penstock import MemoryStore, SqliteStore
from penstock.errors import ConfigError, DeduplicationError
from penstock.processing.deduplication.store import SWEEP_ROWS
from tests.support.stores import IDS, STEPS, Clock, Step, follows_the_model, many


@given(STEPS)
def test_memory_does_as_the_model(steps: list[Step]) -> None:
    clock = Clock()
    follows_the_model(MemoryStore(clock_ms=clock), clock, steps)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_a_file_does_as_the_model(steps: list[Step], tmp_path_factory: pytest.TempPathFactory) -> None:
    clock = Clock()
    store = SqliteStore(tmp_path_factory.mktemp("store") / "done.db", clock_ms=clock)
    try:
        follows_the_model(store, clock, steps)
    finally:
        store.close()


# ---------------------------------------------------------------- memory


def test_memory_that_is_full_forgets_what_ends_first_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    store = MemoryStore(max_entries=10, clock_ms=clock)
    first, second = many(8, of=1), many(8, of=2)
    store.claim(first, "a", 100)
    store.confirm(first, "a", 5_000)
    clock.now_ms += 1
    store.claim(second, "a", 100)
    assert len(store) == 10 and store.forgotten == 6
    assert "6 ids" not in caplog.text and "4 ids were forgotten" in caplog.text
    store.confirm(second, "a", 5_000)
    assert store.claim(second, "b", 100) == ["done"] * 8, "what was claimed has its place"
    assert store.claim(first, "b", 100).count("new") == 6


def test_memory_lets_what_has_expired_go_in_small_steps() -> None:
    clock = Clock()
    store = MemoryStore(max_entries=10_000, clock_ms=clock)
    ids = many(5_000)
    store.claim(ids, "a", 10)
    store.confirm(ids, "a", 10)
    clock.now_ms += 11
    sizes = []
    while len(store) > 1:
        store.claim([IDS[0]], "a", 1_000)
        sizes.append(len(store))
    assert sizes[0] > 4_800 and len(sizes) > 40
    assert store.forgotten == 0


def test_an_id_that_is_claimed_and_released_again_and_again_does_not_grow() -> None:
    store = MemoryStore()
    for _ in range(5_000):
        store.claim(IDS, "a", 1_000_000)
        store.release(IDS, "a")
    assert len(store._claims._ends) < 2_000


# ---------------------------------------------------------------- a file


def test_a_file_is_swept_in_small_steps(tmp_path: Path) -> None:
    clock = Clock()
    store = SqliteStore(tmp_path / "done.db", clock_ms=clock)
    store.claim([], "a", 10)
    ids = many(2 * SWEEP_ROWS + 5)
    store.confirm(ids, "a", 10)
    clock.now_ms += 11
    store.close()
    other = SqliteStore(tmp_path / "done.db", clock_ms=clock)
    left = []
    for _ in range(3):
        other.claim([], "a", 10)
        left.append(rows(other))
    assert left == [SWEEP_ROWS + 5, 5, 0]
    other.close()


def rows(store: SqliteStore) -> int:
    found = store._transact(
        lambda connection: connection.execute("SELECT count(*) FROM penstock_done").fetchone()
    )
    return int(found[0])


def test_a_file_is_for_several_and_outlives_them(tmp_path: Path) -> None:
    path = tmp_path / "done.db"
    one, other = SqliteStore(path), pickle.loads(pickle.dumps(SqliteStore(path)))
    one.open()
    assert one.claim(IDS, "a", 60_000) == ["new"] * 4
    assert other.claim(IDS, "b", 60_000) == ["busy"] * 4
    one.confirm(IDS[:2], "a", 60_000)
    one.close()
    assert other.claim(IDS, "b", 60_000) == ["done", "done", "busy", "busy"]
    assert one.claim(IDS, "a", 60_000) == ["done", "done", "new", "new"], "it opens by itself"
    one.close()
    other.close()


def test_of_several_that_make_a_file_at_once_none_fails(tmp_path: Path) -> None:
    answers: list[str] = []

    def claim(path: Path, owner: str, together: threading.Barrier) -> None:
        store = SqliteStore(path)
        together.wait(30)
        answers.extend(store.claim(IDS[:1], owner, 60_000))
        store.close()

    for turn in range(30):
        together = threading.Barrier(6)
        threads = [
            threading.Thread(target=claim, args=(tmp_path / f"{turn}.db", f"{number}", together))
            for number in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert Counter(answers) == {"new": 30, "busy": 150}


def test_a_file_takes_more_ids_than_a_statement_has_variables(tmp_path: Path) -> None:
    store, ids = SqliteStore(tmp_path / "done.db"), many(3_000)
    assert store.claim(ids, "a", 60_000) == ["new"] * 3_000
    assert store.claim(ids, "b", 60_000) == ["busy"] * 3_000
    assert store.confirm(ids, "a", 60_000) == []
    store.close()


def test_a_file_that_is_none_is_refused_and_one_that_is_locked_is_away(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and long enough to be seen as none" * 10)
    with pytest.raises(DeduplicationError) as refused:
        SqliteStore(tmp_path / "text").open()
    assert not refused.value.retriable
    with pytest.raises(ConfigError, match="no folder"):
        SqliteStore(tmp_path / "none" / "done.db").open()
    with pytest.raises(ConfigError, match="MemoryStore"):
        SqliteStore(":memory:")
    with pytest.raises(ConfigError, match="letters"):
        SqliteStore(tmp_path / "x", table="a b")
    with pytest.raises(ConfigError, match="from 1 on"):
        MemoryStore(max_entries=0)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DeduplicationError) as away:
        SqliteStore(tmp_path / "folder").claim(IDS, "a", 10)
    assert away.value.retriable
