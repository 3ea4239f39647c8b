"""The demo: orders through Kafka into PostgreSQL, with two consumers of one group. `make demo`, or python -m examples.demo."""
