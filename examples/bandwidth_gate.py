"""A bandwidth gate in pytest: TRAFFIC=traffic.gor pytest bandwidth_gate.py

Record the traffic of your integration tests (`replaykit capture :8080 --to traffic.gor`), and let a test fail
where an endpoint has become heavier.
"""

import os

import pytest

import replaykit


@pytest.fixture(scope="session")
def traffic() -> str:
    return os.environ["TRAFFIC"]


def test_all_of_it_is_small(traffic: str) -> None:
    verdict = replaykit.gate(traffic, threshold="5MB", per_request="50kB")
    assert verdict.passed, [check.text for check in verdict.failures]


def test_no_endpoint_dominates(traffic: str) -> None:
    verdict = replaykit.gate(traffic, max_share="80%")
    assert verdict.passed, [check.text for check in verdict.failures]
