"""Handlers in parallel, in order, with retries, dead letters and offsets that never pass unfinished work."""
