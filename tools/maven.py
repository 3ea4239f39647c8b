"""Programs that Maven Central keeps as jars: brought into `<home>/<version>/libs`, every one checked against a lock file."""

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
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
MAVEN_TIMEOUT_S = 600


class ServerToolError(RuntimeError):
    """Something that a server needs is missing or failed; the message says what, and what to do."""


def require_program(name: str, remedy: str) -> str:
    """The path of a program, or an error that names what to install."""
    path = shutil.which(name)
    if path is None:
        raise ServerToolError(f"`{name}` was not found on PATH, and is needed: {remedy}")
    return path


def java() -> str:
    """The path of `java`."""
    return require_program(
        "java",
        "install Java 17 or newer (Debian: apt install openjdk-17-jdk-headless; macOS: brew install openjdk)",
    )


@dataclass(frozen=True)
class Jars:
    """What a folder's pom.xml names. `home` is where it goes; `version_property` the pom's property with the version that matters."""

    what: str
    folder: Path
    home: Path
    version_property: str

    @property
    def _pom(self) -> Path:
        return self.folder / "pom.xml"

    @property
    def _lock(self) -> Path:
        return self.folder / "jars.lock"

    def version(self) -> str:
        """The version that pom.xml names."""
        found = ElementTree.parse(self._pom).find(
            f".//{{http://maven.apache.org/POM/4.0.0}}{self.version_property}"
        )
        if found is None or not found.text:
            raise ServerToolError(f"{self._pom} names no {self.version_property}")
        return found.text

    def libs(self) -> Path:
        """Where the jars of pom.xml's version lie; they may not be there yet."""
        return self.home / self.version() / "libs"

    def ensure(self) -> Path:
        """The folder of the jars, brought by Maven when they are missing, every one checked."""
        libs = self.libs()
        with self.only_one_process():
            if not libs.is_dir():
                self._bring(libs)
            problems = self.check(libs)
        if problems:
            raise ServerToolError(
                f"the jars in {libs} are not those of {self._lock}:\n  "
                + "\n  ".join(problems)
                + f"\nRemove {libs.parent} and run again. If pom.xml was changed on purpose: "
                f"python {self.folder.relative_to(ROOT)}/jars.py --write"
            )
        return libs

    def check(self, libs: Path) -> list[str]:
        """What differs between a folder and the lock, one line each; empty when nothing does."""
        if not self._lock.is_file():
            return [f"{self._lock.name} is missing"]
        locked = dict(self._locked_sums())
        present = {path.name: path for path in libs.glob("*.jar")}
        problems = [f"missing: {name}" for name in sorted(locked.keys() - present.keys())]
        problems += [f"not in the lock: {name}" for name in sorted(present.keys() - locked.keys())]
        for name in sorted(locked.keys() & present.keys()):
            actual = _sha256(present[name])
            if actual != locked[name]:
                problems.append(f"altered: {name} has SHA-256 {actual}, the lock says {locked[name]}")
        return problems

    def write_lock(self) -> None:
        """Bring the jars anew and record their sums."""
        libs = self.libs()
        with self.only_one_process():
            if libs.is_dir():
                shutil.rmtree(libs)
            self._bring(libs)
            lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(libs.glob("*.jar"))]
            self._lock.write_text("".join(lines), encoding="ascii")

    def _locked_sums(self) -> Iterator[tuple[str, str]]:
        for line in self._lock.read_text(encoding="ascii").splitlines():
            digest, name = line.split()
            yield name, digest

    def _bring(self, libs: Path) -> None:
        """Run Maven into a folder beside the final one, and rename: a half-filled folder never counts."""
        maven = require_program("mvn", "install Apache Maven 3.8 or newer (Debian: apt install maven)")
        java()
        libs.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=libs.parent) as folder:
            command = [
                maven, "-q", "-B", "-ntp", "-f", str(self._pom), COPY_GOAL,
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
                raise ServerToolError(
                    f"Maven did not bring {self.what}'s jars within {MAVEN_TIMEOUT_S} s; is the network there?"
                ) from error
            if done.returncode != 0:
                raise ServerToolError(f"Maven could not bring {self.what}'s jars:\n{done.stdout[-4000:]}")
            Path(folder, "libs").rename(libs)

    @contextmanager
    def only_one_process(self) -> Iterator[None]:
        """Two test runs at once must not write the folder at once."""
        self.home.mkdir(exist_ok=True)
        with (self.home / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def main(self) -> int:
        """Of the script that brings them."""
        parser = argparse.ArgumentParser(description=f"{self.what}'s jars: bring them and check them")
        parser.add_argument(
            "--write", action="store_true", help="write jars.lock anew from what Maven brings"
        )
        arguments = parser.parse_args()
        try:
            if arguments.write:
                self.write_lock()
            print(self.ensure())
        except ServerToolError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
