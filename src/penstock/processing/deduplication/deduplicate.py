"""`deduplicate=` of a handler: by what, where, and for how long."""

from __future__ import annotations

from typing import Any

from ..._native import ConsumerRecord
from ...errors import ConfigError, IllegalStateError
from ..settings import HandlerSpec
from ..units import to_duration_ms
from .identity import By, Identity
from .store import DeduplicationStore

Duration = float | str


class Deduplicate:
    """The effects of a handler, mails or HTTP calls, are not repeated for what `store` knows to be done.

        @processor.handler('orders', deduplicate=Deduplicate(SqliteStore('done.db'), by='value.order_id', expires='30d'))
        async def send_mail(record): ...

    Before the handler runs, the id of the record is claimed; when it has returned, the id is confirmed, and for `expires` each record with
    this id is skipped, and counts as done. When it raises, the claim is given back. A claim whose process has died stands until its `lease`
    is over: nobody else handles the record so long. The lease has to be longer than a call takes.

    A crash between the effect and the confirmation repeats the effect: at least once there. `id_of(record)` is the same both times: give it
    to the service as its idempotency key.

    `by`: 'record', the place in the log, also after a retry topic or a redrive; 'key'; 'header:NAME'; 'value.a.b', a field of JSON;
    or a function that returns str, bytes or None. A record without an id (None) is handled each time.
    `namespace`: ids with the same are shared; if not given, the group and the handler's name, so that renaming either forgets what is done.

    One object belongs to one handler; a store may be given to many.
    """

    def __init__(
        self,
        store: DeduplicationStore,
        by: By = "record",
        *,
        expires: Duration = "7d",
        lease: Duration = "5m",
        namespace: str | None = None,
    ) -> None:
        """`expires`, `lease`: ms, or text with a unit: '5m', '7d'. ConfigError for what cannot be."""
        if not isinstance(store, DeduplicationStore):
            raise ConfigError(
                f"Deduplicate needs a store: MemoryStore(), SqliteStore(path), PostgresStore(…) or RedisStore(…); got {store!r}"
            )
        self.store = store
        self.expires_ms = _positive("expires", expires)
        self.lease_ms = _positive("lease", lease)
        self._by = by
        self._namespace = namespace
        self._handler: tuple[str, tuple[str, ...]] | None = None  # set by attach(), once
        self._identity: Identity | None = None  # set by attach()
        Identity(by, (), ())  # which refuses what it does not know

    def id_of(self, record: ConsumerRecord) -> str | None:
        """The id of the record's effect, 32 hexadecimal digits: an idempotency key for the service that is called. None: it has none."""
        told = self._attached().of(record)
        return None if told is None else told.hex()

    def attach(self, spec: HandlerSpec, group_id: str, *, exactly_once: bool = False) -> Identity:
        """Belong to this handler from now on. ConfigError for what does not go together."""
        name = spec.name
        if self._handler not in (None, (name, spec.topics)):
            raise ConfigError(
                f"{name}: its Deduplicate is {self._handler[0]}'s already; make another, with the same store"
            )
        if exactly_once:
            raise ConfigError(
                f"{name}: exactly_once=True and deduplicate do not go together: a transaction that is aborted is run again, and what it "
                "was to write would be skipped. Give the effects a Processor of their own"
            )
        if spec.output is not None:
            raise ConfigError(
                f"{name}: output={spec.output!r} and deduplicate do not go together: a record that is skipped returns nothing, and what it "
                "returned before a crash would be lost. Use exactly_once=True for outputs, and another handler for effects"
            )
        if spec.executor == "process" and self.store.one_process:
            raise ConfigError(
                f"{name}: {type(self.store).__name__} is of one process, and executor='process' has several; use SqliteStore(path)"
            )
        if spec.timeout_s is not None and spec.timeout_s * 1000 >= self.lease_ms:
            raise ConfigError(
                f"{name}: a call may take {spec.timeout_s:g} s, longer than the lease of {self.lease_ms / 1000:g} s that keeps others from "
                "handling the record meanwhile; give Deduplicate(lease=…) a longer one"
            )
        self._handler = (name, spec.topics)
        scope = ("handler", group_id, name) if self._namespace is None else ("namespace", self._namespace)
        self._identity = Identity(self._by, scope, spec.topics)
        return self._identity

    def _attached(self) -> Identity:
        if self._identity is None:
            raise IllegalStateError(
                "an id has a namespace: give this to a handler first, processor.handler(…, deduplicate=…)"
            )
        return self._identity

    def __repr__(self) -> str:
        by: Any = self._by if isinstance(self._by, str) else getattr(self._by, "__qualname__", self._by)
        return f"<Deduplicate by {by} in {self.store!r}>"


def _positive(name: str, duration: Duration) -> int:
    found = int(to_duration_ms(duration))
    if found < 1:
        raise ConfigError(f"Deduplicate({name}={duration!r}): a time longer than 0")
    return found
