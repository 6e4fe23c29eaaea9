"""What tests need of the machine: in CI everything must be there, at home a test may skip, loudly."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import settings

from ci.servers import missing

CI = os.environ.get("CI") == "true"

# In CI the same examples every time, so that a change is judged by what it changes; at home new ones.
settings.register_profile("ci", derandomize=True)
if CI:
    settings.load_profile("ci")


def _may_capture() -> bool:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:
        return False
    return True


@pytest.fixture
def live() -> None:
    """The privilege to capture, and the servers and clients that are captured."""
    lacking = missing("nginx", "wrk", "ip", "ethtool", "nghttpd", "h2load", "curl", "redis-server")
    if not _may_capture():
        lacking.append("CAP_NET_RAW")
    if lacking:
        (pytest.fail if CI else pytest.skip)(f"live tests need {', '.join(lacking)}")
