"""Processing: handlers that wait, the cost of handing over, rows into PostgreSQL. See ../README.md."""
