"""Each checker finds what it is there for: with a machine, a host or a coordinator that is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.devbroker.codes import Code
from penstock.devbroker.groups import GroupCoordinator
from penstock.group import messages as g
from penstock.group.classic import ClassicMember
from penstock.group.consumer import ConsumerMember
from penstock.types import TopicPartition

from . import host as hosts
from . import user as users
from .scenarios import SeedFailed, run
from .world import World

Broken = pytest.MonkeyPatch


def fails(world: str, match: str, seeds: int = 60) -> None:
    """Within so many seeds it is found, and what is found first is that."""
    with pytest.raises(SeedFailed, match=match):
        for seed in range(seeds):
            run(world, seed)


@pytest.mark.parametrize("world", ["cooperative", "consumer"])
def test_two_owners_where_what_was_revoked_is_read_on(world: str, monkeypatch: Broken) -> None:
    def late(host: hosts.Host, partitions: Any) -> None:
        closes = host.user.closing is not None
        host.world.clock.after(0 if closes else 3_000, lambda: drop(host, partitions))

    drop = hosts.Host.drop
    monkeypatch.setattr(hosts.Host, "drop", late)
    fails(world, r"is owned by \w+ and \w+|was accepted, but|it was not told to own|which it knew already")


def test_two_owners_where_an_assignor_gives_away_what_is_owned(monkeypatch: Broken) -> None:
    monkeypatch.setattr("penstock.group.assignors.sticky.without_moving", lambda plan, claims: plan)
    fails("cooperative", r"is owned by \w+ and \w+")


@pytest.mark.parametrize("world", ["eager", "cooperative"])
def test_a_commit_that_is_accepted_of_a_fenced_member(world: str, monkeypatch: Broken) -> None:
    monkeypatch.setattr(GroupCoordinator, "_commit_code", lambda *_: Code.NONE)
    fails(world, r"was accepted, but \S+ owns it|took \S+ back")


def test_a_commit_that_goes_back(monkeypatch: Broken) -> None:
    resolve = World.fetch_offsets

    def from_the_start(*args: Any) -> Any:
        answer = resolve(*args)
        return answer if isinstance(answer, int) else dict.fromkeys(answer, 0)

    monkeypatch.setattr(World, "fetch_offsets", from_the_start)
    monkeypatch.setattr(World, "is_member", lambda *_: False)  # the checker of starts would see it first
    fails("eager", r"took \S+ back from \d+ to \d+")


def test_a_new_owner_that_does_not_start_where_was_committed(monkeypatch: Broken) -> None:
    monkeypatch.setattr(World, "fetch_offsets", lambda self, member, epoch, asked: dict.fromkeys(asked, 0))
    fails("eager", r"starts \S+ at 0, though \d+ is committed")


def test_records_that_are_skipped(monkeypatch: Broken) -> None:
    start_at = users.User.start_at
    monkeypatch.setattr(
        users.User, "start_at", lambda self, tp, handle, at: start_at(self, tp, handle, at + 50)
    )
    fails("consumer", r"nobody has seen \d+ to \d+|of which only \d+ were returned")


@pytest.mark.parametrize("world", ["eager", "cooperative", "consumer"])
def test_a_loss_that_is_told_twice(world: str, monkeypatch: Broken) -> None:
    def twice(host: hosts.Host, effect: g.CallLost) -> None:
        host.user.hand_loss(effect.partitions, lambda: None)
        once(host, effect)

    once = hosts.Host._do_CallLost
    monkeypatch.setattr(hosts.Host, "_do_CallLost", twice)
    fails(world, "was told lost of .* which it knew already")


def test_a_leader_that_is_blind_to_new_partitions(monkeypatch: Broken) -> None:
    monkeypatch.setattr("penstock.group.classic._HANDLERS", _without(g.TopicsChanged))
    fails("eager", "not converged .* nobody owns")


def _without(event: type) -> dict[type, Callable[..., None]]:
    from penstock.group.classic import _HANDLERS

    return {**_HANDLERS, event: ClassicMember._on_tick}


def test_a_member_that_forgets_to_join_again(monkeypatch: Broken) -> None:
    monkeypatch.setattr(ConsumerMember, "_settle", lambda self, now_ms: None)
    fails("consumer", r"not converged .* is (LOSING|EXPIRED|FAILED)")


def test_records_that_nobody_is_returned(monkeypatch: Broken) -> None:
    take = users.User._take_records

    def but_the_last(user: users.User, tp: TopicPartition, handle: Any) -> None:
        if handle.log is not None and handle.position < user.world.end(handle.log) - 30:
            take(user, tp, handle)

    monkeypatch.setattr(users.User, "_take_records", but_the_last)
    fails("cooperative", "not converged .* records of .* are unseen|at rest, and then not")
