"""What every test run shares: how hard Hypothesis tries, and how much an assert says."""

import os

import pytest
from hypothesis import HealthCheck, settings

# The contract of installers ships in the package; its asserts are to say as much as ours.
pytest.register_assert_rewrite("firmware_hooks.conformance")

# Deadlines measure the machine, not the code: two cores may be shared with other work.
# CI repeats the same cases every time; a person's run explores new ones.
settings.register_profile(
    "fieldfare", deadline=None, print_blob=True, derandomize="CI" in os.environ
)
settings.register_profile(
    "soak",
    deadline=None,
    print_blob=True,
    max_examples=5_000,
    stateful_step_count=200,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fieldfare")
