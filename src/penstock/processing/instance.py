"""One process of several: python -m penstock.processing.instance MODULE:NAME STATUS_FD NUMBER [OPTION=VALUE ...]

It tells how it is, a JSON line a second, to STATUS_FD. Its standard input is the supervisor's: its end means that the supervisor is gone.
With NUMBER 0 it is a standby: all is imported, and it waits for a line with its number.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time

from ..errors import ConfigError, KafkaError
from .loading import load
from .processor import Processor

_log = logging.getLogger("penstock.processing")

STATUS_INTERVAL_S = 1.0
_STDIN = 0


def main(where: str, status_fd: int, number: int, level: str, static: bool, options: list[str]) -> int:
    logging.basicConfig(level=level, format=f"%(levelname)s %(name)s [{os.getpid()}]: %(message)s")
    try:
        processor = load(where)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if number == 0:
        _tell(status_fd, {"standby": True, "alive": True, "ready": False})
        line = os.read(_STDIN, 64)
        if not line:
            return 0
        number = int(line)
    configured = dict(option.partition("=")[::2] for option in options)
    if static:
        configured["group.instance.id"] = f"{processor.group_id}-{number}"
    if configured:
        processor.configure(**configured)
    threading.Thread(target=_watch, args=(processor,), daemon=True).start()
    threading.Thread(target=_report, args=(processor, status_fd), daemon=True).start()
    try:
        processor.run()
    except KafkaError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _watch(processor: Processor) -> None:
    """The supervisor's end of our standard input is closed when it dies, however it does."""
    while os.read(
        _STDIN, 64
    ):  # not sys.stdin: its lock would be held by this thread when the interpreter ends
        pass
    _log.warning("the supervisor is gone: this instance stops")
    processor.stop()


def _report(processor: Processor, status_fd: int) -> None:
    while _tell(status_fd, processor.health().as_dict()):
        time.sleep(STATUS_INTERVAL_S)


def _tell(status_fd: int, told: dict[str, object]) -> bool:
    try:
        os.write(status_fd, json.dumps(told, default=str).encode() + b"\n")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    _, _where, _fd, _number, _level, _static, *_options = sys.argv
    sys.exit(main(_where, int(_fd), int(_number), _level, _static == "static", _options))
