"""HttpSink against a real HTTP server, which fails, drops connections after it has done its work, and knows keys again."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import signal
import socket
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from penstock import DevBroker, HttpSink, KafkaProducer, TopicPartition
from penstock.errors import ConfigError, HandlerStoppedError, SinkError
from tests.support.processors import child, ended
from tests.support.sinks import Letters, records_of

from .test_processor import Running, all_of, committed, processor_of, until

TP = TopicPartition("t", 0)
Answer = int | tuple[int, Mapping[str, str]] | None
"""A status, with headers; None: the connection is dropped."""


class _QuietServer(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Clients are killed here."""


class Server:
    """Stores bodies by their idempotency keys. `before` and `after` say what to answer instead, before and after it has stored one."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.by_record: dict[tuple[str, int, int], Any] = {}  # of batches, by (topic, partition, offset)
        self.order: dict[bytes, list[int]] = defaultdict(list)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.before: Callable[[str, bytes], Answer | bool] = lambda key, body: False
        self.after: Callable[[str, bytes], Answer | bool] = lambda key, body: False
        self._server = _QuietServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/orders"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(outer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10
            disable_nagle_algorithm = True  # headers and body are two writes

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) != length:  # the client died amid its request
                    self.close_connection = True
                    return
                with outer.lock:
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                try:
                    answer = outer.answer(dict(self.headers), body)
                finally:
                    with outer.lock:
                        outer.busy -= 1
                if answer is None:
                    self.close_connection = True
                    return
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                words = b"said the server" if status != 204 else b""
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(words))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(words)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def answer(self, headers: dict[str, str], body: bytes) -> Answer:
        key = headers["Idempotency-Key"]
        with self.lock:
            self.requests.append((key, headers, body))
        if (said := self.before(key, body)) is not False:
            return said  # type: ignore[return-value]
        with self.lock:
            known = key in self.stored
            if not known:
                self.stored[key] = body
                self._note(headers, key, body)
        if (said := self.after(key, body)) is not False:
            return said  # type: ignore[return-value]
        return 200 if known else 201

    def _note(self, headers: dict[str, str], key: str, body: bytes) -> None:
        if "Penstock-Offsets" not in headers:
            self.order[json.loads(body)["k"] if body.startswith(b'{"k"') else b""].append(
                int(key.rsplit("/", maxsplit=1)[-1])
            )
            return
        _, topic, partition, _ = key.split("/")
        offsets = [n for run in headers["Penstock-Offsets"].split(",") for n in numbers(run)]
        for offset, value in zip(offsets, json.loads(body), strict=True):
            self.by_record.setdefault((topic, int(partition), offset), value)


def numbers(run: str) -> range:
    first, _, last = run.partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


@contextlib.contextmanager
def opened(url: str, **options: Any) -> Iterator[HttpSink]:
    sink = HttpSink(url, **options)
    sink.open("g")
    assert sink.assigned([TP, TopicPartition("t", 1)]) == {}
    try:
        yield sink
    finally:
        sink.close()
        sink.close()


# ---------------------------------------------------------------- what is sent


def test_a_request_for_each_record(server: Server) -> None:
    with opened(server.url, headers={"X-Kind": "order"}) as sink:
        sink.write(records_of([b"0", b"\xff", None], offset=5))
        assert sink.rows == 3
    assert server.stored == {"g/t/0/5": b"0", "g/t/0/6": b"\xff", "g/t/0/7": b""}
    assert all(headers["X-Kind"] == "order" for _, headers, _ in server.requests)
    assert all(headers["Content-Type"] == "application/octet-stream" for _, headers, _ in server.requests)


def test_json_of_columns_and_headers_of_a_function(server: Server) -> None:
    columns = {"id": "value.id", "key": "key", "at": "offset"}
    with opened(
        server.url, body="json", columns=columns, headers=lambda record: {"X-Key": record.raw_key.decode()}
    ) as sink:
        sink.write(records_of([(b"k1", b'{"id": 1}')]))
    ((_, headers, body),) = server.requests
    assert json.loads(body) == {"id": 1, "key": "k1", "at": 0}
    assert (headers["X-Key"], headers["Content-Type"]) == ("k1", "application/json")


@pytest.mark.parametrize("style", ["json", "ndjson"])
def test_batches_are_of_one_partition(server: Server, style: Any) -> None:
    server._note = lambda *_: None  # type: ignore[method-assign]
    from penstock import ConsumerRecords

    with opened(server.url, batch=3, batch_format=style) as sink:
        sink.write(
            ConsumerRecords.concat(
                [records_of([b"%d" % n for n in range(5)]), records_of([b"9"], partition=1, offset=7)]
            )
        )
    assert sorted(server.stored) == ["g/t/0/0-2", "g/t/0/3-4", "g/t/1/7-7"]
    body = server.stored["g/t/0/0-2"]
    assert body == (b"[0,1,2]" if style == "json" else b"0\n1\n2\n")
    assert {h["Penstock-Offsets"] for _, h, _ in server.requests} == {"0-2", "3-4", "7"}


def test_several_at_once_and_those_of_a_key_one_after_the_other(server: Server) -> None:
    def slow(key: str, body: bytes) -> bool:
        time.sleep(0.002)
        return False

    server.before = slow
    given = [(b"k%d" % (n % 20), b'{"k": %d}' % (n % 20)) for n in range(200)]
    with opened(server.url, concurrency=8) as sink:
        sink.write(records_of(given))
    assert server.most > 1
    assert len(server.order) == 20
    assert all(offsets == sorted(offsets) for offsets in server.order.values())


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize(
    "answer", [503, 500, 408, 425, (429, {"Retry-After": "0"}), (503, {"Retry-After": "soon"}), 409, None]
)
def test_what_passes_is_sent_again_with_the_same_key(server: Server, answer: Answer) -> None:
    server.before = lambda key, body: answer if len(server.requests) < 3 else False
    with opened(server.url, timeout_s=5) as sink:
        sink.write(records_of([b"x"]))
    assert [key for key, _, _ in server.requests] == ["g/t/0/0"] * 3
    assert server.stored == {"g/t/0/0": b"x"}


def test_retry_after_is_honoured(server: Server, caplog: Any) -> None:
    server.before = lambda key, body: (503, {"Retry-After": "1"}) if len(server.requests) == 1 else False
    with opened(server.url) as sink:
        sink.write(records_of([b"x"]))
    assert "g/t/0/0 is sent to http://127.0.0.1" in caplog.text
    assert "again in 1.0 s: 503 said the server" in caplog.text


def test_an_answer_that_is_lost_costs_nothing(server: Server) -> None:
    server.after = lambda key, body: None if len(server.requests) == 1 else False
    with opened(server.url) as sink:
        sink.write(records_of([b"x"]))
    assert len(server.requests) == 2 and server.stored == {"g/t/0/0": b"x"}


def test_a_server_that_answers_too_slowly_is_asked_again(server: Server) -> None:
    release = threading.Event()

    def hang(key: str, body: bytes) -> bool:
        if len(server.requests) == 1:
            release.wait(10)
        return False

    server.before = hang
    with opened(server.url, timeout_s=0.2) as sink:
        sink.write(records_of([b"x"]))
    release.set()
    assert server.stored == {"g/t/0/0": b"x"}


@pytest.mark.parametrize("length", ["Connection: close", "Content-Length: 70000000", "Content-Length: 9"])
def test_the_status_counts_whatever_follows(length: str) -> None:
    """An answer without end, one that is too long, one that is cut off."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n\r\n".encode())
                while "9" not in length:
                    connection.sendall(b"x" * 65536)

        thread = threading.Thread(target=answer)
        thread.start()
        with opened(f"http://127.0.0.1:{listener.getsockname()[1]}/") as sink:
            sink.write(records_of([b"x"]))
        thread.join()


@pytest.mark.parametrize("conflict", ["done", "refused"])
def test_a_conflict_is_what_one_says_it_is(server: Server, conflict: Any) -> None:
    server.before = lambda key, body: 409
    with opened(server.url, conflict=conflict) as sink:
        sink.dead_letter = letters = Letters()
        sink.write(records_of([b"x"]))
        assert (sink.rows, len(letters)) == ((1, 0) if conflict == "done" else (0, 1))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_what_would_refuse_every_record_stops_and_is_no_dead_letter(server: Server, status: int) -> None:
    server.before = lambda key, body: (status, {"Location": "/elsewhere"})
    with opened(server.url) as sink:
        sink.dead_letter = letters = Letters()
        with pytest.raises(
            SinkError, match=rf"g/t/0/0: .* refuses whatever comes: {status} said the server"
        ) as caught:
            sink.write(records_of([b"x"]))
    assert not caught.value.retriable and not letters


@pytest.mark.parametrize("batch", [0, 100])
def test_refused_records_are_put_away_and_all_others_are_sent(server: Server, batch: int) -> None:
    bad = {3, 50, 51, 99}
    server.before = lambda key, body: 422 if b"bad" in body else False
    values = [b'"bad"' if n in bad else b"%d" % n for n in range(100)]
    if batch:
        values[70] = b"no json"
    with opened(server.url, batch=batch) as sink:
        sink.dead_letter = letters = Letters()
        sink.write(records_of(values))
        assert sink.bad_rows == len(letters)
    refused = bad | ({70} if batch else set())
    assert sorted(offset for _, offset, _ in letters) == sorted(refused)
    assert all("422 said the server" in why for _, offset, why in letters if offset != 70)
    if batch:
        assert {offset: value for (_, _, offset), value in server.by_record.items()} == {
            n: n for n in range(100) if n not in refused
        }
    else:
        assert server.stored == {f"g/t/0/{n}": b"%d" % n for n in range(100) if n not in refused}


def test_what_no_request_can_be_made_of_is_refused_too(server: Server) -> None:
    body = lambda r: {"n": 1 // int(r.raw_value)}  # noqa: E731
    headers = lambda r: {"X-N": "a\nb" if r.raw_value == b"5" else "ok"}  # noqa: E731
    with opened(server.url, body=body, headers=headers) as sink:
        sink.dead_letter = letters = Letters()
        sink.write(records_of([b"1", b"0", b"x", b"5", b"2"]))
    assert sorted(offset for _, offset, _ in letters) == [1, 2, 3]
    assert sorted(server.stored) == ["g/t/0/0", "g/t/0/4"]


def test_without_dead_letters_a_refused_record_stops_its_key(server: Server) -> None:
    server.before = lambda key, body: 400 if body == b"bad" else False
    with opened(server.url) as sink:
        with pytest.raises(
            SinkError, match=r"t-0 offset 1 is refused by http://.*: 400 said the server\. Nothing from it on"
        ):
            sink.write(records_of([(b"k", b"0"), (b"k", b"bad"), (b"k", b"2")]))
        assert server.stored == {"g/t/0/0": b"0"}
        server.before = lambda key, body: False
        sink.write(records_of([(b"k", b"0"), (b"k", b"bad"), (b"k", b"2")]))
    assert [key for key, _, _ in server.requests].count("g/t/0/0") == 1, "what was sent is not sent again"
    assert len(server.stored) == 3


def test_a_server_that_stays_away_is_retriable(server: Server) -> None:
    server.before = lambda key, body: 503
    with opened(server.url, retry_for_s=0.15) as sink:
        with pytest.raises(SinkError, match=r"did not take it for 0.15 s: 503 said the server") as caught:
            sink.write(records_of([b"x"]))
        assert caught.value.retriable
        server.before = lambda key, body: False
        sink.write(records_of([b"x"]))
    with (
        opened("http://127.0.0.1:1/", retry_for_s=0.1) as sink,
        pytest.raises(SinkError, match="ConnectError"),
    ):
        sink.write(records_of([b"x"]))


@pytest.mark.parametrize("end", ["revoked", "close"])
def test_who_loses_its_partition_or_is_closed_gives_up(server: Server, end: str) -> None:
    server.before = lambda key, body: (503, {"Retry-After": "200"})
    with opened(server.url) as sink:
        errors: list[BaseException] = []

        def write() -> None:
            try:
                sink.write(records_of([b"x"]))
            except SinkError as error:
                errors.append(error)

        writing = threading.Thread(target=write)
        writing.start()
        until(lambda: server.requests, "the first attempt")
        sink.close() if end == "close" else sink.revoked([TP])
        writing.join(30)
        assert not writing.is_alive()
        assert errors[0].retriable  # type: ignore[attr-defined]


# ---------------------------------------------------------------- mistakes and secrets


def test_secrets_are_not_told(server: Server, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, logger="penstock")
    caplog.set_level(logging.INFO, logger="httpx")
    server.before = lambda key, body: (503, {}) if len(server.requests) == 1 else 400
    with opened(
        server.url.replace("//", "//ada:geheim@"), headers={"Authorization": "said the server"}
    ) as sink:
        with pytest.raises(SinkError) as caught:
            sink.write(records_of([b"x"]))
        assert "geheim" not in f"{caplog.text}{caught.value}{sink!r}"
        assert "400 ***" in str(caught.value), "the server has repeated it"
    assert server.requests[0][1]["Authorization"]


@pytest.mark.parametrize(
    "url", ["host/path", "ftp://ada:geheim@host", "http://", "http://ada:geheim@host:port/"]
)
def test_a_url_that_cannot_be_read_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        HttpSink(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"batch": -1}, {"concurrency": 0}, {"timeout_s": 0}, {"conflict": "never"}, {"body": "key"}]
)
def test_options_that_make_no_sense(options: Any) -> None:
    with pytest.raises(ConfigError):
        HttpSink("http://host/", **options)


# ---------------------------------------------------------------- in processors


@pytest.fixture(scope="module")
def broker() -> Iterator[DevBroker]:
    with DevBroker(group_initial_rebalance_delay_ms=0) as running:
        yield running


def filled(broker: DevBroker, values: list[bytes], partitions: int = 1) -> str:
    topic = f"t-{uuid.uuid4().hex[:8]}"
    broker.create_topic(topic, partitions=partitions)
    with KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for number, value in enumerate(values):
            producer.send(topic, value, partition=number % partitions)
    return topic


def test_refused_records_become_dead_letters(broker: DevBroker, server: Server) -> None:
    topic, group = (
        filled(broker, [b"bad" if n % 10 == 3 else b"%d" % n for n in range(50)], 2),
        uuid.uuid4().hex,
    )
    broker.create_topic(f"{topic}.dlq")
    server.before = lambda key, body: 422 if body == b"bad" else False
    processor = processor_of(broker, group)
    processor.sink(topic, sink=HttpSink(server.url), dead_letter=f"{topic}.dlq")
    with Running(processor) as running:
        until(lambda: sum(committed(broker, group, topic, 2).values()) == 50, "all committed")
    assert running.error is None
    assert [letter.value for letter in all_of(broker, f"{topic}.dlq")] == [b"bad"] * 5
    assert sorted(server.stored.values()) == sorted(b"%d" % n for n in range(50) if n % 10 != 3)


def test_without_a_dead_letter_topic_a_refused_record_stops_the_processor(
    broker: DevBroker, server: Server
) -> None:
    topic, group = filled(broker, [b"0", b"bad", b"2"]), uuid.uuid4().hex
    server.before = lambda key, body: 422 if body == b"bad" else False
    processor = processor_of(broker, group)
    processor.sink(topic, sink=HttpSink(server.url, concurrency=1), batch=1)
    with Running(processor) as running:
        running.ended()
    assert isinstance(running.error, HandlerStoppedError)
    assert committed(broker, group, topic, 1) == {0: 1}


def test_a_processor_stops_although_the_server_is_away(broker: DevBroker, server: Server) -> None:
    topic, group = filled(broker, [b"0"]), uuid.uuid4().hex
    server.before = lambda key, body: 503
    processor = processor_of(broker, group, drain_timeout="100ms")
    processor.sink(topic, sink=HttpSink(server.url))
    with Running(processor):
        until(lambda: server.requests, "an attempt")
    assert committed(broker, group, topic, 1) in ({}, {0: 0})


@pytest.mark.parametrize("batch", [0, 50])
def test_kill_9_and_a_server_that_fails_at_random_leave_each_record_once(
    broker: DevBroker, server: Server, batch: int
) -> None:
    """Processes are killed in the midst, the server answers 503 and 429 at random and drops connections after it has stored."""
    chance, group = random.Random(batch), f"g-{uuid.uuid4().hex[:8]}"

    def fail(key: str, body: bytes) -> Answer | bool:
        at = chance.random()
        return 503 if at < 0.02 else (429, {"Retry-After": "0"}) if at < 0.04 else False

    server.before = fail
    server.after = lambda key, body: None if chance.random() < 0.04 else False
    topic, produced, rounds = f"t-{uuid.uuid4().hex[:8]}", 450, 3
    broker.create_topic(topic, partitions=3)
    arguments = ("post", broker.bootstrap_servers, group, topic, server.url, str(batch))

    def stored() -> int:
        return len(server.by_record if batch else server.stored)

    with (
        KafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer,
        contextlib.ExitStack() as stack,
    ):
        for number in range(produced):
            producer.send(topic, b"%d" % number, partition=number % 3)
        for round_ in range(rounds):
            doomed = stack.enter_context(child(*arguments))
            until(lambda: stored() >= produced * round_ // (rounds + 1) + 1, "anything new is stored")  # noqa: B023
            ended(doomed, signal.SIGKILL)
        for number in range(produced, produced + 100):
            producer.send(topic, b"%d" % number, partition=number % 3)
        produced += 100
        last = stack.enter_context(child(*arguments))
        until(lambda: sum(committed(broker, group, topic).values()) == produced, "all committed")
        errors = ended(last, signal.SIGTERM)
        assert last.returncode == 0, errors
    assert len(server.requests) > len({key for key, _, _ in server.requests}), "nothing came twice"
    if batch:
        expected = {(topic, n % 3, n // 3): n for n in range(produced)}
        assert server.by_record == expected
    else:
        assert server.stored == {f"{group}/{topic}/{n % 3}/{n // 3}": b"%d" % n for n in range(produced)}
