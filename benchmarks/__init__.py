"""Consumers beside each other on a real broker: `python -m benchmarks --help`."""
