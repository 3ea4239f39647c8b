"""GET /ready and /live, for whoever watches over processes: 200 or 503, with the reason as JSON."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any


class Probes:
    """A small HTTP server in a thread of its own. `health()` gives a mapping with ready, alive and reason; from any thread."""

    def __init__(
        self, health: Callable[[], Mapping[str, object]], port: int, host: str = "127.0.0.1"
    ) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told = health()
                name = {"/ready": "ready", "/live": "alive"}.get(self.path.split("?")[0])
                if name is None:
                    self.send_error(404, "there are /ready and /live")
                    return
                body = json.dumps(told, default=str).encode()
                self.send_response(200 if told.get(name) else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Probes come every few seconds: nothing to tell."""

        self._server = http.server.ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="penstock probes", daemon=True
        )

    @property
    def port(self) -> int:
        """The one that was asked for, or, for 0, the one that was free."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Probes:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
