"""Contract suites: the same tests over a fake and over the real thing."""
