"""What many partitions cost one consumer, and what many consumers cost one process."""

from __future__ import annotations

import time

from benchmarks.groups.stage import Host, Stage, group_settings, new_group

TRICKLE_PER_SECOND = 1_000
REST_S = 2.0


def of_partitions(stage: Stage, client: str, topic: str, partitions: int) -> dict[str, float]:
    """One consumer, all partitions of a topic by assign(), each of which has a record: the time until all have brought it, what it
    takes to wait, what it takes when few records come over all of them, and its memory."""
    settings = {"auto.offset.reset": "earliest", "enable.auto.commit": "false"}
    host = stage.host(client, topic, settings, by_hand=partitions, expected=partitions)
    stage.ready()
    bare_bytes, _ = host.status()
    host.tell("go")
    stage.wait(lambda: bool(host.said("seen")), 120, f"{host.name} to read {partitions} partitions")
    seen_ms = (host.said("seen")[0].at_ns - host.said("opening")[0].at_ns) / 1e6
    opened_cpu_s = host.cpu_s()
    idle = _idle_cpu(host, stage.quick)
    count = TRICKLE_PER_SECOND * (2 if stage.quick else 5)
    target = _count(stage, host) + count
    begin_cpu_s, begin_s = host.cpu_s(), time.monotonic()
    with stage.feeding(topic, partitions, TRICKLE_PER_SECOND, count):
        deadline_s = time.monotonic() + 60
        while _count(stage, host) < target and time.monotonic() < deadline_s:
            time.sleep(0.2)
        trickle_s = host.cpu_s() - begin_cpu_s
        seconds = time.monotonic() - begin_s
    rss_bytes, threads = host.status()
    return {
        "seen_ms": seen_ms,
        "start_cpu_ms": opened_cpu_s * 1000,
        "idle_cpu_ms_per_s": idle,
        "cpu_us_per_record": trickle_s / count * 1e6,
        "trickle_s": seconds,
        "rss_bytes": rss_bytes,
        "added_bytes": rss_bytes - bare_bytes,
        "threads": threads,
    }


def of_consumers(stage: Stage, client: str, variant: str, consumers: int) -> dict[str, float]:
    """So many consumers in one process, a thread and a group of its own for each, on a topic of one partition with one record."""
    with stage.topic(1, one_each=True) as topic:
        settings = group_settings(client, variant)
        host = stage.host(
            client,
            topic,
            settings,
            group=new_group(),
            own_groups=True,
            consumers=consumers,
            expected=consumers,
        )
        stage.ready()
        bare_bytes, bare_threads = host.status()
        begin_cpu_s = host.cpu_s()
        host.tell("go")
        stage.wait(lambda: bool(host.said("seen")), 120, f"{consumers} consumers of {client} to read")
        begin_ns = min(event.at_ns for event in host.said("opening"))
        assigned_ns = max(event.at_ns for event in host.said("assigned"))
        start_cpu_s = host.cpu_s() - begin_cpu_s
        idle = _idle_cpu(host, stage.quick)
        rss_bytes, threads = host.status()
        return {
            "assigned_ms": (assigned_ns - begin_ns) / 1e6,
            "seen_ms": (host.said("seen")[0].at_ns - begin_ns) / 1e6,
            "start_cpu_ms": start_cpu_s * 1000,
            "idle_cpu_ms_per_s": idle,
            "threads": threads - bare_threads - consumers,
            "rss_bytes": rss_bytes,
            "added_bytes": rss_bytes - bare_bytes,
        }


def _idle_cpu(host: Host, quick: bool) -> float:
    """Processor ms per second while nothing comes."""
    time.sleep(REST_S / 2 if quick else REST_S)
    begin_cpu_s, begin_s = host.cpu_s(), time.monotonic()
    time.sleep(2.0 if quick else 6.0)
    return (host.cpu_s() - begin_cpu_s) / (time.monotonic() - begin_s) * 1000


def _count(stage: Stage, host: Host) -> int:
    before = len(host.said("count"))
    host.tell("count")
    stage.wait(lambda: len(host.said("count")) > before, 10, f"{host.name} to count")
    return int(host.said("count")[-1].rest[0])
