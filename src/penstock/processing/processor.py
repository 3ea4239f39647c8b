"""Processor: handlers, declared; what runs them is the runtime."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar

from ..config import BY_CLIENT, Config, resolve
from ..errors import ConfigError, IllegalStateError
from ..sinks import Sink
from .adaptive import Adaptive, Budget
from .breaker import CircuitBreaker
from .deduplication import Deduplicate
from .failure import FailurePolicy, OnError, Retry
from .health import Health
from .settings import HandlerSpec, ProcessorSettings
from .spool import Spool
from .units import to_duration_ms, to_size_bytes

F = TypeVar("F", bound=Callable[..., Any])
Duration = float | str
"""Milliseconds, or text with a unit: '200ms', '10s', '1m'."""

_CONCURRENCY = {"async": 100, "thread": 8, "process": 2}
_OF_CONFIG = frozenset({"given", "config", "producer_config"})  # what _settings() makes of the options
_TRANSACTION_TIMEOUT_MS = 10_000
"""Java's 60 s would let who dies amid a transaction hold up its successor, which waits for the offsets, for a minute. Ours are short: what
is written is there when one begins. Kafka Streams has the same 10 s."""
_MAX_POLL_RECORDS = 2_000
"""What one poll takes in: more than Java's 500, since a poll is shared by many handlers here."""


class Processor:
    """Runs handlers on the records of topics: in parallel, in order, and so that no record is lost.

        processor = Processor({'bootstrap.servers': 'localhost:9092', 'group.id': 'orders'})

        @processor.handler('orders', order_by='key', concurrency=256, retry=Retry(attempts=5, backoff='1s..1m'), dead_letter='orders.dlq')
        async def handle(record): ...

        processor.run()

    `config` and keywords are the consumer's options, and those of a producer under Kafka's names. Offsets are committed every
    `commit_interval`, up to the first record that is not done; what is done beyond it is noted in the commit's metadata, and is not
    handled again after a restart. When partitions go to another member, handlers that run have `drain_timeout` to end.

    At most about `max_buffered_records` and `max_buffered_bytes` are held; more is not polled, while heartbeats go on. `memory_budget`
    ('1GiB') and `cpu_budget` (cores, as 1.5), for this process and its workers: while more is used, less is held, and handlers whose
    concurrency is Adaptive run fewer calls at once.
    `exactly_once`: what handlers return is written in transactions with the offsets, and nobody who reads committed
    records sees any of it twice (source: KIP-98, KIP-447). `spool`: a Spool, or its folder: what is fetched and not finished is kept on
    disk too, so that a restart or an outage costs nothing twice.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        /,
        *,
        exactly_once: bool = False,
        drain_timeout: Duration = "10s",
        commit_interval: Duration = "1s",
        max_buffered_records: int = 10_000,
        max_buffered_bytes: int | str = "64MiB",
        memory_budget: int | str | None = None,
        cpu_budget: float | None = None,
        spool: Spool | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        given = dict(config or {}) | options
        self._settings = _settings(
            given,
            exactly_once=exactly_once,
            drain_timeout_s=to_duration_ms(drain_timeout) / 1000,
            commit_interval_s=to_duration_ms(commit_interval) / 1000,
            max_buffered_records=max_buffered_records,
            max_buffered_bytes=to_size_bytes(max_buffered_bytes),
            budget=Budget(None if memory_budget is None else to_size_bytes(memory_budget), cpu_budget),
            spool=spool if spool is None or isinstance(spool, Spool) else Spool(spool),
        )
        self._specs: list[HandlerSpec] = []
        self._runtime: Any = None  # set while running, by serve()
        self._stop_asked = False
        self._lock = threading.Lock()

    # ------------------------------------------------------------ declaring

    def handler(
        self,
        *topics: str,
        order_by: Literal["key", "partition"] | None = "key",
        concurrency: int | Adaptive | None = None,
        executor: Literal["async", "thread", "process"] | None = None,
        retry: Retry | None = None,
        dead_letter: str | None = None,
        on_error: OnError | None = None,
        breaker: CircuitBreaker | None = None,
        timeout: Duration | None = None,
        batch: int = 0,
        within: Duration = "200ms",
        output: str | None = None,
        deduplicate: Deduplicate | None = None,
        name: str | None = None,
    ) -> Callable[[F], F]:
        """Declare the decorated function as the handler of these topics.

        It is called with a ConsumerRecord, or with `batch` with ConsumerRecords: that many, or what came `within` a time. A coroutine
        function runs in the event loop, a plain one in threads, or with executor='process' in processes.

        `order_by='key'`: one call per key at a time, in log order, retries included; records without a key have no order. 'partition': per
        partition. None: no order. Batches keep to 'partition' for both of the first two.
        `concurrency`: calls at once (100 coroutines, 8 threads, 2 processes if not given); Adaptive(): as many as what they call can take.
        `retry`, `dead_letter`, `on_error`, `breaker`: what a failure leads to. Without any of them a failure stops the processor.
        `timeout`: of one call. `output`: the topic for what the handler returns.
        `deduplicate`: keeps effects that are no part of a transaction, mails or HTTP calls, from being repeated.
        """

        def declare(function: F) -> F:
            given = HandlerOptions(order_by, concurrency, executor, batch, within, timeout)
            self._add(
                given.spec(
                    name or str(getattr(function, "__qualname__", repr(function))),
                    function,
                    topics,
                    FailurePolicy(retry=retry, dead_letter=dead_letter, on_error=on_error),
                    breaker,
                    output,
                    deduplicate=deduplicate,
                )
            )
            return function

        return declare

    def sink(
        self,
        *topics: str,
        sink: Sink,
        batch: int = 50_000,
        within: Duration = 0,
        dead_letter: str | None = None,
        name: str | None = None,
    ) -> None:
        """Store the records of these topics by a sink, each once: a sink stores its offsets with its rows, or names each record (HttpSink).

        The sink is given what waits, at most `batch` records, as soon as it is free (or `within` a time). A row that it refuses for good
        goes to `dead_letter`; without one it stops the processor.
        """
        given = HandlerOptions(None, 1, "thread", batch, within, None)
        policy = FailurePolicy.of_sink(dead_letter)
        self._add(given.spec(name or type(sink).__name__, sink.write, topics, policy, None, None, sink=sink))

    def _add(self, spec: HandlerSpec) -> None:
        if self._runtime is not None:
            raise IllegalStateError(f"{spec.name}: handlers are declared before the processor runs")
        for other in self._specs:
            if twice := set(spec.topics) & set(other.topics):
                raise ConfigError(
                    f"topic {sorted(twice)[0]!r} has a handler already, {other.name}: one handler per topic in a processor, or another "
                    "group.id in another processor"
                )
        if self._settings.exactly_once and spec.batch and spec.order_by is None and spec.sink is None:
            raise ConfigError(f"{spec.name}: with exactly_once a batch handler needs order_by='partition'")
        if spec.deduplicate is not None:
            spec.deduplicate.attach(spec, self.group_id, exactly_once=self._settings.exactly_once)
        self._specs.append(spec)

    # ------------------------------------------------------------ running

    def run(self) -> None:
        """Run until stop(), SIGTERM or Ctrl-C: then what runs is given `drain_timeout`, offsets are committed, and the group is left.

        HandlerStoppedError if a failure ended it. In a thread that is not the main one no signal is handled.
        """
        asyncio.run(self._run_with_signals())

    async def _run_with_signals(self) -> None:
        with self._signals():
            await self.serve()

    async def serve(self) -> None:
        """run(), in an event loop that is yours, without signal handlers. Cancelling it ends it as stop() does."""
        from .runtime import Runtime

        if not self._specs:
            raise ConfigError("a Processor without handlers: declare one with @processor.handler('topic')")
        if self._settings.budget.cpu_cores is not None and not any(spec.adaptive for spec in self._specs):
            raise ConfigError(
                "cpu_budget is kept by running fewer calls at once: give a handler concurrency=Adaptive()"
            )
        with self._lock:
            if self._runtime is not None:
                raise IllegalStateError("this Processor runs already")
            self._runtime = runtime = Runtime(self._specs, self._settings)
            if self._stop_asked:
                runtime.stop()
        try:
            running = asyncio.ensure_future(runtime.run())
            try:
                await asyncio.shield(running)
            except asyncio.CancelledError:
                runtime.stop()
                await running
                raise
        finally:
            self._runtime = None
            self._stop_asked = False

    def stop(self) -> None:
        """End run(), in order. From any thread, a handler, or a signal handler; returns at once; idempotent."""
        with self._lock:
            self._stop_asked = True
            if self._runtime is not None:
                self._runtime.stop()

    def health(self) -> Health:
        """How it is, for probes. From any thread."""
        runtime = self._runtime
        if runtime is None:
            return Health(ready=False, alive=True, reason="not running", details={})
        found: Health = runtime.health()
        return found

    @property
    def group_id(self) -> str:
        """The group whose offsets are committed."""
        return str(self._settings.config["group.id"])

    @property
    def topics(self) -> list[str]:
        """The topics that have a handler."""
        return sorted(topic for spec in self._specs for topic in spec.topics)

    def configure(self, **options: Any) -> None:
        """Change options of the consumer before run(): what `penstock run` does for each instance."""
        if self._runtime is not None:
            raise IllegalStateError("options are changed before the processor runs")
        now = self._settings
        kept = {f.name: getattr(now, f.name) for f in fields(now) if f.name not in _OF_CONFIG}
        self._settings = _settings(dict(now.given) | options, **kept)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT stop; the second SIGINT is Python's own."""
        loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupted() -> None:
            loop.remove_signal_handler(signal.SIGINT)
            self.stop()

        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_signal_handler(signal.SIGINT)


class HandlerOptions:
    """What handler() and sink() are given alike, checked."""

    def __init__(
        self,
        order_by: str | None,
        concurrency: int | Adaptive | None,
        executor: str | None,
        batch: int,
        within: Duration,
        timeout: Duration | None,
    ) -> None:
        self.order_by = order_by
        self.concurrency = concurrency
        self.executor = executor
        self.batch = batch
        self.within_ms = to_duration_ms(within)
        self.timeout_s = None if timeout is None else to_duration_ms(timeout) / 1000

    def spec(
        self,
        name: str,
        function: Callable[..., Any],
        topics: tuple[str, ...],
        policy: FailurePolicy,
        breaker: CircuitBreaker | None,
        output: str | None,
        sink: Sink | None = None,
        deduplicate: Deduplicate | None = None,
    ) -> HandlerSpec:
        """ConfigError for what does not go together."""
        if not topics or not all(isinstance(topic, str) and topic for topic in topics):
            raise ConfigError(
                f"{name}: a handler needs the names of its topics, as in handler('orders'); got {topics!r}"
            )
        if self.order_by not in ("key", "partition", None):
            raise ConfigError(f"{name}: order_by is 'key', 'partition' or None; got {self.order_by!r}")
        is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            type(function).__call__
        )
        executor = self.executor or ("async" if is_coroutine else "thread")
        if executor not in _CONCURRENCY:
            raise ConfigError(f"{name}: executor is 'async', 'thread' or 'process'; got {executor!r}")
        if executor != "process" and (executor == "async") != is_coroutine:
            kind = "a coroutine function" if is_coroutine else "a plain function"
            raise ConfigError(f"{name} is {kind}, which executor={executor!r} cannot run; leave executor out")
        if self.batch < 0 or not isinstance(self.batch, int):
            raise ConfigError(
                f"{name}: batch is a number of records, or 0 for single ones; got {self.batch!r}"
            )
        policy.check(name, self.order_by, self.batch)
        return HandlerSpec(
            name=name,
            function=function,
            topics=topics,
            order_by=self.order_by,
            concurrency=self._concurrency(name, executor),
            adaptive=self.concurrency if isinstance(self.concurrency, Adaptive) else None,
            executor=executor,
            batch=self.batch,
            within_ms=self.within_ms,
            timeout_s=self.timeout_s,
            policy=policy,
            breaker=breaker,
            output=output,
            sink=sink,
            deduplicate=deduplicate,
        )

    def _concurrency(self, name: str, executor: str) -> int:
        if self.concurrency is None:
            return _CONCURRENCY[executor]
        if isinstance(self.concurrency, Adaptive):
            return self.concurrency.first
        if not isinstance(self.concurrency, int) or self.concurrency < 1:
            raise ConfigError(
                f"{name}: concurrency is a number from 1 on, or Adaptive(…); got {self.concurrency!r}"
            )
        return self.concurrency


def _settings(given: Mapping[str, Any], **rest: Any) -> ProcessorSettings:
    """The consumer's and the producer's share of the options. ConfigError for what neither knows, or what the processor decides."""
    dotted = {name if "." in name else name.replace("_", "."): value for name, value in given.items()}
    consumers, producers = BY_CLIENT["consumer"], BY_CLIENT["producer"]
    config = {name: value for name, value in dotted.items() if name in consumers or name not in producers}
    resolved = resolve("consumer", config)  # which refuses what is unknown
    if resolved["group.id"] is None:
        raise ConfigError("a Processor needs group.id: what is done is stored under a group's name")
    if "enable.auto.commit" in resolved.given and resolved["enable.auto.commit"]:
        raise ConfigError(
            "enable.auto.commit=True: a Processor commits what its handlers have finished; leave it out"
        )
    config["enable.auto.commit"] = False
    config.setdefault("max.poll.records", _MAX_POLL_RECORDS)
    producer = {name: value for name, value in dotted.items() if name in producers}
    if rest["exactly_once"]:
        config.setdefault("isolation.level", "read_committed")
        producer.setdefault("transactional.id", _transactional_id(resolved))
        producer.setdefault("transaction.timeout.ms", _TRANSACTION_TIMEOUT_MS)
    elif "transactional.id" in producer:
        raise ConfigError(
            "transactional.id goes with exactly_once=True: without it nothing is written in transactions"
        )
    return ProcessorSettings(given=dict(given), config=config, producer_config=producer, **rest)


def _transactional_id(config: Config) -> str:
    """Each process its own: who takes another's fences it. A static member's stays the same, and ends what it left open at once."""
    instance = config["group.instance.id"] or uuid.uuid4().hex
    return f"{config['group.id']}-{instance}"
