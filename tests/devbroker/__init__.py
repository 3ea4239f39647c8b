"""Tests against the embedded broker."""
