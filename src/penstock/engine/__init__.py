"""The one impure room of the control plane: its thread, its clock, its timers, its connections.

The pure rooms decide; the engine performs what they ask for and tells them what came of it.
"""
