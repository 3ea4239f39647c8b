"""Apache Kafka's two server-side assignors of consumer groups (KIP-848), `uniform` and `range`. Pure.

Both take the members in the order in which they are to be served, each with the topics it reads, and what the members had
before; both give every partition of every topic that somebody reads to exactly one of its readers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from itertools import islice
from typing import NamedTuple

Partition = tuple[Hashable, int]  # (topic id, number): a topic that is made again is another topic


class TopicImage(NamedTuple):
    """A topic as the assignors see it."""

    id: Hashable
    partitions: int


Subscriptions = Mapping[str, frozenset[str]]  # member id -> names of existing topics, in the order of service
Topics = Mapping[str, TopicImage]
Assignments = dict[str, frozenset[Partition]]
Assignor = Callable[[Subscriptions, Topics, Mapping[str, frozenset[Partition]]], Assignments]


def assign_range(
    subscriptions: Subscriptions, topics: Topics, previous: Mapping[str, frozenset[Partition]]
) -> Assignments:
    """Per topic consecutive partitions, one more for the first members. Keeps nothing of what was before."""
    plan: dict[str, set[Partition]] = {member: set() for member in subscriptions}
    for name in sorted(set().union(*subscriptions.values())):
        topic = topics[name]
        readers = [member for member, names in subscriptions.items() if name in names]
        low, extra = divmod(topic.partitions, len(readers))
        start = 0
        for place, member in enumerate(readers):
            end = start + low + (place < extra)
            plan[member].update((topic.id, number) for number in range(start, end))
            start = end
    return {member: frozenset(partitions) for member, partitions in plan.items()}


def assign_uniform(
    subscriptions: Subscriptions, topics: Topics, previous: Mapping[str, frozenset[Partition]]
) -> Assignments:
    """As even as the subscriptions allow; among the even ones, one that moves few partitions."""
    if len(set(subscriptions.values())) <= 1:
        return _same_subscriptions(subscriptions, topics, previous)
    return _mixed_subscriptions(subscriptions, topics, previous)


def _same_subscriptions(
    subscriptions: Subscriptions, topics: Topics, previous: Mapping[str, frozenset[Partition]]
) -> Assignments:
    names = next(iter(subscriptions.values()), frozenset[str]())
    every = [(topics[name].id, number) for name in sorted(names) for number in range(topics[name].partitions)]
    if not every:
        return dict.fromkeys(subscriptions, frozenset())
    low, extra = divmod(len(every), len(subscriptions))
    place_of = {each: place for place, each in enumerate(every)}
    free = dict.fromkeys(every)
    kept: dict[str, list[Partition]] = {}
    for member in subscriptions:
        kept[member] = sorted(
            (each for each in previous.get(member, ()) if each in free), key=place_of.__getitem__
        )
        for each in kept[member]:
            del free[each]
    # Whoever had most keeps one more, where not all can have the same: so the fewest partitions move.
    quotas: dict[str, int] = {}
    for rank, member in enumerate(sorted(subscriptions, key=lambda each: -len(kept[each]))):
        quotas[member] = low + (rank < extra)
        free.update(dict.fromkeys(kept[member][quotas[member] :]))
    places = iter(free)
    return {
        member: frozenset([*kept[member][:quota], *islice(places, max(0, quota - len(kept[member])))])
        for member, quota in quotas.items()
    }


def _mixed_subscriptions(
    subscriptions: Subscriptions, topics: Topics, previous: Mapping[str, frozenset[Partition]]
) -> Assignments:
    readers: dict[Partition, list[str]] = {}
    for name in sorted(set().union(*subscriptions.values())):
        eligible = [member for member, names in subscriptions.items() if name in names]
        readers.update({(topics[name].id, number): eligible for number in range(topics[name].partitions)})
    before: dict[Partition, str] = {}
    for member in reversed(list(subscriptions)):
        before.update(dict.fromkeys(previous.get(member, ()), member))
    owner = {each: before[each] for each, eligible in readers.items() if before.get(each) in eligible}
    load = dict.fromkeys(subscriptions, 0)
    for member in owner.values():
        load[member] += 1
    for each in sorted((each for each in readers if each not in owner), key=lambda each: len(readers[each])):
        owner[each] = min(readers[each], key=lambda member: load[member])
        load[owner[each]] += 1
    moved = True
    while moved:  # ends: each move lowers the sum of the squares of the loads
        moved = False
        for each, member in owner.items():
            least = min(readers[each], key=lambda member: load[member])
            if load[member] - load[least] >= 2:
                owner[each], moved = least, True
                load[member] -= 1
                load[least] += 1
    plan: dict[str, set[Partition]] = {member: set() for member in subscriptions}
    for each, member in owner.items():
        plan[member].add(each)
    return {member: frozenset(partitions) for member, partitions in plan.items()}


DEFAULT_ASSIGNOR = "uniform"
ASSIGNORS: dict[str, Assignor] = {"uniform": assign_uniform, "range": assign_range}
