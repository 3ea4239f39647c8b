"""What is done, in Redis: for any number of machines, by the server's clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...errors import ConfigError, DeduplicationError
from .store import Answer

_TIMEOUT_S = 5.0
"""Of a connection and of an answer: records wait meanwhile, and are tried again."""

# A value is 'c' or 'd', claimed or done, and the owner. Redis runs one script at a time, so each is one step; a script has one key, so that
# a cluster can run it where the key is. They are sent in one go, whatever their number.
_CLAIM = (
    "local v = redis.call('GET', KEYS[1]) "
    "if not v or v == 'c' .. ARGV[1] then redis.call('SET', KEYS[1], 'c' .. ARGV[1], 'PX', ARGV[2]) return 0 end "
    "if string.sub(v, 1, 1) == 'd' then return 1 end return 2"
)
_CONFIRM = (
    "local v = redis.call('GET', KEYS[1]) "
    "if v and string.sub(v, 2) ~= ARGV[1] then return 0 end "
    "redis.call('SET', KEYS[1], 'd' .. ARGV[1], 'PX', ARGV[2]) return 1"
)
_RELEASE = (
    "if redis.call('GET', KEYS[1]) == 'c' .. ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)
_ANSWERS: tuple[Answer, ...] = ("new", "done", "busy")

_PASSES = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)
_NEVER_PASSES = (redis.exceptions.AuthenticationError, redis.exceptions.AuthorizationError)


class RedisStore:
    """A key for each id, which Redis itself lets expire.

    `server`: a URL as redis://host:6379/0, or a client of the package redis, which may be one of a cluster. `prefix` begins each key.
    What Redis forgets, by a crash without appendonly, by a failover before the replica knew, or by an eviction, may be repeated: use
    appendonly, and maxmemory-policy noeviction.
    """

    one_process = False

    def __init__(self, server: str | Any, *, prefix: str = "penstock:done:") -> None:
        self._server = server
        self._prefix = prefix.encode()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()  # whose connections they are: those that came with a fork must not be used
        self._client = self._made() if isinstance(self._server, str) else self._server

    def _made(self) -> Any:
        """It connects when it is first used."""
        try:
            return redis.Redis.from_url(
                self._server,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1),  # a connection that a restart has ended is made again at once
            )
        except ValueError:  # whose message may have parts of it, a password perhaps
            raise ConfigError("RedisStore: the URL cannot be read; write redis://host:6379/0") from None

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self._server, str):
            raise TypeError("a RedisStore that was given a client stays in its process; give it a URL")
        return {"_server": self._server, "_prefix": self._prefix}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    # ------------------------------------------------------------ the contract

    def open(self) -> None:
        self._run(_RELEASE, [b""], "")  # as good a question as any: is it there, and may we?

    def claim(self, ids: Sequence[bytes], owner: str, lease_ms: int) -> list[Answer]:
        return [_ANSWERS[told] for told in self._run(_CLAIM, ids, owner, lease_ms)]

    def confirm(self, ids: Sequence[bytes], owner: str, expires_ms: int) -> list[bytes]:
        stored = self._run(_CONFIRM, ids, owner, expires_ms)
        return [each for each, told in zip(ids, stored, strict=True) if not told]

    def release(self, ids: Sequence[bytes], owner: str) -> None:
        self._run(_RELEASE, ids, owner)

    def close(self) -> None:
        """A client that was given is left open, and so are connections that other threads use at this moment."""
        if isinstance(self._server, str) and self._pid == os.getpid():
            self._client.connection_pool.disconnect(inuse_connections=False)

    def _run(self, script: str, ids: Sequence[bytes], *arguments: str | int) -> list[int]:
        if not ids:
            return []
        if self._pid != os.getpid():
            with self._lock:
                self._begin()
        pipeline = self._client.pipeline(transaction=False)
        for each in ids:
            pipeline.eval(script, 1, self._prefix + each.hex().encode(), *arguments)
        try:
            return [int(told) for told in pipeline.execute()]
        except _NEVER_PASSES as error:
            raise DeduplicationError(f"{self!r}: Redis refuses: {error}") from error
        except _PASSES as error:
            raise DeduplicationError(f"{self!r}: {error}", retriable=True) from error
        except redis.exceptions.RedisError as error:
            raise DeduplicationError(f"{self!r}: Redis refuses: {error}") from error

    def __repr__(self) -> str:
        return f"RedisStore(prefix={self._prefix.decode()!r})"
