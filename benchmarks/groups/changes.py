"""Changes of membership: a member dies, leaves, or joins; a first member comes into a fresh group."""

from __future__ import annotations

import statistics
import time

from benchmarks.groups.stage import HEARTBEAT_INTERVAL_MS, Host, Stage, StageError, group_settings, new_group

PAIRS = 4
TAKEOVER_PARTITIONS = 12
TAKEOVER_PER_SECOND = 600
REBALANCE_PER_SECOND = 1_200
PARTITIONS = {2: 12, 10: 60, 50: 120}
PER_PROCESS = {2: 1, 10: 1, 50: 5}
"""Members share a process, a thread each, where there are too many for two cores."""
SETTLED_INTERVALS = 1
LATER_S = 1.0
MARGIN_NS = 20_000_000


def takeover(stage: Stage, client: str, variant: str, how: str, shift: float) -> dict[str, float]:
    """One of two members is killed (`how` is "kill") or closes: ms until its partitions bring records at the other one.

    `PAIRS` groups of one topic at a time (half of them in a quick run), each meeting its fate at another phase of the heartbeats; the
    mean of them. `shift`, from 0 to 1, tells the phases of one round from those of another.
    """
    settings = group_settings(client, variant)
    with stage.topic(TAKEOVER_PARTITIONS) as topic:
        pairs = []
        for _ in range(PAIRS // 2 if stage.quick else PAIRS):
            group = new_group()
            pairs.append([stage.host(client, topic, settings, group=group) for _ in range(2)])
        stage.ready()
        with stage.feeding(topic, TAKEOVER_PARTITIONS, TAKEOVER_PER_SECOND):
            for host in stage.hosts:
                host.tell("go")
            for pair in pairs:
                _wait_balanced(stage, pair, TAKEOVER_PARTITIONS)
            taken = []
            settled_s = time.monotonic()
            for number, (goes, stays) in enumerate(pairs):
                _wait_phase(settled_s, (number + shift) / len(pairs))
                partitions = set(goes.owned[0])
                begin_ns = goes.kill() if how == "kill" else time.monotonic_ns()
                if how == "close":
                    goes.tell("close")
                taken.append((goes, stays, partitions, begin_ns))
            delays_ms = [_taken_over(stage, *one) for one in taken]
    return {
        "first_ms": statistics.mean(min(found) for found in delays_ms),
        "all_ms": statistics.mean(max(found) for found in delays_ms),
        "longest_ms": max(max(found) for found in delays_ms),
    }


def _wait_phase(settled_s: float, phase: float) -> None:
    """Wait until this share of a heartbeat interval has passed, after some intervals: all clients begin to heartbeat when the
    group has settled, so a change meets all of them at the same phase."""
    time.sleep(
        max(0.0, settled_s + (SETTLED_INTERVALS + phase) * HEARTBEAT_INTERVAL_MS / 1000 - time.monotonic())
    )


def _taken_over(stage: Stage, goes: Host, stays: Host, partitions: set[int], begin_ns: int) -> list[float]:
    """When each of the partitions that went brought a record at who stays, in ms after the other one went."""

    def firsts() -> dict[int, int]:
        found = stays.said("first", begin_ns)
        return {int(event.rest[0]): event.at_ns for event in found if int(event.rest[0]) in partitions}

    stage.wait(lambda: len(firsts()) == len(partitions), 60, f"{stays.name} to take over")
    closing = goes.said("closing")
    since_ns = closing[0].at_ns if closing else begin_ns
    return [(at_ns - since_ns) / 1e6 for at_ns in firsts().values()]


def rebalance(stage: Stage, client: str, variant: str, members: int, phase: float) -> dict[str, float]:
    """A member joins a group of `members`. ms from its first poll() until every partition flows at its final owner, and how
    long the partitions that stay where they are stand still meanwhile. `phase` of the heartbeats, from 0 to 1."""
    settings = group_settings(client, variant)
    partitions, each = PARTITIONS[members], PER_PROCESS[members]
    with stage.topic(partitions) as topic:
        group = new_group()
        old = [
            stage.host(client, topic, settings, group=group, consumers=each) for _ in range(members // each)
        ]
        joins = stage.host(client, topic, settings, group=group)
        stage.ready()
        with stage.feeding(topic, partitions, REBALANCE_PER_SECOND):
            for host in old:
                host.tell("go")
            _wait_balanced(stage, old, partitions)
            _wait_phase(time.monotonic(), phase)
            before = _owners(old)
            for host in old:
                host.tell("mark")
            joins.tell("go")
            _wait_balanced(stage, [*old, joins], partitions)
            time.sleep(LATER_S)
            after = _owners([*old, joins])
            for host in stage.hosts:
                host.tell("close")
            stage.wait(lambda: all(host.said("bye") for host in stage.hosts), 60, "the members to close")
    return _read_rebalance(stage.hosts, joins, before, after)


def _read_rebalance(
    hosts: list[Host], joins: Host, before: dict[int, tuple[Host, int]], after: dict[int, tuple[Host, int]]
) -> dict[str, float]:
    begin_ns = joins.said("polling")[0].at_ns
    closing_ns = min(event.at_ns for host in hosts for event in host.said("closing"))
    firsts = [
        event
        for host in hosts
        for event in host.said("first", begin_ns)
        if event.at_ns < closing_ns and after[int(event.rest[0])] == (host, event.number)
    ]
    stayed = {partition: owner for partition, owner in after.items() if before[partition] == owner}
    # What stands still while nobody's partitions change is the machine's doing, not the rebalance's.
    changes_ns = [
        event.at_ns
        for host in hosts
        for what in ("assigned", "revoked")
        for event in host.said(what, begin_ns)
        if event.at_ns < closing_ns
    ]
    longest_ms = dict.fromkeys(stayed, 0.0)
    for host in hosts:
        for event in host.said("gap"):
            partition, gap_ns, ended_ns = map(int, event.rest)
            if stayed.get(partition) == (host, event.number) and _overlap(
                ended_ns - gap_ns, ended_ns, changes_ns
            ):
                longest_ms[partition] = max(longest_ms[partition], gap_ns / 1e6)
    if not firsts or not stayed:
        raise StageError("nothing moved, or nothing stayed")
    return {
        "settled_ms": (max(event.at_ns for event in firsts) - begin_ns) / 1e6,
        "standstill_ms": statistics.median(longest_ms.values()),
        "longest_standstill_ms": max(longest_ms.values()),
        "moved": float(len(after) - len(stayed)),
    }


def _overlap(begin_ns: int, end_ns: int, changes_ns: list[int]) -> bool:
    return any(begin_ns - MARGIN_NS <= at_ns <= end_ns + MARGIN_NS for at_ns in changes_ns)


def join(stage: Stage, client: str, variant: str) -> dict[str, float]:
    """The first member of a fresh group: ms from its constructor to the first assignment and to the first record.

    `cold`: the first consumer of a process that has imported all and done nothing yet; `warm`: the median of those after it.
    """
    settings = group_settings(client, variant)
    count = 4 if stage.quick else 8
    found = []
    with stage.topic(1, one_each=True) as topic:
        host = stage.host(client, topic, settings, group=new_group(), own_groups=True, consumers=count)
        stage.ready()
        for number in range(count):
            host.tell("next")
            stage.wait(lambda: len(host.said("first")) > number, 60, f"{host.name} to read")  # noqa: B023
            times_ns = {event.what: event.at_ns for event in host.events if event.number == number}
            found.append([(times_ns[what] - times_ns["opening"]) / 1e6 for what in ("assigned", "first")])
    assigned_ms, first_ms = zip(*found[1:], strict=True)
    return {
        "cold_assigned_ms": found[0][0],
        "cold_first_ms": found[0][1],
        "assigned_ms": statistics.median(assigned_ms),
        "first_ms": statistics.median(first_ms),
    }


# ---------------------------------------------------------------- who owns what
def _owners(hosts: list[Host]) -> dict[int, tuple[Host, int]]:
    return {
        partition: (host, number)
        for host in hosts
        for number, owned in host.owned.items()
        for partition in owned
    }


def _wait_balanced(stage: Stage, hosts: list[Host], partitions: int) -> None:
    """Until each partition has one owner, no member owns two more than another, and all partitions bring records."""

    def balanced() -> bool:
        sizes = [len(host.owned[number]) for host in hosts for number in range(host.consumers)]
        if sum(sizes) != partitions or len(_owners(hosts)) != partitions or max(sizes) - min(sizes) > 1:
            return False
        return not any(pending for host in hosts for pending in host.pending.values())

    stage.wait(balanced, 90, "the group to settle")
