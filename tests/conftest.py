"""What every test run shares: how hard Hypothesis tries, what an assert says, one real bucket."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.system.bucket_server import BucketServer
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


@pytest.fixture(scope="module")
def bucket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["BucketServer"]:
    """Give a real S3 server, which the tests of one file share: it takes three seconds to start."""
    from tests.system.bucket_server import running_bucket_server

    with running_bucket_server(tmp_path_factory.mktemp("bucket")) as server:
        yield server
