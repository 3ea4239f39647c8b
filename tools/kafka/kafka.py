"""A real Apache Kafka on this machine, from Maven Central's jars.

    python tools/kafka/kafka.py [--brokers 3] [--port 9092] [--data-dir FOLDER] [--config KEY=VALUE ...]

prints the bootstrap servers and runs until Ctrl-C. As a library:

    with KafkaCluster(brokers=3) as cluster:
        cluster.bootstrap_servers
        cluster.kill(2); cluster.restart(2)
    java_tool("org.apache.kafka.tools.consumer.ConsoleConsumer", ["--bootstrap-server", ...])
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file: the repository stands in for this folder, where `kafka` would be this very file.
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from tools.kafka.cluster import CLIENT, HOST, KafkaCluster, KafkaNode, free_port
from tools.kafka.jars import KafkaToolError, ensure_jars, kafka_version
from tools.kafka.java import compile_java, java_command, java_tool

__all__ = [
    "CLIENT",
    "HOST",
    "KafkaCluster",
    "KafkaNode",
    "KafkaToolError",
    "compile_java",
    "ensure_jars",
    "free_port",
    "java_command",
    "java_tool",
    "kafka_version",
]


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return name, value


def main() -> int:
    parser = argparse.ArgumentParser(description="A real Apache Kafka on this machine; Ctrl-C ends it")
    parser.add_argument(
        "--brokers", type=int, default=1, help="how many, each in a process of its own (default 1)"
    )
    parser.add_argument(
        "--port", type=int, help="the first broker's port, the next ones follow (default: free ones)"
    )
    parser.add_argument("--data-dir", type=Path, help="keep the data here (default: a temporary folder)")
    parser.add_argument("--config", type=_setting, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--heap-mb", type=int, default=512, help="heap of each broker, in MB (default 512)")
    parser.add_argument(
        "--full-speed", action="store_true", help="the JVM's optimizing compiler: slower to start"
    )
    arguments = parser.parse_args()
    # A terminated run ends its brokers as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster = KafkaCluster(
            arguments.brokers,
            dict(arguments.config),
            port=arguments.port,
            data_dir=arguments.data_dir,
            heap_mb=arguments.heap_mb,
            light=not arguments.full_speed,
        )
        with cluster:
            print(f"Apache Kafka {kafka_version()}, {arguments.brokers} broker(s), data in {cluster.folder}")
            print(f"bootstrap servers: {cluster.bootstrap_servers}", flush=True)
            _watch(cluster)
    except KeyboardInterrupt:
        print("stopped")
    except KafkaToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _watch(cluster: KafkaCluster) -> None:
    """Until Ctrl-C; an error when a broker ends by itself."""
    while True:
        for node in cluster.nodes.values():
            if not node.running:
                raise KafkaToolError(
                    f"broker {node.id} ended by itself; its log ends with:\n{node.log_tail()}"
                )
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
