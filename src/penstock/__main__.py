"""`python -m penstock` is the command line."""

from .cli import main

main()
