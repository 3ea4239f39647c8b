"""Objects of the user's that see what is consumed and committed (KIP-42)."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ..engine.consumer_core import ConsumerCore
from ..errors import ConfigError
from ..types import OffsetAndMetadata, TopicPartition

_log = logging.getLogger("penstock.consumer.interceptors")
_METHODS: Final = ("configure", "on_consume", "on_commit", "close")


class Interceptors:
    """A chain of interceptors, in the order they were given. False when there are none.

    Each has any of configure(config), on_consume(records), on_commit(offsets), close(). What one raises after its making is
    logged and goes no further: the next one is called with what the one before the failed one returned. They run in the thread
    that calls; the consumer calls all of them in the user's thread, inside poll(), commit() and close().
    Source: org.apache.kafka.clients.consumer.internals.ConsumerInterceptors.
    """

    def __init__(self, configured: Iterable[object], config: Mapping[str, Any]) -> None:
        """`configured`: instances, classes, or texts "package.module:Class"; classes are called without arguments.

        ConfigError where one cannot be made, its configure() raises, or it has none of the methods. Those made before it are closed.
        """
        self._all: list[object] = []
        try:
            for entry in configured:
                interceptor = _make(entry)
                self._all.append(interceptor)
                _configure(interceptor, entry, config)
        except BaseException:
            self.close()
            raise
        self._on_consume = _having(self._all, "on_consume")
        self._on_commit = _having(self._all, "on_commit")

    def __bool__(self) -> bool:
        return bool(self._all)

    def on_consume(self, records: Any) -> Any:
        """What poll() is to return for these records: what the last interceptor made of them."""
        for interceptor, method in self._on_consume:
            try:
                records = method(records)
            except Exception:
                _log.warning("on_consume() of %r failed; it is passed over", interceptor, exc_info=True)
        return records

    def on_commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """These offsets are stored in the group. Each interceptor is given a mapping of its own."""
        for interceptor, method in self._on_commit:
            try:
                method(dict(offsets))
            except Exception:
                _log.warning("on_commit() of %r failed; it is passed over", interceptor, exc_info=True)

    def close(self) -> None:
        """Close all, once."""
        closing, self._all = self._all, []
        self._on_consume, self._on_commit = [], []
        for interceptor, method in _having(closing, "close"):
            try:
                method()
            except Exception:
                _log.error("close() of %r failed", interceptor, exc_info=True)


_Methods = list[tuple[object, Callable[..., Any]]]


def _having(interceptors: Iterable[object], name: str) -> _Methods:
    found = ((interceptor, getattr(interceptor, name, None)) for interceptor in interceptors)
    return [(interceptor, method) for interceptor, method in found if callable(method)]


def _make(entry: object) -> object:
    made = _named(entry) if isinstance(entry, str) else entry
    if isinstance(made, type):
        try:
            made = made()
        except Exception as error:
            raise ConfigError(
                f"interceptor.classes: {entry!r} cannot be made without arguments: {error}; give an instance"
            ) from error
    if not any(callable(getattr(made, name, None)) for name in _METHODS):
        raise ConfigError(
            f"interceptor.classes: {entry!r} has none of on_consume(records), on_commit(offsets), configure(config), close()"
        )
    return made


def _named(text: str) -> object:
    module, colon, name = text.partition(":")
    if not colon or not module or not name:
        raise ConfigError(
            f"interceptor.classes: {text!r} names no class; package.module:Class is wanted. Java's classes cannot be run here"
        )
    try:
        found: object = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"interceptor.classes: {text!r} cannot be imported: {error}") from error
    return found


def _configure(interceptor: object, entry: object, config: Mapping[str, Any]) -> None:
    method = getattr(interceptor, "configure", None)
    if callable(method):
        try:
            method(config)
        except Exception as error:
            raise ConfigError(f"interceptor.classes: configure() of {entry!r} failed: {error}") from error


def interceptors_of(core: ConsumerCore) -> Interceptors:
    """Those that a consumer's configuration names, told of its commits."""
    try:
        interceptors = Interceptors(core.config["interceptor.classes"], core.config)
    except BaseException:
        core.engine.stop()
        raise
    if interceptors:
        core.commits.on_committed.append(interceptors.on_commit)
    return interceptors
