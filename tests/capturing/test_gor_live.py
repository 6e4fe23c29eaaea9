"""gor on the wire: real nginx, real requests, namespaces, VLANs, mirrored traffic."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from ci.servers import namespaces, nginx
from replaykit.records.message import SEPARATOR
from tests.goreplay.test_gor_files import payloads, records
from tests.mutate import write
from tests.talk import Talk
from tests.target import OK, get, gor_running, paths, post, run_gor, target, until

pytestmark = pytest.mark.usefixtures("live")
QUICK = ("--output-file-append", "--output-file-flush-interval", "20ms")


def ask(port: int, path: str, address: str = "127.0.0.1") -> None:
    urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=20).read()


def captures(out: Path, port: int, path: str = "/api/warm") -> None:
    """Asks until the capture sees it: it has begun."""

    def seen() -> bool:
        ask(port, path)
        time.sleep(0.1)
        return out.exists() and out.stat().st_size > 0

    until(seen, 30)


def own(out: Path, kind: bytes = b"1") -> list[bytes]:
    """The records of a kind, without those of the beginning."""
    found = records(out.read_bytes())
    warm = {r.split(b" ")[1] for r in found if b" /api/warm " in r}
    return [r for r in found if r[:1] == kind and r.split(b" ")[1] not in warm]


def test_captured_replayed_and_counted_against_the_access_logs(tmp_path: Path) -> None:
    """input-raw to a file with answers; the file to a second nginx: both logs hold the same."""
    out = tmp_path / "out.gor"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with nginx(tmp_path / "one") as first:
        flags = [
            "--input-raw",
            f":{first.port}",
            "--input-raw-track-response",
            "--output-file",
            str(out),
            *QUICK,
        ]
        with gor_running(
            *flags, "--input-raw-buffer-size", "8mb", "--input-raw-stats", "--verbose", "1"
        ) as process:
            captures(out, first.port)
            for n in range(60):
                ask(first.port, f"/api/item/{n}")
            until(lambda: len(own(out)) == 60 and len(own(out, b"2")) == 60, 30)
            process.terminate()
            assert process.wait(30) == 1
            assert b"dropped by the kernel" in process.stderr.read()  # type: ignore[union-attr]
    asked, answered = own(out), own(out, b"2")
    assert Counter(r.split(b" ")[1] for r in asked) == Counter(r.split(b" ")[1] for r in answered)
    kept = tmp_path / "kept.gor"
    kept.write_bytes(b"".join(r + SEPARATOR for r in asked))
    with nginx(tmp_path / "two") as second:
        done = run_gor("--input-file", str(kept), "--output-http", f"http://127.0.0.1:{second.port}")
        assert done.returncode == 0, done.stderr
        second.process.terminate()
        second.process.wait(10)
        log = [line.split() for line in second.log.read_text().splitlines()]
    assert sorted(fields[2] for fields in log) == sorted(f"/api/item/{n}" for n in range(60))


def test_raw_to_http_at_once(tmp_path: Path) -> None:
    """Live mirroring, as GoReplay's first example: rules, sampling flags and the real address."""
    with nginx(tmp_path) as server, target() as there:
        command = ["--input-raw", f"127.0.0.1:{server.port}", "--output-http", there.url, "--input-raw-realip-header", "X-Real-IP",  # noqa: E501
                   "--http-allow-url", "^/api", "--input-raw-expire", "1s", "--input-raw-engine", "raw_socket",  # noqa: E501
                   "--input-raw-probability", "1", "--input-raw-workers", "2", "--input-raw-max-size", "1mb",
                   "--input-raw-override-snaplen", "--input-raw-buffer-timeout", "10ms", "--input-raw-vlan",
                   "--input-raw-timestamp-type", "PCAP_TSTAMP_HOST"]  # fmt: skip
        with gor_running(*command):

            def warm() -> bool:
                ask(server.port, "/api/warm")
                return bool(there.requests)

            until(warm, 30)
            for n in range(20):
                ask(server.port, f"/api/{n}")
                ask(server.port, "/index.html")
            until(lambda: len([p for p in there.payloads if b"warm" not in p]) >= 20, 30)
    found = [p for p in there.payloads if b"/api/warm" not in p]
    assert sorted(paths(found)) == sorted(f"/api/{n}" for n in range(20))
    assert all(b"\r\nX-Real-IP: 127.0.0.1\r\n" in p for p in found)


def test_interfaces_left_out_and_a_tcpdump_expression(tmp_path: Path) -> None:
    out = tmp_path / "out.gor"
    with nginx(tmp_path) as server:
        others = [n for _, n in socket.if_nameindex() if n != "lo"]
        ignored = [a for n in others for a in ("--input-raw-ignore-interface", n)] or [
            "--input-raw-ignore-interface",
            "none0",
        ]
        with gor_running(
            "--input-raw",
            f":{server.port}",
            *ignored,
            "--input-raw-bpf-filter",
            "tcp",
            "--output-file",
            str(out),
            *QUICK,
        ):
            captures(out, server.port)
            ask(server.port, "/api/x")
            until(lambda: own(out), 20)
    assert paths(payloads(out.read_bytes()))[-1] == "/api/x"


def test_instances_share_the_connections(tmp_path: Path) -> None:
    """--input-raw-queue: what one sees the other does not."""
    outs = [tmp_path / f"{i}.gor" for i in range(2)]
    number = str(20_000 + os.getpid() % 10_000)
    with nginx(tmp_path) as server:
        flags = ["--input-raw", f"lo:{server.port}", "--input-raw-queue", number, "--output-file"]
        with gor_running(*flags, str(outs[0]), *QUICK), gor_running(*flags, str(outs[1]), *QUICK):
            until(
                lambda: [
                    ask(server.port, "/api/warm"),
                    time.sleep(0.05),
                    all(o.exists() and o.stat().st_size for o in outs),
                ][-1],
                60,
            )
            for n in range(60):
                ask(server.port, f"/api/{n}")
            until(lambda: sum(len(own(o)) for o in outs) >= 60, 30)
            time.sleep(0.3)
    sides = [sorted(paths([r.split(b"\n", 1)[1] for r in own(o)])) for o in outs]
    assert sorted(sides[0] + sides[1]) == sorted(f"/api/{n}" for n in range(60))
    assert all(sides)


def test_streams_of_bytes(tmp_path: Path) -> None:
    """--input-raw-protocol raw (and binary) to --output-binary."""
    import asyncio

    async def go(protocol: str, out: Path) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                writer.write(b"re:" + data)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        def talk() -> None:
            with gor_running(
                "--input-raw",
                f"lo:{port}",
                "--input-raw-protocol",
                protocol,
                "--output-file",
                str(out),
                *QUICK,
            ):

                def seen() -> bool:
                    with socket.create_connection(("127.0.0.1", port)) as s:
                        for n in range(3):
                            s.sendall(b"\x01msg%d" % n)
                            s.recv(100)
                    time.sleep(0.2)
                    return out.exists() and b"\x01msg2" in out.read_bytes()

                until(seen, 100)

        await asyncio.to_thread(talk)
        server.close()

    for protocol in ("raw", "binary"):
        asyncio.run(go(protocol, tmp_path / f"{protocol}.gor"))


SEND = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("veth0", 0))
for line in sys.stdin:
    s.send(bytes.fromhex(line))
"""


def test_vlans(tmp_path: Path) -> None:
    """Only one 802.1Q network of two on the same wire; the kernel takes tags off, the ring tells them."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    from scapy.layers.l2 import Dot1Q

    out, number = tmp_path / "out.gor", 0
    with namespaces(f"vl{os.getpid() % 10000}") as (client, server):
        gor = [
            *server,
            sys.executable,
            "-m",
            "replaykit.cli.gor",
            "--input-raw",
            "veth0:80",
            "--input-raw-vlan",
            "--input-raw-vlan-vid",
            "100",
            "--input-raw-promisc",
            "--output-file",
            str(out),
            *QUICK,
        ]
        process = subprocess.Popen(gor, stderr=subprocess.DEVNULL)
        try:

            def seen() -> bool:
                nonlocal number
                number += 1
                frames = ""
                for vid in (200, 100):
                    talk = Talk(sport=40_000 + number * 2 + vid, envelope=[Dot1Q(vlan=vid)])
                    talk.open().client(get(f"/{vid}")).server(OK).close()
                    frames += "".join(p.data.hex() + "\n" for p in talk.packets)
                subprocess.run([*client, sys.executable, "-c", SEND], input=frames.encode(), check=True)
                time.sleep(0.2)
                return out.exists() and out.stat().st_size > 0

            until(seen, 60)
        finally:
            process.terminate()
            process.wait(30)
    assert set(paths(payloads(out.read_bytes()))) == {"/100"}


def test_mirrored_traffic(tmp_path: Path) -> None:
    """--input-raw-engine vxlan: packets that a mirror sends, of one network only."""
    from scapy.layers.vxlan import VXLAN
    from scapy.packet import Raw

    from ci.servers import free_port

    out, port = tmp_path / "out.gor", free_port()
    with gor_running(
        "--input-raw",
        "127.0.0.1:80",
        "--input-raw-engine",
        "vxlan",
        "--input-raw-vxlan-port",
        str(port),
        "--input-raw-vxlan-vni",
        "7",
        "--output-file",
        str(out),
        *QUICK,
    ):
        number = 0

        def seen() -> bool:
            nonlocal number
            number += 1
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
                for vni in (7, 8):
                    talk = (
                        Talk(sport=40_000 + number * 10 + vni)
                        .open()
                        .client(get(f"/{vni}"))
                        .server(OK)
                        .close()
                    )
                    for p in talk.packets:
                        s.sendto(bytes(VXLAN(vni=vni, flags="Instance") / Raw(p.data)), ("127.0.0.1", port))
            time.sleep(0.3)
            return out.exists() and out.stat().st_size > 0

        until(seen, 30)
    assert set(paths(payloads(out.read_bytes()))) == {"/7"}


def test_capture_files(tmp_path: Path) -> None:
    talk = Talk().open()
    for n in range(10):
        talk.client(get(f"/{n}")).server(OK)
    (tmp_path / "a.pcap").write_bytes(write(talk.close().packets))
    for address, more in (
        (f"{tmp_path}/a.pcap:80", ["--input-raw-engine", "pcap_file"]),
        (f"{tmp_path}/a.pcap", []),
    ):
        done = run_gor("--input-raw", address, *more, "--input-raw-track-response", "--output-stdout")
        assert done.returncode == 0 and len(records(done.stdout)) == 20
    none = run_gor("--input-raw", f"{tmp_path}/a.pcap:81", "--output-stdout")
    assert none.returncode == 0 and none.stdout == b""


def test_messages_with_holes(tmp_path: Path) -> None:
    """--input-raw-allow-incomplete: what a lost packet leaves of a body; without it nothing."""
    body = bytes(range(250)) * 20
    talk = (
        Talk()
        .open()
        .client(post("/holed", body), mss=1000)
        .server(OK)
        .client(get("/whole"))
        .server(OK)
        .close()
    )
    del talk.packets[5]
    (tmp_path / "a.pcap").write_bytes(write(talk.packets))
    strict = payloads(run_gor("--input-raw", f"{tmp_path}/a.pcap:80", "--output-stdout").stdout)
    assert paths(strict) == ["/whole"]
    loose = payloads(
        run_gor(
            "--input-raw", f"{tmp_path}/a.pcap:80", "--output-stdout", "--input-raw-allow-incomplete"
        ).stdout
    )
    assert paths(loose) == ["/holed", "/whole"] and len(post("/holed", body)) - len(loose[0]) == 1000


def test_a_file_of_the_real_goreplay_is_replayed(tmp_path: Path) -> None:
    """With GOREPLAY_LIVE=/path/to/goreplay 1.3: what it captures, we replay; the target's log agrees."""
    program = os.environ.get("GOREPLAY_LIVE")
    if not program:
        pytest.skip("set GOREPLAY_LIVE to GoReplay's program to replay its files")
    out = tmp_path / "theirs.gor"
    with nginx(tmp_path) as server, target() as there:
        process = subprocess.Popen(
            [
                program,
                "--input-raw",
                f":{server.port}",
                "--input-raw-track-response",
                "--output-file",
                str(out),
                "--output-file-append",
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            captures(out, server.port)
            for n in range(30):
                ask(server.port, f"/api/{n}")
            until(lambda: out.read_bytes().count(b"GET /api/") >= 31, 30)
            time.sleep(2.5)
        finally:
            process.terminate()
            process.wait(20)
        done = run_gor("--input-file", str(out) + "|1000%", "--output-http", there.url)
    assert done.returncode == 0, done.stderr
    theirs = [r for r in records(out.read_bytes()) if r[:1] == b"1"]
    assert sorted(paths(there.payloads)) == sorted(paths([r.split(b"\n", 1)[1] for r in theirs]))
