"""Groups and numbers: what a change of membership costs, and what many partitions or consumers cost. See ../README.md."""
