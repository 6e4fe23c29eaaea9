"""What gor sends itself is not captured again, and what this host asks of others is not its service's
traffic.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError

import pytest

from ci.servers import namespaces
from replaykit.records.message import Builder, Message, gor_id
from replaykit.replaying.own import OwnConnections
from tests.capturing.test_gor_live import QUICK, ask
from tests.goreplay.test_gor_files import payloads
from tests.target import gor_running, paths, target, until

pytestmark = pytest.mark.usefixtures("live")


@pytest.mark.parametrize("flags", [[], ["--input-raw-track-response"], ["--output-http-track-response"]])
def test_what_is_sent_to_the_captured_port_is_not_captured_again(flags: list[str]) -> None:
    """One request becomes two, and not one more for each."""
    with (
        target() as there,
        gor_running("--input-raw", f":{there.port}", "--output-http", there.url, *flags) as process,
    ):

        def begun() -> bool:
            ask(there.port, "/warm")
            time.sleep(0.1)
            return (
                paths(there.payloads).count("/warm") > there.connections // 2 + 1 or len(there.requests) > 3
            )

        until(begun, 30)
        time.sleep(2)
        there.requests.clear()
        ask(there.port, "/once")
        until(lambda: len(there.requests) >= 2, 20)
        time.sleep(3)
        assert paths(there.payloads) == ["/once", "/once"]
        assert process.poll() is None


def test_a_stream_of_our_own_to_the_captured_port_is_not_captured(tmp_path: Path) -> None:
    """The handshake of --output-ws is a request to the captured service like any other."""
    from websockets.sync.server import ServerConnection, serve

    taken: list[bytes | str] = []

    def response(connection: ServerConnection) -> None:
        taken.extend(connection)

    out = tmp_path / "out.gor"
    with serve(response, "127.0.0.1", 0) as server:
        port = server.socket.getsockname()[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"ws://127.0.0.1:{port}/stream-of-our-own"
        flags = ["--output-ws", url, "--output-file", str(out), "--output-file-append"]
        with gor_running("--input-raw", f":{port}", *flags, *QUICK):

            def seen() -> bool:
                with suppress(HTTPError):  # it upgrades, or says 426
                    ask(port, "/of-others")
                time.sleep(0.1)
                return len(taken) > 20 and out.exists() and out.read_bytes().count(b"/of-others") > 20

            until(seen, 30)
        server.shutdown()
    assert set(paths(payloads(out.read_bytes()))) == {"/of-others"}


@pytest.mark.parametrize("asked", [False, True])
def test_what_this_host_asks_of_others(tmp_path: Path, asked: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    out = tmp_path / "out.gor"
    curl = ["curl", "-s", "-o", "/dev/null", "--max-time", "5"]
    with namespaces(f"ow{os.getpid() % 10000}{int(asked)}") as (one, two):
        serve = [sys.executable, "-m", "http.server", "80", "--directory", str(tmp_path)]
        flags = ["--input-raw-own-requests"] if asked else []
        gor = [
            sys.executable,
            "-m",
            "replaykit.cli.gor",
            "--input-raw",
            ":80",
            *flags,
            "--output-file",
            str(out),
        ]
        running = [
            subprocess.Popen([*where, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for where, command in ((one, serve), (two, serve), (two, [*gor, *QUICK]))
        ]
        try:

            def seen() -> bool:
                subprocess.run([*two, *curl, "http://10.77.0.1/own"], check=False)
                subprocess.run([*two, *curl, "http://127.0.0.1/loopback"], check=False)
                subprocess.run([*one, *curl, "http://10.77.0.2/service"], check=False)
                time.sleep(0.2)
                return out.exists() and b"/service" in out.read_bytes()

            until(seen, 60)
            time.sleep(1)
        finally:
            for process in running:
                process.terminate()
                process.wait(30)
    found = set(paths(payloads(out.read_bytes())))
    assert found - {"/loopback"} == ({"/service", "/own"} if asked else {"/service"})


def test_ends_are_forgotten_some_time_after_the_connection() -> None:
    now = [0.0]
    own = OwnConnections(lambda: now[0])
    out = Builder()
    out.push(Message(1, gor_id(40_000, 80, 0x7F000001, 1), 0, 0, b"GET / HTTP/1.1\r\n\r\n"))
    one = out.messages()
    own.opened(("127.0.0.1", 40_000))
    now[0] = 1000
    assert not len(own.without(one)) and own.left_out == 1
    own.closed(("127.0.0.1", 40_000))
    now[0] = 1005
    assert not len(own.without(one))
    now[0] = 1011
    assert len(own.without(one)) == 1
    own.opened(("10.0.0.1", 40_000))
    assert len(own.without(one)) == 1


@pytest.mark.parametrize("place", ["127.0.0.1", "lo", ""])
def test_a_share_of_the_connections_says_how_many_were_kept(tmp_path: Path, place: str) -> None:
    out = tmp_path / "out.gor"
    with target() as there:
        flags = ["--input-raw", f"{place}:{there.port}", "--input-raw-probability", "0.3", "--verbose", "1"]
        with gor_running(*flags, "--output-file", str(out), *QUICK, "--output-file-append") as process:

            def begun() -> bool:
                ask(there.port, "/warm")
                return out.exists() and out.stat().st_size > 0

            until(begun, 30)
            for n in range(100):
                ask(there.port, f"/{n}")
            time.sleep(1)
            process.terminate()
            _, said = process.communicate(timeout=30)
        asked = len(there.requests)
    found = re.search(rb"([0-9]+) of the ([0-9]+) connections that began meanwhile were kept", said)
    assert found is not None, said
    kept, all_of_them = int(found[1]), int(found[2])
    assert kept == len(payloads(out.read_bytes())) and 100 < all_of_them <= asked and 5 < kept < 70
