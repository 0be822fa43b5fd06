"""A sample of the campaigns against a server; the whole of each runs from the command line."""

import pytest

from campaigns import malformed_requests, serve_memory


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    assert serve_memory.campaign(3_000, most_mib=16.0) <= 16.0


@pytest.mark.slow
def test_malformed_bodies_never_get_a_server_error() -> None:
    statuses = malformed_requests.campaign(400)
    assert set(statuses) <= {200, 400, 413}
    assert statuses[200]
    assert statuses[400]
