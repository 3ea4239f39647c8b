"""Membership in a group: pure state machines, the bytes they exchange, and assignors. No I/O, no clock."""
