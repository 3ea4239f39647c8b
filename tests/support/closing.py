"""Other people's clients, closed so that a test ends whatever they do."""

from __future__ import annotations

import threading
from typing import Any

_WAIT_S = 15.0


def close(client: Any) -> None:
    """librdkafka's close() has no timeout, and amid a rebalance it may wait for ever, where no test's timeout reaches it. What is tested is
    the broker."""
    closing = threading.Thread(target=client.close, daemon=True)
    closing.start()
    closing.join(_WAIT_S)
