"""Runs of real processes, with real kills and real signals."""
