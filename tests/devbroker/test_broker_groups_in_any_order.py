"""The group coordinator's machine under a virtual clock: what must hold whatever clients do, in any order."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.devbroker.codes import Code
from penstock.devbroker.group_events import GroupState
from tests.devbroker.test_broker_groups import World


class GroupsInAnyOrder(RuleBasedStateMachine):
    """Clients that do anything at any time. What must hold is in the invariants and in teardown."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.known: list[str] = []  # every id the coordinator ever gave out
        self.parked: dict[int, str] = {}  # tokens of joins and syncs without an answer yet
        self.read: set[int] = set()
        self.generations: dict[str, int] = {}  # the last generation a member was told
        self.told: dict[int, frozenset[str]] = {}  # per generation, the members its leader was told

    @property
    def members(self) -> dict[str, Any]:
        group = self.world.machine.groups.get("g")
        return group.members if group else {}

    def instance_of(self, member_id: str) -> str | None:
        return self.members[member_id].instance_id if member_id in self.members else None

    def collect(self) -> None:
        for token, answer in self.world.answers.items():
            if token in self.read:
                continue
            self.read.add(token)
            self.parked.pop(token, None)
            member_id = getattr(answer, "member_id", "")
            if (
                member_id
                and member_id not in self.known
                and answer.code in (Code.NONE, Code.MEMBER_ID_REQUIRED)
            ):
                self.known.append(member_id)
            if hasattr(answer, "generation") and answer.code is Code.NONE:
                assert answer.generation > 0
                assert answer.generation >= self.generations.get(member_id, 0), "a generation went back"
                self.generations[member_id] = answer.generation
                if answer.members and not answer.skip_assignment:
                    members = frozenset(each[0] for each in answer.members)
                    assert self.told.setdefault(answer.generation, members) == members, (
                        "two lists of one generation"
                    )

    @precondition(lambda self: len(self.members) < 4)
    @rule(
        instance=st.sampled_from([None, None, "i", "j"]),
        required=st.booleans(),
        session=st.sampled_from([3000, 9000]),
    )
    def newcomer(self, instance: str | None, required: bool, session: int) -> None:
        token = self.world.join(
            instance=instance, id_required=required, session_ms=session, rebalance_ms=20_000
        )
        self.parked[token] = ""
        self.collect()

    @precondition(lambda self: self.known)
    @rule(data=st.data(), changed=st.booleans())
    def join_again(self, data: st.DataObject, changed: bool) -> None:
        member_id = data.draw(st.sampled_from(self.known))
        instance = self.instance_of(member_id)
        protocols = (("range", b"changed" if changed else b"sub"),)
        token = self.world.join(
            member_id, instance=instance, protocols=protocols, session_ms=9000, rebalance_ms=20_000
        )
        self.parked[token] = member_id
        self.collect()

    @precondition(lambda self: self.members)
    @rule(but=st.integers(0, 5))
    def all_told_to_join_do_but_one(self, but: int) -> None:
        for index, (member_id, member) in enumerate(list(self.members.items())):
            waits = (
                member.join_token is not None or self.world.group.state is not GroupState.PREPARING_REBALANCE
            )
            if index != but and not waits and member_id in self.members:
                token = self.world.join(
                    member_id, instance=member.instance_id, protocols=member.protocols, session_ms=9000
                )
                self.parked[token] = member_id
        self.collect()

    @precondition(lambda self: self.known)
    @rule(data=st.data(), shift=st.sampled_from([0, 0, 0, -1, 1]))
    def sync(self, data: st.DataObject, shift: int) -> None:
        member_id = data.draw(st.sampled_from(self.known))
        generation = self.generations.get(member_id, 0) + shift
        group = self.world.machine.groups["g"]
        plan = dict.fromkeys(group.members, b"x") if member_id == group.leader_id else None
        instance = self.instance_of(member_id)
        token = self.world.sync(member_id, generation, plan, instance_id=instance)
        self.parked[token] = member_id
        answer = self.world.answers.get(token)
        if answer is not None and answer.code is Code.NONE:
            assert generation == group.generation
            assert group.state is GroupState.STABLE
        self.collect()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        member_id = data.draw(st.sampled_from(self.known))
        generation = self.generations.get(member_id, 0)
        code = self.world.heartbeat(member_id, generation, self.instance_of(member_id))
        if code is Code.NONE:
            assert generation == self.world.group.generation
        self.collect()

    @precondition(lambda self: self.known)
    @rule(data=st.data(), offset=st.integers(0, 100))
    def commit(self, data: st.DataObject, offset: int) -> None:
        member_id = data.draw(st.sampled_from(self.known))
        generation = self.generations.get(member_id, 0)
        before = dict(self.world.group.offsets)
        code = self.world.commit(offset, member_id, generation, instance=self.instance_of(member_id)).code
        group = self.world.group
        if code is Code.NONE:
            assert member_id in group.members
            assert generation == group.generation
        else:
            assert group.offsets == before, "a refused commit changed something"
        self.collect()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member_id = data.draw(st.sampled_from(self.known))
        self.world.leave((member_id, self.instance_of(member_id)))
        self.collect()

    @rule(duration=st.sampled_from([1, 500, 2000, 3000, 9000, 25_000]))
    def time_passes(self, duration: int) -> None:
        self.world.pass_ms(duration)
        self.collect()

    @invariant()
    def one_current_generation_with_its_own_members(self) -> None:
        group = self.world.machine.groups.get("g")
        if group is None:
            return
        assert all(generation <= group.generation for generation in self.generations.values())
        assert (group.rebalance_deadline_ms is not None) == (group.state is GroupState.PREPARING_REBALANCE)
        assert group.leader_id is None or group.leader_id in group.members
        assert (group.leader_id is None) == (not group.members)
        assert not group.members or group.state is not GroupState.EMPTY
        assert set(group.static_ids.values()) <= set(group.members)
        assert set(group.pending).isdisjoint(group.members)
        for member in group.members.values():
            if group.state is GroupState.STABLE:
                assert member.sync_token is None
            if group.state is not GroupState.PREPARING_REBALANCE:
                assert member.join_token is None
        due = self.world.machine.next_deadline_ms()
        assert due is None or due > self.world.now_ms, "a deadline passed and nothing came of it"

    def teardown(self) -> None:
        """Whoever now plays by the rules ends in a stable group; whoever does not is out; no request stays unanswered."""
        group = self.world.machine.groups.get("g")
        if group is not None:
            for _ in range(4):
                for member_id in list(group.members):
                    member = group.members.get(member_id)
                    if member is None or member.join_token is not None:
                        continue
                    if group.state is GroupState.PREPARING_REBALANCE:
                        again = self.world.join(
                            member_id,
                            instance=member.instance_id,
                            protocols=member.protocols,
                            session_ms=9000,
                        )
                        self.parked[again] = member_id
                self.world.pass_ms(9000 if group.pending else 0)
                if group.state is GroupState.COMPLETING_REBALANCE:
                    self.world.sync_those_who_did_not()
            if group.members:
                assert group.state is GroupState.STABLE
            self.collect()
            waiting = {member.join_token for member in group.members.values()}
            waiting |= {member.sync_token for member in group.members.values()}
            assert waiting <= {None}
            still = [token for token in self.parked if token not in self.world.answers]
            assert not still, "requests were left without an answer"


TestGroupsInAnyOrder = GroupsInAnyOrder.TestCase
TestGroupsInAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
