"""What must hold of a group, looked at after every step or at the end of a run.

What can be judged where it happens is judged there: commits in World, callbacks and records in User.
"""

from __future__ import annotations

from collections.abc import Iterable

from .host import Host
from .world import GROUP, Log, Violation, World


def no_two_current_owners(world: World) -> None:
    """Two members that the coordinator counts as current never own the same partition, not even during rebalances.

    A member that was cut off until its session ended may still own, in its own eyes, what is others' by now (as with Java's client);
    its commits are refused.
    """
    disjoint(world, (host for host in world.hosts if host.handles and host.alive and world.is_member(host)))


def no_two_owners(world: World) -> None:
    """Without faults nobody is cut off, so no two members at all own the same partition."""
    disjoint(world, world.hosts)


def disjoint(world: World, hosts: Iterable[Host]) -> None:
    owner: dict[Log, Host] = {}
    for host in hosts:
        for tp, handle in host.handles.items():
            if handle.log is None or handle.log.deleted:
                continue
            other = owner.setdefault(handle.log, host)
            if other is not host:
                raise Violation(f"{tp} is owned by {other.name} and {host.name}")


def unconverged(world: World) -> str | None:
    """Why the group has not come to rest; None if it has.

    At rest all live members are stable and of the coordinator's present generation, each partition that somebody subscribes to has one
    owner, who subscribes to it, and all records were seen.
    """
    alive = [host for host in world.hosts if host.alive]
    wanted = {
        log: f"{name}-{number}"
        for name, topic in world.topics.items()
        if any(host.subscribes_to(name) for host in alive)
        for number, log in enumerate(topic.logs)
    }
    owners: dict[Log, str] = {}
    for host in alive:
        if host.machine.state.name != "STABLE" or host.user.closing is not None:
            return f"{host.name} is {host.machine.state.name}"
        for tp, handle in host.handles.items():
            if handle.log not in wanted or not host.subscribes_to(tp.topic):
                return f"{host.name} owns {tp}, to which it does not subscribe"
            if owners.setdefault(handle.log, host.name) != host.name:
                return f"{tp} is owned by {owners[handle.log]} and {host.name}"
        if host.user.owned != set(host.handles):
            return f"the listener of {host.name} knows {sorted(host.user.owned)}, of {sorted(host.handles)}"
    if missing := [wanted[log] for log in wanted if log not in owners]:
        return f"nobody owns {missing}"
    behind = [name for log, name in wanted.items() if log.seen < world.end(log)]
    return f"records of {behind} are unseen" if behind else _is_moving(world, alive)


def _is_moving(world: World, alive: list[Host]) -> str | None:
    group = world.coordinator.groups[GROUP]
    if outside := [host.name for host in alive if not world.is_member(host)]:
        return f"{outside} are no members"
    members = group.members if group.consumer is None else group.consumer.members
    if len(members) > len(alive):
        return f"the coordinator has not missed the dead yet: {sorted(members)}"
    if group.consumer is not None:
        consumers = group.consumer
        late = [name for name, member in consumers.members.items() if not consumers.is_reconciled(member)]
        if consumers.stale or consumers.epoch > consumers.assignment_epoch or late:
            return f"the group is {consumers.state.value}, {late} are on their way"
        return None
    return None if group.state.value == "Stable" else f"the group is {group.state.value}"
