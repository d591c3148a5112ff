"""Crash tests: a real process, a real SIGKILL, real files, then a comparison."""
