"""What tests need of the machine: in CI everything must be there, at home a test may skip, loudly."""

from __future__ import annotations

import os
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from ci.servers import SERVERS, Kafka, elasticsearch, kafka, missing, moto
from tests.sharing import shared

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(
    prefix="replaykit-state-"
)  # nothing of this machine's own runs
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


LONGEST = (
    "outputs/test_fleet.py",
    "vantages/netfilter/test_users.py",
    "vantages/hypervisor/test_libvirt.py",
    "outputs/test_elastic.py",
    "outputs/test_restarts.py",
    "capturing/",
    "web/",
    "vantages/",
    "cli/",
)


SERVED = {"live", "elastic", "broker", "store"}
"""Fixtures that start a server."""


def _needs_servers(item: pytest.Item) -> bool:
    """Whether a test, or others of its file, start servers, namespaces or a browser."""
    module = vars(item.getparent(pytest.Module).obj)  # type: ignore[union-attr]
    of_servers = any(getattr(value, "__module__", "") == "ci.servers" for value in module.values())
    return of_servers or "needs" in module or bool(SERVED & set(getattr(item, "fixturenames", ())))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first, so that no worker is left alone with one at the end."""
    for item in items:
        if _needs_servers(item):
            item.add_marker("servers")

    def place(item: pytest.Item) -> int:
        return next((n for n, part in enumerate(LONGEST) if f"tests/{part}" in item.nodeid), len(LONGEST))

    items.sort(key=place)


def needs(*programs: str) -> None:
    """Skips at home, and fails in CI, where a program or a server of .servers is missing."""
    lacking = [p for p in programs if not (SERVERS / p).exists() and missing(p)]
    if lacking:
        (pytest.fail if CI else pytest.skip)(f"needs {', '.join(lacking)}: sh ci/install-servers")


@pytest.fixture(scope="session")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Elasticsearch, shared: each test uses names of its own."""
    needs("elasticsearch")
    with shared(tmp_path_factory, "elasticsearch", elasticsearch) as url:
        yield url


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A real Kafka, shared: each test uses topics of its own."""
    needs("kafka")
    with shared(tmp_path_factory, "kafka", kafka) as there:
        yield there


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, s3_server: str) -> Any:
    """An S3 store with the bucket `traffic` and nothing else, and boto3's client for it; the environment
    names it.
    """
    import boto3

    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")).close()
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "hidden"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="traffic")
    return client
