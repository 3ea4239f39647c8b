"""What happened in a run under faults, and the checkers that judge it: pure functions from a history to what is wrong.

A history is what producers were told (acknowledgements) and what each reader noted, in its own order: records returned by poll, commits
begun and ended, partitions given and taken. Times are of the one monotonic clock that all processes of a machine share. A reader that
is started anew has a new name, so a name has one life.
Source of the kinds of anomalies: Jepsen's Kafka workload (lost write, unseen, inconsistent offset, poll skip, nonmonotonic poll).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

SHOWN = 5


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A producer was told that its value is stored there. `offset` is None where the broker did not say: it had the batch already, from an
    attempt whose answer was lost (DUPLICATE_SEQUENCE_NUMBER)."""

    value: str
    place: Place
    offset: int | None


@dataclass(frozen=True, slots=True)
class Read:
    """poll() of this reader returned this record."""

    reader: str
    at_ns: int
    place: Place
    offset: int
    value: str


@dataclass(frozen=True, slots=True)
class Given:
    """The reader was told that it owns these from here on (under assign(): it said so itself)."""

    reader: str
    at_ns: int
    places: frozenset[Place]


@dataclass(frozen=True, slots=True)
class Taken:
    """The reader's listener has returned: it owns these no longer. `lost`: without having been asked before."""

    reader: str
    at_ns: int
    places: frozenset[Place]
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """`ended_ns` is None if the reader did not live to see the answer: whether it was stored is not known."""

    reader: str
    begun_ns: int
    offsets: Mapping[Place, int]
    ended_ns: int | None = None
    error: str | None = None

    @property
    def stored(self) -> bool:
        return self.ended_ns is not None and self.error is None


Event = Read | Given | Taken | Commit


@dataclass(slots=True)
class History:
    """`events` are by reader, each in the order in which that reader noted them."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    events: dict[str, list[Event]] = field(default_factory=dict)

    def reads(self) -> Iterator[Read]:
        for events in self.events.values():
            yield from (event for event in events if isinstance(event, Read))

    def commits(self) -> Iterator[Commit]:
        for events in self.events.values():
            yield from (event for event in events if isinstance(event, Commit))


# ------------------------------------------------------------ the checkers: what is wrong, [] for nothing


def unseen(history: History) -> dict[Place, list[int]]:
    """Offsets of acknowledged records that no reader has returned, by partition; -1 for one whose offset is not known."""
    seen = {(read.place, read.offset) for read in history.reads()}
    unknown = any(ack.offset is None for ack in history.acknowledged)
    values = {read.value for read in history.reads()} if unknown else set()
    missing: dict[Place, list[int]] = defaultdict(list)
    for ack in history.acknowledged:
        if ack.offset is None:
            if ack.value not in values:
                missing[ack.place].append(-1)
        elif (ack.place, ack.offset) not in seen:
            missing[ack.place].append(ack.offset)
    return {place: sorted(offsets) for place, offsets in missing.items()}


def no_loss(history: History) -> list[str]:
    """Every acknowledged value was read, wherever it lies."""
    seen = {read.value for read in history.reads()}
    lost = [ack for ack in history.acknowledged if ack.value not in seen]
    return _told(
        f"{ack.value!r}, acknowledged at {ack.place} offset {ack.offset}, was never read" for ack in lost
    )


def unseen_is_zero(history: History) -> list[str]:
    """Every acknowledged place was read."""
    return _told(
        f"{place}: {len(offsets)} acknowledged records were not read, first {offsets[0]}, last {offsets[-1]}"
        for place, offsets in sorted(unseen(history).items())
    )


def offsets_agree(history: History) -> list[str]:
    """One value per offset, and one offset per value: readers and producers never contradict each other."""
    told: dict[tuple[Place, int], tuple[str, str]] = {}
    where: dict[str, tuple[Place, int]] = {}
    problems: list[str] = []

    def claim(place: Place, offset: int, value: str, who: str) -> None:
        other, by = told.setdefault((place, offset), (value, who))
        if other != value:
            problems.append(f"{place} offset {offset}: {by} has {other!r}, {who} has {value!r}")
        found = where.setdefault(value, (place, offset))
        if found != (place, offset):
            problems.append(
                f"{value!r} is at {found[0]} offset {found[1]} and, says {who}, at {place} offset {offset}"
            )

    for ack in history.acknowledged:
        if ack.offset is not None:
            claim(ack.place, ack.offset, ack.value, "the producer")
    for read in history.reads():
        claim(read.place, read.offset, read.value, read.reader)
    return _told(problems)


def contiguous(history: History, readers: Iterable[str] | None = None) -> list[str]:
    """Within an ownership the offsets of a partition follow each other without a gap or a step back.

    For topics without transactions and compaction only, whose offsets have no gaps of their own.
    """
    problems = []
    for reader in history.events if readers is None else readers:
        following: dict[Place, int] = {}
        for event in history.events[reader]:
            if isinstance(event, (Given, Taken)):
                for place in event.places:
                    following.pop(place, None)
            elif isinstance(event, Read):
                expected = following.get(event.place, event.offset)
                if event.offset != expected:
                    kind = "skipped to" if event.offset > expected else "went back to"
                    problems.append(
                        f"{reader} {kind} {event.place} offset {event.offset}, {expected} was next"
                    )
                following[event.place] = event.offset + 1
    return _told(problems)


def only_while_owned(history: History) -> list[str]:
    """Nothing is returned of a partition before it was given or after it was taken."""
    problems = []
    for reader, events in history.events.items():
        owned: set[Place] = set()
        for event in events:
            if isinstance(event, Given):
                owned |= event.places
            elif isinstance(event, Taken):
                owned -= event.places
            elif isinstance(event, Read) and event.place not in owned:
                problems.append(
                    f"{reader} was returned {event.place} offset {event.offset}, which it does not own"
                )
    return _told(problems)


def owned_by_one_at_a_time(history: History) -> list[str]:
    """A partition is given only after the listener of whoever had it before has returned. Losses are left out, of which a member hears
    after the fact, and ownerships without an end: that reader was killed."""
    spans: dict[Place, list[tuple[int, int, str]]] = defaultdict(list)
    for reader, events in history.events.items():
        since: dict[Place, int] = {}
        for event in events:
            if isinstance(event, Given):
                since.update(dict.fromkeys(event.places, event.at_ns))
            elif isinstance(event, Taken):
                for place in event.places & since.keys():
                    began = since.pop(place)
                    if not event.lost:
                        spans[place].append((began, event.at_ns, reader))
    problems = []
    for place, owners in spans.items():
        owners.sort()
        problems += [
            f"{place} was given to {later[2]} {(before[1] - later[0]) / 1e6:.1f} ms before {before[2]} had let it go"
            for before, later in pairwise(owners)
            if later[0] < before[1]
        ]
    return _told(problems)


def resumes_at_committed(history: History, beginning: Mapping[Place, int] | None = None) -> list[str]:
    """A new owner starts where the group has committed; at the partition's beginning (0) only while nothing is committed.

    The start must be an offset that someone tried to commit before the first record was returned, and not below any whose commit
    was known to be stored before the partition was given.
    """
    commits: dict[Place, list[tuple[Commit, int]]] = defaultdict(list)
    for commit in history.commits():
        for place, offset in commit.offsets.items():
            commits[place].append((commit, offset))
    problems = []
    for given, read in _starts(history):
        place = read.place
        tried = {offset for commit, offset in commits[place] if commit.begun_ns < read.at_ns}
        known = [
            offset
            for commit, offset in commits[place]
            if commit.stored and commit.ended_ns is not None and commit.ended_ns < given.at_ns
        ]
        if not known:
            tried.add((beginning or {}).get(place, 0))
        if read.offset not in tried:
            problems.append(f"{read.reader} started {place} at {read.offset}, which nobody has committed")
        elif known and read.offset < max(known):
            problems.append(
                f"{read.reader} started {place} at {read.offset}, although {max(known)} was committed"
            )
    return _told(problems)


def _starts(history: History) -> Iterator[tuple[Given, Read]]:
    """The first record of each ownership."""
    for events in history.events.values():
        fresh: dict[Place, Given] = {}
        for event in events:
            if isinstance(event, Given):
                fresh.update(dict.fromkeys(event.places, event))
            elif isinstance(event, Taken):
                for place in event.places:
                    fresh.pop(place, None)
            elif isinstance(event, Read) and event.place in fresh:
                yield fresh.pop(event.place), event


def commits_cover_only_what_was_read(history: History) -> list[str]:
    """No offset is committed past what its reader was returned since it was given the partition."""
    problems = []
    for reader, events in history.events.items():
        reached: dict[Place, int] = {}
        for event in events:
            if isinstance(event, Read):
                reached[event.place] = event.offset + 1
            elif isinstance(event, Taken):
                for place in event.places:
                    reached.pop(place, None)
            elif isinstance(event, Commit):
                problems += [
                    f"{reader} committed {place} offset {offset}, but had read to {reached[place]}"
                    for place, offset in event.offsets.items()
                    if place in reached and offset > reached[place]
                ]
    return _told(problems)


def never_goes_back(stored: Sequence[tuple[Place, int]]) -> list[str]:
    """Of one group: what the coordinator stored, in its order. Each partition's offset only grows."""
    highest: dict[Place, int] = {}
    problems = []
    for place, offset in stored:
        if offset < highest.get(place, offset):
            problems.append(f"{place}: {offset} was stored after {highest[place]}")
        highest[place] = max(offset, highest.get(place, offset))
    return _told(problems)


def one_owner_each(owners: Mapping[str, Iterable[Place]], expected: Iterable[Place]) -> list[str]:
    """Every expected partition belongs to exactly one member, and nothing else to any."""
    by_place: dict[Place, list[str]] = defaultdict(list)
    for member, places in owners.items():
        for place in places:
            by_place[place].append(member)
    wanted = set(expected)
    problems = [f"{place} belongs to nobody" for place in sorted(wanted) if place not in by_place]
    problems += [
        f"{place} belongs to {', '.join(sorted(who))}" for place, who in by_place.items() if len(who) > 1
    ]
    problems += [
        f"{place} belongs to {who[0]}, but does not exist"
        for place, who in by_place.items()
        if place not in wanted
    ]
    return _told(problems)


def _told(problems: Iterable[str]) -> list[str]:
    """The first few, and how many more."""
    found = list(problems)
    more = len(found) - SHOWN
    return found if more <= 0 else [*found[:SHOWN], f"... and {more} more"]
