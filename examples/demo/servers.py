"""The servers that the demo uses: embedded ones of its own, or the user's, where it leaves nothing behind."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from penstock import Admin
from penstock.admin import NewTopic

from .children import Family

TOPIC = "my-topic"
GROUP = "my-group"
PARTITIONS = 3
BROKER_START_S = 30.0

CREATE_TABLE = """
    CREATE TABLE orders (
        topic text, partition int, "offset" bigint, key text, value jsonb,
        PRIMARY KEY (topic, partition, "offset")
    )
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the orders go through."""

    bootstrap_servers: str
    topic: str
    group: str


@contextlib.contextmanager
def kafka(family: Family, address: str | None, *, keep: bool) -> Iterator[Place]:
    """The topic, in the broker at `address` or in an embedded one. On the user's, names that are taken are left alone,
    and what was made is deleted at the end unless `keep`."""
    if address is None:
        with family.start("broker", "penstock", "broker", "--port", "0") as broker:
            place = Place(broker.line(BROKER_START_S), TOPIC, GROUP)
            with Admin(bootstrap_servers=place.bootstrap_servers) as admin:
                admin.create_topics([NewTopic(TOPIC, PARTITIONS)])
            yield place
        return
    with Admin(bootstrap_servers=address) as admin:
        stamp = _stamp()
        topic = f"{TOPIC}-{stamp}" if TOPIC in admin.describe_topics() else TOPIC
        taken = {listing.group_id for listing in admin.list_groups()}
        group = f"{GROUP}-{stamp}" if GROUP in taken else GROUP
        admin.create_topics([NewTopic(topic, PARTITIONS)])
        try:
            yield Place(address, topic, group)
        finally:
            if not keep:
                admin.delete_topics([topic])
                if group in {listing.group_id for listing in admin.list_groups()}:
                    admin.delete_groups([group])


@contextlib.contextmanager
def postgres(dsn: str | None, *, keep: bool) -> Iterator[str]:
    """A dsn whose table `orders` is there and empty: of an own server, or in a schema of its own of the user's database,
    which is dropped at the end unless `keep`."""
    if dsn is None:
        from tools.postgres import RealPostgres

        server = RealPostgres()
        try:
            server.start()
            with psycopg.connect(server.dsn, autocommit=True) as database:
                database.execute(CREATE_TABLE)
            yield server.dsn
        finally:
            server.stop()
        return
    schema = f"penstock_demo_{_stamp()}"
    name = sql.Identifier(schema)
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(sql.SQL("CREATE SCHEMA {}").format(name))
    try:
        inside = psycopg.conninfo.make_conninfo(dsn, options=f"-c search_path={schema}")
        with psycopg.connect(inside, autocommit=True) as database:
            database.execute(CREATE_TABLE)
        yield inside
    finally:
        if not keep:
            with psycopg.connect(dsn, autocommit=True) as database:
                database.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(name))


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%d_%H%M%S_%f")[:-3]
