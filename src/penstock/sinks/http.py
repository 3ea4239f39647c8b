"""To an HTTP server, with idempotency keys: exactly once where the server knows a key again."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx

from .._native import ConsumerRecord, ConsumerRecords
from ..errors import ConfigError, SinkError
from ..types import TopicPartition
from .columns import Columns
from .http_answers import Conflict, outcome_of, retry_after_s
from .http_requests import Bodies, Body, checked_headers, key_of, lanes_of, offsets_text
from .refusals import Refusing, search

_log = logging.getLogger("penstock.sinks")

_BACKOFF_S = (0.1, 10.0)
_MOST_ANSWER_BYTES = 64 * 1024
_SHOWN_CHARACTERS = 300

Headers = Mapping[str, str] | Callable[[Any], Mapping[str, str]]


class HttpSink(Refusing):
    """Sends each record in a request of its own, or `batch` of them, until the server has them.

        processor.sink('orders', sink=HttpSink('https://host/orders', headers={'Authorization': 'Bearer …'}), batch=500)

    Each request has a header Idempotency-Key: group/topic/partition/offset. A record that comes again, after a crash say, has the same key:
    a server that stores the key with what it does has each record once. A server that does not has it at least once. With `batch` the key
    names a range, first-last, and Penstock-Offsets its offsets, as in 4-9,11: ranges are cut otherwise after a crash, so such a server
    compares the offsets. The offsets are Kafka's own, committed after the answers.

    2xx: done. 408, 425, 429, 5xx, no answer within `timeout_s`, no connection: sent again, after Retry-After or a growing delay, for ever
    or for `retry_for_s` (then SinkError, retriable). 401, 403, 404, 405, 407 and redirects: SinkError, which stops a processor, since every
    record would be refused. 409: as `conflict` says: 'again' (the key is being worked on), 'done' (it was seen before), or 'refused'. Any
    other 4xx refuses the record: to `dead_letter`, which a processor sets, or it stops. Of a batch that is refused, the records are found
    by cutting it in two again and again.

    `concurrency` requests are under way at once, those of one key one after the other; with `batch`, those of one partition.
    """

    def __init__(
        self,
        url: str,
        *,
        body: Body = "value",
        columns: Columns = None,
        headers: Headers | None = None,
        method: str = "POST",
        batch: int = 0,
        batch_format: Literal["json", "ndjson"] = "json",
        concurrency: int = 8,
        timeout_s: float = 30.0,
        retry_for_s: float | None = None,
        conflict: Conflict = "again",
        client: Callable[[], httpx.Client] | None = None,
    ) -> None:
        """`body`: 'value' (the bytes; of a batch: JSON), 'json' (an object of `columns`), or a function of the record that gives bytes, a
        str, or what JSON can say. `batch_format`: an array, or a line for each. `headers`: a mapping, or a function of the record (with
        `batch`: of the list of records), which is called for each attempt; they are never logged. `client`: makes the httpx.Client, for
        certificates or proxies of your own."""
        self._url, self._auth = _checked_url(url)
        super().__init__(f"{self._url.scheme}://{self._url.netloc.decode()}{self._url.path}")
        if batch < 0 or concurrency < 1 or timeout_s <= 0:
            raise ConfigError("HttpSink: batch from 0 on, concurrency from 1 on, timeout_s more than 0")
        if conflict not in ("again", "done", "refused"):
            raise ConfigError(f"HttpSink(conflict={conflict!r}): 'again', 'done' or 'refused'")
        self._bodies = Bodies(body, columns, batch_format)
        self._headers = checked_headers(headers)
        self._method = method
        self._batch = batch
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._retry_for_s = retry_for_s
        self._conflict: Conflict = conflict
        self._make_client = client or self._plain_client
        self._group_id = ""
        self._client: httpx.Client | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._owned: set[TopicPartition] = set()  # replaced, never changed: threads look at it
        self._one = threading.Lock()  # before `rows` and `_away`
        self._letters = threading.Lock()  # one dead letter at a time
        self._news = threading.Condition()  # something was revoked, a thread has failed, or it is closed
        self.rows = 0

    def _plain_client(self) -> httpx.Client:
        limits = httpx.Limits(max_connections=self._concurrency, max_keepalive_connections=self._concurrency)
        return httpx.Client(timeout=self._timeout_s, limits=limits)

    # ------------------------------------------------------------ the contract

    def open(self, group_id: str) -> None:
        """Nothing is sent yet."""
        self._group_id = group_id
        self._client = self._make_client()
        self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="penstock http")

    def assigned(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Empty: each goes on at Kafka's committed offset."""
        wanted = list(partitions)
        with self._one:
            self._passed(wanted)
        self._owned = self._owned | set(wanted)
        return {}

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Also amid a write(): what waits for another attempt is given up, since its new owner sends it."""
        gone = list(partitions)
        self._owned = self._owned - set(gone)
        with self._one:
            self._passed(gone)
        self._tell()

    def write(self, records: ConsumerRecords) -> None:
        """Returns once the server has all of these, or they are put away. SinkError: see above; what was sent is not sent again when the
        batch is given again."""
        threads = self._threads
        if threads is None:
            raise SinkError(f"{self.name}: the sink is not open, or closed")
        with self._one:
            skip = self._put_before(records)
        call = _Call(records)
        lanes = lanes_of(records, skip, concurrency=self._concurrency, batch=self._batch)
        for sending in [threads.submit(self._send_lane, call, lane) for lane in lanes]:
            sending.result()  # raises nothing: call.error has it
        if call.error is not None:
            raise call.error
        with self._one:
            self._passed(records.partitions)

    def close(self) -> None:
        """What is under way is given up. Idempotent."""
        threads, self._threads = self._threads, None
        client, self._client = self._client, None
        self._owned = set()
        self._tell()
        if client is not None:
            client.close()  # first: requests that are under way fail, and their threads end
        if threads is not None:
            threads.shutdown(wait=True, cancel_futures=True)

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()

    # ------------------------------------------------------------ the threads

    def _send_lane(self, call: _Call, lane: list[list[int]]) -> None:
        try:
            for indices in lane:
                search(indices, lambda part: self._send(call, part))
        except BaseException as error:
            with self._one:
                call.error = call.error or error
            self._tell()

    def _send(self, call: _Call, part: Sequence[int]) -> BaseException | None:
        """None once the server has them, or the only one is put away; else why they are refused."""
        records = [call.records[index] for index in part]
        try:
            content = self._content(records)
            refusal = self._until_answered(call, records, content)
        except _Unusable as error:  # the user's function, or a value that is no JSON
            refusal = error.__cause__ or error
        if refusal is None:
            with self._one:
                self.rows += len(records)
                self._away.setdefault(records[0].topic_partition, set()).update(r.offset for r in records)
        elif len(records) == 1:
            with self._letters:  # not `_one`: a dead letter may take its time, and revoked() must not
                self._put_away(call.records, [(part[0], refusal)], set())
            return None
        return refusal

    def _content(self, records: list[ConsumerRecord]) -> bytes:
        try:
            if not self._batch:
                return self._bodies.of(records[0])
            return self._bodies.of_many([self._bodies.part(record) for record in records])
        except Exception as error:
            raise _Unusable from error

    def _until_answered(
        self, call: _Call, records: list[ConsumerRecord], content: bytes
    ) -> BaseException | None:
        """None for a yes; the refusal for a no. SinkError where it ends without either."""
        tp = records[0].topic_partition
        key = key_of(self._group_id, records, is_range=bool(self._batch))
        deadline_s = None if self._retry_for_s is None else time.monotonic() + self._retry_for_s
        backoff_s, most_s = _BACKOFF_S
        while True:
            self._check_wanted(call, tp)
            given = self._given_headers(records)
            outcome, told, wait_s = self._ask(key, records, content, given)
            told = _masked(told, given)
            if outcome == "done":
                return None
            if outcome == "refused":
                return SinkError(told)
            if outcome == "stop":
                raise SinkError(
                    f"{key}: {self.name} refuses whatever comes: {told}. Nothing from it on is committed"
                )
            wait_s = max(wait_s, backoff_s * (0.8 + 0.4 * random.random()))
            if deadline_s is not None and time.monotonic() + wait_s > deadline_s:
                raise SinkError(
                    f"{key}: {self.name} did not take it for {self._retry_for_s:g} s: {told}", retriable=True
                )
            _log.warning("%s is sent to %s again in %.1f s: %s", key, self.name, wait_s, told)
            self._rest(call, tp, wait_s)
            backoff_s = min(backoff_s * 2, most_s)

    def _given_headers(self, records: list[ConsumerRecord]) -> dict[str, str]:
        try:
            return dict(self._headers(records if self._batch else records[0]))
        except Exception as error:
            raise _Unusable from error

    def _ask(
        self, key: str, records: list[ConsumerRecord], content: bytes, given: Mapping[str, str]
    ) -> tuple[str, str, float]:
        """(what the answer means, its words, the seconds it asks to wait)."""
        client = self._client
        if client is None:
            raise SinkError(f"{self.name}: the sink was closed meanwhile", retriable=True)
        headers = {
            "Content-Type": self._bodies.batch_content_type if self._batch else self._bodies.content_type
        }
        headers |= given
        headers["Idempotency-Key"] = key
        if self._batch:
            headers["Penstock-Offsets"] = offsets_text([record.offset for record in records])
        try:
            with client.stream(
                self._method, self._url, content=content, headers=headers, auth=self._auth
            ) as response:
                outcome = outcome_of(response.status_code, self._conflict)
                words = self._words(response)
                wait_s = retry_after_s(response.headers.get("Retry-After"), time.time())
                return outcome, f"{response.status_code} {words}".strip(), wait_s
        except (httpx.LocalProtocolError, UnicodeEncodeError) as error:  # a header that cannot be sent
            return "refused", f"{type(error).__name__}: {error}", 0.0
        except httpx.RequestError as error:
            return "again", f"{type(error).__name__}: {error}", 0.0
        except RuntimeError as error:  # httpx's word for a client that was closed
            raise SinkError(f"{self.name}: the sink was closed meanwhile", retriable=True) from error

    def _words(self, response: httpx.Response) -> str:
        """The beginning of the answer, for people: the status is known. One that is too long, too slow or cut off costs its connection."""
        found = bytearray()
        deadline_s = time.monotonic() + self._timeout_s
        with contextlib.suppress(httpx.RequestError):
            for part in response.iter_raw():
                found += part
                if len(found) > _MOST_ANSWER_BYTES or time.monotonic() > deadline_s:
                    break
        return " ".join(found[: _SHOWN_CHARACTERS * 4].decode(errors="replace").split())[:_SHOWN_CHARACTERS]

    # ------------------------------------------------------------ waiting

    def _check_wanted(self, call: _Call, tp: TopicPartition) -> None:
        if call.error is not None:
            raise _Abandoned
        if self._threads is None or tp not in self._owned:
            raise SinkError(f"{self.name}: {tp} is not this sink's, or not any more", retriable=True)

    def _rest(self, call: _Call, tp: TopicPartition, wait_s: float) -> None:
        """Ends early where nobody wants it any more."""
        deadline_s = time.monotonic() + wait_s
        with self._news:
            while (left_s := deadline_s - time.monotonic()) > 0:
                self._check_wanted(call, tp)
                self._news.wait(left_s)

    def __repr__(self) -> str:
        return f"<HttpSink {self.name}>"


class _Call:
    """One write(). `error`: the first one, written under the sink's lock."""

    def __init__(self, records: ConsumerRecords) -> None:
        self.records = records
        self.error: BaseException | None = None


class _Unusable(Exception):
    """No request can be made of a record; the cause says why."""


class _Abandoned(Exception):
    """Another thread of the same write() has failed."""


def _masked(told: str, given: Mapping[str, str]) -> str:
    """A server may repeat what it was sent."""
    for value in given.values():
        if len(value) > 3:
            told = told.replace(value, "***")
    return told


def _checked_url(url: str) -> tuple[httpx.URL, tuple[str, str] | None]:
    """Without user and password, which httpx would log with it; and these."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(
            "HttpSink: the URL cannot be read (and is not shown: it may have a password). Write 'https://host/path'"
        )
    auth = (parsed.username, parsed.password) if parsed.username or parsed.password else None
    return parsed.copy_with(username="", password=""), auth
