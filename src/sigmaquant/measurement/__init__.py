"""Profiles of real devices, from latencies that a command of the user's measures."""
