"""`replaykit replay` as people type it, against nginx and targets that differ."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ci.servers import free_port, nginx
from replaykit.errors import UsageError
from replaykit.records.message import SEPARATOR
from replaykit.replaying.pace import parse_speed
from tests.mutate import write
from tests.talk import Talk
from tests.target import OK, Rec, get, gor, paths, post, target, until

REPLAYKIT = [sys.executable, "-m", "replaykit"]


def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*REPLAYKIT, "replay", *arguments], input=stdin, capture_output=True, check=False, timeout=200
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    name = tmp_path / "traffic.gor"
    name.write_bytes(
        gor(
            [
                r
                for n in range(40)
                for r in (Rec(get(f"/api/{n}"), n * 5, session=n % 4), Rec(OK, n * 5 + 1, 2))
            ]
        )
    )
    return name


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize(
    "how", [[], ["--speed", "max"], ["--rate", "200"], ["--speed", "4x", "--pooled"], ["--ramp", "50-500/1s"]]
)
def test_every_request_is_in_the_targets_log(recording: Path, tmp_path: Path, how: list[str]) -> None:
    with nginx(tmp_path) as server:
        done = run(str(recording), "--to", f"http://127.0.0.1:{server.port}", *how)
        server.process.terminate()
        server.process.wait(10)
        log = [line.split()[2] for line in server.log.read_text().splitlines()]
    assert done.returncode == 0, done.stderr
    assert sorted(log) == sorted(f"/api/{n}" for n in range(40))
    assert "sent 40 requests" in done.stdout and "errors: none" in done.stdout and "p99" in done.stdout


def test_the_rate_leaves_start_and_shutdown_out(recording: Path) -> None:
    """40 requests at 200/s take 195 ms; the response to the last one takes a second more."""

    def late(request: bytes) -> bytes:
        time.sleep(1 if b"/api/39 " in request else 0)
        return OK

    with target(late) as there:
        done = run(str(recording), "--to", there.url, "--rate", "200", "--format", "json")
    found = json.loads(done.stdout)
    assert found["seconds"] > 1 and found["sent"] == 40
    assert found["requests_per_second"] > 1.5 * 40 / found["seconds"]
    assert found["requests_per_second"] == pytest.approx(200, rel=0.3)


def test_what_is_saved_already_is_not_doubled(recording: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.gor"
    flags = ("--speed", "max", "--save", str(saved))
    with target() as there:
        assert run(str(recording), "--to", there.url, *flags).returncode == 0
        once = saved.read_bytes()
        refused = run(str(recording), "--to", there.url, *flags)
        assert refused.returncode == 2 and "--append" in refused.stderr and saved.read_bytes() == once
        assert len(there.requests) == 40
        assert run(str(recording), "--to", there.url, *flags, "--append").returncode == 0
        assert saved.read_bytes().count(SEPARATOR) == 2 * once.count(SEPARATOR)
        assert run(str(recording), "--to", there.url, *flags, "--overwrite").returncode == 0
        assert saved.read_bytes().count(SEPARATOR) == once.count(SEPARATOR)
        nowhere = run(str(recording), "--to", there.url, "--append")
        assert nowhere.returncode == 2 and "--append: there is no file" in nowhere.stderr


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file of 430 MB, of which a few requests are sent, costs about what one of 9 MB costs."""
    part, peaks = gor([Rec(post(f"/{n}", b"x" * 2000)) for n in range(4000)]), []
    for times in (1, 48):
        name = tmp_path / f"{times}.gor"
        with name.open("wb") as file:
            for _ in range(times):
                file.write(part)
        with target() as there:
            code = (
                "import resource,sys; from replaykit.cli.main import main; s=main(sys.argv[1:]);"
                " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(s)"
            )
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    code,
                    "replay",
                    str(name),
                    "--to",
                    there.url,
                    "--allow-url",
                    "^/7$",
                    "--speed",
                    "max",
                    "--quiet",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0 and len(there.requests) == times, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 150_000, peaks


def test_from_a_capture_compressed_and_standard_input(tmp_path: Path, recording: Path) -> None:
    talk = Talk().open()
    for n in range(5):
        talk.client(get(f"/{n}")).server(OK)
    (tmp_path / "a.pcap").write_bytes(write(talk.close().packets))
    with target() as there:
        assert run(str(tmp_path / "a.pcap"), "--to", there.url, "--port", "80").returncode == 0
        assert sorted(paths(there.payloads)) == [f"/{n}" for n in range(5)]
        there.requests.clear()
        assert run("-", "--to", there.url, "--speed", "max", stdin=recording.read_bytes()).returncode == 0
        assert len(there.requests) == 40


def test_rules_hosts_limits_and_loops(recording: Path) -> None:
    with target() as there:
        done = run(
            str(recording),
            "--to",
            there.url,
            "--speed",
            "max",
            "--allow-url",
            "/api/1",
            "--set-header",
            "X-A: b",
            "--rewrite-url",
            "^/api:/v2",
            "--keep-host",
            "--disallow-url",
            "/19$",
        )
        assert done.returncode == 0, done.stderr
        assert sorted(paths(there.payloads)) == sorted(f"/v2/{n}" for n in (1, *range(10, 19)))
        assert all(b"Host: recorded.example" in p and b"X-A: b" in p for p in there.payloads)
        there.requests.clear()
        assert (
            run(str(recording), "--to", there.url + "/base/", "--speed", "max", "--limit", "7").returncode
            == 0
        )
        assert len(there.requests) == 7 and all(p.startswith("/base/api/") for p in paths(there.payloads))
        there.requests.clear()
        assert run(str(recording), "--to", there.url, "--speed", "max", "--loop", "3").returncode == 0
        assert len(there.requests) == 120
        there.requests.clear()
        begun = time.monotonic()
        assert run(str(recording), "--to", there.url, "--loop", "--duration", "1s").returncode == 0
        assert len(there.requests) > 40 and time.monotonic() - begun < 60


def test_other_methods_are_sent_elsewhere_only_if_asked(tmp_path: Path) -> None:
    name = tmp_path / "a.gor"
    name.write_bytes(gor([Rec(get("/a")), Rec(post("/b", b"x"))]))
    # A name that leads to this machine without saying so: no target elsewhere is ever asked.
    with target() as there:
        url = f"http://ip6-localhost-not.invalid:{there.port}"
        found = json.loads(run(str(name), "--to", url, "--format", "json", "--connect-timeout", "2s").stdout)
        assert found["skipped"] == {"method is not idempotent": 1}
        found = json.loads(run(str(name), "--to", there.url, "--format", "json").stdout)
        assert found["skipped"] == {} and found["answered"] == 2


def test_comparison(tmp_path: Path) -> None:
    name = tmp_path / "a.gor"
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    old, new = b'{"a":1,"at":5}', b'{"at":6,"a":1}'
    recorded = answer % len(old) + old
    name.write_bytes(
        gor(
            [
                r
                for n in range(20)
                for r in (Rec(get(f"/users/{n}"), n), Rec(recorded, n + 0.5, 2, 0, 100_000))
            ]
        )
    )
    with target(lambda request: recorded) as there:
        same = run(str(name), "--to", there.url, "--compare")
        assert same.returncode == 0 and "0 responses differ, 0 without" in same.stdout, same.stdout
    with target(lambda request: answer % len(new) + new) as there:
        differs = run(str(name), "--to", there.url, "--compare", "--format", "json")
        assert differs.returncode == 1
        found = json.loads(differs.stdout)["comparison"]
        assert found["different"] == 20 and found["endpoints"]["/users/{id}"]["body"] == 20
        assert found["endpoints"]["/users/{id}"]["recorded_latency_ms"] == pytest.approx(0.6)
        agreed = run(str(name), "--to", there.url, "--compare", "--body", "json", "--ignore", "at")
        assert agreed.returncode == 0, agreed.stdout
    with target(lambda request: b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n") as there:
        broken = run(str(name), "--to", there.url, "--compare", "--compare-header", "content-type")
        assert broken.returncode == 1 and "status: 200 -> 500" in broken.stdout
    only = tmp_path / "requests.gor"
    only.write_bytes(gor([Rec(get("/a"))]))
    with target() as there:
        nothing = run(str(only), "--to", there.url, "--compare")
        assert nothing.returncode == 1 and "nothing was compared" in nothing.stderr


def test_what_was_sent_and_answered_can_be_saved_and_measured(recording: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.gor"
    with target() as there:
        assert run(str(recording), "--to", there.url, "--speed", "max", "--save", str(saved)).returncode == 0
    done = subprocess.run(
        [*REPLAYKIT, "report", str(saved), "--format", "json", "--quiet"], capture_output=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["total"]["requests"] == 40 and found["total"]["response_wire_bytes"] == 40 * len(OK)


def test_nobody_listens_and_files_cut_short(recording: Path, tmp_path: Path) -> None:
    done = run(str(recording), "--to", f"http://127.0.0.1:{free_port()}", "--speed", "max")
    assert done.returncode == 1 and "connection refused x 40" in done.stdout
    (tmp_path / "cut.gor").write_bytes(recording.read_bytes()[:-20])
    with target() as there:
        done = run(str(tmp_path / "cut.gor"), "--to", there.url, "--speed", "max")
    assert done.returncode == 2 and "cut short" in done.stderr and len(there.requests) == 40


def test_interrupted(tmp_path: Path) -> None:
    name = tmp_path / "long.gor"
    name.write_bytes(gor([Rec(get(f"/{n}"), n * 20) for n in range(5000)]))
    with target() as there:
        process = subprocess.Popen(
            [*REPLAYKIT, "replay", str(name), "--to", there.url], stdout=subprocess.PIPE, text=True
        )
        until(lambda: len(there.requests) > 5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "requests to http://" in out and "errors: none" in out
    unsent = 5000 - len(there.requests)
    assert out.splitlines()[-1] == f"interrupted: {unsent:,} requests of the recording were not sent"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--speed", "fast"], "--speed fast"),
        (["--speed", "0x"], "--speed 0x"),
        (["--rate", "-5"], "--rate"),
        (["--ramp", "10"], "--ramp 10"),
        (["--limit", "0"], "--limit 0"),
        (["--retries", "-1"], "--retries -1"),
        (["--connections", "-3"], "--connections -3"),
        (["--save", "x.txt"], ".gor"),
        (["--timeout", "soon"], "no duration"),
        (["--set-header", "x"], "--set-header"),
        (["--rewrite-header", "a:b"], "--rewrite-header"),
        (["--ca", "/nowhere.pem"], ""),
    ],
)
def test_wrong_use(recording: Path, arguments: list[str], said: str) -> None:
    done = run(
        str(recording),
        "--to",
        "https://127.0.0.1:1" if "--ca" in arguments else "http://127.0.0.1:1",
        *arguments,
    )
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_wrong_inputs(tmp_path: Path) -> None:
    for arguments, said in (
        (["/nowhere.gor", "--to", "h"], "no such file"),
        ([str(tmp_path / "*.gor"), "--to", "h"], "no such file"),
        ([str(tmp_path), "--to", "h"], "directory"),
        (["x", "--to", "ftp://h"], "is no target"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_speeds_in_words() -> None:
    assert [parse_speed(t) for t in ("1x", "2", "50%", "1.5x", "max")] == [1, 2, 0.5, 1.5, None]
    with pytest.raises(UsageError):
        parse_speed("x")


@pytest.mark.parametrize("status", [404, 503])
def test_a_target_that_has_nothing_of_it_is_said_last(recording: Path, status: int) -> None:
    said = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
    with target(lambda request: said) as there:
        done = run(str(recording), "--to", there.url, "--speed", "max")
    assert done.stdout.splitlines()[-1].startswith(f"every response was 404 or 5xx ({status} x 40)")
    with target(lambda request: said if b"/api/1 " in request else OK) as there:
        done = run(str(recording), "--to", there.url, "--speed", "max")
    assert "every response" not in done.stdout


def test_comparison_where_one_id_stands_for_a_connection(tmp_path: Path) -> None:
    """As in files of GoReplay 1.x, whose first lines have no latency either."""
    name, out = tmp_path / "a.gor", b""
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%s"
    for n in range(6):
        time_ns = 1_700_000_000_000_000_000 + n * 1_000_000
        out += b"1 %s %d\n%s" % (b"a" * 40, time_ns, get(f"/s{n}")) + SEPARATOR
        out += b"2 %s %d\n%s" % (b"a" * 40, time_ns, said % b"s%d" % n) + SEPARATOR
    name.write_bytes(out)
    with target(lambda request: said % request.split(b" ")[1][1:]) as there:
        for pace in (["--speed", "max"], ["--speed", "max", "--sessions"], []):
            done = run(str(name), "--to", there.url, "--compare", *pace)
            assert done.returncode == 0 and "0 responses differ, 0 without" in done.stdout, done.stdout
