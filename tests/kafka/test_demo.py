"""The demo against servers that are there: a real Kafka, a real PostgreSQL, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from tools.postgres import RealPostgres

from tests.demo.test_demo import balance
from tests.support.kafka import RealKafka

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 110


@pytest.mark.kafka
@pytest.mark.postgres
def test_on_servers_that_are_there(kafka: RealKafka, postgres: RealPostgres) -> None:
    before = set(kafka.admin.list_topics(timeout=30).topics)
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--seconds", "3", "--rate", "5000"],
        capture_output=True, text=True, cwd=ROOT, timeout=TIMEOUT_S, check=False,
        env={**os.environ, "KAFKA": kafka.bootstrap_servers, "POSTGRES": postgres.dsn},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    produced, stored, committed = balance(done.stdout)
    assert produced == stored == committed > 5000
    assert set(kafka.admin.list_topics(timeout=30).topics) - before <= {"__consumer_offsets"}
    with psycopg.connect(postgres.dsn) as database:
        rows = database.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'penstock_demo%'"
        ).fetchall()
    assert rows == []
