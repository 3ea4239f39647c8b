"""What Kafka's own assignors make of seeded cases: `java_assignors.json`, and the same for fresh cases in tests/kafka.

python -m tests.golden.capture_assignors

Members and topics have names of one letter in the order of the alphabet: so Java's hash maps go through them in that order too, and what
it gives depends on nothing else.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from tools.kafka.kafka import compile_java, java_tool

from penstock.group.assignors import assignors_for
from penstock.group.assignors.user_data import encode_owned
from penstock.group.protocol import MemberSubscription
from penstock.types import TopicPartition

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "java" / "AssignorJudge.java"
CASES = HERE / "java_assignors.json"
NAMES = ("range", "roundrobin", "sticky", "cooperative-sticky")
RACKS = ("r1", "r2", "r3")

Members = dict[str, MemberSubscription]
Shares = Mapping[str, Sequence[TopicPartition]]


@dataclass(frozen=True)
class Case:
    """What a leader knows. The members' `user_data` is that of `sticky`; `contested` is whether two claim the same partition."""

    counts: dict[str, int]
    racks: dict[TopicPartition, frozenset[str]]
    members: Members

    @property
    def contested(self) -> bool:
        claimed = [tp for subscription in self.members.values() for tp in subscription.owned_partitions]
        return len(claimed) != len(set(claimed))

    @property
    def equal(self) -> bool:
        """Whether all members want the same topics."""
        return len({frozenset(subscription.topics) for subscription in self.members.values()}) == 1


@dataclass(frozen=True)
class Verdict:
    """Java's: shares by assignor and member (or what it failed with), and the user data of both sticky assignors by member."""

    shares: dict[str, dict[str, list[TopicPartition]] | str]
    user_data: dict[str, tuple[bytes, bytes]]


# ------------------------------------------------------------ cases


def cases(seed: int, number: int, *, most_members: int = 9, most_partitions: int = 9) -> Iterator[Case]:
    """Groups of all kinds, most of them with a past of one to four rebalances."""
    rng = random.Random(seed)
    for _ in range(number):
        yield _case(rng, most_members, most_partitions)


def _case(rng: random.Random, most_members: int, most_partitions: int) -> Case:
    topics = "abcdefgh"[: rng.randint(1, 8)]
    counts = {topic: rng.randint(1, most_partitions) for topic in topics if rng.random() < 0.95}
    racks: dict[TopicPartition, frozenset[str]] = {}
    with_racks = rng.random() < 0.4
    if with_racks:
        replicas = rng.randint(1, 2)
        same = rng.random() < 0.5  # topics whose partitions of one number are in the same racks
        for topic, count in counts.items():
            for n in range(count):
                known = rng.random() < 0.95
                found = (
                    rng.sample(RACKS, replicas) if not same else [RACKS[(n + i) % 3] for i in range(replicas)]
                )
                racks[TopicPartition(topic, n)] = frozenset(found if known else ())
    if rng.random() < 0.2:
        counts = dict.fromkeys(counts, rng.randint(1, most_partitions))
        racks = {tp: r for tp, r in racks.items() if tp.partition < counts[tp.topic]}
    equal = rng.random() < 0.5
    members: Members = {}
    for generation_id in range(1, rng.randint(1, 5)):
        members = _changed(rng, members, topics, most_members, equal=equal, with_racks=with_racks)
        members = _rebalanced(rng, Case(counts, racks if rng.random() < 0.5 else {}, members), generation_id)
        if rng.random() < 0.3:
            counts = {topic: count + rng.randint(0, 2) for topic, count in counts.items()}
    members = _changed(rng, members, topics, most_members, equal=equal, with_racks=with_racks)
    if rng.random() < 0.1:
        members = _contest(rng, members)
    return Case(counts, racks, {m: _with_user_data(rng, s) for m, s in sorted(members.items())})


def _changed(
    rng: random.Random, members: Members, topics: str, most: int, *, equal: bool, with_racks: bool
) -> Members:
    """Some leave, some come, some want other topics; at least one is there."""
    members = {m: s for m, s in members.items() if rng.random() < 0.85}
    common = tuple(t for t in topics if rng.random() < 0.9) or topics[:1]
    for name in rng.sample("ABCDEFGHIJKLMNOPQRSTUVWXY"[: most + 2], rng.randint(1, most)):
        if len(members) < most and name not in members:
            members[name] = MemberSubscription(
                (),
                rack_id=rng.choice(RACKS) if with_racks and rng.random() < 0.9 else None,
                group_instance_id=rng.choice("xyz") + name if rng.random() < 0.2 else None,
            )
    return {
        m: replace(s, topics=common)
        if equal
        else s
        if s.topics and rng.random() < 0.9
        else replace(s, topics=tuple(t for t in topics if rng.random() < 0.6))
        for m, s in members.items()
    }


def _rebalanced(rng: random.Random, case: Case, generation_id: int) -> Members:
    """After a rebalance that some members missed: these have what they had before, of an older generation."""
    (assignor,) = assignors_for(["sticky"])
    told = {m: _with_user_data(rng, s) for m, s in case.members.items()}
    given = assignor.assign(told, case.counts, case.racks)
    return {
        m: s
        if s.generation_id >= 0 and rng.random() < 0.05
        else replace(s, owned_partitions=tuple(given[m]), generation_id=generation_id)
        for m, s in case.members.items()
    }


def _contest(rng: random.Random, members: Members) -> Members:
    """Two members claim the same, which a correct group never does."""
    first, second = rng.choice(sorted(members)), rng.choice(sorted(members))
    stolen = members[first].owned_partitions[:2]
    claimed = tuple(dict.fromkeys((*members[second].owned_partitions, *stolen)))
    return members | {second: replace(members[second], owned_partitions=claimed)}


def _with_user_data(rng: random.Random, subscription: MemberSubscription) -> MemberSubscription:
    if subscription.generation_id < 0 and not subscription.owned_partitions:
        return subscription
    data = encode_owned(subscription.owned_partitions, subscription.generation_id)
    return replace(subscription, user_data=data)


# ------------------------------------------------------------ Java


def judge(asked: Sequence[Case], classes: Path, timeout: float = 100.0) -> list[Verdict]:
    """What Java gives in each case. `classes` is a folder for the compiled program."""
    compile_java([SOURCE], classes)
    told = "".join(f"{line}\n" for case in asked for line in _told(case))
    lines = iter(
        java_tool("AssignorJudge", input=told, timeout=timeout, classpath=[classes]).stdout.splitlines()
    )
    verdicts = []
    for case in asked:
        shares = dict(_shares(next(lines)) for _ in NAMES)
        data = [next(lines).split("\t") for _ in case.members]
        verdicts.append(Verdict(shares, {m: (bytes.fromhex(a), bytes.fromhex(b)) for _, m, a, b in data}))
    return verdicts


def _told(case: Case) -> Iterator[str]:
    for topic, count in case.counts.items():
        each = (",".join(sorted(case.racks.get(TopicPartition(topic, n), ()))) for n in range(count))
        yield f"topic\t{topic}\t{';'.join(each)}\t."
    for member, s in case.members.items():
        fields = (
            member,
            s.group_instance_id or "-",
            s.rack_id or "-",
            str(s.generation_id),
            ",".join(s.topics) or "-",
            ",".join(f"{tp.topic}:{tp.partition}" for tp in s.owned_partitions) or "-",
            "-" if s.user_data is None else s.user_data.hex(),
        )
        yield "member\t" + "\t".join(fields)
    yield "assign"


def _shares(line: str) -> tuple[str, dict[str, list[TopicPartition]] | str]:
    name, *shares = line.split("\t")
    if shares[:1] == ["error"]:
        return name, shares[1]
    return name, {m: _partitions(share) for m, _, share in (entry.partition("=") for entry in shares)}


def _partitions(text: str) -> list[TopicPartition]:
    pairs = (entry.split(":") for entry in text.split(",") if entry)
    return [TopicPartition(topic, int(n)) for topic, n in pairs]


# ------------------------------------------------------------ comparing


def invalid(case: Case, shares: Shares) -> list[str]:
    """What is wrong with complete shares: partitions without an owner, with two, or with one who does not want them."""
    given = sorted((tp, member) for member, share in shares.items() for tp in share)
    owners = dict(given)
    wanted = {t for s in case.members.values() for t in s.topics}
    every = [
        TopicPartition(t, n) for t, count in sorted(case.counts.items()) if t in wanted for n in range(count)
    ]
    return [
        *(f"{tp} has no owner" for tp in every if tp not in owners),
        *(f"{tp} is given twice" for (tp, _), (other, _) in pairwise(given) if tp == other),
        *(
            f"{tp} is given to {m}, who does not want it"
            for tp, m in given
            if tp.topic not in case.members[m].topics
        ),
        *(f"{tp} does not exist" for tp in owners.keys() - set(every) if tp.topic in wanted),
    ]


def imbalance(shares: Shares) -> int:
    """The differences of the shares of all pairs of members, summed: Kafka's measure."""
    return sum(abs(len(a) - len(b)) for a, b in combinations(shares.values(), 2))


def moved(case: Case, shares: Shares) -> int:
    """How many partitions have another owner than before."""
    before = {tp: member for member, s in case.members.items() for tp in s.owned_partitions}
    return sum(before.get(tp, member) != member for member, share in shares.items() for tp in share)


def far(case: Case, shares: Shares) -> int:
    """How many partitions have no replica in their owner's rack, of those whose owner has one."""
    racks = {member: s.rack_id for member, s in case.members.items()}
    return sum(racks[m] not in (None, *case.racks.get(tp, ())) for m, share in shares.items() for tp in share)


def has_far_claims(case: Case) -> bool:
    """Whether members own what is in another rack: there Java's sticky assignors move more, to no better end."""
    return far(case, {m: s.owned_partitions for m, s in case.members.items()}) > 0 < len(case.racks)


def same(found: Shares, wanted: Shares) -> bool:
    return {m: sorted(share) for m, share in found.items()} == {
        m: sorted(share) for m, share in wanted.items()
    }


# ------------------------------------------------------------ the file


def _plain(case: Case, verdict: Verdict) -> dict[str, Any]:
    return {
        "told": list(_told(case)),
        "shares": {
            name: given
            if isinstance(given, str)
            else {
                m: ",".join(f"{tp.topic}:{tp.partition}" for tp in sorted(share))
                for m, share in given.items()
            }
            for name, given in verdict.shares.items()
        },
        "user_data": {m: [a.hex(), b.hex()] for m, (a, b) in verdict.user_data.items()},
    }


def captured() -> list[tuple[Case, Verdict]]:
    """The cases in the file."""
    found = []
    for plain in json.loads(CASES.read_text(encoding="utf-8")):
        shares = {
            name: given if isinstance(given, str) else {m: _partitions(share) for m, share in given.items()}
            for name, given in plain["shares"].items()
        }
        data = {m: (bytes.fromhex(a), bytes.fromhex(b)) for m, (a, b) in plain["user_data"].items()}
        found.append((_case_of(plain["told"]), Verdict(shares, data)))
    return found


def _case_of(told: Sequence[str]) -> Case:
    counts: dict[str, int] = {}
    racks: dict[TopicPartition, frozenset[str]] = {}
    members: Members = {}
    for line in told:
        kind, *fields = line.split("\t")
        if kind == "topic":
            each = fields[1].split(";")
            counts[fields[0]] = len(each)
            for n, found in enumerate(each):
                if found:
                    racks[TopicPartition(fields[0], n)] = frozenset(found.split(","))
        elif kind == "member":
            member, instance, rack, generation, topics, owned, data = (
                None if f == "-" else f for f in fields
            )
            members[str(member)] = MemberSubscription(
                tuple(topics.split(",")) if topics else (),
                tuple(_partitions(owned or "")),
                None if data is None else bytes.fromhex(data),
                int(generation or -1),
                rack,
                instance,
            )
    return Case(counts, racks, members)


def capture(into: Path) -> None:
    """Write seeded cases with Java's results into one file."""
    asked = list(cases(22, 90))
    with tempfile.TemporaryDirectory() as classes:
        verdicts = judge(asked, Path(classes))
    rows = (json.dumps(_plain(c, v), separators=(",", ":")) for c, v in zip(asked, verdicts, strict=True))
    into.write_text("[" + ",\n".join(rows) + "]\n", encoding="utf-8")


if __name__ == "__main__":
    capture(CASES)
    print(f"{CASES.stat().st_size} bytes in {CASES}", file=sys.stderr)
