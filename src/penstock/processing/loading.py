"""`module:attribute` as a Processor, with errors for people."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from ..errors import ConfigError
from .processor import Processor


def load(where: str) -> Processor:
    """Import the module (the working directory is looked in, too) and take its Processor. ConfigError says what is missing.

    What the module itself raises is not touched: its traceback is what its author needs.
    """
    module_name, colon, attribute = where.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(
            f"{where!r}: write MODULE:NAME, as in app:processor for the variable `processor` of app.py"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(
                f"{where!r}: there is no module {error.name!r}, neither in {here} nor installed"
            ) from None
        raise
    found: object = module
    for name in attribute.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, Processor):
        others = [name for name, value in vars(module).items() if isinstance(value, Processor)]
        hint = f"; it has {', '.join(others)}" if others else ""
        raise ConfigError(f"{where!r}: {attribute!r} of {module_name} is no Processor{hint}")
    return found
