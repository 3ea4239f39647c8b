"""python -m penstock.devbroker --port 9092 --data-dir d"""

from __future__ import annotations

import argparse
import logging
import sys

from .broker import DevBroker, run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m penstock.devbroker",
        description="A Kafka broker in one process, for development and tests. Production is a Kafka cluster.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=9092, help="the port, 0 for a free one (default 9092)")
    parser.add_argument("--advertised-host", help="what clients are told to connect to (default: --host)")
    parser.add_argument("--data-dir", help="the folder for topics and offsets (default: in memory)")
    parser.add_argument("--flush", action="store_true", help="fsync before each acknowledgement")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a broker setting, as num.partitions=3",
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = dict(each.partition("=")[::2] for each in given.set)

    def announce(broker: DevBroker) -> None:
        print(broker.bootstrap_servers, flush=True)  # noqa: T201

    try:
        run(
            given.host,
            given.port,
            given.data_dir,
            advertised_host=given.advertised_host,
            flush=given.flush,
            on_start=announce,
            **options,
        )
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"penstock.devbroker: {error}")


main()
