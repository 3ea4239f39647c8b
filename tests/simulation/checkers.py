"""What must hold of a group, looked at after every step and at the end of a run."""

from __future__ import annotations

from penstock.group.states import State
from penstock.types import TopicPartition

from .world import GROUP, Host, World


def no_two_current_owners(world: World) -> None:
    """Two members that the coordinator counts to its present generation never own the same partition.

    A member that was cut off until its session ended may still own what is others' by now (as with Java's client); its
    commits are refused.
    """
    group = world.coordinator.groups.get(GROUP)
    if group is None:
        return
    current = [
        host
        for host in world.hosts
        if host.machine.generation_id == group.generation and host.machine.member_id in group.members
    ]
    disjoint(current, world)


def no_two_owners(world: World) -> None:
    """Without faults nobody is cut off, so no two members at all own the same partition."""
    disjoint(world.hosts, world)


def disjoint(hosts: list[Host], world: World) -> None:
    owner: dict[TopicPartition, Host] = {}
    for host in hosts:
        for tp in host.seen.owned if host.alive else ():
            assert tp not in owner, (
                f"{tp} is owned by {owner[tp].name} and {host.name} at {world.clock.now_ms} ms"
            )
            owner[tp] = host


def callbacks_are_paired(world: World) -> None:
    """What was assigned is revoked or lost exactly once before the next assignment, and nothing else is."""
    for host in world.hosts:
        owned: tuple[TopicPartition, ...] = ()
        for call, partitions in host.seen.calls:
            if call == "assigned":
                assert owned == (), f"{host.name} was assigned {partitions} while it owned {owned}"
                owned = partitions
            else:
                assert partitions == owned, f"{host.name}: {call} {partitions}, but it owned {owned}"
                owned = ()


def commits_never_go_back(world: World) -> None:
    """Of what the coordinator took, each offset is at least the one before."""
    high: dict[TopicPartition, int] = {}
    for name, generation, offsets in world.accepted:
        for tp, offset in offsets.items():
            assert offset >= high.get(tp, 0), f"{name} (generation {generation}) took {tp} back to {offset}"
            high[tp] = offset


def converged(world: World) -> None:
    """All live members are stable in one generation, and each partition of their topics has exactly one owner."""
    alive = [host for host in world.hosts if host.alive]
    states = {host.name: host.machine.state.name for host in alive}
    assert set(states.values()) <= {State.STABLE.name}, states
    group = world.coordinator.groups[GROUP]
    assert {host.machine.generation_id for host in alive} <= {group.generation}
    owned = [tp for host in alive for tp in host.seen.owned]
    topics = {topic for host in alive for topic in host.topics}
    wanted = {TopicPartition(topic, p) for topic in topics for p in range(world.partitions.get(topic, 0))}
    assert len(owned) == len(set(owned))
    assert set(owned) == wanted
    for host in alive:
        assert {tp.topic for tp in host.seen.owned} <= set(host.topics)
