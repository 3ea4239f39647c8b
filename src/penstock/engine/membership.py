"""The consumer as a member of its group: the driver's host, between the group's machine and the user's listener."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from .._native import Fetcher
from ..config import Config
from ..errors import KafkaError
from ..fetch import SubscriptionState
from ..group.assignors import assignors_for
from ..group.classic import ClassicMember
from ..group.messages import Rejoin, Subscribe
from ..types import TopicPartition
from .client import ClusterClient
from .commits import Commits
from .coordinator import GroupCoordinator, MemberIdentity
from .group_driver import GroupDriver
from .positions import Positions
from .steps import Steps, call_user
from .user_thread import UserThread

_log = logging.getLogger("penstock.consumer")


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
    ) -> None:
        self.driver: GroupDriver | None = None
        self.listener: object | None = None
        self.polled = False
        self._client = client
        self._fetcher = fetcher
        self._subscription = subscription
        self._positions = positions
        self._coordinator = coordinator
        self._commits = commits
        self._user = user
        self._config = config

    @property
    def _handles(self) -> dict[TopicPartition, int]:
        return self._positions.fetching.handles

    def identity(self) -> MemberIdentity:
        """Under which name requests about offsets are sent now."""
        if self.driver is None:
            return MemberIdentity()
        return self.driver.identity()

    # ------------------------------------------------------------ joining and leaving

    def subscribe(self) -> None:
        """Join once the user polls, as Java's consumer does; until then assign() may still replace the subscription."""
        if not self.polled or self._coordinator is None:
            return
        if self.driver is None:
            config = self._config
            machine = ClassicMember(
                group_id=self._coordinator.group_id,
                group_instance_id=config["group.instance.id"],
                session_timeout_ms=config["session.timeout.ms"],
                rebalance_timeout_ms=config["max.poll.interval.ms"],
                heartbeat_interval_ms=config["heartbeat.interval.ms"],
                retry_backoff_ms=config["retry.backoff.ms"],
                retry_backoff_max_ms=config["retry.backoff.max.ms"],
                assignors=assignors_for(config["partition.assignment.strategy"]),
                rack_id=config["client.rack"] or None,
            )
            self.driver = GroupDriver(
                self, self._client, self._coordinator, machine, config["max.poll.interval.ms"]
            )
        self.driver.feed(Subscribe(tuple(sorted(self._subscription.topics))))

    def poll_progress(self) -> None:
        if self.driver is not None:
            self.driver.poll_progress()
        elif self._subscription.subscribed:
            self.subscribe()

    async def enforce_rebalance(self, reason: str) -> None:
        if self.driver is not None:
            self.driver.feed(Rejoin(reason))

    def abandon(self) -> None:
        """assign() takes the subscription's place: leave in the background."""
        if self.driver is not None:
            driver, self.driver = self.driver, None
            self._client.engine.spawn(driver.leave(), "leave the group for assign()")

    def give_back(self, timeout_ms: Callable[[], float], leave_group: bool | None = None) -> Steps[None]:
        """In the user's thread: give the group's partitions back, in order: commit, listener, leave."""
        owned = list(self._handles) if self.driver is not None else []
        yield from self._commits.auto_commit("the commit on close", timeout_ms())
        yield from self._user.run_callbacks()
        try:
            if owned and self.driver is not None:
                yield from self._call_listener("on_partitions_revoked", owned)
        finally:
            yield self._client.engine.call(self._leave, timeout_ms(), leave_group)

    async def _leave(self, timeout_ms: float, leave_group: bool | None) -> None:
        if self.driver is None:
            return
        driver, self.driver = self.driver, None
        self._positions.drop(list(self._handles))
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await driver.leave(leave_group)
        except (TimeoutError, KafkaError) as error:
            _log.warning(
                "could not tell group %s that this member leaves: %s",
                self._config["group.id"],
                error or "no answer",
            )

    # ------------------------------------------------------------ the driver's host

    def idle_ms(self) -> int:
        return self._fetcher.last_poll_ms()

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
            if commit:
                timeout_ms = self._config["default.api.timeout.ms"]
                why = "the commit before a revocation"
                yield from self._commits.auto_commit(why, timeout_ms, frozenset(partitions))
            try:
                yield from self._call_listener("on_partitions_revoked", partitions)
            finally:
                yield self._client.engine.call(self._taken, driver, partitions, done)

        self._user.hand(revoke)

    def hand_loss(self, partitions: Sequence[TopicPartition], done: Callable[[], None]) -> None:
        driver = self.driver
        self.stop_fetching(partitions)

        def lose() -> Steps[None]:
            told = (
                "on_partitions_lost"
                if hasattr(self.listener, "on_partitions_lost")
                else "on_partitions_revoked"
            )
            try:
                yield from self._call_listener(told, partitions)
            finally:
                yield self._client.engine.call(self._taken, driver, partitions, done)

        self._user.hand(lose)

    async def _taken(
        self, driver: GroupDriver | None, partitions: Sequence[TopicPartition], done: Callable[[], None]
    ) -> None:
        """After this poll() returns nothing of these partitions."""
        if self.driver is driver:
            self._positions.drop(list(partitions))
            done()

    def take_assignment(self, partitions: Sequence[TopicPartition]) -> None:
        """Read these and no others; what is read already goes on where it is."""
        self._positions.drop([tp for tp in self._handles if tp not in set(partitions)])
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
            try:
                yield from self._call_listener("on_partitions_assigned", partitions)
            finally:
                yield self._client.engine.call(finish)

        self._user.hand(assigned)

    def _call_listener(self, method: str, partitions: Sequence[TopicPartition]) -> Steps[None]:
        function = getattr(self.listener, method, None)
        if function is not None:
            yield from call_user(function, list(partitions))
