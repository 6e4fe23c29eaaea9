"""The commands as people type them: what they print, and the one line when something is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replaykit.cli.main import COMMANDS, GROUPS, main
from tests.mutate import write
from tests.talk import Talk

REPLAYKIT = [sys.executable, "-m", "replaykit"]
GET = b"GET /users/%d HTTP/1.1\r\nHost: shop.example\r\nAuthorization: secret\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 300\r\n\r\n" + b"x" * 300


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    talk = Talk().open()
    for n in range(5):
        talk.client(GET % n).server(OK)
    path = tmp_path / "traffic.pcap"
    path.write_bytes(write(talk.close().packets))
    return path


def run(*arguments: str, stdin: bytes = b"", **more: str) -> subprocess.CompletedProcess[str]:
    """more: of the environment."""
    done = subprocess.run(
        [*REPLAYKIT, *arguments], input=stdin, capture_output=True, check=False, env={**os.environ, **more}
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_report_prints_the_table_and_the_line_of_conservation(capture: Path) -> None:
    done = run("report", str(capture))
    assert done.returncode == 0 and done.stderr == ""
    assert "/users/{id}" in done.stdout and "100.0%" in done.stdout
    captured = sum(p.orig for p in _packets(capture))
    assert f"of {captured:,} bytes captured" in done.stdout and f"= {captured:,}" in done.stdout


def _packets(path: Path):  # type: ignore[no-untyped-def]
    from tests.mutate import read

    return read(path.read_bytes())


def test_report_as_json_and_csv(capture: Path) -> None:
    document = json.loads(run("report", str(capture), "--format", "json", "--by", "host,status").stdout)
    assert document["rows"][0]["host"] == "shop.example" and document["rows"][0]["status"] == "200"
    assert document["rows"][0]["requests"] == 5 and document["rows"][0]["share"] == 1.0
    account = document["account"]
    assert account["exchange_bytes"] + account["connection_overhead"] == account["bytes"]
    table = list(csv.DictReader(io.StringIO(run("report", str(capture), "--format", "csv").stdout)))
    assert table[0]["endpoint"] == "/users/{id}" and table[0]["response_body_bytes"] == "1500"


def test_every_kind_of_input_gives_the_same_report(capture: Path, tmp_path: Path) -> None:
    raw = capture.read_bytes()
    packed = tmp_path / "a.pcap.gz"
    packed.write_bytes(gzip.compress(raw))
    zstd = tmp_path / "a.pcap.zst"
    with pa.CompressedOutputStream(str(zstd), "zstd") as stream:
        stream.write(raw)
    names = [tmp_path / n for n in ("a.parquet", "a.gor", "a.gor.gz")]
    assert main(["exchanges", str(capture), "--quiet", *(f"--to={n}" for n in names)]) == 0
    reports = [
        json.loads(run("report", str(n), "--format", "json").stdout)["rows"][0]
        for n in (capture, packed, zstd, *names)
    ]
    reports.append(json.loads(run("report", "-", "--format", "json", stdin=raw).stdout)["rows"][0])
    reports.append(
        json.loads(run("report", "-", "--format", "json", stdin=packed.read_bytes()).stdout)["rows"][0]
    )
    for name in ("requests", "request_header_bytes", "response_body_bytes", "response_wire_bytes"):
        assert len({r[name] for r in reports}) == 1, name


def test_exchanges_to_standard_output(capture: Path) -> None:
    lines = [
        json.loads(line)
        for line in run("exchanges", str(capture), "--format", "jsonl", "--quiet").stdout.splitlines()
    ]
    assert [line["target"] for line in lines] == [f"/users/{n}" for n in range(5)]
    assert run("exchanges", str(capture)).stdout.count("\n") == 6
    assert run("exchanges", str(capture), "--format", "csv", "--quiet").stdout.count("\n") == 6


def test_exchanges_to_a_file_in_a_format(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"
    assert run("exchanges", str(capture), "--format", "parquet", "--output", str(out)).returncode == 0
    assert pq.read_table(out).num_rows == 5


def test_redaction_keeps_secrets_out(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gor"
    assert main(["exchanges", str(capture), "--quiet", "--to", str(out), "--redact", "Authorization"]) == 0
    assert b"secret" not in out.read_bytes() and b"Authorization: ***" in out.read_bytes()
    assert oct(out.stat().st_mode & 0o777) == "0o600"


BAD = {
    "no such file": (["report", "none.pcap"], "no such file"),
    "a directory": (["report", "/tmp"], "a directory"),
    "no capture": (["report", __file__], "neither a pcap"),
    "unknown key": (["report", "x", "--by", "colour"], "--by 'colour'"),
    "unknown output": (["exchanges", "x", "--to", "a.xls"], "unknown kind of output"),
    "unreadable pattern": (["exchanges", "CAPTURE", "--allow-url", "("], "regular expression"),
    "parquet to the terminal": (["exchanges", "CAPTURE", "--format", "parquet"], "needs a file"),
    "size": (["report", "CAPTURE", "--max-buffer", "lots"], "no size"),
    "port out of range": (["capture", "lo:70000"], "out of range"),
    "no port": (["capture", "lo"], "name a port"),
    "unknown interface": (["capture", "eth99:80"], "no interface 'eth99'"),
    "sample": (["capture", "lo:80", "--sample", "2"], "share"),
    "expression": (["capture", "lo:80", "--filter", "port ((", "--duration", "1s"], "--filter"),
    "host": (["capture", "lo:80", "--host", "example"], "no IP address"),
    "user": (["capture", "lo:80", "--user", "nobody-at-all"], "no such user"),
    "directory of the output": (["exchanges", "CAPTURE", "--to", "/proc/none/a.csv"], "cannot be written"),
    "bodies into .gor": (["capture", "lo:80", "--headers-only", "--to", "a.gor"], "--headers-only"),
    "unknown command": (["reprot", "x"], "there is no command 'reprot'; did you mean report?"),
    "unknown flag": (["report", "x", "--colour"], "there is no option --colour"),
    "two ways with a file": (
        ["exchanges", "CAPTURE", "--to", "a.csv", "--append", "--overwrite"],
        "give one of them",
    ),
    "several at once": (["report", "x", "--top", "many"], "--top many: give a whole number"),
    "nearly a flag": (
        ["report", "x", "--formt", "json"],
        "there is no option --formt; did you mean --format?",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_line(name: str, capture: Path) -> None:
    arguments, what = BAD[name]
    if "capture" in arguments and name in ("expression", "user"):
        import socket

        try:
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
        except PermissionError:
            pytest.skip("needs the privilege to capture")
    done = run(*(str(capture) if a == "CAPTURE" else a for a in arguments))
    assert done.returncode == 2
    assert what in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_no_privilege_names_the_capability() -> None:
    done = subprocess.run(
        [
            "setpriv",
            "--bounding-set",
            "-all",
            "--inh-caps",
            "-all",
            "--reuid",
            "65534",
            "--clear-groups",
            *REPLAYKIT,
            "capture",
            "lo:80",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "setpriv:" in done.stderr or "Permission denied" in done.stderr or "No module" in done.stderr:
        pytest.skip(f"cannot run without privilege here: {done.stderr.strip()}")
    assert done.returncode == 2
    assert "CAP_NET_RAW" in done.stderr and "sudo setpriv" in done.stderr and "setcap" not in done.stderr


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_cut_short_is_read_as_far_as_it_goes(tmp_path: Path, compressed: bool) -> None:
    talk = Talk().open()
    for n in range(5):
        talk.client(GET % n).server(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + os.urandom(90_000))
    data = write(talk.packets)
    short = tmp_path / "short.pcap"
    short.write_bytes(gzip.compress(data)[:-3000] if compressed else data[:-60])
    out = tmp_path / "x.parquet"
    done = run("exchanges", str(short), "--to", str(out), "--quiet")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "what came before" in done.stderr
    assert pq.read_table(out).num_rows >= 4


def test_a_closed_pipe_is_no_error(capture: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m replaykit exchanges {capture} --format jsonl --quiet | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "" and done.stdout.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0 and f"replaykit {command}" in done.stdout.split("Example")[1]


def test_without_the_core_one_line_names_both_ways_out(capture: Path) -> None:
    code = (
        "import sys; sys.modules['replaykit._core'] = None; from replaykit.cli.main import main;"
        " sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "report", str(capture)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "wheel" in done.stderr and "Rust" in done.stderr


def test_the_choice_of_an_engine_is_gone_and_says_so(capture: Path) -> None:
    done = run("report", str(capture), "--engine", "readable")
    assert done.returncode == 2 and "there is one engine now" in done.stderr


def test_rules_rewrite_the_messages_that_are_written(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gor"
    done = run(
        "exchanges",
        str(capture),
        "--to",
        str(out),
        "--set-header",
        "X-New: 1",
        "--rewrite-url",
        "/users:/people",
        "--http-header-limiter",
        "none:1%",
        "--allow-url",
        "[1-3]$",
        "--quiet",
    )
    assert done.returncode == 0, done.stderr
    text = out.read_bytes()
    assert text.count(b"GET /people/") == 3 == text.count(b"X-New: 1") and text.count(b"HTTP/1.1 200 OK") == 3
    wrong = run("exchanges", str(capture), "--rewrite-url", "x")
    assert wrong.returncode == 2 and "--rewrite-url" in wrong.stderr


def test_standard_input_of_a_terminal_is_named_and_left_at_the_first_interrupt() -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*REPLAYKIT, "report", "-"], stdin=child, stdout=child, stderr=child, start_new_session=True
    )
    os.close(child)
    seen = b""
    while b"Ctrl-C ends" not in seen:
        seen += os.read(parent, 4096)
    assert b"reading from standard input" in seen
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(10) == 130
    with suppress(OSError):  # its other side is closed: all was read
        while piece := os.read(parent, 4096):
            seen += piece
    os.close(parent)
    assert b"Fatal" not in seen and b"Traceback" not in seen, seen


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["anomalies", "CAPTURE"], "a file; a directory of Parquet files is needed"),
        (["archive", "CAPTURE", "--compact"], "a file; a directory of Parquet files is needed"),
        (["archive", ".", "--keep", "1m"], "--keep 1m: m is minutes; write 30d for a month"),
        (
            ["report", "x.parquet", "--since", "1h", "--until", "2h"],
            "--until 2h: give a time after --since 1h",
        ),
    ],
)
def test_wrong_places_and_spans(arguments: list[str], said: str, capture: Path) -> None:
    done = run(*(str(capture) if a == "CAPTURE" else a for a in arguments))
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_report_of_nothing_says_so(capture: Path) -> None:
    done = run("report", str(capture), "--allow-url", "no-such-thing")
    assert done.returncode == 1 and done.stderr == "replaykit: no exchange was measured\n"


def test_report_over_time_counts_bytes_when_they_moved(tmp_path: Path) -> None:
    """A download of 4 s in slices of a second; from Parquet, which holds exchanges alone, it counts when it
    began.
    """
    from tests.mutate import write
    from tests.talk import Talk

    talk = Talk().open().client(b"GET /film HTTP/1.1\r\nHost: h\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n")
    for _ in range(40):
        talk.start += 100_000_000  # a packet each tenth of a second
        talk.server(b"x" * 1000)
    capture, parquet = tmp_path / "film.pcap", tmp_path / "film.parquet"
    capture.write_bytes(write(talk.close().packets))
    assert run("exchanges", str(capture), "--quiet", "--to", str(parquet)).returncode == 0

    def over(name: Path, *more: str) -> list[tuple[str, int, int]]:
        done = run("report", str(name), "--over", "1s", "--format", "json", "--quiet", *more)
        assert done.returncode == 0, done.stderr
        return [(r["endpoint"], r["requests"], r["bytes"]) for r in json.loads(done.stdout)["rows"]]

    found = over(capture, "--measure", "body")
    assert [bytes_ for _, _, bytes_ in found] == [9000, 10_000, 10_000, 10_000, 1000]
    assert [requests for _, requests, _ in found] == [0, 0, 0, 0, 1] and {e for e, _, _ in found} == {"/film"}
    assert over(parquet, "--measure", "body") == [("/film", 1, 40_000)]
    shown = run("report", str(capture), "--over", "2s")
    assert "10.0 kB/s" in shown.stdout and "attributed 99.24%" in shown.stdout
    assert run("report", str(capture), "--over", "never").returncode == 2


def test_without_a_command_there_is_help() -> None:
    """Every command, in groups, within the terminal's width."""
    done = run(COLUMNS="60")
    assert done.returncode == 0 and done.stderr == "" and done.stdout == run("--help", COLUMNS="60").stdout
    assert max(map(len, done.stdout.splitlines()[4:])) <= 60
    assert re.findall(r"^╭─ (.*?) ─", done.stdout, re.MULTILINE) == ["Options", *GROUPS]
    assert re.findall(r"^│ (\w+) +\S", done.stdout, re.MULTILINE) == list(COMMANDS)
