"""Fakes: one a port, each passing the same contract suite as the real thing."""
