"""Says in one message what this machine lacks to build and test penstock, and how to install it.

    python3 tools/check_environment.py [build | demo | kafka | test | soak | fuzz]

Runs on any Python 3, before the project's environment exists, and with the standard library alone.
"""

import re
import shutil
import subprocess
import sys

# What each purpose needs beside what `build` needs.
BUILD = ("python", "cargo", "cc")
NEEDS = {
    "build": BUILD,
    "demo": BUILD,
    "kafka": ("python", "java", "javac", "mvn"),
    "test": (*BUILD, "rustfmt", "clippy", "java", "javac", "mvn"),
    "soak": (*BUILD, "java", "javac", "mvn"),
    "fuzz": (*BUILD, "nightly"),
}

DEBIAN_JDK = "apt install openjdk-17-jdk-headless"
RUSTUP = "https://rustup.rs, then open a new shell"

# name: (what it is, on Debian, on macOS)
REMEDIES = {
    "python": ("Python 3.11 or newer, with venv", "apt install python3 python3-venv", "brew install python"),
    "cargo": ("Rust 1.89 or newer (cargo)", RUSTUP, "brew install rustup && rustup default stable"),
    "rustfmt": ("rustfmt", "rustup component add rustfmt", "rustup component add rustfmt"),
    "clippy": ("clippy", "rustup component add clippy", "rustup component add clippy"),
    "nightly": (
        "Rust's nightly toolchain",
        "rustup toolchain install nightly",
        "rustup toolchain install nightly",
    ),
    "cc": (
        "a C compiler (cc), for zstd and the linker",
        "apt install build-essential",
        "xcode-select --install",
    ),
    "java": ("Java 17 or newer, for the real Apache Kafka", DEBIAN_JDK, "brew install openjdk"),
    "javac": ("a JDK (javac) 17 or newer", DEBIAN_JDK, "brew install openjdk"),
    "mvn": (
        "Apache Maven 3.8 or newer, which brings Kafka and MariaDB",
        "apt install maven",
        "brew install maven",
    ),
}

RUST_MINIMUM = (1, 89)
JAVA_MINIMUM = (17,)
PYTHON_MINIMUM = (3, 11)
VERSION_TIMEOUT_S = 60


def reported_version(*command):
    """The first version number that a program prints, as a tuple; None if it is not there or does not run."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)  # Maven writes in bold
    found = re.search(r"(\d+)(?:\.(\d+))?", plain)
    if done.returncode != 0 or found is None:
        return None
    return tuple(int(part) for part in found.groups() if part is not None)


def has_venv():
    """Debian parts venv from Python."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return False
    return True


def problem(need):
    """What is wrong with one need, or None."""
    if need == "python":
        if sys.version_info[:2] < PYTHON_MINIMUM:
            return "this is Python {}.{}".format(*sys.version_info[:2])
        return None if has_venv() else "its venv module is missing"
    if need == "cc":
        return None if shutil.which("cc") else "not found"
    commands = {
        "cargo": (("cargo", "--version"), RUST_MINIMUM),
        "rustfmt": (("rustfmt", "--version"), (0,)),
        "clippy": (("cargo", "clippy", "--version"), (0,)),
        "nightly": (("cargo", "+nightly", "--version"), (1,)),
        "java": (("java", "-version"), JAVA_MINIMUM),
        "javac": (("javac", "-version"), JAVA_MINIMUM),
        "mvn": (("mvn", "--version"), (3, 6)),
    }
    command, minimum = commands[need]
    version = reported_version(*command)
    if version is None:
        return "not found"
    if version < minimum:
        return "found version {}".format(".".join(map(str, version)))
    return None


def main():
    purpose = sys.argv[1] if len(sys.argv) > 1 else "test"
    if purpose not in NEEDS:
        print("usage: check_environment.py [{}]".format(" | ".join(NEEDS)), file=sys.stderr)
        return 2
    missing = [(need, found) for need in NEEDS[purpose] for found in [problem(need)] if found]
    if not missing:
        return 0
    where = 2 if sys.platform == "darwin" else 1
    print(f"error: this machine lacks what `make {purpose}` needs:", file=sys.stderr)
    for need, found in missing:
        print(f"  - {REMEDIES[need][0]}: {found}. Install: {REMEDIES[need][where]}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
