"""A real Apache Kafka on the loopback interface: one broker or several, in KRaft's combined mode."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tools.kafka import probe
from tools.kafka.jars import KafkaToolError, ensure_jars
from tools.kafka.java import LIGHT_JVM, java_command, java_tool
from tools.kafka.watchdog import Watchdog

HOST = "127.0.0.1"
CLIENT = "CLIENT"
INTERNAL = "INTERNAL"
CONTROLLER = "CONTROLLER"
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0

# Below the range from which the kernel takes ports for outgoing connections: while a broker is down for a
# restart, nobody's connection may take its port by chance.
PORTS = range(10_000, 32_000)

FOR_TESTS: dict[str, object] = {
    # No waiting for further members: a test knows its own.
    "group.initial.rebalance.delay.ms": 0,
    # Tests of failing members need not wait for the defaults of production.
    "group.min.session.timeout.ms": 100,
    "group.consumer.min.session.timeout.ms": 1_000,
    "group.consumer.min.heartbeat.interval.ms": 100,
    # A broker that was killed may register again once its session is over.
    "broker.session.timeout.ms": 3_000,
    "broker.heartbeat.interval.ms": 500,
    # Retention, compaction and transactions that time out are looked at often.
    "log.retention.check.interval.ms": 500,
    "log.cleaner.backoff.ms": 500,
    "log.segment.delete.delay.ms": 500,
    "log.initial.task.delay.ms": 500,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
}

_taken_ports: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on, and that this process has not given out before."""
    for _ in range(1_000):
        port = random.choice(PORTS)
        if port in _taken_ports:
            continue
        with socket.socket() as probing:
            try:
                probing.bind((HOST, port))
            except OSError:
                continue
        _taken_ports.add(port)
        return port
    raise KafkaToolError(f"no free port between {PORTS.start} and {PORTS.stop} on {HOST}")


@dataclass(slots=True)
class KafkaNode:
    """One broker, a controller as well. `ports` is by listener; `process` is None while it does not run.

    `config` holds properties of this broker alone, set before the cluster starts: {"broker.rack": "a"}.
    """

    id: int
    folder: Path
    ports: dict[str, int]
    advertised: dict[str, tuple[str, int]] = field(default_factory=dict)
    config: dict[str, object] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    paused: bool = False

    @property
    def port(self) -> int:
        """Where plain clients connect."""
        return self.ports[CLIENT]

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log_file(self) -> Path:
        return self.folder / "server.log"

    @property
    def data_folder(self) -> Path:
        """log.dirs: a folder per partition lies here."""
        return self.folder / "data"

    def log_tail(self, characters: int = 4_000) -> str:
        """The end of what the broker wrote: its log, and its standard output if it has any."""
        paths = (self.folder / "output.log", self.log_file)
        return "".join(path.read_text(errors="replace")[-characters:] for path in paths if path.exists())


class KafkaCluster:
    """Apache Kafka with `brokers` nodes, ids 1 to n. One thread at a time may use it.

    config            broker properties that override those for tests (see `_properties`)
    port              the first broker's client port, the next ones follow; None: free ones
    data_dir          a folder that stays, and is found again by the next start; None: a temporary one
    extra_listeners   further listeners and their security protocol: {"PROXIED": "PLAINTEXT"}; a security
                      protocol needs its settings in `config`: "listener.name.secure.ssl.keystore.location"
    classpath         folders or jars of plugins, for brokers to load
    light             start fast and small; False for benchmarks: the JVM's optimizing compiler, its usual collector

    `features` are levels to begin with, set before start(): {"transaction.version": 1}; Kafka's newest by default.
    Another address to advertise (a proxy's) is set in `nodes[id].advertised[listener]` before start().
    """

    def __init__(
        self,
        brokers: int = 1,
        config: Mapping[str, object] | None = None,
        *,
        port: int | None = None,
        data_dir: Path | str | None = None,
        extra_listeners: Mapping[str, str] | None = None,
        heap_mb: int = 512,
        light: bool = True,
        jvm_args: Iterable[str] = (),
        classpath: Iterable[Path] = (),
    ) -> None:
        if brokers < 1:
            raise ValueError(f"brokers must be at least 1, not {brokers}")
        self.config = dict(config or {})
        self.extra_listeners = dict(extra_listeners or {})
        self.features: dict[str, int] = {}
        self._jvm_args = [
            f"-Xmx{heap_mb}m",
            f"-Xms{min(heap_mb, 256)}m",
            *(LIGHT_JVM if light else ()),
            *jvm_args,
        ]
        self._classpath = tuple(classpath)
        self._keeps_data = data_dir is not None
        self.folder = Path(data_dir or tempfile.mkdtemp(prefix="penstock-kafka-")).resolve()
        self._watchdog: Watchdog | None = None
        self.nodes = {
            node_id: KafkaNode(node_id, self.folder / f"node-{node_id}", self._ports(node_id, port))
            for node_id in range(1, brokers + 1)
        }

    def _ports(self, node_id: int, first_port: int | None) -> dict[str, int]:
        names = [CLIENT, INTERNAL, CONTROLLER, *self.extra_listeners]
        ports = {name: free_port() for name in names}
        if first_port is not None:
            ports[CLIENT] = first_port + node_id - 1
        return ports

    # -- what clients need
    @property
    def bootstrap_servers(self) -> str:
        return self.bootstrap(CLIENT)

    def bootstrap(self, listener: str = CLIENT) -> str:
        """`host:port` of every broker's listener, as it is advertised, with commas between."""
        return ",".join(
            "{}:{}".format(*node.advertised.get(listener, (HOST, node.ports[listener])))
            for node in self.nodes.values()
        )

    # -- life
    def start(self) -> KafkaCluster:
        """Format the storage if it is new, start every broker and wait until the cluster is ready."""
        ensure_jars()
        if any(node.running for node in self.nodes.values()):
            raise KafkaToolError("this cluster is running already")
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "x", 1)
        try:
            for node in self.nodes.values():
                self._prepare(node, cluster_id)
            for node in self.nodes.values():
                self._launch(node)
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every broker: at once when its data goes with it, in order when the data stays. Idempotent."""
        running = [node for node in self.nodes.values() if node.running]
        for node in running:
            if self._keeps_data and not node.paused:
                self._signal(node, signal.SIGTERM)
            else:
                self._signal(node, signal.SIGKILL)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for node in running:
            self._reap(node, max(0.1, deadline - time.monotonic()))
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None
        if not self._keeps_data:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> KafkaCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- faults
    def kill(self, node: int) -> None:
        """SIGKILL: connections are reset; what the broker wrote without a flush is with the operating system."""
        self._signal(self.nodes[node], signal.SIGKILL)
        self._reap(self.nodes[node], STOP_TIMEOUT_S)

    def terminate(self, node: int) -> None:
        """SIGTERM: a controlled shutdown, which moves leaderships away first; waits for its end."""
        self._signal(self.nodes[node], signal.SIGTERM)
        self._reap(self.nodes[node], STOP_TIMEOUT_S)

    def pause(self, node: int) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(self.nodes[node], signal.SIGSTOP)
        self.nodes[node].paused = True

    def resume(self, node: int) -> None:
        """SIGCONT after pause()."""
        self._signal(self.nodes[node], signal.SIGCONT)
        self.nodes[node].paused = False

    def restart(self, node: int, *, graceful: bool = False, wait: bool = True) -> None:
        """Start a broker again on its ports and data; ends it first if it runs (SIGTERM if `graceful`)."""
        if self.nodes[node].running:
            (self.terminate if graceful else self.kill)(node)
        self._launch(self.nodes[node])
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until each running broker answers, and lists all running brokers as members of the cluster."""
        expected = {node.id for node in self.nodes.values() if node.running and not node.paused}
        deadline = time.monotonic() + timeout_s
        for node_id in expected:
            node = self.nodes[node_id]
            seen: object = "nothing yet"
            while True:
                if not node.running:
                    raise KafkaToolError(
                        f"broker {node_id} ended by itself; its log ends with:\n{node.log_tail()}"
                    )
                try:
                    seen = probe.live_brokers(HOST, node.ports[INTERNAL])
                    if expected <= seen:
                        break
                except OSError as error:
                    seen = error
                if time.monotonic() > deadline:
                    raise KafkaToolError(
                        f"broker {node_id} was not ready within {timeout_s} s (expected: {sorted(expected)}, "
                        f"last seen: {seen}); its log ends with:\n{node.log_tail()}"
                    )
                time.sleep(0.02)

    # -- processes
    def _prepare(self, node: KafkaNode, cluster_id: str) -> None:
        """Write the node's properties, and format its storage unless a former start did."""
        node.folder.mkdir(parents=True, exist_ok=True)
        properties = node.folder / "server.properties"
        lines = [f"{key}={value}" for key, value in self._properties(node).items()]
        properties.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if not (node.data_folder / "meta.properties").exists():
            levels = [f"--feature={name}={level}" for name, level in self.features.items()]
            java_tool("kafka.tools.StorageTool", ["format", "-t", cluster_id, "-c", str(properties), *levels])

    def _launch(self, node: KafkaNode) -> None:
        command = java_command(
            "kafka.Kafka", node.log_file, jvm_args=self._jvm_args, classpath=self._classpath
        )
        with (node.folder / "output.log").open("ab") as output:
            # A session of its own: Ctrl-C in the terminal is for the program that uses the cluster, which ends
            # the brokers itself, after its own consumers.
            node.process = subprocess.Popen(
                [*command, str(node.folder / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node.paused = False
        if self._watchdog is None:
            self._watchdog = Watchdog(None if self._keeps_data else self.folder)
        self._watchdog.add(node.process.pid)

    def _signal(self, node: KafkaNode, number: signal.Signals) -> None:
        if node.process is None or node.process.poll() is not None:
            raise KafkaToolError(f"broker {node.id} does not run, so it cannot be sent {number.name}")
        node.process.send_signal(number)

    def _reap(self, node: KafkaNode, timeout_s: float) -> None:
        """Wait for a process that was told to end; SIGKILL when it takes too long."""
        if node.process is None:
            return
        try:
            node.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            node.process.kill()
            node.process.wait(STOP_TIMEOUT_S)
        if self._watchdog is not None:
            self._watchdog.remove(node.process.pid)
        node.process = None
        node.paused = False

    # -- configuration
    def _properties(self, node: KafkaNode) -> dict[str, object]:
        """server.properties of a node. Small and quick, as tests need it; `config` has the last word."""
        copies = min(3, len(self.nodes))
        protocols = {
            CLIENT: "PLAINTEXT",
            INTERNAL: "PLAINTEXT",
            CONTROLLER: "PLAINTEXT",
            **self.extra_listeners,
        }
        advertised = {
            name: node.advertised.get(name, (HOST, port))
            for name, port in node.ports.items()
            if name != CONTROLLER
        }
        return {
            "process.roles": "broker,controller",
            "node.id": node.id,
            "controller.quorum.voters": ",".join(
                f"{other.id}@{HOST}:{other.ports[CONTROLLER]}" for other in self.nodes.values()
            ),
            "controller.listener.names": CONTROLLER,
            "inter.broker.listener.name": INTERNAL,
            "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in node.ports.items()),
            "advertised.listeners": ",".join(
                f"{name}://{host}:{port}" for name, (host, port) in advertised.items()
            ),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in protocols.items()),
            "log.dirs": node.data_folder,
            "num.partitions": 1,
            "default.replication.factor": copies,
            "offsets.topic.replication.factor": copies,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 4,
            **FOR_TESTS,
            **self.config,
            **node.config,
        }
