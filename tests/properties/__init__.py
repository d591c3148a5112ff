"""Property tests: codecs, convergence and state machines under Hypothesis."""
