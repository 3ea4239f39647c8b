"""The table of measurements, and the page that is made of it."""

from __future__ import annotations

from collections import Counter

from tools.generate_metrics_reference import PAGE, page

from penstock.metrics import METRICS, ConsumerMetrics, Scope


def test_no_measurement_stands_there_twice() -> None:
    assert [name for name, n in Counter((m.name, m.group, m.scope) for m in METRICS).items() if n > 1] == []


def test_every_row_says_what_it_is() -> None:
    for metric in METRICS:
        assert metric.description[0].isupper() and metric.description.rstrip(")").endswith("."), metric.name
        assert metric.group.startswith("consumer"), metric.name


def test_every_client_wide_row_has_a_value() -> None:
    names = ConsumerMetrics("me").snapshot(0, {}, {}, 0)
    assert {(n.name, n.group) for n in names} == {
        (m.name, m.group) for m in METRICS if m.scope is Scope.CLIENT
    }
    assert {n.tags for n in names} == {(("client-id", "me"),)}


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: make docs"


def test_every_measurement_is_on_it() -> None:
    text = page()
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in text] == []
