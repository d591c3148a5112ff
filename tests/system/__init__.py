"""System tests: real agents, a real hub and a real broker on one machine."""
