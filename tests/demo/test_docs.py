"""The pages say what is so: every block of Python in them runs, against an embedded broker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import DevBroker, KafkaProducer

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if "Generated from" not in page.read_text()),
]
RECORDS = 30
LOOPS = 3


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker() as broker:
        broker.create_topic("my-topic", partitions=3)
        with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
            for number in range(RECORDS):
                producer.send("my-topic", f'{{"n": {number}}}', partition=number % 3)
        yield broker


@pytest.mark.parametrize(
    ("page", "number"),
    [
        pytest.param(page, number, id=f"{page.stem}-{number}")
        for page in PAGES
        for number in range(len(blocks(page)))
    ],
)
def test_a_block_runs(page: Path, number: int, broker: DevBroker) -> None:
    source = blocks(page)[number].replace("localhost:9092", broker.bootstrap_servers)
    endless = re.compile(r"^(\s*)while True:", re.MULTILINE)
    if "psycopg" in source:
        compile(source, str(page), "exec")  # the demo's own tests run it
        return
    exec(
        compile(endless.sub(rf"\1for _ in range({LOOPS}):", source), f"{page.name}, block {number}", "exec"),
        {},
    )


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_there_are_blocks() -> None:
    assert sum(len(blocks(page)) for page in PAGES) >= 10
