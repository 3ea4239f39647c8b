"""Where bytes rest: in memory, or in files that survive the process. The log and the journals know only these seams.

What append() has returned from is in the operating system's hands (write(2)), so it survives kill -9 of the broker;
with flush=True it is on the disk (fsync(2)) and survives the machine too.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol


class Segment(Protocol):
    """An append-only run of bytes."""

    @property
    def size(self) -> int: ...
    @property
    def start(self) -> int:
        """What stands before this position is gone."""

    def append(self, data: bytes) -> None:
        """All of data or nothing; OSError when the medium refuses."""

    def read(self, position: int, length: int) -> bytes: ...
    def truncate(self, size: int) -> None: ...
    def forget(self, before: int) -> None:
        """Bytes before this position will not be read again; a medium that can give the room back may."""

    def close(self) -> None: ...
    def delete(self) -> None: ...


class MemorySegment:
    """Chunks as they came, found by bisection. A read of whole chunks copies nothing but the join."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._starts: list[int] = []
        self._size = 0
        self._gone = 0  # chunks at the front that were given back

    @property
    def size(self) -> int:
        return self._size

    @property
    def start(self) -> int:
        return self._starts[self._gone] if self._gone < len(self._starts) else self._size

    def append(self, data: bytes) -> None:
        self._chunks.append(data)
        self._starts.append(self._size)
        self._size += len(data)

    def read(self, position: int, length: int) -> bytes:
        end = min(position + length, self._size)
        first = bisect_right(self._starts, position) - 1
        last = bisect_left(self._starts, end)
        if first < 0 or end <= position:
            return b""
        chunks = self._chunks[first:last]
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        skip = position - self._starts[first]
        if skip == 0 and len(data) == end - position:
            return data
        return data[skip : skip + end - position]

    def truncate(self, size: int) -> None:
        while self._starts and self._starts[-1] >= size:
            self._starts.pop()
            self._chunks.pop()
        if self._chunks:
            self._chunks[-1] = self._chunks[-1][: size - self._starts[-1]]
        self._size = size
        self._gone = min(self._gone, len(self._chunks))

    def forget(self, before: int) -> None:
        keep = len(self._starts) if before >= self._size else bisect_right(self._starts, before) - 1
        for index in range(self._gone, keep):
            self._chunks[index] = b""
        self._gone = max(self._gone, keep)

    def close(self) -> None:
        pass

    def delete(self) -> None:
        self.truncate(0)


class FileSegment:
    """One file, written at its end and read by position."""

    def __init__(self, path: Path, flush: bool = False) -> None:
        self._path = path
        self._flush = flush
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._size = os.fstat(self._fd).st_size

    @property
    def size(self) -> int:
        return self._size

    @property
    def start(self) -> int:
        return 0

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        written = 0
        try:
            while written < len(view):  # pwrite may write less, on a full disk or after a signal
                written += os.pwrite(self._fd, view[written:], self._size + written)
            if self._flush:
                os.fsync(self._fd)
        except OSError:
            os.ftruncate(
                self._fd, self._size
            )  # nobody was told of these bytes: they must not look like a batch
            raise
        self._size += written

    def read(self, position: int, length: int) -> bytes:
        return os.pread(self._fd, min(length, self._size - position), position)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)
        self._size = size

    def forget(self, before: int) -> None:
        """Files keep what retention dropped: one segment per partition is never cut at its front."""

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def delete(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)


class Journal:
    """Small facts, one JSON line each behind its CRC-32; a torn last line is dropped when it is read again."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self.entries = 0

    def append(self, entry: dict[str, Any]) -> None:
        self._segment.append(encode_entry(entry))
        self.entries += 1

    def load(self) -> tuple[list[dict[str, Any]], int]:
        """The entries, and how many bytes of a torn tail were cut off."""
        data = self._segment.read(0, self._segment.size)
        entries: list[dict[str, Any]] = []
        good = 0
        while (end := data.find(b"\n", good)) >= 0:
            line = data[good:end]
            try:
                if int(line[:8], 16) != zlib.crc32(line[9:]):
                    break
                entries.append(json.loads(line[9:]))
            except ValueError:
                break
            good = end + 1
        cut = len(data) - good
        if cut:
            self._segment.truncate(good)
        self.entries = len(entries)
        return entries, cut

    def close(self) -> None:
        self._segment.close()


def encode_entry(entry: dict[str, Any]) -> bytes:
    body = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


class Storage(Protocol):
    """Everything one broker keeps."""

    def segment(self, folder: str, partition: int) -> Segment: ...
    def journal(self, name: str) -> Journal: ...
    def rewrite(self, name: str, entries: Iterable[dict[str, Any]]) -> Journal:
        """A journal anew with these entries only; after a crash either the old or the new one is there, whole."""

    def drop_folder(self, folder: str) -> None: ...
    def close(self) -> None: ...


class MemoryStorage:
    """As long as this object lives: a broker that is stopped and started again over it finds all it had."""

    def __init__(self) -> None:
        self._segments: dict[tuple[str, int], MemorySegment] = {}
        self._journals: dict[str, MemorySegment] = {}

    def segment(self, folder: str, partition: int) -> Segment:
        return self._segments.setdefault((folder, partition), MemorySegment())

    def journal(self, name: str) -> Journal:
        return Journal(self._journals.setdefault(name, MemorySegment()))

    def rewrite(self, name: str, entries: Iterable[dict[str, Any]]) -> Journal:
        fresh = MemorySegment()
        fresh.append(b"".join(map(encode_entry, entries)))
        self._journals[name] = fresh
        return Journal(fresh)

    def drop_folder(self, folder: str) -> None:
        for key in [key for key in self._segments if key[0] == folder]:
            del self._segments[key]

    def close(self) -> None:
        pass


class FileStorage:
    """A folder: `<name>.journal`, and `topics/<folder>/<partition>.log`. One broker at a time holds its lock."""

    def __init__(self, root: Path, flush: bool = False) -> None:
        self._root = root
        self._flush = flush
        root.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise RuntimeError(
                f"the folder {root} is in use by another broker: stop that one, or give this one its own data_dir"
            ) from error

    def segment(self, folder: str, partition: int) -> Segment:
        return FileSegment(self._root / "topics" / folder / f"{partition}.log", self._flush)

    def journal(self, name: str) -> Journal:
        return Journal(FileSegment(self._root / f"{name}.journal", self._flush))

    def rewrite(self, name: str, entries: Iterable[dict[str, Any]]) -> Journal:
        path, fresh = self._root / f"{name}.journal", self._root / f"{name}.journal.new"
        fresh.unlink(missing_ok=True)
        segment = FileSegment(fresh)
        try:
            segment.append(b"".join(map(encode_entry, entries)))
            os.fsync(segment._fd)  # the rename must not reach the disk before what it names
        finally:
            segment.close()
        fresh.replace(path)
        return self.journal(name)

    def drop_folder(self, folder: str) -> None:
        place = self._root / "topics" / folder
        if place.is_dir():
            for leftover in place.iterdir():
                leftover.unlink()
            place.rmdir()

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
