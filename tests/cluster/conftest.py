"""A local Ray that tests of one module share, and the marks of such a module."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import S3_ACCOUNT

RAY_MARKS = [
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    # Of ray's own code.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def local_ray(endpoint: str) -> Iterator[None]:
    """Ray with two CPUs, whose workers have the account of the S3 endpoint."""
    ray = pytest.importorskip("ray", reason="ray is absent")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "RAY_AUTH_MODE": "disabled",
            "TABWRIGHT_RAY_TEST": str(os.getpid()),
            **S3_ACCOUNT,
            "AWS_ENDPOINT_URL": endpoint,
        }.items():
            environment.setenv(name, value)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
