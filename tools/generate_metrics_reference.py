"""Writes docs/metrics.md from the table of measurements: python tools/generate_metrics_reference.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.metrics import METRICS, Metric, Scope
from penstock.metrics.push import telemetry_name

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
_HEAD = """\
# Measurements

<!-- Generated from src/penstock/metrics by tools/generate_metrics_reference.py: edit there. -->

What a consumer measures of itself, under the names, groups and tags of Java's client, so that what watches a Java consumer watches
this one. Each value has a name, a group and tags; all have the tag `client-id`, and some say of which broker (`node-id`, such as
`node-1`), `topic` or `partition` they are.

Means, extremes and rates are over the last `metrics.num.samples` windows of `metrics.sample.window.ms` (2 of 30 s); totals are since
the consumer was made. A value that nothing was recorded for is NaN. Topics keep their dots in tags (KIP-1109).

Where brokers ask for it (KIP-714), the same values are pushed to them as OpenTelemetry metrics, under the names in the last column:
totals as sums, the rest as gauges. `enable.metrics.push=False` turns that off. For brokers to ask, the cluster needs a plugin that
receives them (`metric.reporters`) and a subscription:

```console
$ kafka-client-metrics.sh --bootstrap-server localhost:9092 --alter --name consumers \\
    --metrics org.apache.kafka.consumer. --interval 60000
```

The fetch loops count sums: an extreme of theirs is the greatest mean of a second, or the greatest single one since the start when it
has just come.

Rows marked * are penstock's own, without a counterpart in Java. What Java measures of its own threads (`io-time-ns-avg`,
`select-rate` and their kin) has none here.
"""
_GROUPS = {
    "consumer-metrics": "The consumer and its connections",
    "consumer-node-metrics": "Each broker",
    "consumer-coordinator-metrics": "The group",
    "consumer-fetch-manager-metrics": "Fetching",
}
_OF = {
    Scope.CLIENT: "",
    Scope.NODE: "Tag: `node-id`.",
    Scope.TOPIC: "Of each topic read. Tag: `topic`.",
    Scope.PARTITION: "Of each partition assigned. Tags: `topic`, `partition`.",
}


def page() -> str:
    """The whole page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    for group, title in _GROUPS.items():
        yield f"## {title}: `{group}`\n"
        for scope in Scope:
            rows = [metric for metric in METRICS if metric.group == group and metric.scope is scope]
            if rows:
                yield from _table(rows, _OF[scope])


def _table(rows: list[Metric], of: str) -> Iterator[str]:
    if of:
        yield f"{of}\n"
    yield "| name | unit | meaning | pushed as |"
    yield "| --- | --- | --- | --- |"
    for metric in rows:
        pushed = telemetry_name(metric.named("", *metric.scope.value))
        own = " *" if metric.own else ""
        yield f"| `{metric.name}`{own} | {metric.unit.value} | {metric.description} | `{pushed}` |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
