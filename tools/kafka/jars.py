"""Apache Kafka's jars: brought by Maven, kept in `.kafka/<version>/libs`, checked against `jars.lock`.

python tools/kafka/jars.py            bring the jars if needed and check them
python tools/kafka/jars.py --write    bring them anew and write jars.lock (after a change of pom.xml)
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
HOME = ROOT / ".kafka"
POM = HERE / "pom.xml"
LOCK = HERE / "jars.lock"
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
MAVEN_TIMEOUT_S = 600


class KafkaToolError(RuntimeError):
    """Something that Apache Kafka needs is missing or failed; the message says what, and what to do."""


def kafka_version() -> str:
    """The version that pom.xml names."""
    found = ElementTree.parse(POM).find(".//{http://maven.apache.org/POM/4.0.0}kafka.version")
    if found is None or not found.text:
        raise KafkaToolError(f"{POM} names no kafka.version")
    return found.text


def require_program(name: str, remedy: str) -> str:
    """The path of a program, or an error that names what to install."""
    path = shutil.which(name)
    if path is None:
        raise KafkaToolError(f"`{name}` was not found on PATH, and Apache Kafka needs it: {remedy}")
    return path


def java() -> str:
    """The path of `java`."""
    return require_program(
        "java",
        "install Java 17 or newer (Debian: apt install openjdk-17-jdk-headless; macOS: brew install openjdk)",
    )


def libs_folder() -> Path:
    """Where the jars of pom.xml's version lie; they may not be there yet."""
    return HOME / kafka_version() / "libs"


@cache
def ensure_jars() -> Path:
    """The folder of the jars, brought by Maven when they are missing, every one checked against jars.lock."""
    libs = libs_folder()
    with _only_one_process():
        if not libs.is_dir():
            _bring(libs)
        problems = check(libs)
    if problems:
        raise KafkaToolError(
            f"the jars in {libs} are not those of {LOCK.name}:\n  "
            + "\n  ".join(problems)
            + f"\nRemove {libs.parent} and run again. If pom.xml was changed on purpose: "
            "python tools/kafka/jars.py --write"
        )
    return libs


def check(libs: Path) -> list[str]:
    """What differs between a folder and jars.lock, one line each; empty when nothing does."""
    if not LOCK.is_file():
        return [f"{LOCK.name} is missing"]
    locked = dict(_locked_sums())
    present = {path.name: path for path in libs.glob("*.jar")}
    problems = [f"missing: {name}" for name in sorted(locked.keys() - present.keys())]
    problems += [f"not in the lock: {name}" for name in sorted(present.keys() - locked.keys())]
    for name in sorted(locked.keys() & present.keys()):
        actual = _sha256(present[name])
        if actual != locked[name]:
            problems.append(f"altered: {name} has SHA-256 {actual}, the lock says {locked[name]}")
    return problems


def write_lock() -> None:
    """Bring the jars anew and record their sums."""
    libs = libs_folder()
    with _only_one_process():
        if libs.is_dir():
            shutil.rmtree(libs)
        _bring(libs)
        lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(libs.glob("*.jar"))]
        LOCK.write_text("".join(lines), encoding="ascii")


def _locked_sums() -> Iterator[tuple[str, str]]:
    for line in LOCK.read_text(encoding="ascii").splitlines():
        digest, name = line.split()
        yield name, digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bring(libs: Path) -> None:
    """Run Maven into a folder beside the final one, and rename: a half-filled folder never counts."""
    maven = require_program("mvn", "install Apache Maven 3.8 or newer (Debian: apt install maven)")
    java()
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent) as folder:
        command = [
            maven, "-q", "-B", "-ntp", "-f", str(POM), COPY_GOAL,
            "-DincludeScope=runtime", f"-DoutputDirectory={folder}/libs",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=MAVEN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KafkaToolError(
                f"Maven did not bring Apache Kafka's jars within {MAVEN_TIMEOUT_S} s; is the network there?"
            ) from error
        if done.returncode != 0:
            raise KafkaToolError(f"Maven could not bring Apache Kafka's jars:\n{done.stdout[-4000:]}")
        Path(folder, "libs").rename(libs)


@contextmanager
def _only_one_process() -> Iterator[None]:
    """Two test runs at once must not write the folder at once."""
    HOME.mkdir(exist_ok=True)
    with (HOME / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description="Apache Kafka's jars: bring them and check them")
    parser.add_argument("--write", action="store_true", help="write jars.lock anew from what Maven brings")
    arguments = parser.parse_args()
    try:
        if arguments.write:
            write_lock()
        print(ensure_jars())
    except KafkaToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
