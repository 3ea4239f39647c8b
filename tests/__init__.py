"""Tests, by kind: a folder each."""
