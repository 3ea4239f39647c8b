"""The command line: `penstock topics | produce | consume | groups | broker`. It uses the public surface only."""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """The entry point. Exit codes: 0 done, 1 an error, 2 a wrong call, 130 Ctrl-C, 143 SIGTERM."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(f"the command line needs the package {error.name}: pip install 'penstock[cli]'")
    # Ctrl-C may come between the making of a call and its handing to the engine: the call is dropped, which is no news here.
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    from .app import app

    app(prog_name="penstock")
