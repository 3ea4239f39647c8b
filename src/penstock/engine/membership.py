"""The consumer as a member of its group: the driver's host, between the group's machine and the user's listener."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence

from .._native import Fetcher
from ..config import Config
from ..errors import KafkaError, UnsupportedVersionError
from ..fetch import SubscriptionState
from ..group.assignors import assignors_for
from ..group.classic import ClassicMember
from ..group.consumer import ConsumerMember
from ..group.consumer_messages import SubscribeRegex
from ..group.messages import Rejoin, Subscribe
from ..metrics import ConsumerMetrics
from ..protocol import Api, error_for
from ..types import ConsumerGroupMetadata, TopicPartition
from .client import ClusterClient
from .commits import Commits
from .coordinator import GroupCoordinator, MemberIdentity
from .group_driver import GroupDriver
from .positions import Positions
from .steps import Steps, call_user
from .user_thread import UserThread

_log = logging.getLogger("penstock.consumer")
_UNSUPPORTED_VERSION, _GROUP_ID_NOT_FOUND = 35, 69
_PROTOCOL_REFUSED = frozenset({_UNSUPPORTED_VERSION, _GROUP_ID_NOT_FOUND})
_NOT_OFFERED = (
    "this cluster does not offer the consumer group protocol of KIP-848 (Kafka 4.0 and later do, with group.version 1); set "
    "group.protocol to classic, or to auto to have it where it is offered"
)


class Membership:
    """Lives in the engine's thread, but for what runs as Steps, in the user's.

    `driver` is None while there is no membership; `polled` is set by the first poll(). A callback that the user's thread runs late, for
    a membership that is over, finds another driver here and does nothing.
    """

    def __init__(
        self,
        client: ClusterClient,
        fetcher: Fetcher,
        subscription: SubscriptionState,
        positions: Positions,
        coordinator: GroupCoordinator | None,
        commits: Commits,
        user: UserThread,
        config: Config,
        measurements: ConsumerMetrics,
    ) -> None:
        self.driver: GroupDriver | None = None
        self.listener: object | None = None
        self.polled = False
        self._leaving = False  # between the user's close() or unsubscribe() and the leave; written by both, one after the other
        self._assignors = assignors_for(config["partition.assignment.strategy"])
        self.pattern: str | None = (
            None  # subscribed to by pattern, given as text: the coordinator may match it (KIP-848)
        )
        self.pattern_at_broker = False
        self._regex_offered = False
        self._choosing: asyncio.Task[None] | None = None
        self._member_id = _fresh_member_id()
        self._client = client
        self._fetcher = fetcher
        self._subscription = subscription
        self._positions = positions
        self._coordinator = coordinator
        self._commits = commits
        self._user = user
        self._config = config
        self._measurements = measurements

    @property
    def _handles(self) -> dict[TopicPartition, int]:
        return self._positions.fetching.handles

    def wants(self, listener: object | None, pattern: str | None = None) -> None:
        """What the user subscribes to is another than before: `pattern` if it is one, given as text."""
        self.listener = listener
        self.pattern = pattern
        self.pattern_at_broker = False
        if self.driver is not None:
            self.driver.pattern = False

    @property
    def may_match_at_broker(self) -> bool:
        """Whether the coordinator, of which this is a member already, can be given the pattern as it is."""
        consumer = self.driver is not None and isinstance(self.driver.machine, ConsumerMember)
        return consumer and self._regex_offered and self.pattern is not None

    @property
    def is_to_join(self) -> bool:
        return self.driver is None and self.polled

    def identity(self) -> MemberIdentity:
        """Under which name requests about offsets are sent now. Who is to join is no member yet, and not just anybody either."""
        if self.driver is None:
            return MemberIdentity(of_a_group=self._subscription.subscribed)
        return self.driver.identity()

    def group_metadata(self) -> ConsumerGroupMetadata:
        """This member as the coordinator knows it, or has known it before it put it out of the group.

        A coordinator takes offsets in a transaction from who names no generation, whoever has the partitions (KIP-447: so did producers of
        before). Who is out of the group, and has not heard of it in poll() yet, shall be refused instead.
        """
        member_id, generation_id = ("", -1) if self.driver is None else self.driver.last_known
        instance = self._config["group.instance.id"]
        return ConsumerGroupMetadata(self._config["group.id"], generation_id, member_id, instance)

    def heartbeat_counts(self) -> tuple[int, int, int] | None:
        """What the connection that repeats heartbeats has counted; see Heartbeats.counts()."""
        return None if self.driver is None else self.driver.heartbeats.counts()

    # ------------------------------------------------------------ joining and leaving

    def subscribe(self) -> None:
        """Join once the user polls, as Java's consumer does; until then assign() may still replace the subscription."""
        if not self.polled or self._coordinator is None:
            return
        if self.driver is not None:
            self.driver.feed(self._wanted())
        elif self._config["group.protocol"] == "classic":
            self._become(self._classic_member())
        elif self._choosing is None:
            self._choosing = self._client.engine.spawn(self._choose(), "group: which protocol")

    async def _choose(self) -> None:
        """Ask what the cluster offers: group.protocol is consumer, or auto."""
        auto = self._config["group.protocol"] == "auto"
        try:
            async with self._client.within(
                self._config["default.api.timeout.ms"], "asking the cluster which group protocols it offers"
            ):
                versions = (await self._client.any_connection()).versions
                assert versions is not None
                offered = versions.offers(Api.CONSUMER_GROUP_HEARTBEAT)
                self._regex_offered = offered and versions.pick(Api.CONSUMER_GROUP_HEARTBEAT) >= 1
        except KafkaError as error:
            self.raise_in_poll(error)
            return
        finally:
            self._choosing = None
        if offered:
            self._become(self._consumer_member())
        elif auto:
            self._become(self._classic_member())
        else:
            self.raise_in_poll(UnsupportedVersionError(f"group.protocol=consumer: {_NOT_OFFERED}"))

    def _become(self, machine: ClassicMember | ConsumerMember) -> None:
        assert self._coordinator is not None
        kind = "consumer" if isinstance(machine, ConsumerMember) else "classic"
        level = logging.INFO if self._config["group.protocol"] == "auto" else logging.DEBUG
        _log.log(level, "group %s: joining by the %s protocol", self._coordinator.group_id, kind)
        self.driver = GroupDriver(
            self, self._client, self._coordinator, machine, self._fetcher, self._measurements
        )
        self.driver.poll_progress()
        self.driver.feed(self._wanted())

    def _wanted(self) -> Subscribe | SubscribeRegex:
        assert self.driver is not None
        if self.may_match_at_broker and self.pattern is not None:
            self.pattern_at_broker = self.driver.pattern = True
            self._client.interest = set(self._subscription.topics)
            return SubscribeRegex(self.pattern)
        return Subscribe(tuple(sorted(self._subscription.topics)))

    def _classic_member(self) -> ClassicMember:
        config = self._config
        return ClassicMember(
            group_id=config["group.id"],
            group_instance_id=config["group.instance.id"],
            session_timeout_ms=config["session.timeout.ms"],
            rebalance_timeout_ms=config["max.poll.interval.ms"],
            heartbeat_interval_ms=config["heartbeat.interval.ms"],
            retry_backoff_ms=config["retry.backoff.ms"],
            retry_backoff_max_ms=config["retry.backoff.max.ms"],
            assignors=self._assignors,
            rack_id=config["client.rack"] or None,
            jitter=random.random,
            early_heartbeats=True,
        )

    def _consumer_member(self) -> ConsumerMember:
        config = self._config
        return ConsumerMember(
            group_id=config["group.id"],
            group_instance_id=config["group.instance.id"],
            rack_id=config["client.rack"] or None,
            rebalance_timeout_ms=config["max.poll.interval.ms"],
            retry_backoff_ms=config["retry.backoff.ms"],
            retry_backoff_max_ms=config["retry.backoff.max.ms"],
            server_assignor=config["group.remote.assignor"],
            member_id=self._member_id,
            jitter=random.random,
            early_heartbeats=True,
        )

    def refused(self, error_code: int, message: str) -> None:
        """The coordinator refuses this member for good. It may be that it only refuses the protocol: `auto` then takes the other.

        That is so too where the group is a classic one that may not be converted: then there is no such consumer group. Source:
        group.consumer.migration.policy; GroupMetadataManager's validateOnlineUpgrade.
        """
        if (
            error_code in _PROTOCOL_REFUSED
            and self._config["group.protocol"] == "auto"
            and self.driver is not None
            and isinstance(self.driver.machine, ConsumerMember)
            and not self._handles
        ):
            if self.pattern_at_broker:  # now it is matched here, against all topics
                self.pattern_at_broker = self._regex_offered = False
                self._client.interest = None
                self._client.want_update()
            self.driver.end()
            self._become(self._classic_member())
            return
        if error_code == _UNSUPPORTED_VERSION:
            message = f"{message}; {_NOT_OFFERED}"
        self.raise_in_poll(error_for(error_code, message))

    def poll_progress(self) -> None:
        if self.driver is not None:
            self.driver.poll_progress()
        elif self._subscription.subscribed and (self._subscription.topics or self.pattern is not None):
            self.subscribe()

    def rebalance_seen(self) -> None:
        """A commit was answered by REBALANCE_IN_PROGRESS: take part in it without waiting for a heartbeat to say so."""
        if self.driver is not None:
            self.driver.feed(Rejoin("a commit was answered by a rebalance"))

    async def enforce_rebalance(self, reason: str) -> None:
        """Have the group rebalance after the next poll(), where its protocol lets a member ask for that (the classic one)."""
        if self.driver is not None:
            self.driver.feed(Rejoin(reason))

    def abandon(self) -> None:
        """assign() takes the subscription's place: leave in the background."""
        self._stop_choosing()
        if self.driver is not None:
            driver, self.driver = self.driver, None
            self._member_id = _fresh_member_id()  # that leave may come after another subscription's join
            self._client.engine.spawn(driver.leave(), "leave the group for assign()")

    def _stop_choosing(self) -> None:
        if self._choosing is not None:
            self._choosing.cancel()
            self._choosing = None

    def give_back(self, timeout_ms: Callable[[], float], leave_group: bool | None = None) -> Steps[None]:
        """In the user's thread: give the group's partitions back, in order: commit, listener, leave."""
        self._leaving = True  # a revocation that waited for this is no reason to join once more
        yield from self._commits.auto_commit("the commit on close", timeout_ms())
        yield from self._commits.settle(timeout_ms())
        failed = yield from self._user.run_all_callbacks()
        # a revocation may have been among them: what is owned is seen after that
        owned = list(self._handles) if self.driver is not None else []
        try:
            if owned and self.driver is not None:
                yield from self._tell_revoked(self.driver, owned)
        finally:
            yield self._client.engine.call(self._leave, timeout_ms(), leave_group)
            if failed is not None:
                raise failed

    async def _leave(self, timeout_ms: float, leave_group: bool | None) -> None:
        self._stop_choosing()
        self._leaving = False
        if self.driver is None:
            return
        driver, self.driver = self.driver, None
        self._positions.drop(list(self._handles))
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await driver.leave(leave_group)
        except (TimeoutError, KafkaError) as error:
            self._member_id = _fresh_member_id()  # the coordinator may hear of it yet, after another join
            _log.warning(
                "could not tell group %s that this member leaves: %s",
                self._config["group.id"],
                str(error) or "no answer in time; it will notice by the session's timeout",
            )

    # ------------------------------------------------------------ the driver's host

    def idle_ms(self) -> int:
        return self._fetcher.idle_ms()

    def attend(self) -> None:
        self._user.attend()

    def raise_in_poll(self, error: BaseException) -> None:
        self._user.raise_in_poll(error)

    def stop_fetching(self, partitions: Sequence[TopicPartition]) -> None:
        self._fetcher.pause([self._handles[tp] for tp in partitions if tp in self._handles])

    def hand_revocation(
        self, partitions: Sequence[TopicPartition], commit: bool, done: Callable[[], None]
    ) -> None:
        """In the user's thread, inside poll(): what it returned before has been handled, so positions may be committed."""
        driver = self.driver

        def revoke() -> Steps[None]:
            if self.driver is not driver:
                return  # left meanwhile, which has told the listener
            try:
                if commit and not self._is_out(driver):
                    timeout_ms = self._config["default.api.timeout.ms"]
                    why = "the commit before a revocation"
                    yield from self._commits.auto_commit(why, timeout_ms, frozenset(partitions))
            finally:  # Ctrl-C in the wait for the commit takes nothing from what follows, or the group would wait for it
                try:
                    yield from self._tell_revoked(driver, partitions)
                finally:
                    yield self._client.engine.call(self._taken, driver, partitions, done)

        self._user.hand(revoke)

    def hand_loss(self, partitions: Sequence[TopicPartition], done: Callable[[], None]) -> None:
        driver = self.driver
        self.stop_fetching(partitions)

        def lose() -> Steps[None]:
            if self.driver is not driver:
                return
            try:
                yield from self._tell_lost(partitions)
            finally:
                yield self._client.engine.call(self._taken, driver, partitions, done)

        self._user.hand(lose)

    @staticmethod
    def _is_out(driver: GroupDriver | None) -> bool:
        """Whether what this membership owns may be another's already. Any thread."""
        return driver is not None and driver.machine.generation_id < 0

    def _tell_revoked(self, driver: GroupDriver | None, partitions: Sequence[TopicPartition]) -> Steps[None]:
        """That they are to be given back; but that they are lost, if meanwhile they are.

        A member is asked for a partition, and its user does not poll for max.poll.interval.ms: the group goes on, another reads it. Only
        then the user polls. Told of a revocation, it would store once more what the other has done. Source: ConsumerCoordinator's
        onJoinPrepare and onLeavePrepare of Kafka's client, which decide when they call.
        """
        if self._is_out(driver):
            yield from self._tell_lost(partitions)
        else:
            yield from self._call_listener("on_partitions_revoked", partitions)

    def _tell_lost(self, partitions: Sequence[TopicPartition]) -> Steps[None]:
        """A listener without on_partitions_lost is told of a revocation, as by Java's interface."""
        has = hasattr(self.listener, "on_partitions_lost")
        yield from self._call_listener("on_partitions_lost" if has else "on_partitions_revoked", partitions)

    async def _taken(
        self, driver: GroupDriver | None, partitions: Sequence[TopicPartition], done: Callable[[], None]
    ) -> None:
        """After this poll() returns nothing of these partitions."""
        if self.driver is driver:
            self._positions.drop(list(partitions))
            if not self._leaving:
                done()

    def take_assignment(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these and no others; what is read already goes on where it is."""
        wanted = set(partitions)
        self._positions.drop([tp for tp in self._handles if tp not in wanted])
        added = [tp for tp in partitions if tp not in self._handles]
        self._subscription.assign_from_group(partitions)
        self._positions.fetching.add(partitions)
        if hasattr(self.listener, "on_partitions_assigned"):
            # nothing is returned before the listener has run: it may seek
            self._fetcher.pause([self._handles[tp] for tp in added])
        self._positions.resolve()

    def hand_assignment(self, partitions: Sequence[TopicPartition], done: Callable[[], None]) -> None:
        if not hasattr(self.listener, "on_partitions_assigned"):
            done()
            return
        driver = self.driver

        async def finish() -> None:
            if self.driver is driver:
                paused = set(self._subscription.paused())
                self._fetcher.resume(
                    [self._handles[tp] for tp in partitions if tp in self._handles and tp not in paused]
                )
                done()

        def assigned() -> Steps[None]:
            if self.driver is not driver:
                return  # the partitions are others', and the listener may be
            try:
                yield from self._call_listener("on_partitions_assigned", partitions)
            finally:
                yield self._client.engine.call(finish)

        self._user.hand(assigned)

    def _call_listener(self, method: str, partitions: Sequence[TopicPartition]) -> Steps[None]:
        function = getattr(self.listener, method, None)
        if function is None:
            return
        began_s = time.monotonic()
        try:
            yield from call_user(function, list(partitions))
        finally:
            ended_s = time.monotonic()
            measured = getattr(self._measurements, method.removeprefix("on_"))
            measured(ended_s * 1000, (ended_s - began_s) * 1000)


def _fresh_member_id() -> str:
    """A member id that the client makes (KIP-1082), as Java's Uuid writes one."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
