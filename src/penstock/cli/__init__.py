"""The command line: `penstock topics | produce | consume | groups | broker`. It uses the public surface only."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 an error, 2 a wrong call, 130 Ctrl-C, 143 SIGTERM."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(f"the command line needs the package {error.name}: pip install 'penstock[cli]'")
    from .app import app

    app(prog_name="penstock")
