"""Middleware by GoReplay's protocol: programs that echo, change, drop, crash and hang; and Python in
process.
"""

from __future__ import annotations

import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from replaykit.goreplay import middleware
from tests.goreplay.test_gor_files import payloads, records
from tests.target import OK, Rec, get, gor, paths, run_gor, target


def program(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text).lstrip())
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def python(path: Path, text: str) -> str:
    return f"{sys.executable} {program(path, text)}"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    name = tmp_path / "in.gor"
    name.write_bytes(gor([r for n in range(50) for r in (Rec(get(f"/{n}"), n), Rec(OK, n, 2))]))
    return name


def through(command: str, recording: Path, *more: str) -> tuple[list[bytes], str, int]:
    """The records that came out, what was said, the exit status."""
    done = run_gor("--input-file", str(recording), "--output-stdout", "--middleware", command, *more)
    return records(done.stdout), done.stderr.decode(), done.returncode


def test_a_shell_script_as_in_goreplays_documentation(tmp_path: Path, recording: Path) -> None:
    script = program(
        tmp_path / "echo.sh",
        """
        #!/usr/bin/env bash
        while read line; do
            decoded=$(echo -e "$line" | xxd -r -p 2>/dev/null || printf '%s' "$line" | sed 's/../\\\\x&/g' | xargs -0 printf '%b')
            header=$(echo -e "$decoded" | head -n +1)
            echo "$line"
            >&2 echo "[DEBUG] $header"
        done
        """,  # noqa: E501
    )
    out, said, status = through(script, recording)
    assert status == 0 and out == records(recording.read_bytes())
    assert said.count("[DEBUG]") == 100  # its standard error is passed through


def test_the_pypi_package_gor(tmp_path: Path, recording: Path) -> None:
    """Its proxy pairs requests with original and replayed answers, through --output-http-track-response."""
    client = python(
        tmp_path / "client.py",
        """
        import sys
        from gor.middleware import AsyncioGor

        seen = {"request": 0, "response": 0, "replay": 0}

        def count(kind):
            def on(proxy, msg, **kwargs):
                seen[kind] += 1
                if kind == "request":
                    msg.http = proxy.set_http_header(msg.http, "X-Gor", msg.id)
                sys.stderr.write(f"{kind} {seen[kind]}\\n")
                return msg
            return on

        proxy = AsyncioGor()
        for kind in seen:
            proxy.on(kind if kind != "request" else "request", count(kind))
        proxy.run()
        """,
    )
    with target() as there:
        done = run_gor(
            "--input-file",
            str(recording),
            "--output-http",
            there.url,
            "--middleware",
            client,
            "--output-http-track-response",
        )
    said = done.stderr.decode()
    assert sorted(paths(there.payloads)) == sorted(f"/{n}" for n in range(50)), said
    assert all(b"X-Gor: " in p for p in there.payloads)
    assert "request 50\n" in said and "response 50\n" in said and "replay 50\n" in said


def test_changing_dropping_and_adding(tmp_path: Path, recording: Path) -> None:
    command = python(
        tmp_path / "m.py",
        """
        import sys
        for line in sys.stdin:
            raw = bytes.fromhex(line.strip())
            if raw[:1] == b"2":
                continue
            raw = raw.replace(b"GET /", b"GET /changed/")
            print(raw.hex(), flush=True)
            if b"/7 " in raw:
                print(raw.hex().upper(), flush=True)
        """,
    )
    out, _, status = through(command, recording, "--http-disallow-url", "/changed/9")
    found = paths([r.split(b"\n", 1)[1] for r in out])
    expected = [f"/changed/{n}" for n in range(50) if n != 9]
    expected.insert(8, "/changed/7")
    assert status == 0 and found == expected  # rules come after middleware


def test_what_is_no_message_is_reported(tmp_path: Path, recording: Path) -> None:
    command = python(
        tmp_path / "m.py",
        """
        import sys
        print("what is this"); print("zz"); print(b"9 no kind".hex())
        for line in sys.stdin:
            sys.stdout.write(line)
        """,
    )
    out, said, status = through(command, recording)
    assert status == 0 and len(out) == 100 and "lines are no messages" in said


@pytest.mark.slow
def test_a_crash_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    name = tmp_path / "in.gor"
    name.write_bytes(gor([Rec(get(f"/{n}"), n * 2) for n in range(600)]))
    command = python(
        tmp_path / "m.py",
        """
        import os, sys
        for n, line in enumerate(sys.stdin):
            if n == 100:
                os._exit(3)
            sys.stdout.write(line)
            sys.stdout.flush()
        """,
    )
    out, said, _ = through(command, name)
    assert sorted(paths([r.split(b"\n", 1)[1] for r in out])) == sorted(f"/{n}" for n in range(600))
    assert "has ended (status 3)" in said and "pass it by" in said


@pytest.mark.slow
def test_a_program_that_reads_nothing_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = tmp_path / "in.gor"
    big = b"x" * 5000
    name.write_bytes(gor([Rec(get(f"/{n}") + big, n) for n in range(200)]))
    command = python(tmp_path / "m.py", "import time\ntime.sleep(120)\n")
    out, said, _ = through(command, name)
    assert len(out) == 200 and len(set(out)) == 200
    assert f"has read nothing for {middleware.STUCK_S:g} s" in said


def test_prettified_for_middleware(tmp_path: Path) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    name = tmp_path / "in.gor"
    name.write_bytes(gor([Rec(get("/a")), Rec(chunked, 1, 2)]))
    seen = tmp_path / "seen"
    command = python(
        tmp_path / "m.py",
        f"""
        import sys
        for line in sys.stdin:
            open({str(seen)!r}, "ab").write(bytes.fromhex(line.strip()))
            print(line, end="", flush=True)
        """,
    )
    out, _, _ = through(command, name, "--prettify-http")
    assert seen.read_bytes().endswith(b"Content-Length: 2\r\n\r\nhi") and out[1].endswith(
        b"Content-Length: 2\r\n\r\nhi"
    )


def test_in_process(tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_middleware.py").write_text(
        textwrap.dedent("""
            from dataclasses import replace

            def change(message):
                if message.kind == 2:
                    return None
                if b"/13 " in message.payload:
                    raise ValueError("unlucky")
                if b"/7 " in message.payload:
                    return [message, message]
                return replace(message, payload=message.payload.replace(b"GET /", b"GET /own/"))
            """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out, said, status = through("py://own_middleware:change", recording)
    found = paths([r.split(b"\n", 1)[1] for r in out])
    assert (
        status == 0 and len(found) == 51 and found.count("/7") == 2 and "/own/8" in found and "/13" in found
    )
    assert "ValueError: unlucky" in said


def test_payloads_of_every_byte(tmp_path: Path) -> None:
    name = tmp_path / "in.gor"
    name.write_bytes(gor([Rec(bytes(range(256)) * 200, n) for n in range(20)]))
    out, _, status = through("cat", name)
    assert status == 0 and out == records(name.read_bytes())
    assert payloads(name.read_bytes())[0] == bytes(range(256)) * 200


@pytest.mark.parametrize("command", ["head -n 20", "head -c 3000", "true", "sh -c 'head -n 5 >/dev/null'"])
@pytest.mark.slow
def test_what_a_program_holds_when_it_ends_early_always_goes_on(tmp_path: Path, command: str) -> None:
    """Whenever it ends: while it is fed, when all was written, or in the midst of a line."""
    name = tmp_path / "in.gor"
    name.write_bytes(gor([Rec(get(f"/{n}"), n * 0.2) for n in range(160)]))
    for _ in range(5):
        out, said, status = through(command, name)
        # What "sh" read and dropped by printing nothing is among what it held.
        assert len(out) == 160 and status == 0 and "Traceback" not in said
        assert "has ended" in said and "that it held go on" in said


@pytest.mark.slow
def test_closed_pipes_and_full_disks(tmp_path: Path, recording: Path) -> None:
    read = ["--input-file", str(recording), "--output-stdout"]
    for arguments in (["--help"], read, [*read[:2], "--output-null", "--stats"]):
        for where, status in ((">/dev/full", (0, 2)), ("| true", (0,)), (">&-", (0, 2))):
            line = f"{sys.executable} -m replaykit.cli.gor {' '.join(arguments)} {where}"
            done = subprocess.run(["bash", "-c", line], capture_output=True, check=False, timeout=60)
            assert done.returncode in status and b"Traceback" not in done.stderr, (line, done.stderr)
            assert b"Exception ignored" not in done.stderr
            if where == ">/dev/full":
                assert b"no space left" in done.stderr
