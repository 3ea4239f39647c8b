"""Running the JVM: the command line of a Kafka process, and Kafka's own command-line tools."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.kafka.jars import HERE, KafkaToolError, ensure_jars
from tools.maven import java, require_program

LIGHT_JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Starts sooner and takes less memory; the compiled code is slower, so a benchmark leaves it out."""


def java_command(
    main_class: str, log_file: Path, *, jvm_args: Iterable[str] = (), classpath: Iterable[Path] = ()
) -> list[str]:
    """A Java process with Kafka's jars, logging to `log_file`; append the program's arguments."""
    path = os.pathsep.join([*(str(entry) for entry in classpath), f"{ensure_jars()}/*"])
    return [
        java(),
        *jvm_args,
        f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
        f"-Dpenstock.log.file={log_file}",
        "-Djava.awt.headless=true",
        "-cp",
        path,
        main_class,
    ]


def java_tool(
    main_class: str,
    args: Sequence[str] = (),
    input: str | None = None,
    timeout: float = 60.0,
    *,
    check: bool = True,
    classpath: Iterable[Path] = (),
    jvm_args: Iterable[str] = ("-Xmx256m", *LIGHT_JVM),
) -> subprocess.CompletedProcess[str]:
    """Run a main class of Kafka's (or one compiled against it) to its end; `timeout` in seconds.

    Raises KafkaToolError with what the tool wrote when it fails (unless `check` is false) or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-java-") as folder:
        log_file = Path(folder, "tool.log")
        command = [*java_command(main_class, log_file, jvm_args=jvm_args, classpath=classpath), *args]
        try:
            done = subprocess.run(
                command, input=input, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            log = log_file.read_text(errors="replace") if log_file.exists() else ""
            raise KafkaToolError(
                f"{main_class} {' '.join(args)} did not end within {timeout} s. It wrote:\n"
                f"{_text(error.stdout)}{_text(error.stderr)}{log[-2000:]}"
            ) from error
        if check and done.returncode != 0:
            raise KafkaToolError(
                f"{main_class} {' '.join(args)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done


def compile_java(sources: Sequence[Path], into: Path, timeout: float = 120.0) -> Path:
    """Compile Java sources against Kafka's jars into a folder, unless it is newer than they; returns it."""
    stamp = into / "compiled"
    if stamp.exists() and all(stamp.stat().st_mtime >= source.stat().st_mtime for source in sources):
        return into
    compiler = require_program(
        "javac", "install a JDK, 17 or newer (Debian: apt install openjdk-17-jdk-headless)"
    )
    into.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [compiler, "-cp", f"{ensure_jars()}/*", "-d", str(into), *map(str, sources)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode != 0:
        raise KafkaToolError(f"javac refused {', '.join(map(str, sources))}:\n{done.stdout}{done.stderr}")
    stamp.touch()
    return into


def _text(output: bytes | str | None) -> str:
    if output is None:
        return ""
    return output if isinstance(output, str) else output.decode(errors="replace")
