"""Measurements of the whole program, run by `python -m benchmarks`."""
